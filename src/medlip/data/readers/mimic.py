"""MIMIC-CXR-JPG with the reports of MIMIC-CXR: images, labels by two labellers, official split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medlip.data.labels import canonical_names, labelled
from medlip.data.readers.chexpert import LABELS
from medlip.data.sources import Source
from medlip.data.study import Study, View
from medlip.data.views import view_of
from medlip.delimited import read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence
from medlip.reports.files import read_text_report

SPLITS = {"train": "train", "validate": "val", "test": "test"}
LABELLERS = ("chexpert", "negbio")


def mimic(folder: str | Path) -> Source:
    """Read MIMIC-CXR-JPG: the tables `mimic-cxr-2.*-metadata`, `-split` and `-chexpert` (or `-negbio`), images, reports.

    The folder is that of the tables, or one above it, such as that of a download by `wget -r`. Reports
    (`files/p10/p10000032/s50414267.txt`) may lie beside the images, under `mimic-cxr-reports/`, or in the tree of MIMIC-CXR
    beside that of MIMIC-CXR-JPG. A study whose report is not there has none.

    Raises:
        MedLIPError: metadata or split is missing or lacks a column, or not one report is there.
    """
    folder = Path(folder)
    metadata = next(_search(folder, "mimic-cxr-2.*-metadata.csv*"), None)
    base = metadata.parent if metadata else folder
    split_table = _table(base, "split")
    if split_table is None or metadata is None:
        what = "split" if split_table is None and metadata else "metadata"
        raise MedLIPError(f"{base}: there is no mimic-cxr-2.*-{what}.csv(.gz). Complete the download of MIMIC-CXR-JPG.")
    splits = {row["dicom_id"]: SPLITS.get(row["split"], "") for row in read_table(split_table, ("dicom_id", "split"))}
    names = canonical_names(LABELS)
    label_table = next((table for name in LABELLERS if (table := _table(base, name))), None)
    labels = {
        row["study_id"]: labelled(row, names)
        for row in (read_table(label_table, ("study_id", *LABELS)) if label_table else ())
    }
    items: dict[str, _Item] = {}
    for row in read_table(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
        subject, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        place = f"files/p{subject[:2]}/p{subject}/s{study}"
        item = items.setdefault(study, _Item(study, subject, place, None, splits.get(image, ""), labels.get(study, {}), ()))
        items[study] = replace(item, images=(*item.images, (base / place / f"{image}.jpg", view_of(row["ViewPosition"]))))
    trees = _report_trees(folder, base)
    items = {study: replace(item, report=_report(trees, item.place)) for study, item in items.items()}
    if not any(item.report for item in items.values()):
        raise MedLIPError(
            f"{folder}: there is no report. Unpack mimic-cxr-reports.zip of MIMIC-CXR so that "
            f"{base / 'mimic-cxr-reports' / next(iter(items.values())).place}.txt is there."
        )
    return Source("mimic", items, _study)


def _search(folder: Path, pattern: str, depth: int = 5) -> Iterator[Path]:
    """Yield what is called so in a folder and the folders below it, but not among the patients."""
    level = [folder]
    for _ in range(depth):
        for place in level:
            yield from sorted(place.glob(pattern))
        below = (path for place in level for path in sorted(place.iterdir()) if path.is_dir())
        level = [path for path in below if not _PATIENTS.fullmatch(path.name)]


_PATIENTS = re.compile(r"p\d+")


def _report_trees(folder: Path, base: Path) -> list[Path]:
    """Return the folders whose `files/` may hold the reports."""
    beside = [
        tree for above in (base.parent, base.parent.parent) for tree in (above / "mimic-cxr", above / "mimic-cxr-reports")
    ]
    tops = [folder, *(tree for tree in beside if tree.is_dir())]
    return [base, *dict.fromkeys(files.parent for top in tops for files in _search(top, "files"))]


def _report(trees: Sequence[Path], place: str) -> Path | None:
    return next((path for tree in trees if (path := tree / f"{place}.txt").exists()), None)


@dataclass(frozen=True, slots=True)
class _Item:
    study: str
    subject: str
    place: str
    report: Path | None
    split: str
    labels: Mapping[str, Presence]
    images: tuple[tuple[Path, str], ...]


def _table(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"mimic-cxr-2.*-{name}.csv*"))), None)


def _study(item: _Item) -> Study:
    return Study(
        id=item.study,
        patient=f"mimic:{item.subject}",
        views=tuple(View(image, position) for image, position in item.images),
        report=read_text_report(item.report) if item.report else "",
        labels=item.labels,
        split=item.split,
    )
