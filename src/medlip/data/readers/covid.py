"""COVID-19 image data collection: films from publications and web pages, some with masks drawn by radiologists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from medlip.data.image_files import ImageFile, ImageFiles
from medlip.data.labels import canonical
from medlip.data.sources import LeftOut, Source
from medlip.data.study import LUNGS, Mask, Study, View
from medlip.data.views import view_of
from medlip.delimited import read_table
from medlip.errors import MedLIPError
from medlip.reports import Presence

FINDINGS = {"Ground Glass Opacities": "opacity", "Consolidation": "consolidation", "Pleural Effusion": "effusion"}
LINES = {
    "Central Venous Line": "line", "Endotracheal Tube": "tube", "Nosogastric Tube": "tube", "Nasogastric Tube": "tube",
    "Tubings": "tube", "Monitoring Probes": "device",
}  # fmt: skip
ANATOMY = {
    "Left Lung": LUNGS["left"], "Right Lung": LUNGS["right"], "Airways": "trachea", "Cardiomediastinum": "mediastinal",
}  # fmt: skip
PNEUMONIAS = (
    "pneumonia", "covid", "sars", "mers", "mycoplasma", "pneumocystis", "legionella", "klebsiella", "influenza",
    "streptococcus", "bacterial", "viral", "varicella", "herpes", "chlamydophila", "aspergillosis", "nocardia",
)  # fmt: skip
"""Words of findings that are pneumonias, or the germs by which pneumonias are listed."""


def covid(folder: str | Path) -> Source:
    """Read `metadata.csv`, a row an image in `images`, and where they are there `masks.csv` and `masks`.

    All of it is split "test": images from publications, several of one patient, are for evaluation. What the row finds
    (`COVID-19`, `Pneumonia/Viral/SARS`, `No Finding`) says whether there is a pneumonia; of others, such as `ARDS` or
    `todo`, that is not known. An image with masks was drawn on as a whole, so what has no mask there is absent. Ground-glass
    opacities and consolidations both are opacities. Masks of lungs, airways and the mediastinum are of anatomies. Notes
    tell of a patient's course, not of an image, and are not read.

    Raises:
        MedLIPError: a table is missing, lacks a column, or names an unknown mask.
    """
    folder = Path(folder)
    masks = _masks(folder)
    files = ImageFiles(folder / "images")
    items: dict[str, tuple[Mapping[str, str], ImageFile, tuple[tuple[str, Path], ...] | None]] = {}
    left_out = []
    for row in read_table(folder / "metadata.csv", ("patientid", "finding", "view", "filename")):
        name = row.get("file") or row["filename"]
        if row.get("modality", "X-ray") != "X-ray":
            left_out.append(LeftOut(Path(name).stem, name, f"its modality is {row['modality']}, not X-ray. Nothing to do."))
        elif Path(name).stem in items:
            left_out.append(LeftOut(Path(name).stem, name, "listed a second time. Delete one of the rows."))
        else:
            file = files.find(Path(name).stem, folder / "images" / name)
            items[Path(name).stem] = row, file, masks.get(name)
    return Source("covid", items, _study, tuple(left_out))


def _masks(folder: Path) -> Mapping[str, tuple[tuple[str, Path], ...]]:
    """Return the label and the file of each mask, by image."""
    table = folder / "masks.csv"
    found: defaultdict[str, list[tuple[str, Path]]] = defaultdict(list)
    for row in read_table(table, ("label", "mask")) if table.exists() else ():
        if row["label"] not in (*FINDINGS, *LINES, *ANATOMY):
            known = ", ".join((*FINDINGS, *LINES, *ANATOMY))
            raise MedLIPError(f"{table}: {row['mask']} is a mask of {row['label']!r}, which is none of {known}. Correct it.")
        found[row.get("file") or row["filename"]].append((row["label"], folder / "masks" / row["mask"]))
    return {name: tuple(masks) for name, masks in found.items()}


def _study(item: tuple[Mapping[str, str], ImageFile, tuple[tuple[str, Path], ...] | None]) -> Study:
    row, file, drawn = item
    masks = tuple(_read(label, path) for label, path in drawn or ())
    masks += tuple(Mask("opacity", mask.pixels) for mask in masks if mask.pathology == "consolidation")
    labels = _pneumonia(row["finding"])
    if drawn is not None:
        names = {mask.pathology for mask in masks if mask.pathology}
        labels |= {name: "present" if name in names else "absent" for name in {*FINDINGS.values(), *LINES.values()}}
    known = {"sex": row.get("sex", ""), "age": row.get("age", "")}
    return Study(
        id=Path(row.get("file") or row["filename"]).stem,
        patient=f"covid:{row['patientid']}",
        views=(View(file.path, view_of(row["view"]), masks=masks, problem=file.problem),),
        labels=labels,
        split="test",
        attributes={name: value for name, value in known.items() if value},
    )


def _read(label: str, path: Path) -> Mask:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L")) > 0
    except OSError as error:
        raise MedLIPError(f"{path}: the mask of {label} can't be read ({error}). Get the file again.") from error
    return Mask("", pixels, ANATOMY[label]) if label in ANATOMY else Mask(FINDINGS.get(label) or LINES[label], pixels)


def _pneumonia(finding: str) -> dict[str, Presence]:
    """Return the label of pneumonia that a row's finding gives, none where it doesn't say."""
    name = canonical("pneumonia")
    if finding.strip().lower() == "no finding":
        return {name: "absent"}
    return {name: "present"} if any(word in finding.lower() for word in PNEUMONIAS) else {}
