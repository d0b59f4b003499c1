"""What compressed pixel data say of themselves: the first bytes of JPEG, JPEG-LS, JPEG 2000 and RLE data."""

from __future__ import annotations

import struct
from typing import NamedTuple

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # in the range of the frame headers, but none
JPEG, _JPEG_EXTENDED, _JPEG_LOSSLESS, _JPEG_LS = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 81))
_JPEG_2000 = "1.2.840.10008.1.2.4.91"
_RLE = "1.2.840.10008.1.2.5"
_FAMILIES = (  # transfer syntaxes whose data only their own decoders read
    (JPEG, _JPEG_EXTENDED),
    (_JPEG_LOSSLESS, "1.2.840.10008.1.2.4.57"),
    (_JPEG_LS, "1.2.840.10008.1.2.4.80"),
    (_JPEG_2000, "1.2.840.10008.1.2.4.90", *(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))),
    (_RLE,),
)


class Codestream(NamedTuple):
    """What a frame's own header says.

    Attributes:
        syntax: UID of a transfer syntax that fits.
        width, height: in pixels; 0 when it doesn't say.
        samples: a pixel; 0 when it doesn't say.
        precision: bits of a sample; 0 when it doesn't say.
        tile: the short side of its tiles; 0 without tiles.
    """

    syntax: str
    width: int = 0
    height: int = 0
    samples: int = 0
    precision: int = 0
    tile: int = 0

    def fits(self, syntax: str) -> bool:
        """Whether data declared as this transfer syntax are decoded as such."""
        return any(syntax in family and self.syntax in family for family in _FAMILIES)


def read_codestream(frame: bytes) -> Codestream | None:
    """Return what the first bytes of a compressed frame say, None when they are none of the known kinds."""
    try:
        if frame.startswith(b"\xff\xd8"):
            return _jpeg(frame)
        start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # behind the boxes of a JP2 file, if it has them
        if start >= 0 and (start == 0 or b"jP  " in frame[:start]):
            return _jpeg_2000(frame[start:])
    except struct.error:  # cut
        return None
    segments, first = struct.unpack_from("<2I", frame) if len(frame) >= 64 else (0, 0)
    return Codestream(_RLE) if 1 <= segments <= 15 and first == 64 else None


def _jpeg(frame: bytes) -> Codestream | None:
    position = 2
    while position < len(frame):
        if frame[position] != 0xFF:
            return None
        while position < len(frame) - 1 and frame[position + 1] == 0xFF:
            position += 1
        marker = frame[position + 1]
        if marker in _STANDALONE:
            position += 2
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME):
            precision, height, width, samples = struct.unpack_from(">B2HB", frame, position + 4)
            lossless, lossy = marker in (0xC3, 0xC7, 0xCB, 0xCF), JPEG if precision == 8 else _JPEG_EXTENDED
            syntax = _JPEG_LS if marker == 0xF7 else _JPEG_LOSSLESS if lossless else lossy
            return Codestream(syntax, width, height, samples, precision)
        (length,) = struct.unpack_from(">H", frame, position + 2)
        position += 2 + length
    return None


def _jpeg_2000(frame: bytes) -> Codestream:
    right, bottom, left, top, across, down = struct.unpack_from(">6I", frame, 8)
    samples, precision = struct.unpack_from(">HB", frame, 40)
    return Codestream(_JPEG_2000, right - left, bottom - top, samples, (precision & 0x7F) + 1, min(across, down))
