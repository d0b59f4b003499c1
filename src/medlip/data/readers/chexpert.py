"""CheXpert: Stanford's images with labels read from reports by a labeller: present, absent, uncertain, or not mentioned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medlip.data.labels import canonical_names, labelled
from medlip.data.sources import Source
from medlip.data.study import Study, View
from medlip.data.views import view_of
from medlip.delimited import read_table
from medlip.errors import MedLIPError

LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
SPLITS = {"train": "train", "valid": "val", "test": "test"}


def chexpert(folder: str | Path) -> Source:
    """Read `train.csv`, `valid.csv` and `test.csv`, those that are there, and the images as one folder or in the batches.

    Raises:
        MedLIPError: none of them is there, or one lacks a column.
    """
    folder = Path(folder)
    tables = [found for name in SPLITS if (found := _table(folder, name))]
    if not tables:
        raise MedLIPError(f"{folder}: none of train.csv, valid.csv and test.csv is there. Complete the download.")
    names = canonical_names(LABELS)
    patients = _patient_folders(folder)
    studies: dict[str, Study] = {}
    for table in tables:
        rows: dict[str, list[Mapping[str, str]]] = {}
        for row in read_table(table, ("Path", *LABELS)):
            place = row["Path"].rpartition("/")[0]
            if "/" not in place:
                raise MedLIPError(f"{table}: the Path {row['Path']!r} names no patient and study. Get the table again.")
            rows.setdefault(place, []).append(row)
        split = SPLITS[table.name.partition(".")[0]]
        for place, images in rows.items():
            studies[place] = _study(folder, patients, place, names, images, split)
    return Source("chexpert", studies)


def _table(folder: Path, name: str) -> Path | None:
    """Return a table, which lies in the folder or in one of the folders that the download comes in."""
    return next(iter([*sorted(folder.glob(f"{name}.csv*")), *sorted(folder.glob(f"*/{name}.csv*"))]), None)


def _patient_folders(folder: Path) -> Mapping[tuple[str, str], Path]:
    """Return where each patient's folder lies, by the name of the split and its own.

    The download comes as one folder, from which `Path` starts, or in batches whose names do not occur in `Path`
    ("CheXpert-v1.0 batch 2 (train 1)").
    """
    found: dict[tuple[str, str], Path] = {}
    for base in (folder, *(path for depth in ("*", "*/*") for path in sorted(folder.glob(depth)) if path.is_dir())):
        if base.name.startswith(("patient", "study")):
            continue
        split = next((name for name in SPLITS if name in base.name.lower()), "train")
        for patient in base.glob("patient*"):
            found.setdefault((split, patient.name), patient)
            found.setdefault(("", patient.name), patient)
    return found


def _study(
    folder: Path,
    patients: Mapping[tuple[str, str], Path],
    place: str,
    names: Mapping[str, str],
    rows: list[Mapping[str, str]],
    split: str,
) -> Study:
    """Make the study of a place such as CheXpert-v1.0/train/patient00001/study1."""
    first = rows[0]
    parts = place.split("/")
    patient, study = parts[-2:]
    own = patients.get((parts[-3] if len(parts) > 2 else "", patient)) or patients.get(("", patient))
    found = own / study if own else folder.joinpath(*parts[1:])
    return Study(
        id=f"{patient}/{study}",
        patient=f"chexpert:{patient}",
        views=tuple(View(found / row["Path"].rpartition("/")[2], _position(row)) for row in rows),
        labels=labelled(first, names),
        split=split,
        attributes={name.lower(): first[name] for name in ("Age", "Sex") if first.get(name)},
    )


def _position(row: Mapping[str, str]) -> str:
    """Read the view; the test labels have no such column, but their files are named view1_frontal.jpg.

    Where the columns contradict each other (17 films are Frontal and by AP/PA laterals, LL or RL), it is no frontal film.
    """
    if row.get("Frontal/Lateral") == "Lateral" or "lateral" in row["Path"]:
        return "lateral"
    return view_of(row.get("AP/PA", "")) or ("frontal" if "frontal" in row["Path"] else "")
