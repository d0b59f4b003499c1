"""Pictures (PNG, JPEG, TIFF) and arrays to grey pixels."""

from __future__ import annotations

from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from medlip.errors import MedLIPError
from medlip.images.display import LUMINANCE, Deep, stretch, stretch_deep
from medlip.images.orientation import Turn
from medlip.images.size import check_size
from medlip.imports import without_compiler

Number = TypeVar("Number", np.uint8, np.uint16)
FORMATS = ("PNG", "JPEG", "TIFF")
STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IN_COLOUR = "is in colour: its luminance was read"
"""What is noted of a picture in colour; the colour of a mark or two doesn't count."""
_COLOURED = 40, 0.1  # levels between the channels of a pixel, and the share of such pixels from which on it is in colour
_ORIENTATION = 0x0112  # of EXIF: 1 upright; the other seven turn by quarters and mirror
_UPRIGHT = {  # by EXIF orientation: axes swapped, then rows reversed, then columns
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


def read_picture(content: bytes, notes: list[str]) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of a PNG, JPEG or TIFF file.

    Raises:
        MedLIPError: it is too small or too large, or of a kind that can't be shown.
    """
    with _open(content) as picture:
        deep = ";16" in str(picture.tile[0][3]) and picture.mode in ("RGB", "RGBA", "LA", "RGBX")
        if deep:  # Pillow drops their lower bits
            return _upright(picture, from_array(_deep_colour(content, str(picture.format))), notes)
        return from_picture(picture, notes)


def read_deep(content: bytes, notes: list[str]) -> Deep:
    """Return the pixels of a PNG, JPEG or TIFF file: grey of 16 bits with the window it is shown through, others as 8 bits.

    Raises:
        MedLIPError: as `read_picture` does.
    """
    with _open(content) as picture:
        if picture.mode.startswith("I;16"):
            values = np.asarray(picture)
            deep = stretch_deep(values.astype(values.dtype.newbyteorder("="), copy=False))
            return deep._replace(numbers=_upright(picture, deep.numbers, notes))
    return Deep.of_bytes(read_picture(content, notes))


def from_picture(picture: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of a picture of any mode. 8 bits stay as they are; others are stretched."""
    check_size(*picture.size)
    if getattr(picture, "n_frames", 1) > 1:
        notes.append("holds several pictures: the first was read")
    if picture.mode not in ("1", "L", "LA", "I", "F") and not picture.mode.startswith("I;") and _is_coloured(picture):
        notes.append(IN_COLOUR)
    return _upright(picture, _grey(picture), notes)


def from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of an array: (H, W), or (H, W, C) or (C, H, W) of 1 to 4 channels.

    Two or four channels end with how opaque a pixel is. 8 bits stay as they are, True is white; other numbers are stretched.

    Raises:
        MedLIPError: another shape, or no numbers.
    """
    if array.ndim == 3 and array.shape[2] > 4 >= array.shape[0]:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4 or array.dtype.kind not in "buif":
        raise MedLIPError(f"is an array of {array.dtype} of shape {array.shape}. Give numbers (H, W) or (H, W, 3).")
    check_size(array.shape[1], array.shape[0])
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    channels = array.shape[2]
    if array.dtype == np.uint8:
        return _grey(Image.fromarray(array[:, :, 0] if channels == 1 else array))
    values = array[:, :, :3] @ LUMINANCE if channels > 2 else array[:, :, 0]
    seen = np.isfinite(values)
    if channels in (2, 4):
        opaque = array[:, :, -1] / (np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1)
        seen &= opaque > 0
        values = values * opaque
    return stretch(values, None if seen.all() else seen)


def _open(content: bytes) -> ImageFile:
    try:
        picture = Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MedLIPError("claims too many pixels, over the limit. Shrink it, or leave it out.") from error
    check_size(*picture.size)
    return picture


def _grey(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode == "1" or picture.mode.startswith(("I", "F")):
        return from_array(np.asarray(picture))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return np.array(picture.convert("L"))


def _is_coloured(picture: Image.Image) -> bool:
    small = np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.BOX), int)
    return bool((np.ptp(small, axis=2) > _COLOURED[0]).mean() > _COLOURED[1])


def _deep_colour(content: bytes, format: str) -> NDArray[Any]:
    """Return the channels (H, W, C) of a picture with 16 bits a channel."""
    if format != "PNG":
        raise MedLIPError(f"is a {format} of 16 bits a colour. Save it as PNG, or in grey.")
    import torch

    with without_compiler():
        from torchvision.io import ImageReadMode, decode_png

    pixels = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def _upright(picture: Image.Image, pixels: NDArray[Number], notes: list[str]) -> NDArray[Number]:
    turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    if turn is None:
        return pixels
    notes.append("turned upright, as its EXIF data say")
    transposed, flipped_down, flipped_across = turn
    shape = pixels.shape[0], pixels.shape[1]
    return Turn(shape, transposed, flipped_down, flipped_across).apply(pixels)
