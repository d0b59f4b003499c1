"""MIMIC-CXR-JPG with the reports of MIMIC-CXR: images, labels by two labellers, official split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medlip.data.readers.chexpert import LABELS
from medlip.data.sources import Source, canonical_names, labelled, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.reports import Presence

SPLITS = {"train": "train", "validate": "val", "test": "test"}
LATERAL = ("LATERAL", "LL", "XTABLE LATERAL", "LAO", "RAO", "LPO", "RPO")
LABELLERS = ("chexpert", "negbio")


def mimic(folder: str | Path) -> Source:
    """Read the tables `mimic-cxr-2.*-metadata`, `-split` and `-chexpert` (or `-negbio`), images and reports under `files/`.

    Reports (`files/p10/p10000032/s50414267.txt`) may lie there or under `mimic-cxr-reports/files/`. A study whose report is
    not there has none.

    Raises:
        MedLIPError: metadata or split is missing or lacks a column.
    """
    folder = Path(folder)
    split_table, metadata = _table(folder, "split"), _table(folder, "metadata")
    if split_table is None or metadata is None:
        what = "split" if split_table is None else "metadata"
        raise MedLIPError(f"{folder}: there is no mimic-cxr-2.*-{what}.csv(.gz). Complete the download of MIMIC-CXR-JPG.")
    splits = {row["dicom_id"]: SPLITS.get(row["split"], "") for row in read_table(split_table, ("dicom_id", "split"))}
    names = canonical_names(LABELS)
    label_table = next((table for name in LABELLERS if (table := _table(folder, name))), None)
    labels = {
        row["study_id"]: labelled(row, names)
        for row in (read_table(label_table, ("study_id", *LABELS)) if label_table else ())
    }
    items: dict[str, _Item] = {}
    for row in read_table(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
        subject, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        place = f"files/p{subject[:2]}/p{subject}/s{study}"
        item = items.setdefault(
            study, _Item(study, subject, folder, place, splits.get(image, ""), labels.get(study, {}), ())
        )
        position = "lateral" if row["ViewPosition"] in LATERAL else row["ViewPosition"]
        items[study] = replace(item, images=(*item.images, (image, position)))
    return Source("mimic", items, _study)


@dataclass(frozen=True, slots=True)
class _Item:
    study: str
    subject: str
    folder: Path
    place: str
    split: str
    labels: Mapping[str, Presence]
    images: tuple[tuple[str, str], ...]


def _table(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"mimic-cxr-2.*-{name}.csv*"))), None)


def _study(item: _Item) -> Study:
    reports = (item.folder / top / f"{item.place}.txt" for top in ("", "mimic-cxr-reports"))
    report = next((path.read_text(errors="replace") for path in reports if path.exists()), "")
    return Study(
        id=item.study,
        patient=f"mimic:{item.subject}",
        views=tuple(View(item.folder / item.place / f"{image}.jpg", position) for image, position in item.images),
        report=report,
        labels=item.labels,
        split=item.split,
    )
