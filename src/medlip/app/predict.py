"""Reading image files one after the other: a bad one is named, and the rest goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medlip.app.reader import Finding, Reader, Reading
from medlip.errors import MedLIPError
from medlip.images import read_image

LIKELY = 0.5


def predict_all(
    reader: Reader, images: Sequence[Path], ask: Sequence[str], out: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what `medlip predict --json` prints of each image: its reading as plain data, or {"image", "error"}.

    Args:
        reader: the trained run.
        images: PNG, JPEG or DICOM files.
        ask: questions for every image.
        out: folder for the overlays of likely findings and of all questions, which are then named under `overlays`.

    Raises:
        MedLIPError: a question can't be answered.
    """
    taken: set[str] = set()
    for path in images:
        try:
            pixels = read_image(path)
        except MedLIPError as error:
            yield {"image": str(path), "error": str(error)}
            continue
        reading = reader.read(pixels, ask)
        entry = {**reading.to_dict(), "image": str(path)}
        if out is not None:
            entry["overlays"] = _save_overlays(reading, path.stem, out, taken)
        yield entry


def likely(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with a probability of at least one half, or the most probable one where none has."""
    return [finding for finding in findings if finding.probability >= LIKELY] or list(findings[:1])


def _save_overlays(reading: Reading, stem: str, out: Path, taken: set[str]) -> dict[str, str]:
    out.mkdir(parents=True, exist_ok=True)
    texts = [*(finding.pathology for finding in likely(reading.findings)), *(question.text for question in reading.asked)]
    files = {}
    for text in dict.fromkeys(texts):
        name = _unique(f"{stem}-{re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')[:60]}", taken)
        reading.overlay(text).save(out / f"{name}.png")
        files[text] = str(out / f"{name}.png")
    return files


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number behind it when it was given before: two images may be called the same."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free
