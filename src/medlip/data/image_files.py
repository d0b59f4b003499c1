"""Finding the image of an identifier: data sets divide their images into folders as they please."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".dic", ".ima")
DICOM_SUFFIXES = SUFFIXES[3:]
NOT_FILMS = {
    "annotation", "annotations", "contour", "contours", "groundtruth", "gt", "heatmap", "heatmaps", "label", "labels",
    "lungmask", "lungmasks", "macosx", "mask", "masks", "outline", "outlines", "overlay", "overlays", "preview", "previews",
    "seg", "segmentation", "segmentations", "segs", "thumb", "thumbnail", "thumbnails", "thumbs",
}  # fmt: skip  # words in the names of folders whose images are of something else than the X-ray itself


class ImageFile(NamedTuple):
    """Where an identifier's image is, and why it can't be used, "" if it can."""

    path: Path
    problem: str = ""


def _stem(name: str) -> str:
    return Path(name).stem


class ImageFiles:
    """The images below a folder by their names without the suffix.

    Only image files count (PNG, JPEG, DICOM, also without a suffix), and none in a folder of masks, segmentations, labels or
    thumbnails.
    """

    def __init__(self, folder: Path, key: Callable[[str], str] = _stem) -> None:
        """Look through the folder.

        Args:
            folder: with the images anywhere below.
            key: makes the identifier of a file's name.
        """
        self.folder = folder
        self._files: dict[str, list[Path]] = {}
        self._others: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            suffix = path.suffix.lower()
            nameless = suffix == "" or suffix[1:].isdigit()  # DICOM files are often called by their UID alone
            if path.name.startswith(".") or not (nameless or suffix in SUFFIXES) or not path.is_file():
                continue
            name = path.name if nameless else key(path.name)
            if _words(path.relative_to(folder).parent) & NOT_FILMS:
                self._others[name] = path
            elif not nameless or _is_dicom(path):
                self._files.setdefault(name, []).append(path)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def find(self, name: str, missing: Path | None = None) -> ImageFile:
        """Return an identifier's image: of several the one DICOM, or one of identical copies, else none.

        Args:
            name: the identifier.
            missing: the path to name where there is no image.
        """
        found = self._files.get(name, [])
        if len(found) > 1:
            found = [path for path in found if _is_dicom(path)] or found
        if not found:
            problem = f"only {self._others[name]} is called so, which is no X-ray" if name in self._others else ""
            return ImageFile(missing or self.folder / name, problem)
        if len(found) > 1 and len({path.read_bytes() for path in found}) > 1:
            problem = f"two files could be its image: {found[0]} and {found[1]}. Leave one of them in the folder."
            return ImageFile(found[0], problem)
        return ImageFile(found[0])


def _words(folder: Path) -> set[str]:
    return set(re.findall(r"[a-z]+", str(folder).lower()))


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
