"""VinDr-CXR (also as VinBigData): boxes drawn by radiologists, three for each training image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medlip.data.image_files import ImageFiles
from medlip.data.labels import canonical
from medlip.data.sources import Source
from medlip.data.study import Box, Study, View
from medlip.delimited import number, read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence

TABLES = {"annotations_train.csv": "train", "annotations_test.csv": "test", "train.csv": "", "vinbigdata-train.csv.gz": ""}
NO_FINDING = "No finding"
NAMES = {"ILD": "interstitial lung disease", "Nodule/Mass": "nodule", "Other lesion": "lesion"}


def vindr(folder: str | Path) -> Source:
    """Read `annotations_train.csv` and `annotations_test.csv`, or VinBigData's `train.csv`; images lie below the folder.

    A finding is present when most of an image's readers boxed it, uncertain when fewer did, and absent when none did.
    All boxes are kept. They are in pixels of the original: of a resized copy the size is read from the columns width and
    height, or from `train_meta.csv`.

    Raises:
        MedLIPError: no table is there, or one lacks a column or a number.
    """
    folder = Path(folder)
    tables = [(folder / name, split) for name, split in TABLES.items() if (folder / name).exists()]
    if not tables:
        raise MedLIPError(f"{folder}: none of {', '.join(TABLES)} is there. Complete the download.")
    files, sizes = ImageFiles(folder), _sizes(folder)
    studies = {}
    for table, split in tables:
        rows: dict[str, list[Mapping[str, str]]] = {}
        for row in read_table(table, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")):
            rows.setdefault(row["image_id"], []).append(row)
        classes = sorted({row["class_name"] for found in rows.values() for row in found} - {NO_FINDING})
        for image, found in rows.items():
            file = files.find(image, folder / f"{image}.dicom")
            frame = _frame(found[0], table) or sizes.get(image)
            view = View(file.path, boxes=tuple(_boxes(found, table)), frame=frame, problem=file.problem)
            labels = _labels(found, classes)
            studies[image] = Study(id=image, patient=f"vindr:{image}", views=(view,), labels=labels, split=split)
    return Source("vindr", studies, stand_ins=len(studies))


def _frame(row: Mapping[str, str], table: Path) -> tuple[int, int] | None:
    """Return width and height of the original image where the table says so, as those of resized copies do."""
    if not (row.get("width") and row.get("height")):
        return None
    return int(number(row, "width", table)), int(number(row, "height", table))


def _sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the same from the tables that come with resized copies: image_id, dim0 (height), dim1 (width)."""
    return {
        row["image_id"]: (int(number(row, "dim1", table)), int(number(row, "dim0", table)))
        for table in sorted(folder.glob("*_meta.csv"))
        for row in read_table(table, ("image_id", "dim0", "dim1"))
    }


def _boxes(rows: Sequence[Mapping[str, str]], table: Path) -> list[Box]:
    boxes = []
    for row in rows:
        if row["x_min"]:
            left, top, right, bottom = (number(row, column, table) for column in ("x_min", "y_min", "x_max", "y_max"))
            boxes.append(Box(_name(row["class_name"]), left, top, right - left, bottom - top))
    return boxes


def _labels(rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> dict[str, Presence]:
    readers = {row.get("rad_id", "") for row in rows}
    votes = Counter(name for name, _ in {(row["class_name"], row.get("rad_id", "")) for row in rows})
    return {
        _name(name): "absent" if not votes[name] else "present" if 2 * votes[name] > len(readers) else "uncertain"
        for name in classes
    }


def _name(label: str) -> str:
    return canonical(NAMES.get(label, label))
