"""COVIDx CXR: images gathered from public collections, with or without COVID-19."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medlip.data.sources import Source
from medlip.data.study import Study, View
from medlip.delimited import decode
from medlip.errors import MedLIPError
from medlip.reports import Presence

NAME = "covid-19"
PRESENT = {"positive": "present", "covid-19": "present", "negative": "absent", "normal": "absent", "pneumonia": "absent"}


def covidx(folder: str | Path) -> Source:
    """Read `train.txt`, `val.txt` and `test.txt` (patient, file, class, collection) and the images in `train/` and so on.

    Raises:
        MedLIPError: no list is there, or a line says something else.
    """
    folder = Path(folder)
    lists = [path for split in ("train", "val", "test") if (path := folder / f"{split}.txt").exists()]
    if not lists:
        raise MedLIPError(f"{folder}: none of train.txt, val.txt and test.txt is there. Complete the download.")
    studies = {}
    for path in lists:
        for line in decode(path.read_bytes())[0].splitlines():
            if not line.strip():
                continue
            *names, label, collection = line.split() if len(line.split()) > 3 else [line, "", "", ""]
            presence: Presence | None = PRESENT.get(label.lower())  # type: ignore[assignment]
            if presence is None:
                raise MedLIPError(f"{path}: the line {line!r} is not: patient, file, class, collection. Get the list again.")
            patient, file, problem = _divide(names, folder / path.stem)
            studies[f"{path.stem}/{file}"] = Study(
                id=file,
                patient=f"covidx:{collection}:{patient}",
                views=(View(folder / path.stem / file, problem=problem),),
                labels={NAME: presence},
                split=path.stem,
            )
    return Source("covidx", studies)


def _divide(words: Sequence[str], folder: Path) -> tuple[str, str, str]:
    """Return patient, file and what is wrong; both may have blanks ("COVID 1"), so the file is the one that is there."""
    ways = [(" ".join(words[:at]), " ".join(words[at:])) for at in range(1, len(words))]
    there = [way for way in ways if (folder / way[1]).is_file()]
    if len(there) > 1:
        return *there[0], f"its line may mean {' or '.join(repr(file) for _, file in there)}. Rename one of the files."
    return *(there or ways)[0], ""
