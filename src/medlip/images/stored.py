"""The pixel data of a DICOM to the numbers that it stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlip.errors import MedLIPError
from medlip.images.codestream import JPEG, Codestream, read_codestream
from medlip.images.elements import Elements, label
from medlip.images.size import MIN_SIDE, check_size

ELEMENTS = """
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration
    BitsAllocated BitsStored HighBit PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData
"""
_UNDEFINED = 0xFFFFFFFF  # a length that means: until a delimiter
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_NATIVE = (_IMPLICIT, _EXPLICIT, _BIG, "1.2.840.10008.1.2.1.99")
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
_PHOTOMETRIC = {name.replace(" ", ""): name for name in (*_GREY, *_COLOUR)}
_ALLOCATED = (1, 8, 16, 32, 64)
_SEVERAL = "holds {frames} frames, though it says one. Give a single image."


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """What a DICOM stores, as its file or decoder gives it.

    Attributes:
        codes: (H, W), or (H, W, 3) in colour: unsigned integers, which may hold more bits than the value; or floats.
        photometric: the photometric interpretation.
        allocated: bits of a value in the file, unused ones among them; 32 or 64 for floats.
        bits: of a value.
        shift: the value's lowest bit in the code.
        signed: a value's highest bit is its sign.
    """

    codes: NDArray[Any]
    photometric: str
    allocated: int
    bits: int
    shift: int = 0
    signed: bool = False

    def values(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return the values of codes: shifted, masked and, where there is one, with their sign; floats as they are."""
        if codes.dtype.kind == "f":
            return codes
        values = codes.astype(np.int64) >> self.shift
        if self.bits < 64:
            values &= (1 << self.bits) - 1
            if self.signed:
                values -= (values >> (self.bits - 1)) << self.bits
        return values


def read_stored(elements: Elements) -> StoredPixels:
    """Decode the one frame of a DICOM.

    Raises:
        MedLIPError: it holds no image or several, is cut, or is compressed in a way that no installed decoder reads.
    """
    keyword = next((name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in elements), "")
    raw = elements.dataset.get_item(keyword) if keyword else None  # as it came, which tells more than its value
    data = elements.value(keyword) if keyword else None
    if not isinstance(data, bytes) or not data:
        raise MedLIPError(f"is a DICOM file without an image ({_kind(elements)}). Leave the file out.")
    claimed = getattr(raw, "length", 0)
    if claimed != _UNDEFINED and len(data) < claimed:  # pydicom takes what there is, without a word
        raise MedLIPError(
            f"broken or truncated (its pixel data claim {claimed:,} bytes and are {len(data):,}). Get the file again."
        )
    frames = elements.find("NumberOfFrames") or 1
    if frames > 1:
        raise MedLIPError(f"is a DICOM film of {frames:.0f} frames. Give a single image.")
    meta = getattr(elements.dataset, "file_meta", None) or {}
    syntax = str(meta.get("TransferSyntaxUID") or "").strip(" \0")
    undefined = claimed == _UNDEFINED or getattr(raw, "is_undefined_length", False)
    if keyword == "PixelData" and _in_items(elements, data, undefined, syntax):
        return _compressed(elements, data, syntax)
    return _native(elements, data, syntax, keyword)


def _kind(elements: Elements) -> str:
    from pydicom.uid import UID

    uid = UID(str(elements.value("SOPClassUID") or ""))
    return uid.name if uid.name != uid else "of an unknown kind"


def _in_items(elements: Elements, data: bytes, undefined: bool, syntax: str) -> bool:
    """Whether the pixel data lie in items, as compressed ones do, whatever the transfer syntax says."""
    compressed = syntax not in (*_NATIVE, "")
    items = data.startswith(b"\xfe\xff\x00\xe0") and (undefined or compressed)
    if items != compressed:
        elements.note("the transfer syntax is missing or wrong: read as the pixel data are")
    return items


def _native(elements: Elements, data: bytes, syntax: str, keyword: str) -> StoredPixels:
    """Read pixel data that are not compressed."""
    floats = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword, 0)
    header = _header(elements, len(data), allocated=floats)
    pixels = header.rows * header.columns * header.samples
    frame = -(-pixels * header.allocated // 8)
    if header.photometric == "YBR_FULL_422" and len(data) < frame:
        frame = frame * 2 // 3
    elif header.photometric == "YBR_FULL_422":
        header = replace(header, photometric="YBR_FULL")  # as long as without its subsampling
    if len(data) < frame:
        raise MedLIPError(
            f"broken or truncated (it holds {len(data):,} bytes of {frame:,} of its pixels). Get the file again."
        )
    if len(data) >= 2 * frame:
        raise MedLIPError(_SEVERAL.format(frames=len(data) // frame))
    big = syntax == _BIG or (syntax not in _NATIVE and not elements.little_endian)
    options = {"pixel_keyword": keyword, "pixel_vr": elements.dataset[keyword].VR}
    codes = _decode(_BIG if big else _EXPLICIT, data, header, header.allocated, options)
    if floats:
        return StoredPixels(codes, header.photometric, floats, floats)
    return _with_bits(elements, codes, header, header.allocated)


def _compressed(elements: Elements, data: bytes, syntax: str) -> StoredPixels:
    """Decompress the only frame."""
    from pydicom.encaps import encapsulate, generate_fragments, parse_basic_offsets

    buffer = BytesIO(data)
    parse_basic_offsets(buffer)
    fragments = list(generate_fragments(buffer))
    streams = [stream for fragment in fragments if (stream := read_codestream(fragment))]
    if len(streams) > 1:
        raise MedLIPError(_SEVERAL.format(frames=len(streams)))
    frame = b"".join(fragments)
    stream = read_codestream(frame)
    if stream is None and syntax in (*_NATIVE, ""):
        raise MedLIPError("is compressed, and neither it nor its pixel data say how. Get the file again.")
    if stream is not None and not stream.fits(syntax):
        elements.note("the transfer syntax is missing or wrong: read as the pixel data are")
        syntax = stream.syntax
    header = _header(elements, 0, stream)
    if stream is not None and stream.width and (stream.width, stream.height) != (header.columns, header.rows):
        raise MedLIPError("broken (its compressed data are of another size than the image). Get the file again.")
    if stream is not None and 0 < stream.tile < MIN_SIDE:  # decoders spend minutes on damaged ones
        raise MedLIPError("broken (its compressed data have tiles of a few pixels). Get the file again.")
    precision = stream.precision if stream is not None and stream.precision else header.allocated
    codes = _decode(syntax, encapsulate([frame], has_bot=False), header, precision, {})
    return _with_bits(elements, codes, header, precision)


@dataclass(frozen=True, slots=True)
class _Header:
    """How the pixels lie."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    allocated: int


def _header(elements: Elements, length: int, stream: Codestream | None = None, allocated: int = 0) -> _Header:
    """Read how the pixels lie. What is missing and has one sensible value gets it, with a note.

    Args:
        elements: of the data set.
        length: bytes of pixel data that are not compressed, 0 for others.
        stream: what compressed pixel data say of themselves.
        allocated: bits that a value takes in the file, where they are known.
    """
    known = stream or Codestream("")
    sides = range(1, 1 << 16)
    rows, columns = elements.find("Rows", sides.__contains__), elements.find("Columns", sides.__contains__)
    if not (rows or known.height) or not (columns or known.width):
        raise MedLIPError("doesn't say how many rows and columns its image has. Get the file again.")
    rows, columns = int(rows or known.height), int(columns or known.width)
    check_size(columns, rows)
    named = _PHOTOMETRIC.get("".join("".join(elements.words("PhotometricInterpretation")[:1]).split()), "")
    samples = known.samples or elements.required("SamplesPerPixel", range(1, 5), 3 if named in _COLOUR else 1)
    if samples == 1 and named in _COLOUR and length >= 3 * rows * columns * int(elements.find("BitsAllocated") or 8) // 8:
        samples = 3
        elements.note("the samples of a pixel are 3, as its pixel data are long and its photometric interpretation says")
    if samples not in (1, 3):
        raise MedLIPError(f"has {samples} samples a pixel, neither grey nor colour. Save it as a grey image.")
    photometric = named
    if not named or (named in _COLOUR) != (samples == 3):
        photometric = "MONOCHROME2" if samples == 1 else "YBR_FULL" if known.fits(JPEG) else "RGB"
        why = "does not fit" if "PhotometricInterpretation" in elements else "is missing"
        elements.note(f"{label('PhotometricInterpretation')} {why}: taken to be {photometric}")
    if not allocated:
        pixels = rows * columns * samples
        natural = -(-known.precision // 8) or length // pixels
        if 8 * natural not in _ALLOCATED or length > natural * pixels + 1:
            natural = 0  # the pixel data don't tell
        if not natural and elements.find("BitsAllocated", _ALLOCATED.__contains__) is None:
            raise MedLIPError("doesn't say how many bits a pixel takes, or says an odd number. Save it with 8 or 16.")
        allocated = elements.required("BitsAllocated", _ALLOCATED, 8 * natural)
    planar = elements.required("PlanarConfiguration", (0, 1), 0) if samples == 3 else 0
    return _Header(rows, columns, samples, photometric, planar, allocated)


def _with_bits(elements: Elements, codes: NDArray[Any], header: _Header, precision: int) -> StoredPixels:
    """Say which bits of the codes hold the value, of those that the file or the compressed data have."""
    bits = elements.required("BitsStored", range(1, header.allocated + 1), precision)
    highest = elements.required("HighBit", range(bits - 1, header.allocated), bits - 1)
    signed = elements.required("PixelRepresentation", (0, 1), 0) == 1
    if precision > header.allocated:  # the compressed data know best
        bits, highest = precision, precision - 1
    bits, highest = min(bits, precision), min(highest, precision - 1)
    shift = max(highest + 1 - bits, 0)
    if shift and _fits(codes, bits, signed):
        elements.note(f"{label('HighBit')} is wrong: the values lie in the lowest bits")
        shift = 0
    return StoredPixels(codes, header.photometric, header.allocated, bits, shift, signed)


def _fits(codes: NDArray[Any], bits: int, signed: bool) -> bool:
    """Whether all codes are values of so many bits as they are, none shifted up."""
    if not signed:
        return int(codes.max()) < 1 << bits
    values = codes.view(codes.dtype.str.replace("u", "i"))
    return -(1 << bits - 1) <= int(values.min()) and int(values.max()) < 1 << bits - 1


def _decode(syntax: str, data: bytes, header: _Header, precision: int, options: dict[str, str]) -> NDArray[Any]:
    """Return a frame's codes in the machine's byte order."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    container = header.allocated if precision <= header.allocated else 8 * -(-precision // 8)
    try:
        decoder = get_decoder(syntax)
        codes, _ = decoder.as_array(
            data,
            index=0,
            decoding_plugin=_plugin(decoder),
            rows=header.rows,
            columns=header.columns,
            number_of_frames=1,
            samples_per_pixel=header.samples,
            photometric_interpretation=header.photometric,
            planar_configuration=header.planar,
            pixel_representation=0,  # the sign is found afterwards, among the bits
            bits_allocated=container,
            bits_stored=min(precision, container),
            **{"pixel_keyword": "PixelData", **options},
        )
    except (NotImplementedError, RuntimeError) as error:
        if not any(hint in str(error) for hint in ("missing dependencies", "does not support", "o pixel data decoders")):
            raise
        raise MedLIPError(
            f"is compressed as {UID(syntax).name!r}, which no installed decoder reads. Save it uncompressed."
        ) from error
    return np.asarray(codes.astype(codes.dtype.newbyteorder("="), copy=False))


def _plugin(decoder: Any) -> str:
    """Choose who decompresses, "" for pydicom's own order: GDCM, which ends the process at some broken files, comes last."""
    available = decoder.available_plugins if decoder.is_encapsulated else ()
    return next((plugin for plugin in ("pydicom", "pylibjpeg", "pillow") if plugin in available), "")
