"""CheXpert: Stanford's images with labels read from reports by a labeller: present, absent, uncertain, or not mentioned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medlip.data.sources import Source, canonical_names, labelled, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError

LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
SPLITS = {"train": "train", "valid": "val", "test": "test"}


def chexpert(folder: str | Path) -> Source:
    """Read `train.csv`, `valid.csv` and `test.csv`, those that are there; images lie where `Path` says, from any folder on.

    Raises:
        MedLIPError: none of them is there, or one lacks a column.
    """
    folder = Path(folder)
    tables = [path for name in SPLITS for path in sorted(folder.glob(f"{name}.csv*"))[:1]]
    if not tables:
        raise MedLIPError(f"{folder}: none of train.csv, valid.csv and test.csv is there. Complete the download.")
    names = canonical_names(LABELS)
    studies: dict[str, Study] = {}
    for table in tables:
        rows: dict[str, list[Mapping[str, str]]] = {}
        for row in read_table(table, ("Path", *LABELS)):
            place = row["Path"].rpartition("/")[0]
            if "/" not in place:
                raise MedLIPError(f"{table}: the Path {row['Path']!r} names no patient and study. Get the table again.")
            rows.setdefault(place, []).append(row)
        # Paths begin with the data set's own folder, which this one may hold, or be.
        top = next(iter(rows), "").partition("/")[0]
        base = folder if (folder / top).is_dir() else folder.parent if folder.name == top else None
        split = SPLITS[table.name.partition(".")[0]]
        for place, images in rows.items():
            studies[place] = _study(folder, base, place, names, images, split)
    return Source("chexpert", studies)


def _study(
    folder: Path, base: Path | None, place: str, names: Mapping[str, str], rows: list[Mapping[str, str]], split: str
) -> Study:
    """Make the study of a place such as CheXpert-v1.0/train/patient00001/study1."""
    first = rows[0]
    patient, study = place.split("/")[-2:]
    return Study(
        id=f"{patient}/{study}",
        patient=f"chexpert:{patient}",
        views=tuple(
            View(base / row["Path"] if base else folder / row["Path"].partition("/")[2], _position(row)) for row in rows
        ),
        labels=labelled(first, names),
        split=split,
        attributes={name.lower(): first[name] for name in ("Age", "Sex") if first.get(name)},
    )


def _position(row: Mapping[str, str]) -> str:
    """Read the view; the test labels have no such column, but their files are named view1_frontal.jpg."""
    if row.get("Frontal/Lateral") == "Lateral" or "lateral" in row["Path"]:
        return "lateral"
    return row["AP/PA"] if row.get("AP/PA") in ("AP", "PA") else ""
