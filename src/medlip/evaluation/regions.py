"""Boxes and masks as pixels, and maps that are fit to be compared with them.

A pixel belongs to a box when its centre lies in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.metrics import Array, Pixels


def drawn_findings(boxes: Iterable[Box], masks: Iterable[Mask]) -> set[str]:
    """Return the names of the findings that there is a box or a mask of; masks of anatomies are of none."""
    return ({box.pathology for box in boxes} | {mask.pathology for mask in masks}) - {""}


def paint_boxes(boxes: Iterable[Box], shape: tuple[int, int]) -> Pixels:
    """Return the union of boxes as (H, W): the pixels whose centre lies in one."""
    union = np.zeros(shape, bool)
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for box in boxes:
        inside_rows = (box.y <= rows) & (rows <= box.y + box.height)
        union |= np.outer(inside_rows, (box.x <= columns) & (columns <= box.x + box.width))
    return union


def paint_masks(masks: Iterable[Mask], shape: tuple[int, int]) -> Pixels:
    """Return the union of masks as (H, W).

    Raises:
        MedLIPError: a mask has another shape.
    """
    union = np.zeros(shape, bool)
    for mask in masks:
        if mask.pixels.shape != shape:
            raise MedLIPError(
                f"a mask of {mask.pathology} has shape {mask.pixels.shape}, its image {shape}: masks must have the size of "
                "their image."
            )
        union |= mask.pixels
    return union


def paint_finding(boxes: Iterable[Box], masks: Iterable[Mask], finding: str, shape: tuple[int, int]) -> Pixels | None:
    """Return where a finding of an image is, (H, W): its masks, else its boxes; None where it has neither.

    Raises:
        MedLIPError: a mask has another shape.
    """
    own_masks = [mask for mask in masks if mask.pathology == finding]
    own_boxes = [box for box in boxes if box.pathology == finding]
    if own_masks:
        return paint_masks(own_masks, shape)
    return paint_boxes(own_boxes, shape) if own_boxes else None


def centres(size: int, count: int) -> NDArray[np.int64]:
    """Return the pixels of a side that lie under the centres of `count` cells."""
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def checked_map(heat: ArrayLike, finding: str) -> Array:
    """Return a map as numbers.

    Raises:
        MedLIPError: it is not a finite (h, w) array; names its finding.
    """
    heat = np.asarray(heat, float)
    if heat.ndim != 2 or not np.isfinite(heat).all():
        raise MedLIPError(f"the map of {finding} has shape {heat.shape} or is not finite: it must be (h, w) numbers.")
    return heat
