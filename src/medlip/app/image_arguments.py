"""The images that a command was given: files, folders, patterns, or a list on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path

from medlip.files import STDIN, matches
from medlip.images import looks_like_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")


class ImageArguments:
    """Images by what names them.

    Args:
        arguments: files; folders, with all images below; patterns ("films/**/*.dcm") where the shell left them; or "-" for a
            list on stdin, one of these a line.

    Attributes:
        others: how many files of folders were left out, since they are no images.
        empty: folders without an image, and patterns that nothing fits.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        self.others = 0
        self.empty: list[str] = []

    @property
    def count(self) -> int | None:
        """How many images there are, where that is known without looking."""
        return len(self.arguments) if all(Path(argument).is_file() for argument in self.arguments) else None

    def __iter__(self) -> Iterator[Path]:
        """Yield the images; a file that is named itself is one, whatever it holds."""
        self.others, self.empty = 0, []
        for argument in self.arguments:
            if argument == STDIN:
                yield from self._find(line for line in (text.rstrip("\r\n") for text in sys.stdin) if line.strip())
            else:
                yield from self._find([argument])

    def _find(self, arguments: Iterable[str]) -> Iterator[Path]:
        for argument in arguments:
            path = Path(argument)
            if path.is_dir():
                yield from self._below(path)
            elif has_magic(argument) and not path.exists():
                fitting = matches(argument)
                if not fitting:
                    self.empty.append(f"{argument}: nothing fits this pattern. Check the folder and the suffix.")
                yield from (match for match in fitting if match.is_file())
            else:
                yield path

    def _below(self, folder: Path) -> Iterator[Path]:
        found = False
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in SUFFIXES or looks_like_image(path):
                found = True
                yield path
            else:
                self.others += 1
        if not found:
            self.empty.append(f"{folder}: no PNG, JPEG, TIFF or DICOM file in this folder. Name the folder that holds them.")
