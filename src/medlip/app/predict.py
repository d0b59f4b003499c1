"""Reading image files as a stream: a bad one is named, and the rest goes on; maps and scores are kept beside."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from medlip.app.reader import BATCH, PLACES_ABOVE, Reader
from medlip.app.reading import MapScale, NotRead, Reading

if TYPE_CHECKING:
    from PIL.Image import Image

MapFiles = Literal["npz", "png", "none"]
"""How maps are kept: as overlays, as numbers, or not at all."""
_SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)  # not Path.suffix: DICOM is often called 1.2.840.113
_LONGEST = 120, 60  # bytes of an image's name, letters of a text, in the name of an overlay


def predict_all(
    reader: Reader,
    images: Iterable[Path],
    ask: Sequence[str],
    out: Path | None = None,
    places_above: float = PLACES_ABOVE,
    *,
    maps: MapFiles = "png",
    scale: MapScale = "absolute",
    table: Path | None = None,
    strict: bool = False,
    batch_size: int = BATCH,
    workers: int = 0,
    views: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield what `medlip predict --json` prints of each image: its reading as plain data, or {"image", "error"}.

    Args:
        reader: the trained model.
        images: PNG, JPEG, TIFF or DICOM files; read lazily.
        ask: questions for every image.
        out: folder for maps. What is in it stays.
        places_above: anatomies of a finding that are less probable than this are left out.
        maps: `png`, overlays of likely findings and of all questions, named under `overlays`; or `npz`, the maps of all
            findings and questions as numbers, named under `maps`.
        scale: of the overlays: a finding of low probability is faint, or every map by its own minimum and maximum.
        table: CSV file for the probabilities, a row an image, written as they come.
        strict: leave out images that there are doubts about.
        batch_size: images that are encoded at a time.
        workers: processes that decode files; 0 for none beside this one.
        views: what the images are, which are then the views of one study and read together; None: each by itself.

    Raises:
        MedLIPError: a question can't be answered; or as of `Reader.read_study`.
    """
    files = MapFolder(out) if out is not None and maps != "none" else None
    readings: Iterable[Reading | NotRead]
    if views is not None:
        readings = reader.read_study(list(images), ask, views=views, places_above=places_above)
    else:
        readings = reader.read_many(
            images, ask, batch_size=batch_size, workers=workers, strict=strict, places_above=places_above
        )
    with ScoreTable(table, reader, ask) as scores:
        for reading in readings:
            scores.add(reading)
            entry = reading.to_dict()
            if files is not None and isinstance(reading, Reading):
                entry |= {"overlays": files.overlays(reading, scale)} if maps == "png" else {"maps": files.numbers(reading)}
            yield entry


class ScoreTable:
    """Probabilities as a CSV file: a row an image, a column a finding or question, with the model that gave them.

    Args:
        path: the file, written anew; None for none.
        reader: whose findings they are.
        ask: the questions.
    """

    def __init__(self, path: Path | None, reader: Reader, ask: Sequence[str]) -> None:
        self._path = path
        names = [pathology.name for pathology in reader.vocabulary.pathologies if pathology.kind == "abnormal"]
        self._texts = list(dict.fromkeys([*names, *ask]))
        self._model = reader.model

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._path.open("w", encoding="utf-8", newline="")
            self._rows = csv.writer(self._file)
            self._rows.writerow(["image", "error", "doubts", "calibrated", "model", "version", "hash", *self._texts])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._path is not None:
            self._file.close()

    def add(self, reading: Reading | NotRead) -> None:
        """Write a row."""
        if self._path is None:
            return
        model = [self._model.name, self._model.version, self._model.hash]
        if isinstance(reading, NotRead):
            self._rows.writerow([reading.image, reading.error, "", "", *model, *[""] * len(self._texts)])
        else:
            found = {finding.pathology: finding.probability for finding in reading.findings}
            found |= {question.text: question.probability for question in reading.asked}
            scores = [f"{found[text]:.6g}" for text in self._texts]
            calibrated = "" if reading.calibrated is None else reading.calibrated.hash
            self._rows.writerow([reading.image, "", "; ".join(reading.doubts), calibrated, *model, *scores])
        self._file.flush()


class MapFolder:
    """A folder of maps of images, which only grows: whatever is in it, of this call or of earlier ones, stays.

    All files of an image begin with its name. Images that are called the same get a number behind it; names that differ in
    capitals alone are the same, for the folder may be copied to where they are.

    Args:
        folder: which is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._taken = {_folded(file.name) for file in folder.iterdir()}

    def overlays(self, reading: Reading, scale: MapScale = "absolute") -> dict[str, str]:
        """Save heat maps over an image, with their legend, of likely findings and all that was asked.

        Returns:
            Their paths by text.
        """
        asked = (question.text for question in reading.asked)
        texts = list(dict.fromkeys([*(finding.pathology for finding in reading.likely()), *asked]))
        pictures = [_png(reading.overlay(text, scale, legend=True)) for text in texts]
        names = self._save(reading, lambda image: _different([f"{image}-{_plain(text)}" for text in texts]), pictures)
        return {text: str(self.folder / name) for text, name in zip(texts, names, strict=True)}

    def numbers(self, reading: Reading) -> str:
        """Save the maps of all findings and questions: `names` (n), `maps` (n, h, w), `size` (H, W); return the path."""
        texts = [finding.pathology for finding in reading.findings] + [question.text for question in reading.asked]
        texts = list(dict.fromkeys(texts))
        buffer = BytesIO()
        np.savez_compressed(buffer, names=np.array(texts), maps=reading.maps(texts), size=np.array(reading.pixels.shape))
        (name,) = self._save(reading, lambda image: [f"{image}.npz"], [buffer.getvalue()])
        return str(self.folder / name)

    def _save(self, reading: Reading, naming: Callable[[str], Sequence[str]], contents: Sequence[bytes]) -> Sequence[str]:
        """Write files under names that no others have."""
        stem = _cut(_SUFFIX.sub("", Path(reading.image).name), _LONGEST[0])
        images = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
        return next(names for names in map(naming, images) if self._write(names, contents))

    def _write(self, names: Sequence[str], contents: Sequence[bytes]) -> bool:
        """Write new files, unless one of the names is taken, or another process takes it at this moment."""
        if any(_folded(name) in self._taken for name in names):
            return False
        written: list[Path] = []
        for name, content in zip(names, contents, strict=True):
            try:
                with (self.folder / name).open("xb") as file:
                    file.write(content)
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
