"""Image files to grey pixels, under one convention of intensity, whatever the file is called.

The convention: uint8, 0 is black (air), 255 is white (metal), as a radiologist sees the image; head up, and the patient's
right on the image's left, where the file says how it lies.

- 8 bit PNG, JPEG and TIFF are taken as they are; colour becomes luminance, transparent is black, EXIF rotation is undone.
  More bits, and floats, are stretched (`medlip.images.display.stretch`).
- A DICOM is shown as it says itself: rescaled by its modality transform, then through its first VOI LUT or else window that
  shows something. One that has neither: 8 bits as they are; more are stretched. MONOCHROME1, or a presentation LUT shape
  INVERSE, is inverted. Padding is left out of the stretch and shown black (`medlip.images.display`).
- It is turned by Patient Orientation, else by the rotation and flip of its field of view, and stretched to square pixels
  (`medlip.images.orientation`).
- An element that makes no sense is left out, and one that is missing gets its only sensible value; a note says so. Only what
  can't be shown is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.errors import MedLIPError
from medlip.images import dicom, pictures
from medlip.images.display import Deep
from medlip.images.elements import Elements
from medlip.images.kind import unfit_for, view_of
from medlip.images.orientation import Turn

if TYPE_CHECKING:
    from pydicom import Dataset

Pixels = NDArray[np.uint8]
_HEAD = 132  # bytes that tell a format
_NAMELESS = "the image"


@dataclass(frozen=True, slots=True)
class Looks:
    """What was told of an image by its pixels.

    Attributes:
        doubts: as of an `XRay`.
        appearance: as of an `XRay`.
    """

    doubts: tuple[str, ...]
    appearance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class XRay:
    """An image, and what its file says of it.

    Attributes:
        pixels: uint8 (H, W), 0 black, 255 white.
        notes: what was left out, assumed or turned, for people: "Window Center is unusable: left out".
        view: "PA", "AP", "lateral", another view by name ("oblique", "decubitus", "lordotic"), or "" when it is not known.
        unfit: what says that this is no frontal or lateral chest X-ray: "the modality is CT, the body part is KNEE"; "" when
            nothing does.
        turn: how the file's pixels became these: moves boxes and masks along.
        looks: what was told of pixels that these were made of; None where these tell it themselves.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()
    view: str = ""
    unfit: str = ""
    turn: Turn | None = None
    looks: Looks | None = None

    def smaller(self, pixels: Pixels) -> XRay:
        """Return it with fewer pixels; what was made smaller is not doubted for that."""
        return replace(self, pixels=pixels, looks=Looks(self.doubts, self.appearance))

    @property
    def appearance(self) -> NDArray[np.float64]:
        """How it looks, in a few numbers (K,), to tell data sets apart by."""
        from medlip.images.frontal import appearance

        return appearance(self.pixels) if self.looks is None else self.looks.appearance

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against reading it as a frontal chest X-ray: what its file says, else how it looks, and its faults."""
        return self._doubts(self.not_frontal, known=bool(self.not_frontal)) if self.looks is None else self.looks.doubts

    @property
    def doubts_of_another_view(self) -> tuple[str, ...]:
        """What speaks against reading it as a chest X-ray that isn't frontal: what its file says, and its faults."""
        return self._doubts(self.unfit, known=True)

    def _doubts(self, said: str, *, known: bool) -> tuple[str, ...]:
        from medlip.images.frontal import doubts

        coloured = ("the picture is in colour",) if pictures.IN_COLOUR in self.notes else ()
        return (*filter(None, [said]), *coloured, *doubts(self.pixels, known=known))

    @property
    def not_frontal(self) -> str:
        """What says that this is no frontal chest X-ray: `unfit`, or the lateral view; "" when nothing does."""
        return _not_frontal(self.unfit, self.view)


@dataclass(frozen=True, slots=True)
class DeepXRay:
    """An image at the depth of its file, and what its file says of it.

    Attributes:
        image: its numbers and window.
        notes: as of an `XRay`.
        not_frontal: as of an `XRay`.
    """

    image: Deep
    notes: tuple[str, ...] = ()
    not_frontal: str = ""


def read_image(path: str | Path) -> Pixels:
    """Read a PNG, JPEG, TIFF or DICOM file, told apart by content, as grey pixels (H, W): 0 black, 255 white.

    Raises:
        MedLIPError: as `read_xray` does.
    """
    return read_xray(Path(path)).pixels


def read_xray(source: str | Path | bytes | Dataset | Image.Image | NDArray[Any]) -> XRay:
    """Read an X-ray, and what it says of itself.

    Args:
        source: a PNG, JPEG, TIFF or DICOM file, told apart by content; the bytes of one; a pydicom data set; a picture; or
            an array (H, W), (H, W, C) or (C, H, W) of 1 to 4 channels: 8 bits are taken as they are, others stretched.

    Raises:
        MedLIPError: names the file and what is wrong with it: missing, empty, none of these formats, truncated or otherwise
            broken, compressed in a way that no installed decoder knows, without an image, of several frames, of one value
            only, under 16 pixels wide or high, or over 100 million pixels.
    """
    with _naming(str(source) if isinstance(source, (str, Path)) else _NAMELESS):
        xray = _read(source)
        _require_contrast(xray.pixels)
        return xray


def read_deep(content: bytes) -> DeepXRay:
    """Read the bytes of a file as `read_xray` does, at the depth at which it is stored, for whoever sets the window.

    Grey DICOM and pictures of up to 16 bits are given without loss; others as the 8 bits that `read_xray` gives.

    Raises:
        MedLIPError: as `read_xray` does.
    """
    with _naming(_NAMELESS):
        format = _format(content[:_HEAD])
        if format == "DICOM":
            elements = dicom.parse(content)
            image, notes = dicom.read_deep(elements), elements.notes
            not_frontal = _not_frontal(unfit_for(elements), view_of(elements))
        elif format == "picture":
            notes = []
            image, not_frontal = pictures.read_deep(content, notes), ""
        else:
            raise _neither(content)
        _require_contrast(image.numbers)
        return DeepXRay(image, tuple(notes), not_frontal)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which image an error is, whatever a decoder raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's warning neither names the file nor tells what to do
            yield
    except MedLIPError as error:
        raise MedLIPError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything at broken input, and may quote it
        raise MedLIPError(f"{name}: broken or truncated ({type(error).__name__}). Get the file again.") from error


def _require_contrast(pixels: NDArray[Any]) -> None:
    if pixels.min() == pixels.max():
        raise MedLIPError("every pixel has the same value, so there is no image to see. Leave the file out.")


def looks_like_image(path: Path) -> bool:
    """Whether a file begins as a PNG, JPEG, TIFF or DICOM file does; not of one that can't be read."""
    try:
        with path.open("rb") as file:
            return bool(_format(file.read(_HEAD)))
    except OSError:
        return False


def resize_short_side(pixels: Pixels, size: int) -> Pixels:
    """Shrink pixels (H, W) so that the short side is `size`: aspect kept, antialiased; a smaller image stays as it is."""
    height, width = pixels.shape
    factor = size / min(height, width)
    if factor >= 1:
        return pixels
    target = max(size, round(width * factor)), max(size, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _not_frontal(unfit: str, view: str) -> str:
    return ", ".join(filter(None, (unfit, "the view is lateral" if view == "lateral" else "")))


def _read(source: str | Path | bytes | Dataset | Image.Image | NDArray[Any]) -> XRay:
    if isinstance(source, (str, Path)):
        return _read_content(_load(Path(source)))
    if isinstance(source, bytes):
        return _read_content(source)
    if isinstance(source, Image.Image):
        notes: list[str] = []
        return XRay(pictures.from_picture(source, notes), tuple(notes))
    if isinstance(source, np.ndarray):
        return XRay(pictures.from_array(source))
    return _read_dicom(Elements(source))


def _load(path: Path) -> bytes:
    """Return a file's bytes, or only the first of one that is no image."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if not _format(head):
                return head
            file.seek(0)
            return file.read()
    except OSError as error:
        raise MedLIPError(f"cannot be read ({error.strerror}). Check the path.") from error


def _format(head: bytes) -> str:
    if dicom.looks_like_dicom(head):  # first: its preamble may make it look like a TIFF
        return "DICOM"
    return "picture" if head.startswith(pictures.STARTS) else ""


def _read_content(content: bytes) -> XRay:
    format = _format(content[:_HEAD])
    if format == "picture":
        notes: list[str] = []
        return XRay(pictures.read_picture(content, notes), tuple(notes))
    if format == "DICOM":
        return _read_dicom(dicom.parse(content))
    raise _neither(content)


def _neither(content: bytes) -> MedLIPError:
    """Return what is said of a file of another format."""
    head = content[:_HEAD]
    if not head.strip(b"\0"):
        return MedLIPError("holds no data. Get the file again.")
    what = "a web page or other text" if head.lstrip()[:1] in b"<{" else "some other format"
    return MedLIPError(f"is neither PNG, JPEG nor DICOM, nor TIFF, but {what}. Get the image itself, or convert it to PNG.")


def _read_dicom(elements: Elements) -> XRay:
    pixels, turn = dicom.read(elements)
    return XRay(pixels, tuple(elements.notes), view_of(elements), unfit_for(elements), turn)
