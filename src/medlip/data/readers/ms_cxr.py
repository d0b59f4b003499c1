"""MS-CXR: phrases of MIMIC-CXR reports, each with the boxes that a radiologist drew for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medlip.data.labels import canonical
from medlip.data.sources import Source
from medlip.data.study import Box, Study, View
from medlip.delimited import number, read_table
from medlip.errors import MedLIPError

COLUMNS = ("dicom_id", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height", "path")


def ms_cxr(folder: str | Path) -> Source:
    """Read `MS_CXR_Local_Alignment_*.csv`, put into the folder of MIMIC-CXR-JPG, from which its `path` starts.

    Boxes carry their phrase, and the phrases are the report. All are split "test", unless the table says otherwise.

    Raises:
        MedLIPError: the table is missing, lacks a column, or holds something else than a number where one belongs.
    """
    folder = Path(folder)
    table = next(iter(sorted(folder.glob("MS_CXR*.csv*"))), None)
    if table is None:
        raise MedLIPError(f"{folder}: there is no MS_CXR_Local_Alignment_*.csv. Put it into the folder of MIMIC-CXR-JPG.")
    rows: dict[str, list[Mapping[str, str]]] = {}
    for row in read_table(table, COLUMNS):
        rows.setdefault(row["dicom_id"], []).append(row)
    return Source("ms_cxr", {image: _study(folder, table, image, found) for image, found in rows.items()})


def _study(folder: Path, table: Path, image: str, rows: list[Mapping[str, str]]) -> Study:
    first = rows[0]
    boxes = []
    for row in rows:
        x, y, width, height = (number(row, column, table) for column in ("x", "y", "w", "h"))
        name = canonical(row["category_name"])
        boxes.append(Box(name, x, y, width, height, phrase=row["label_text"]))
    frame = int(number(first, "image_width", table)), int(number(first, "image_height", table))
    phrases = dict.fromkeys(row["label_text"].rstrip(".") for row in rows)
    parts = Path(first["path"]).parts
    subject = next((part for part in parts if part.startswith("p") and len(part) > 4), image)
    return Study(
        id=image,
        patient=f"mimic:{subject.removeprefix('p')}",
        views=(View(folder / first["path"], boxes=tuple(boxes), frame=frame),),
        report="FINDINGS: " + " ".join(f"{phrase}." for phrase in phrases),
        labels={box.pathology: "present" for box in boxes},
        split={"val": "val", "train": "train"}.get(first.get("split", ""), "test"),
    )
