"""X-rays to try the models on: synthetic ones, or those of a folder."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from medlip.app.image_arguments import ImageArguments
from medlip.app.server.answers import ExampleEntry
from medlip.errors import MedLIPError
from medlip.images.dicom import looks_like_dicom
from medlip.phantom import phantom

PHANTOMS, PHANTOM_SEED, PHANTOM_SIZE = 8, 1, 512  # of a seed that no demo is trained on
_HEAD = 132
_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"II": "image/tiff", b"MM": "image/tiff"}


class Examples(Protocol):
    """X-rays by number, from 0."""

    def __len__(self) -> int: ...

    def describe(self, index: int) -> ExampleEntry:
        """Return what an example is."""
        ...

    def content(self, index: int) -> bytes:
        """Return its file."""
        ...


def open_examples(source: str) -> Examples:
    """Return the examples that a source names: "phantom" for synthetic X-rays, or a folder of images.

    Raises:
        MedLIPError: there is no such folder, or no image in it.
    """
    return PhantomExamples() if source == "phantom" else FolderExamples(Path(source))


def media_type(content: bytes) -> str:
    """Return the media type of a file, by its first bytes."""
    if looks_like_dicom(content[:_HEAD]):
        return "application/dicom"
    return next((name for start, name in _TYPES.items() if content.startswith(start)), "application/octet-stream")


class NoExamples:
    """No X-rays."""

    def __len__(self) -> int:
        return 0

    def describe(self, index: int) -> ExampleEntry:
        """Raise an IndexError."""
        raise IndexError(index)

    def content(self, index: int) -> bytes:
        """Raise an IndexError."""
        raise IndexError(index)


class _Made(NamedTuple):
    content: bytes
    report: str


class PhantomExamples:
    """Synthetic X-rays that no demo is trained on, with their reports; made in the background, while models are loaded."""

    def __init__(self) -> None:
        executor = ThreadPoolExecutor(1, "examples")
        self._made: list[Future[_Made]] = [executor.submit(_make, index) for index in range(PHANTOMS)]
        executor.shutdown(wait=False)

    def __len__(self) -> int:
        return PHANTOMS

    def describe(self, index: int) -> ExampleEntry:
        """Return what an example is."""
        report = self._made[index].result().report
        return ExampleEntry(id=str(index + 1), title=f"Synthetic X-ray {index + 1}", type="image/png", report=report)

    def content(self, index: int) -> bytes:
        """Return its file."""
        return self._made[index].result().content


def _make(index: int) -> _Made:
    study = phantom(index, PHANTOM_SEED, PHANTOM_SIZE)
    buffer = BytesIO()
    Image.fromarray(np.asarray(study.views[0].image)).save(buffer, "PNG")
    return _Made(buffer.getvalue(), study.report)


class FolderExamples:
    """The images of a folder in the order of their names, which are not told; the report of x.png is x.txt beside it."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MedLIPError(f"--examples {folder}: there is no such folder. Give one with X-rays, or phantom.")
        found = ImageArguments([str(folder)])
        self._files = tuple(found)
        if not self._files:
            raise MedLIPError(f"--examples {found.empty[0]}")

    def __len__(self) -> int:
        return len(self._files)

    def describe(self, index: int) -> ExampleEntry:
        """Return what an example is."""
        file = self._files[index]
        with file.open("rb") as opened:
            type = media_type(opened.read(_HEAD))
        beside = file.with_suffix(".txt")
        report = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
        return ExampleEntry(id=str(index + 1), title=f"Example {index + 1}", type=type, report=report)

    def content(self, index: int) -> bytes:
        """Return its file."""
        return self._files[index].read_bytes()
