"""NIH ChestX-ray14: images with 14 text-mined labels, some with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from medlip.data.image_files import ImageFiles
from medlip.data.labels import canonical, combine, hold_back
from medlip.data.sources import Source
from medlip.data.study import Box, Study, View
from medlip.data.views import view_of
from medlip.delimited import number, read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
PUBLISHED = 1024  # side of the published images, in whose pixels all boxes are given
BOX_LABELS = {"infiltrate": "Infiltration", "lung opacity": "Pneumonia"}  # RSNA boxed suspected pneumonia by this name


def nih(folder: str | Path) -> Source:
    """Read the published layout (`Data_Entry_2017*.csv`, images anywhere below), or `labels.csv` with `boxes.csv`.

    Published: split by `train_val_list.txt` (a tenth of its patients are "val") and `test_list.txt`, where they are there;
    boxes from `BBox_List_2017.csv`. The other layout, one row an image with its file and size: all are split "test".
    Every image is a study.

    Raises:
        MedLIPError: a file is missing, lacks a column, or holds something else than a number where one belongs.
    """
    folder = Path(folder)
    tables = sorted(folder.glob("Data_Entry_2017*.csv*"))
    return _published(folder, tables[-1]) if tables else _listed(folder)


def _published(folder: Path, table: Path) -> Source:
    boxes: dict[str, list[Box]] = {}
    for box_table in sorted(folder.glob("BBox_List_2017*.csv*"))[:1]:
        for row in read_table(box_table, ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")):
            x, y, width, height = (number(row, column, box_table) for column in ("Bbox [x", "y", "w", "h]"))
            boxes.setdefault(row["Image Index"], []).append(Box(label_name(row["Finding Label"]), x, y, width, height))
    lists = {name: _list(folder / f"{name}_list.txt") for name in ("train_val", "test")}
    files = ImageFiles(folder)
    studies = {}
    for row in read_table(table, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")):
        name = row["Image Index"]
        stem = Path(name).stem
        file = files.find(stem, folder / name)
        patient = f"nih:{int(number(row, 'Patient ID', table))}"
        split = "test" if name in lists["test"] else hold_back(patient) if name in lists["train_val"] else ""
        sex = row.get("Patient Gender") or row.get("Patient Sex", "")
        studies[name] = Study(
            id=stem,
            patient=patient,
            views=(
                View(
                    file.path,
                    view_of(row["View Position"]),
                    tuple(boxes.get(name, ())),
                    frame=(PUBLISHED, PUBLISHED),
                    problem=file.problem,
                ),
            ),
            labels=finding_labels(row["Finding Labels"]),
            split=split,
            attributes={"sex": sex} | _age(row["Patient Age"]),
        )
    return Source("nih", studies)


def _age(text: str) -> dict[str, str]:
    """Read an age in years; the first version writes 058Y, 006M, 020D. What is no age is left out."""
    count, unit = (text[:-1], text[-1]) if text[-1:] in ("Y", "M", "D") else (text, "Y")
    return {"age": str(int(count) if unit == "Y" else 0)} if count.isdecimal() else {}


def _list(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


def _listed(folder: Path) -> Source:
    table, box_table = folder / "labels.csv", folder / "boxes.csv"
    if not table.exists():
        raise MedLIPError(f"{folder}: neither Data_Entry_2017*.csv nor labels.csv is there. Complete the download.")
    boxes: dict[str, list[Box]] = {}
    if box_table.exists():
        for row in read_table(box_table, ("image_index", "label", "x", "y", "w", "h")):
            x, y, width, height = (number(row, column, box_table) for column in ("x", "y", "w", "h"))
            boxes.setdefault(row["image_index"], []).append(Box(label_name(row["label"]), x, y, width, height))
    studies = {}
    for row in read_table(table, ("file", "image_index", "finding_labels", "patient_id", "view", "w", "h")):
        across, down = (number(row, side, table) / PUBLISHED for side in ("w", "h"))
        scaled = tuple(
            replace(box, x=box.x * across, y=box.y * down, width=box.width * across, height=box.height * down)
            for box in boxes.get(row["image_index"], ())
        )
        studies[row["image_index"]] = Study(
            id=Path(row["image_index"]).stem,
            patient=f"nih:{row['patient_id']}",
            views=(View(folder / "images" / row["file"], view_of(row["view"]), scaled),),
            labels=finding_labels(row["finding_labels"]),
            split="test",
            attributes={name: row[name] for name in ("age", "sex") if row.get(name)},
        )
    return Source("nih", studies)


@cache
def finding_labels(text: str) -> Mapping[str, Presence]:
    """Read "Effusion|Mass" or "No Finding": what is not listed is absent."""
    listed = {label.strip() for label in text.split("|")}
    return combine((label_name(label), "present" if label in listed else "absent") for label in LABELS)


def label_name(label: str) -> str:
    """Return the name under which a label or a box's finding goes on."""
    return canonical(BOX_LABELS.get(label.lower(), label))
