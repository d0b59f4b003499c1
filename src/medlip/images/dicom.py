"""A DICOM file to grey pixels that lie upright, and what it says of itself.

Only the elements that say how to show and to turn the pixels, and what they show, are read: nothing that names a patient is
looked at, and no element's value gets into a message.
"""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medlip.errors import MedLIPError
from medlip.images import display, kind, orientation, stored
from medlip.images.elements import Elements

if TYPE_CHECKING:
    from pydicom import Dataset

_FIRST_GROUPS = {0x0002, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x0200, 0x0800, 0x1000, 0x1800, 0x2000, 0x2800}
_PIXEL_DATA = 0x7FE00010
_END_OF_ITEMS = b"\xfe\xff\xdd\xe0\0\0\0\0"
_NEEDED = [*stored.ELEMENTS.split(), "TransferSyntaxUID"]
_PALETTE = [
    "PaletteColorLookupTableUID",
    *(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
]
_OPTIONAL = [*display.ELEMENTS.split(), *kind.ELEMENTS.split(), *orientation.ELEMENTS.split(), *_PALETTE]


def looks_like_dicom(head: bytes) -> bool:
    """Tell from its first bytes (132 or more) whether a file is DICOM, with a preamble or without one."""
    if head[128:132] == b"DICM" or head.startswith(b"DICM"):
        return True
    group, length = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    named = head[4:6].isalpha() and head[4:6].isupper()  # the type of the first element, or else its length
    return group in _FIRST_GROUPS and (named or 0 < length < 1 << 16)


def parse(content: bytes) -> Elements:
    """Read the elements that are needed of a DICOM file.

    Raises:
        MedLIPError: its elements can't be told apart, or end too early.
    """
    if content.startswith(b"DICM"):
        content = bytes(128) + content
    every = [*_NEEDED, *_OPTIONAL]
    attempts = (
        (every, content, ""),
        (every, content + _END_OF_ITEMS, "the end mark of the pixel data is missing"),
        (every, _CHARACTER_SET.sub(_blanked, content, count=1), "Specific Character Set can't be read: left out"),
        (_NEEDED, content, "optional elements can't be told apart: left out"),
    )
    for names, data, note in attempts:
        try:
            return Elements(_partial(data, names), [note] if note else [])
        except Exception as error:  # pydicom raises anything at broken input
            broken = error
    why = "its elements end too early" if isinstance(broken, (Warning, EOFError)) else "its elements can't be told apart"
    raise MedLIPError(f"broken or truncated ({why}). Get the file again.") from broken


_CHARACTER_SET = re.compile(
    rb"(\x08\x00\x05\x00(?:CS(?P<explicit>[\x00-\x40])\x00|(?P<implicit>[\x00-\x40])\x00{3}))([\x00-\xff]{0,64})"
)


def _blanked(element: re.Match[bytes]) -> bytes:
    """Return Specific Character Set with blanks as its value: pydicom decodes it whether it is wanted or not."""
    length = (element["explicit"] or element["implicit"])[0]
    return element[1] + b" " * length + element[4][length:]


def _partial(content: bytes, names: list[str]) -> Dataset:
    """Read the elements of these names, and nothing behind the pixel data."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial

    tags = [tag for name in names if (tag := tag_for_keyword(name)) is not None]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*end of file", UserWarning)  # after which pydicom returns nothing at all
        return read_partial(BytesIO(content), lambda tag, *_: tag > _PIXEL_DATA, force=True, specific_tags=tags)


def read(elements: Elements) -> tuple[NDArray[np.uint8], orientation.Turn]:
    """Return a DICOM's pixels (H, W) as they are to be seen, and how they were turned.

    Raises:
        MedLIPError: it can't be shown.
    """
    found = stored.read_stored(elements)
    turn = orientation.turn_of(elements, found.codes.shape[:2])
    if found.photometric == "PALETTE COLOR":
        grey = _through_palette(elements, found)
    elif found.codes.ndim == 3:
        grey = _from_colour(found)
    else:
        grey = display.show(elements, found)
    return np.asarray(turn.apply(grey)), turn


def read_deep(elements: Elements) -> display.Deep:
    """Return a DICOM's pixels as they are to be seen, at the depth at which they are stored; colour as 8 bits of luminance.

    Raises:
        MedLIPError: it can't be shown.
    """
    found = stored.read_stored(elements)
    if found.photometric == "PALETTE COLOR" or found.codes.ndim == 3:
        return display.Deep.of_bytes(read(elements)[0])
    turn = orientation.turn_of(elements, found.codes.shape[:2])
    deep = display.show_deep(elements, found)
    # A stretch to square pixels may overshoot.
    return deep._replace(numbers=np.asarray(turn.apply(deep.numbers)).clip(0, (1 << deep.bits) - 1))


def _from_colour(found: stored.StoredPixels) -> NDArray[np.uint8]:
    values = found.codes if found.bits == found.allocated else found.values(found.codes)
    luminance = values @ display.LUMINANCE
    if found.allocated > 8:
        return display.stretch(luminance)
    return display.scale(luminance, 0, 2**found.bits - 1)


def _through_palette(elements: Elements, found: stored.StoredPixels) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut

    try:
        colours = apply_color_lut(found.values(found.codes), elements.dataset)
    except Exception as error:  # pydicom raises anything at a broken palette
        raise MedLIPError("has a palette of colours that can't be read. Save it as a grey image.") from error
    return display.scale(colours @ display.LUMINANCE, 0, np.iinfo(colours.dtype).max)
