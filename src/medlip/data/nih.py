"""NIH ChestX-ray14: images with 14 text-mined labels, some with boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medlip.concepts import default_vocabulary
from medlip.data.sources import Source, canonical, combine, number, read_table
from medlip.data.study import Box, Study, View
from medlip.reports import Presence

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
BOX_GRID = 1024  # boxes are in pixels of the images as published
BOX_LABELS = {"infiltrate": "Infiltration", "lung opacity": "Pneumonia"}  # RSNA boxed suspected pneumonia by this name


def nih(folder: str | Path) -> Source:
    """Read `labels.csv` (one row an image) and, where it is there, `boxes.csv` in 1024 x 1024 coordinates.

    Every image is a study, and all are split "test".

    Raises:
        MedLIPError: a file is missing, lacks a column, or holds something else than a number where one belongs.
    """
    folder = Path(folder)
    table, box_table = folder / "labels.csv", folder / "boxes.csv"
    boxes: dict[str, list[Box]] = {}
    if box_table.exists():
        for row in read_table(box_table, ("image_index", "label", "x", "y", "w", "h")):
            x, y, width, height = (number(row, column, box_table) for column in ("x", "y", "w", "h"))
            boxes.setdefault(row["image_index"], []).append(Box(label_name(row["label"]), x, y, width, height))
    studies = {}
    for row in read_table(table, ("file", "image_index", "finding_labels", "patient_id", "view", "w", "h")):
        across, down = (number(row, side, table) / BOX_GRID for side in ("w", "h"))
        scaled = tuple(
            replace(box, x=box.x * across, y=box.y * down, width=box.width * across, height=box.height * down)
            for box in boxes.get(row["image_index"], ())
        )
        studies[row["image_index"]] = Study(
            id=Path(row["image_index"]).stem,
            patient=f"nih:{row['patient_id']}",
            views=(View(folder / "images" / row["file"], row["view"], scaled),),
            labels=finding_labels(row["finding_labels"]),
            split="test",
            attributes={name: row[name] for name in ("age", "sex") if row.get(name)},
        )
    return Source("nih", studies)


def finding_labels(text: str) -> dict[str, Presence]:
    """Read "Effusion|Mass" or "No Finding": what is not listed is absent."""
    listed = {label.strip() for label in text.split("|")}
    return combine((label_name(label), "present" if label in listed else "absent") for label in LABELS)


def label_name(label: str) -> str:
    """Return the name under which a label or a box's finding goes on."""
    return canonical(BOX_LABELS.get(label.lower(), label), default_vocabulary())
