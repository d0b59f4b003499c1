"""RSNA Pneumonia Detection Challenge (stage 2): DICOM images, which are NIH images, with boxes of suspected pneumonia."""

from __future__ import annotations

import json
from pathlib import Path

from medlip.data.image_files import ImageFiles
from medlip.data.sources import Source
from medlip.data.study import Box, Study, View
from medlip.delimited import number, read_table
from medlip.errors import MedLIPError

PUBLISHED = (1024, 1024)
LABELS = "stage_2_train_labels.csv"
MAPPINGS = (
    "pneumonia-challenge-dataset-mappings_2018.json",
    "rsna_to_nih_mapping_full.csv",
    "rsna_to_nih_mapping_full.csv.gz",
)


def rsna(folder: str | Path) -> Source:
    """Read `stage_2_train_labels.csv` and the DICOM files below the folder; the source has no split.

    Where the published mapping to NIH images lies in the folder, patients carry their NIH id ("nih:19124"), so that studies
    of one person are seen to be so across both sets. An image that it doesn't name stands for a patient of its own.

    Raises:
        MedLIPError: the labels are missing or broken, or the mapping is.
    """
    folder = Path(folder)
    table = folder / LABELS
    boxes: dict[str, list[Box]] = {}
    for row in read_table(table, ("patientId", "x", "y", "width", "height", "Target")):
        found = boxes.setdefault(row["patientId"], [])
        if row["Target"] == "1":
            x, y, width, height = (number(row, column, table) for column in ("x", "y", "width", "height"))
            found.append(Box("pneumonia", x, y, width, height))
    files, people = ImageFiles(folder), nih_images(folder)
    studies = {}
    for image, found in boxes.items():
        person = people.get(image, "").partition("_")[0]
        file = files.find(image, folder / f"{image}.dcm")
        view = View(file.path, "", tuple(found), frame=PUBLISHED, problem=file.problem)
        studies[image] = Study(
            id=image,
            patient=f"nih:{int(person)}" if person.isdigit() else f"rsna:{image}",
            views=(view,),
            labels={"pneumonia": "present" if found else "absent"},
        )
    stand_ins = sum(study.patient.startswith("rsna:") for study in studies.values())
    return Source("rsna", studies, stand_ins=stand_ins)


def nih_images(folder: Path) -> dict[str, str]:
    """Return the NIH image ("00019124_092.png") of each RSNA image, by the mapping in the folder; {} where there is none.

    Raises:
        MedLIPError: the mapping is broken.
    """
    path = next((folder / name for name in MAPPINGS if (folder / name).exists()), None)
    if path is None:
        return {}
    if path.suffix != ".json":
        return {row["patientId"]: row["Image Index"] for row in read_table(path, ("patientId", "Image Index"))}
    try:
        return {row["subset_img_id"]: row["img_id"] for row in json.loads(path.read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedLIPError(f"{path}: not the published mapping ({error!r}). Get it again, or remove it.") from error
