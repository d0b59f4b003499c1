"""Does the map of a finding lie where the finding is? Pointing game, contrast, IoU and Dice, beside what chance would give.

A pair is an image and a finding that is present in it and has a box or a mask. Every pair is judged by itself: its map is
scaled by its own minimum and maximum, so that no neighbour in a batch moves its result. Pixels are those of the image; a
pixel belongs to a box when its centre lies in it.

Pointing game: a hit when the centre of the maximum of the map, bilinearly enlarged to the image, lies in a box of the
finding (in its mask, where it has no box). A maximum that spans several pixels (the outer half of a border cell is flat) is
taken at the one nearest to their centroid, the first in reading order among equals; a map that is the same everywhere points
nowhere and misses. Chance is the share of the image that the boxes cover: where a pixel drawn at random would hit.

Contrast to noise: (mean inside - mean outside) / sqrt(variance inside + variance outside) of the enlarged map, where inside
is what is pointed at (Boecking et al., BioViL, 2022, who drop the sign; here a map that avoids the finding is negative). A
map that is the same everywhere has 0, which is also chance. Left out and counted: targets that cover the whole image, and
maps without any variance inside and outside, whose contrast is infinite.

IoU and Dice: pixels of the enlarged map, scaled to 0..1, at or above a threshold, against the finding's mask (the union of
its boxes, where it has no mask); means over pairs. One threshold holds for all findings: the one with the highest mean IoU
on pairs that are kept for choosing it. Beside them stands the baseline that calls every pixel positive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from medlip.data.overlap import pseudonym
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation.outcomes import Outcomes
from medlip.metrics.classification import Array, bootstrap, interval, mean_statistic, number

Pixels = NDArray[np.bool_]

THRESHOLDS = np.arange(100) / 100
"""The thresholds to choose from; 0 calls every pixel positive."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is kept of one map: a few hundred numbers, whatever the size of the image.

    Attributes:
        pathology: the finding.
        patient: whose image it is.
        pointed_at: "boxes" or "masks", what the pointing game was played on.
        compared_with: "boxes" or "masks", what IoU and Dice are taken against.
        hit: the maximum of the enlarged map lies in it.
        cell_hit: any pixel of the highest cell of the map as it was lies in it (the released rule).
        cover: share of the image that `pointed_at` covers.
        contrast: contrast to noise of the map, inside and outside of `pointed_at`; NaN where it isn't defined.
        predicted: positive pixels at each of `THRESHOLDS`, (K,).
        common: those of them that are in the target, (K,).
        target: pixels of the target.
        pixels: pixels of the image.
    """

    pathology: str
    patient: str
    pointed_at: str
    compared_with: str
    hit: bool
    cell_hit: bool
    cover: float
    contrast: float
    predicted: Array
    common: Array
    target: int
    pixels: int

    @property
    def iou(self) -> Array:
        """Intersection over union at each of `THRESHOLDS`, (K,)."""
        return self.common / (self.predicted + self.target - self.common)

    @property
    def dice(self) -> Array:
        """2 |A and B| / (|A| + |B|) at each of `THRESHOLDS`, (K,)."""
        return 2 * self.common / (self.predicted + self.target)


def judge(
    heat: ArrayLike, shape: tuple[int, int], boxes: Sequence[Box], masks: Sequence[Mask], pathology: str, patient: str
) -> Pair | None:
    """Hold one map against the boxes and masks of its finding.

    Args:
        heat: (h, w) map, any size and scale; it covers the whole image.
        shape: (H, W) of the image that boxes and masks are in.
        boxes: boxes of the finding, possibly none.
        masks: masks of the finding, possibly none; there is a box or a mask.
        pathology: the finding.
        patient: whose image it is.

    Returns:
        The pair, or None when boxes and masks cover no pixel of the image.

    Raises:
        MedLIPError: the map is not a finite (h, w) array, or a mask has not the shape of the image.
    """
    heat = np.asarray(heat, float)
    if heat.ndim != 2 or not np.isfinite(heat).all():
        raise MedLIPError(f"the map of {pathology} has shape {heat.shape} or is not finite: it must be (h, w) numbers.")
    boxed, masked = paint_boxes(boxes, shape), paint_masks(masks, shape)
    pointed_at, in_reach = ("boxes", boxed) if boxed.any() else ("masks", masked)
    compared_with, target = ("masks", masked) if masked.any() else ("boxes", boxed)
    if not in_reach.any():
        return None
    large = enlarge(heat, shape)
    predicted, common = _counts(large, target)
    top, top_cell = peak(large), peak(heat)
    return Pair(
        pathology=pathology,
        patient=patient,
        pointed_at=pointed_at,
        compared_with=compared_with,
        hit=top is not None and bool(in_reach[top]),
        cell_hit=top_cell is not None and bool(in_reach[_cell(top_cell, heat.shape, shape)].any()),
        cover=float(in_reach.mean()),
        contrast=contrast_to_noise(large, in_reach),
        predicted=predicted,
        common=common,
        target=int(target.sum()),
        pixels=target.size,
    )


def choose_threshold(pairs: Sequence[Pair]) -> float:
    """Return the one of `THRESHOLDS` with the highest mean IoU over `pairs`, the lowest among equals; NaN without a pair."""
    return float(THRESHOLDS[np.mean([pair.iou for pair in pairs], axis=0).argmax()]) if pairs else np.nan


def threshold_index(threshold: float) -> int:
    """Return which of `THRESHOLDS` it is."""
    return int(np.flatnonzero(np.isclose(THRESHOLDS, threshold))[0])


def grounding_result(
    pairs: Sequence[Pair],
    *,
    threshold: float,
    reported: Iterable[bool],
    rule: str,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the means over pairs, with intervals over patients, all of them and per finding, ready for JSON.

    Args:
        pairs: at least one.
        threshold: of `THRESHOLDS`, chosen on other patients than those that are reported; NaN when there were none.
        reported: for each pair whether IoU and Dice are to count it (it had no part in choosing the threshold).
        rule: how the threshold was chosen, for people.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    reported = np.fromiter(reported, bool, len(pairs))
    overlap_pairs = [pair for pair, counts in zip(pairs, reported, strict=True) if counts]
    result = _points(pairs, resamples, seed) | _overlaps(overlap_pairs, threshold, resamples, seed)
    per_class = {}
    for name in sorted({pair.pathology for pair in pairs}):
        own = [pair for pair in pairs if pair.pathology == name]
        own_overlap = [pair for pair in overlap_pairs if pair.pathology == name]
        per_class[name] = _points(own, resamples, seed) | _overlaps(own_overlap, threshold, resamples, seed)
    return result | {
        "threshold": number(threshold),
        "threshold_rule": rule,
        "pointed_at": dict(Counter(pair.pointed_at for pair in pairs)),
        "compared_with": dict(Counter(pair.compared_with for pair in overlap_pairs)),
        "per_class": per_class,
    }


def grounding_outcomes(pairs: Sequence[Pair], *, threshold: float, reported: Iterable[bool]) -> list[Outcomes]:
    """Return every pair's part in the means of `grounding_result`, which takes the same."""
    overlap_pairs = [pair for pair, counts in zip(pairs, reported, strict=True) if counts]
    outcomes = [
        _outcomes("pointing_game", pairs, [float(pair.hit) for pair in pairs]),
        _outcomes("contrast_to_noise", pairs, [pair.contrast for pair in pairs]),
    ]
    if np.isnan(threshold):
        return outcomes
    at = threshold_index(threshold)
    return outcomes + [
        _outcomes(name, overlap_pairs, [float(getattr(pair, name)[at]) for pair in overlap_pairs])
        for name in ("iou", "dice")
    ]


def _outcomes(name: str, pairs: Sequence[Pair], values: Sequence[float]) -> Outcomes:
    findings, patients = [pair.pathology for pair in pairs], [pseudonym(pair.patient) for pair in pairs]
    return Outcomes(f"grounding/{name}", findings, patients, np.array(values, float))


def paint_boxes(boxes: Iterable[Box], shape: tuple[int, int]) -> Pixels:
    """Return the union of boxes as (H, W): the pixels whose centre lies in one."""
    union = np.zeros(shape, bool)
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for box in boxes:
        inside_rows = (box.y <= rows) & (rows <= box.y + box.height)
        union |= np.outer(inside_rows, (box.x <= columns) & (columns <= box.x + box.width))
    return union


def enlarge(heat: ArrayLike, shape: tuple[int, int]) -> Array:
    """Return an (h, w) map bilinearly enlarged to (H, W); cell centres keep their place (corners not aligned)."""
    tensor = torch.as_tensor(np.asarray(heat, float))[None, None]
    large: Array = F.interpolate(tensor, shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    return large


def peak(heat: Array) -> tuple[int, int] | None:
    """Return (row, column) of the maximum; of several equal ones, the nearest to their centroid; None of a flat map."""
    low, high = heat.min(), heat.max()
    if low == high:
        return None
    tops = np.argwhere(heat >= high - 1e-9 * (high - low))  # a plateau is equal up to what interpolation rounds
    nearest = tops[((tops - tops.mean(axis=0)) ** 2).sum(axis=1).round(6).argmin()]
    return int(nearest[0]), int(nearest[1])


def contrast_to_noise(heat: Array, inside: Pixels) -> float:
    """Return how far a map's mean inside lies above its mean outside, in units of its spread; both are (H, W).

    0 for a flat map; NaN where nothing is outside, or where the two means differ and neither part has any variance.
    """
    low, high = heat.min(), heat.max()
    if inside.all() or not inside.any():
        return np.nan
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # what interpolation rounds
        return 0.0
    within, without = (heat[inside] - low) / (high - low), (heat[~inside] - low) / (high - low)
    noise = np.sqrt(within.var() + without.var())
    return float((within.mean() - without.mean()) / noise) if noise > 1e-9 else np.nan


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


def _cell(cell: tuple[int, int], cells: tuple[int, ...], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the pixels of the image whose centre lies in a cell of the map."""
    row, column = (
        slice(*(int(np.ceil(edge * size / count - 0.5)) for edge in (index, index + 1)))
        for index, count, size in zip(cell, cells, shape, strict=True)
    )
    return row, column


def _counts(large: Array, target: Pixels) -> tuple[Array, Array]:
    """Return, per threshold, how many pixels are at or above it, and how many of those are in the target."""
    low, high = large.min(), large.max()
    scaled = (large - low) / (high - low) if high > low else np.zeros_like(large)
    bins = np.searchsorted(THRESHOLDS, scaled.ravel(), side="right") - 1
    inside = target.ravel()
    predicted, common = (np.bincount(which, minlength=len(THRESHOLDS)) for which in (bins, bins[inside]))
    return predicted[::-1].cumsum()[::-1].astype(float), common[::-1].cumsum()[::-1].astype(float)


def _points(pairs: Sequence[Pair], resamples: int, seed: int) -> dict[str, Any]:
    hits = np.array([pair.hit for pair in pairs], float)
    contrasted = [pair for pair in pairs if not np.isnan(pair.contrast)]
    contrasts = np.array([pair.contrast for pair in contrasted])
    return {
        "pointing_game": float(hits.mean()),
        "interval": _interval(hits, pairs, resamples, seed),
        "chance": float(np.mean([pair.cover for pair in pairs])),
        "pointing_game_any_pixel_of_cell": float(np.mean([pair.cell_hit for pair in pairs])),
        "contrast_to_noise": float(contrasts.mean()) if contrasted else None,
        "contrast_interval": _interval(contrasts, contrasted, resamples, seed) if contrasted else None,
        "contrast_left_out": len(pairs) - len(contrasted),
        "n": len(pairs),
    }


def _overlaps(pairs: Sequence[Pair], threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = dict.fromkeys(("iou", "iou_interval", "dice", "dice_interval", "all_ones_iou", "all_ones_dice"))
    result["n_overlap"] = len(pairs)
    if not pairs:
        return result | {"overlap_reason": "all its pairs went into choosing the threshold"}
    result["all_ones_iou"] = float(np.mean([pair.target / pair.pixels for pair in pairs]))
    result["all_ones_dice"] = float(np.mean([2 * pair.target / (pair.target + pair.pixels) for pair in pairs]))
    if np.isnan(threshold):
        return result | {"overlap_reason": "there is no pair to choose a threshold on"}
    at = threshold_index(threshold)
    for name in ("iou", "dice"):
        values = np.array([getattr(pair, name)[at] for pair in pairs])
        result |= {name: float(values.mean()), f"{name}_interval": _interval(values, pairs, resamples, seed)}
    return result


def _interval(values: Array, pairs: Sequence[Pair], resamples: int, seed: int) -> list[float] | None:
    low, high = bootstrap(mean_statistic(values), [pair.patient for pair in pairs], resamples, seed)
    return interval(float(low), float(high))
