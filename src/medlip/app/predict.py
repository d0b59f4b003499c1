"""Reading image files one after the other: a bad one is named, and the rest goes on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlip.app.reader import PLACES_ABOVE, Reader
from medlip.app.reading import Reading
from medlip.errors import MedLIPError
from medlip.images import read_xray

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)  # not Path.suffix: DICOM is often called 1.2.840.113
_LONGEST = 120, 60  # bytes of an image's name, letters of a text, in the name of an overlay


def predict_all(
    reader: Reader,
    images: Sequence[Path],
    ask: Sequence[str],
    out: Path | None = None,
    places_above: float = PLACES_ABOVE,
) -> Iterator[dict[str, Any]]:
    """Yield what `medlip predict --json` prints of each image: its reading as plain data, or {"image", "error"}.

    Args:
        reader: the trained run.
        images: PNG, JPEG or DICOM files.
        ask: questions for every image.
        out: folder for the overlays of likely findings and of all questions, which are then named under `overlays`. What is
            in it stays.
        places_above: anatomies of a finding that are less probable than this are left out.

    Raises:
        MedLIPError: a question can't be answered.
    """
    overlays = Overlays(out) if out is not None else None
    for path in images:
        try:
            xray = read_xray(path)
        except MedLIPError as error:
            yield {"image": str(path), "error": str(error)}
            continue
        reading = replace(reader.read(xray, ask, places_above=places_above), image=str(path))
        yield reading.to_dict() | ({"overlays": overlays.save(reading)} if overlays is not None else {})


class Overlays:
    """A folder of heat maps over images, which only grows: whatever is in it, of this call or of earlier ones, stays.

    All files of an image begin with its name. Images that are called the same get a number behind it; names that differ in
    capitals alone are the same, for the folder may be copied to where they are.

    Args:
        folder: which is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._taken = {_folded(file.name) for file in folder.iterdir()}

    def save(self, reading: Reading) -> dict[str, str]:
        """Save the overlays of an image's likely findings and of all that was asked; return their paths by text."""
        asked = (question.text for question in reading.asked)
        texts = list(dict.fromkeys([*(finding.pathology for finding in reading.likely()), *asked]))
        pictures = [_png(reading.overlay(text)) for text in texts]
        stem = _cut(_SUFFIX.sub("", Path(reading.image).name), _LONGEST[0])
        images = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
        tries = (_different([f"{image}-{_plain(text)}" for text in texts]) for image in images)
        names = next(names for names in tries if self._write(names, pictures))
        return {text: str(self.folder / name) for text, name in zip(texts, names, strict=True)}

    def _write(self, names: Sequence[str], pictures: Sequence[bytes]) -> bool:
        """Write new files, unless one of the names is taken, or another process takes it at this moment."""
        if any(_folded(name) in self._taken for name in names):
            return False
        written: list[Path] = []
        for name, picture in zip(names, pictures, strict=True):
            try:
                with (self.folder / name).open("xb") as file:
                    file.write(picture)
            except FileExistsError:
                for path in written:
                    path.unlink()
                return False
            written.append(self.folder / name)
        self._taken.update(map(_folded, names))
        return True


def _png(picture: Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _different(names: Sequence[str]) -> list[str]:
    """Return the names as those of PNG files, with a number behind the ones that were there before."""
    files: list[str] = []
    for name in names:
        file, number = f"{name}.png", 1
        while file in files:
            number += 1
            file = f"{name}-{number}.png"
        files.append(file)
    return files


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: _LONGEST[1]] or "question"


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def _folded(name: str) -> str:
    """Return a name as file systems that make no difference of capitals and accents compare it."""
    return unicodedata.normalize("NFC", name).casefold()
