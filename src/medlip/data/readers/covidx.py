"""COVIDx CXR: images gathered from public collections, with or without COVID-19."""

from __future__ import annotations

from pathlib import Path

from medlip.data.sources import Source
from medlip.data.study import Study, View
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
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            patient, *name, label, collection = line.split() if len(line.split()) > 3 else [line, "", "", ""]
            presence: Presence | None = PRESENT.get(label.lower())  # type: ignore[assignment]
            if presence is None:
                raise MedLIPError(f"{path}: the line {line!r} is not: patient, file, class, collection. Get the list again.")
            file = " ".join(name)
            studies[f"{path.stem}/{file}"] = Study(
                id=file,
                patient=f"covidx:{collection}:{patient}",
                views=(View(folder / path.stem / file),),
                labels={NAME: presence},
                split=path.stem,
            )
    return Source("covidx", studies)
