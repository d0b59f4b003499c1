"""Image files to grey pixels, under one convention of intensity, whatever the file is called.

The convention: uint8, 0 is black (air), 255 is white (metal), as a radiologist sees the image.

- 8 bit PNG and JPEG are taken as they are; colour becomes luminance, transparent is black, EXIF rotation is undone.
- A DICOM is shown as it says itself: rescaled by its modality transform, then through its first VOI LUT or else its first
  window. One that has neither: 8 bits as they are; more are stretched from the smallest value to the largest.
- 16 bit PNG is stretched from its smallest value to its largest, too.
- MONOCHROME1, or a presentation LUT shape INVERSE, is inverted. Padding is left out of the stretch and shown black.

Of a DICOM, only the elements that say how to show its pixels are read: nothing that names a patient gets into memory.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medlip.errors import MedLIPError

MIN_SIDE = 16
MAX_PIXELS = 100_000_000
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_DICOM_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")  # group 2 or 8 comes first, in either byte order
_DICOM_ELEMENTS = """
    SOPClassUID Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated
    BitsStored HighBit PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable
    ExtendedOffsetTableLengths RescaleSlope RescaleIntercept ModalityLUTSequence VOILUTSequence VOILUTFunction WindowCenter
    WindowWidth PixelPaddingValue PixelPaddingRangeLimit PresentationLUTShape PaletteColorLookupTableUID
    RedPaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableDescriptor
    GreenPaletteColorLookupTableData BluePaletteColorLookupTableDescriptor BluePaletteColorLookupTableData
"""

Pixels = NDArray[np.uint8]


def read_image(path: str | Path) -> Pixels:
    """Read a PNG, JPEG or DICOM file, told apart by content, as grey pixels (H, W): 0 black, 255 white.

    Raises:
        MedLIPError: names the file and what is wrong with it: missing, empty, none of these formats, truncated or otherwise
            broken, compressed in a way that no installed decoder knows, without an image, of several frames, of one value
            only, under 16 pixels wide or high, or over 100 million pixels.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise MedLIPError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's warning neither names the file nor tells what to do
            pixels = _read(path, head)
    except MedLIPError as error:
        raise MedLIPError(f"{path}: {error}") from error
    except Exception as error:  # decoders raise anything at broken input
        reason = " ".join(str(error).split())[:200]
        raise MedLIPError(f"{path}: broken or truncated ({type(error).__name__}: {reason}). Get the file again.") from error
    if pixels.min() == pixels.max():
        raise MedLIPError(f"{path}: every pixel has the same value, so there is no image to see. Leave the file out.")
    return pixels


def resize_short_side(pixels: Pixels, size: int) -> Pixels:
    """Shrink pixels (H, W) so that the short side is `size`: aspect kept, antialiased; a smaller image stays as it is."""
    height, width = pixels.shape
    factor = size / min(height, width)
    if factor >= 1:
        return pixels
    target = max(size, round(width * factor)), max(size, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _read(path: Path, head: bytes) -> Pixels:
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return _read_picture(path)
    if head[128:] == b"DICM" or head.startswith(_DICOM_STARTS):
        return _read_dicom(path)
    if not head.strip(b"\0"):
        raise MedLIPError("holds no data. Get the file again.")
    what = "a web page or other text" if head.lstrip()[:1] in b"<{" else "some other format"
    raise MedLIPError(f"is neither PNG, JPEG nor DICOM but {what}. Get the image itself, or convert it to PNG.")


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise MedLIPError(f"has only {width} x {height} pixels, too few for an X-ray. Leave the file out.")
    if width * height > MAX_PIXELS:
        raise MedLIPError(f"claims {width} x {height} pixels, over the limit of {MAX_PIXELS:,}. Shrink it, or leave it out.")


def _read_picture(path: Path) -> Pixels:
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        _check_size(*picture.size)
        upright = ImageOps.exif_transpose(picture)
        if upright.mode == "1" or upright.mode.startswith(("I", "F")):
            values = np.asarray(upright)
            return _scale(values, float(values.min()), float(values.max()))
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright).convert("RGB")
        elif upright.mode == "P":
            upright = upright.convert("RGB")
        return np.array(upright.convert("L"))


def _scale(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Map low..high to 0..255, rounded; what lies beyond is cut."""
    unit = (values.astype(np.float32) - low) * np.float32(255 / max(high - low, 1e-12))
    return unit.round().clip(0, 255).astype(np.uint8)


def _read_dicom(path: Path) -> Pixels:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    dicom = dcmread(path, force=True, specific_tags=_DICOM_ELEMENTS.split())
    if not any(f"{kind}PixelData" in dicom for kind in ("", "Float", "DoubleFloat")) or not dicom.get("Rows"):
        kind = dicom.SOPClassUID.name if "SOPClassUID" in dicom else "of an unknown kind"
        raise MedLIPError(f"is a DICOM file without an image ({kind}). Leave the file out.")
    _check_length(dicom)
    _check_size(dicom.Columns, dicom.Rows)
    _check_codestream(dicom)
    frames = int(dicom.get("NumberOfFrames") or 1)
    if frames > 1:
        raise MedLIPError(f"is a DICOM film of {frames} frames. Give a single image.")
    try:
        stored = pixel_array(dicom, decoding_plugin=_decoder(dicom.file_meta.TransferSyntaxUID))
    except (NotImplementedError, RuntimeError) as error:
        if not any(hint in str(error) for hint in ("missing dependencies", "does not support", "no pixel data decoders")):
            raise
        syntax = dicom.file_meta.TransferSyntaxUID.name
        raise MedLIPError(f"is compressed as {syntax!r}, which no installed decoder reads. Save it uncompressed.") from error
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dicom)
        return _scale(stored @ LUMINANCE, 0, np.iinfo(stored.dtype).max)
    if stored.ndim == 3:
        return _scale(stored @ LUMINANCE, 0, 2**dicom.BitsStored - 1)
    return _show(stored, dicom)


def _decoder(syntax: Any) -> str:
    """Choose who decompresses, "" for pydicom's own order: GDCM, which ends the process at some broken files, comes last."""
    from pydicom.pixels import get_decoder

    available = get_decoder(syntax).available_plugins if syntax.is_encapsulated else ()
    return next((plugin for plugin in ("pydicom", "pylibjpeg", "pillow") if plugin in available), "")


def _check_length(dicom: Any) -> None:
    """Raise when the pixel data claim more bytes than the file has: pydicom takes what there is, without a word."""
    pixels = dicom.get_item("PixelData")
    claimed, found = getattr(pixels, "length", 0), len(pixels.value or b"") if pixels is not None else 0
    if claimed != 0xFFFFFFFF and found < claimed:  # that one means: until a delimiter
        raise MedLIPError(
            f"broken or truncated (its pixel data claim {claimed:,} bytes and are {found:,}). Get the file again."
        )


def _check_codestream(dicom: Any) -> None:
    """Raise when JPEG 2000 data are of another size than the DICOM: decoders spend minutes on a damaged size."""
    data = dicom.get("PixelData") or b""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 32:
        return
    right, bottom, left, top, across, down = struct.unpack_from(">6I", data, start + 8)
    if (right - left, bottom - top) != (dicom.Columns, dicom.Rows) or min(across, down) < MIN_SIDE:
        raise MedLIPError("broken (its JPEG 2000 data are of another size than the image). Get the file again.")


def _show(stored: NDArray[Any], dicom: Any) -> Pixels:
    """Take stored grey values (H, W) through the DICOM's own chain of transforms."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    padding = _padding(stored, dicom)
    values = apply_modality_lut(stored, dicom)
    window = _window(dicom)
    if dicom.get("VOILUTSequence"):
        values = apply_voi(values.astype(np.int64), dicom)
        table = apply_voi(np.arange(2**17) - 2**16, dicom)  # every index that a table of 16 bit inputs can have
        pixels = _scale(values, float(table.min()), float(table.max()))
    elif window is not None:
        pixels = _scale(_through_window(values, *window), 0, 1)
    elif stored.dtype == np.uint8:
        ends = apply_modality_lut(np.array([0, 2**dicom.BitsStored - 1], np.uint8), dicom)
        pixels = _scale(values, float(ends.min()), float(ends.max()))
    else:
        seen = values[~padding] if not padding.all() else values
        pixels = _scale(values, float(seen.min()), float(seen.max()))
    if dicom.PhotometricInterpretation == "MONOCHROME1" or dicom.get("PresentationLUTShape") == "INVERSE":
        pixels = 255 - pixels
    pixels[padding] = 0
    return pixels


def _padding(stored: NDArray[Any], dicom: Any) -> NDArray[np.bool_]:
    value = dicom.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dicom.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _window(dicom: Any) -> tuple[float, float, str] | None:
    """Return centre, width and function of the first window, None when the file has no usable one."""
    centre, width = (np.atleast_1d(dicom.get(name) if dicom.get(name) is not None else []) for name in
                     ("WindowCenter", "WindowWidth"))  # fmt: skip
    if not len(centre) or not len(width) or not float(width[0]) > 0:
        return None
    return float(centre[0]), float(width[0]), dicom.get("VOILUTFunction") or "LINEAR"


def _through_window(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Map values to 0..1 by the window functions of DICOM PS3.3 C.11.2.1."""
    values = values.astype(np.float64)
    if function == "SIGMOID":
        unit = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT":
        unit = (values - centre) / width + 0.5
    else:
        unit = (values - centre + 0.5) / max(width - 1, 1e-6) + 0.5
    return np.asarray(unit.clip(0, 1))
