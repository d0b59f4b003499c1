"""SIIM-ACR Pneumothorax Segmentation: DICOM images with masks, written as run lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlip.data.image_files import ImageFile, ImageFiles
from medlip.data.sources import Source
from medlip.data.study import Mask, Study, View
from medlip.delimited import read_table
from medlip.errors import MedLIPError

SIDE = 1024
TABLES = ("train-rle.csv", "stage_2_train.csv", "siim-pneumothorax-train-rle.csv.gz")


def siim(folder: str | Path) -> Source:
    """Read the run-length table (`train-rle.csv` or `stage_2_train.csv`) and the DICOM files below the folder; no split.

    Several rows of an image are several masks; "-1" is an image without a pneumothorax.

    Raises:
        MedLIPError: the table is missing or lacks a column.
    """
    folder = Path(folder)
    table = next((folder / name for name in TABLES if (folder / name).exists()), folder / TABLES[0])
    runs: dict[str, list[str]] = {}
    for row in read_table(table, ("ImageId", "EncodedPixels")):
        runs.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
    files = ImageFiles(folder)
    items = {image: (image, files.find(image, folder / f"{image}.dcm"), tuple(found)) for image, found in runs.items()}
    return Source("siim", items, _study, stand_ins=len(items))


def _study(item: tuple[str, ImageFile, tuple[str, ...]]) -> Study:
    image, file, runs = item
    masks = tuple(Mask("pneumothorax", decode_runs(text)) for text in runs if text not in ("-1", ""))
    return Study(
        id=image,
        patient=f"siim:{image}",
        views=(View(file.path, masks=masks, frame=(SIDE, SIDE), problem=file.problem),),
        labels={"pneumothorax": "present" if masks else "absent"},
    )


def decode_runs(text: str, side: int = SIDE) -> NDArray[np.bool_]:
    """Decode "gap length gap length …" to a mask (side, side), pixels counted down the columns.

    A gap counts from the end of the run before it, unlike in most run-length codes.

    Raises:
        MedLIPError: not pairs of numbers, or runs beyond the image.
    """
    try:
        gaps, lengths = np.array(text.split(), np.int64).reshape(-1, 2).T
    except (ValueError, OverflowError) as error:
        raise MedLIPError(f"its mask {text[:40]!r}… is no list of gaps and lengths. Get the table again.") from error
    ends = np.cumsum(gaps + lengths)
    runs = np.append(gaps, lengths)
    if runs.size and (runs.min() < 0 or runs.max() > side * side or ends[-1] > side * side):
        raise MedLIPError(f"its mask {text[:40]!r}… goes beyond {side} x {side} pixels. Get the table again.")
    edges = np.zeros(side * side + 1, np.int32)
    np.add.at(edges, ends - lengths, 1)
    np.add.at(edges, ends, -1)
    return np.ascontiguousarray(np.cumsum(edges[:-1]).reshape(side, side).T > 0)
