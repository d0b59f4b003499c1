"""ChestX-Det: images of NIH ChestX-ray14 with boxes and outlines of 13 findings, drawn by radiologists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medlip.data.image_files import ImageFile, ImageFiles
from medlip.data.labels import canonical, combine, hold_back
from medlip.data.sources import Source
from medlip.data.study import Box, Mask, Study, View
from medlip.errors import MedLIPError

SIDE = 1024  # of the published images, in whose pixels boxes and outlines are given
LABELS = (
    "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "Diffuse Nodule", "Effusion", "Emphysema", "Fibrosis",
    "Fracture", "Mass", "Nodule", "Pleural Thickening", "Pneumothorax",
)  # fmt: skip
LISTS = ("syms", "boxes", "polygons")
TABLES = {"ChestX_Det_train.json": "train", "ChestX_Det_test.json": "test"}


def chestxdet(folder: str | Path) -> Source:
    """Read `ChestX_Det_train.json` and `ChestX_Det_test.json`, those that are there; images lie below the folder.

    A tenth of the training images are split "val". The files don't say which NIH patient an image is of, so each image
    stands for a patient of its own, and overlap with NIH ChestX-ray14 is seen by the pixels alone.

    Raises:
        MedLIPError: neither file is there, or one is broken.
    """
    folder = Path(folder)
    tables = [folder / name for name in TABLES if (folder / name).exists()]
    if not tables:
        raise MedLIPError(f"{folder}: none of {', '.join(TABLES)} is there. Complete the download.")
    items: dict[str, tuple[str, str, ImageFile, Mapping[str, Any]]] = {}
    for table in tables:
        split = TABLES[table.name]
        images = folder / f"{split}_data" / split
        files = ImageFiles(images if images.is_dir() else folder)
        for entry in _entries(table):
            name = entry["file_name"]
            stem = Path(name).stem
            if stem in items:
                raise MedLIPError(f"{table}: {name} is listed twice, there or in the other file. Get the files again.")
            items[stem] = (table.name, split, files.find(stem, images / name), entry)
    return Source("chestxdet", items, _study, stand_ins=len(items))


def _entries(table: Path) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(table.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError("no list")
        for entry in entries:
            if not Path(entry["file_name"]).stem or not all(isinstance(entry[key], list) for key in LISTS):
                raise TypeError(f"{entry['file_name']!r} has something else than lists")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedLIPError(
            f"{table}: not a list of file_name, syms, boxes and polygons ({error!r}). Get it again."
        ) from error
    return entries


def _study(item: tuple[str, str, ImageFile, Mapping[str, Any]]) -> Study:
    table, split, file, entry = item
    where = f"{table}: {entry['file_name']}"
    found, corners, outlines = (entry[key] for key in LISTS)
    if not len(found) == len(corners) == len(outlines):
        raise MedLIPError(
            f"{where} has {len(found)} syms, {len(corners)} boxes and {len(outlines)} polygons: it must be one of each for "
            "every finding. Get the file again."
        )
    unknown = [label for label in found if label not in LABELS]
    if unknown:
        raise MedLIPError(f"{where} has the finding {unknown[0]!r}, which is none of {', '.join(LABELS)}. Correct the file.")
    names = [canonical(label) for label in found]
    boxes = tuple(_box(name, box, where) for name, box in zip(names, corners, strict=True))
    masks = tuple(Mask(name, paint_polygon(outline, where)) for name, outline in zip(names, outlines, strict=True))
    patient = f"chestxdet:{Path(entry['file_name']).stem}"
    return Study(
        id=Path(entry["file_name"]).stem,
        patient=patient,
        views=(View(file.path, boxes=boxes, masks=masks, frame=(SIDE, SIDE), problem=file.problem),),
        labels=combine((canonical(label), "present" if label in found else "absent") for label in LABELS),
        split=hold_back(patient) if split == "train" else split,
    )


def _box(name: str, corners: Sequence[Any], where: str) -> Box:
    ((left, top, right, bottom),) = _numbers([corners], 4, where)
    return Box(name, float(left), float(top), float(right - left), float(bottom - top))


def paint_polygon(outline: Sequence[Sequence[float]], where: str, side: int = SIDE) -> NDArray[np.bool_]:
    """Return what an outline [[x, y], …] encloses, its border included, as a mask (side, side).

    Raises:
        MedLIPError: no point, or something else than points; `where` names it.
    """
    points = _numbers(outline, 2, where)
    grey = Image.new("1", (side, side))
    closed = [(float(x), float(y)) for x, y in (*points, points[0])]
    ImageDraw.Draw(grey).polygon(closed, fill=1, outline=1)
    return np.array(grey)


def _numbers(values: Any, width: int, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.array(values, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.ndim != 2 or numbers.shape[1] != width or not len(numbers) or not np.isfinite(numbers).all():
        raise MedLIPError(f"{where}: {str(values)[:40]}… is no box [x1, y1, x2, y2] or no outline [[x, y], …]. Correct it.")
    return numbers
