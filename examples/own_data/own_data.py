"""A data set of your own: a folder of images, with a table of what is in them and their reports."""

from __future__ import annotations

import csv
from pathlib import Path

from medlip.data.sources import DataSet, Source, register_source
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.reports import Presence

COLUMNS = ("image", "patient", "report", "pneumonia")
LABELS: dict[str, Presence] = {"1": "present", "0": "absent"}


def read_clinic(folder: Path) -> Source:
    """Read `studies.csv` and the images that it names.

    Raises:
        MedLIPError: the table is missing or lacks a column.
    """
    table = folder / "studies.csv"
    if not table.is_file():
        raise MedLIPError(f"{table}: there is no such file. Give the folder that holds it.")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if lacking := [name for name in COLUMNS if rows and name not in rows[0]]:
        raise MedLIPError(f"{table}: there is no column {', '.join(lacking)}. Its columns must be {', '.join(COLUMNS)}.")
    return Source("clinic", {row["image"]: _study(folder, row) for row in rows})


def _study(folder: Path, row: dict[str, str]) -> Study:
    return Study(
        id=row["image"],
        patient=f"clinic:{row['patient']}",
        views=(View(folder / row["image"], "PA"),),
        report=row["report"],
        labels={"pneumonia": "present" if row["pneumonia"] == "1" else "absent"}
        if row["pneumonia"]
        else {},  # blank: unknown
    )


register_source(
    "clinic", DataSet(title="Studies of our clinic", reader="own_data:read_clinic", layout=("studies.csv", "*.png"))
)
