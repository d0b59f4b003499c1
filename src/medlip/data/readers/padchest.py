"""PadChest: images from San Juan, Spain, with labels in English and reports in Spanish; PadChest-GR: phrases with boxes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medlip.data.image_files import ImageFiles
from medlip.data.labels import canonical, combine
from medlip.data.sources import LeftOut, Source
from medlip.data.study import FRACTIONS, Box, Study, View
from medlip.data.views import view_of
from medlip.delimited import plain_id, read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence

TABLE = "PADCHEST_chest_x_ray_images_labels_160K*.csv*"
GROUNDED = "grounded_reports*.json"
MASTER = "master_table.csv*"
COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection", "Report", "Labels")
LABELS = (
    "cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "infiltrates", "atelectasis", "nodule",
    "pulmonary mass", "pneumonia", "pulmonary edema", "emphysema", "hiatal hernia", "rib fracture", "pleural thickening",
    "pulmonary fibrosis", "calcified granuloma", "costophrenic angle blunting", "pacemaker",
)  # fmt: skip  # what a study that doesn't list them is free of, as far as the vocabulary has a name for it
NAMES = {
    "laminar atelectasis": "atelectasis", "lobar atelectasis": "atelectasis", "total atelectasis": "atelectasis",
    "multiple nodules": "nodule", "atypical pneumonia": "pneumonia", "loculated pleural effusion": "effusion",
    "fibrotic band": "scar", "hyperinflated lung": "hyperinflate", "hemidiaphragm elevation": "elevation",
    "humeral fracture": "fracture", "single chamber device": "pacemaker", "dual chamber device": "pacemaker",
    "nsg tube": "tube", "chest drain tube": "tube",
}  # fmt: skip  # PadChest's words that the vocabulary doesn't know
NO_FINDING = {"normal", "unchanged"}
UNUSABLE = {"exclude", "suboptimal study"}
SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def padchest(folder: str | Path) -> Source:
    """Read PadChest's table and the images below the folder; the source has no split.

    A label that a study doesn't list is absent among `LABELS`, else unknown. Reports are kept in Spanish and not read.
    Images that PadChest-GR has boxes for get them, where its JSON file lies in the folder, too.

    Raises:
        MedLIPError: the table is missing, lacks a column, or holds labels that are no list.
    """
    folder = Path(folder)
    table = next(iter(sorted(folder.glob(TABLE))), None)
    if table is None:
        raise MedLIPError(f"{folder}: there is no {TABLE}. Complete the download; padchest_gr:DIR reads PadChest-GR alone.")
    files, findings = ImageFiles(folder), _findings(folder)
    rows: dict[str, list[Mapping[str, str]]] = {}
    for row in read_table(table, COLUMNS):
        rows.setdefault(plain_id(row["StudyID"]), []).append(row)
    studies: dict[str, Study] = {}
    left_out: list[LeftOut] = []
    for study, found in rows.items():
        first = found[0]
        labels = _listed(first["Labels"], table, study)
        unusable = sorted(UNUSABLE & {*labels})
        if unusable:
            reason = f"PadChest labels its study {unusable[0]!r}. Leave it out."
            left_out += [LeftOut(study, row["ImageID"], reason) for row in found]
            continue
        studies[study] = Study(
            id=study,
            patient=f"padchest:{plain_id(first['PatientID'])}",
            views=tuple(_view(row["ImageID"], view_of(row["Projection"]), files, findings) for row in found),
            report=first["Report"],
            labels=_labels(labels),
            attributes=_attributes(first),
            language="es",
        )
    return Source("padchest", studies, left_out=tuple(left_out))


def padchest_gr(folder: str | Path) -> Source:
    """Read PadChest-GR: `grounded_reports_*.json`, `master_table.csv` for patients and splits, images below the folder.

    Boxes carry their phrase in English, and the phrases are the report.

    Raises:
        MedLIPError: the JSON file is missing or broken, or the table lacks a column.
    """
    folder = Path(folder)
    entries = _grounded(folder)
    if entries is None:
        raise MedLIPError(f"{folder}: there is no {GROUNDED}. Complete the download.")
    table = next(iter(sorted(folder.glob(MASTER))), None)
    known = {plain_id(row["StudyID"]): row for row in read_table(table, ("StudyID",))} if table else {}
    files, findings = ImageFiles(folder), _findings(folder)
    studies: dict[str, Study] = {}
    for entry in entries:
        image, study = str(entry["ImageID"]), plain_id(str(entry["StudyID"]))
        row = known.get(study, {})
        abnormal = [label for finding in entry["findings"] if finding.get("abnormal") for label in finding["labels"]]
        sentences = [str(finding.get("sentence_en") or "").strip().rstrip(".") for finding in entry["findings"]]
        said = " ".join(f"{sentence}." for sentence in dict.fromkeys(sentences) if sentence)
        view = _view(image, view_of(row.get("Projection", "")), files, findings)
        studies[image] = Study(
            id=study,
            patient=f"padchest:{plain_id(row.get('PatientID', '')) or study}",
            views=(view,),
            report=f"FINDINGS: {said}" if said else "",
            labels=_labels(label.strip().lower() for label in abnormal or ["normal"]),
            split=SPLITS.get(row.get("split", "").lower(), ""),
            attributes=_attributes(row),
        )
    unknown = sum(not known.get(study.id, {}).get("PatientID") for study in studies.values())
    return Source("padchest_gr", studies, stand_ins=unknown)


def _view(image: str, position: str, files: ImageFiles, findings: Mapping[str, Sequence[Mapping[str, Any]]]) -> View:
    file = files.find(Path(image).stem, files.folder / image)
    boxes = tuple(
        Box(_name(label), left, top, right - left, bottom - top, phrase=str(finding.get("sentence_en") or ""))
        for finding in findings.get(image, ())
        for label in finding["labels"]
        for left, top, right, bottom in finding.get("boxes") or ()
    )
    return View(file.path, position, boxes, frame=FRACTIONS, problem=file.problem)


def _name(label: str) -> str:
    plain = label.strip().lower()
    return canonical(NAMES.get(plain, plain))


def _labels(listed: Iterable[str]) -> dict[str, Presence]:
    """Label what is listed as present and, if anything is, the rest of `LABELS` as absent."""
    found = [label for label in listed if label]
    if not found or found == ["unchanged"]:
        return {}
    absent: list[tuple[str, Presence]] = [(_name(label), "absent") for label in LABELS]
    return combine([*absent, *((_name(label), "present") for label in found if label not in NO_FINDING)])


def _listed(text: str, table: Path, study: str) -> list[str]:
    """Read a cell such as "['pleural effusion', 'nodule ']"."""
    if not plain_id(text):
        return []
    try:
        labels = ast.literal_eval(text)
        return [str(label).strip().lower() for label in labels if str(label).strip()]
    except (ValueError, SyntaxError, TypeError) as error:
        raise MedLIPError(f"{table}: study {study}: Labels={text!r} is no list. Get the table again.") from error


def _attributes(row: Mapping[str, str]) -> dict[str, str]:
    sex, age = row.get("PatientSex_DICOM", ""), plain_id(row.get("PatientAge", ""))
    born, seen = plain_id(row.get("PatientBirth", ""))[:4], plain_id(row.get("StudyDate_DICOM", ""))[:4]
    if not age and born.isdigit() and seen.isdigit():
        age = str(int(seen) - int(born))
    return {name: value for name, value in (("sex", sex), ("age", age)) if value}


def _grounded(folder: Path) -> list[Mapping[str, Any]] | None:
    """Return the entries of PadChest-GR's JSON file, None where there is none."""
    path = next(iter(sorted(folder.glob(GROUNDED))), None)
    if path is None:
        return None
    try:
        entries: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            for finding in entry["findings"]:
                boxes = [tuple(map(float, box)) for box in finding.get("boxes") or ()]
                if not isinstance(finding["labels"], list) or any(len(box) != 4 for box in boxes):
                    raise TypeError(f"a finding of {entry['ImageID']!r} has no labels, or a box that is none")
            entry["StudyID"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedLIPError(f"{path}: not a list of StudyID, ImageID and findings ({error!r}). Get it again.") from error
    return entries


def _findings(folder: Path) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return PadChest-GR's findings by image."""
    return {str(entry["ImageID"]): entry["findings"] for entry in _grounded(folder) or ()}
