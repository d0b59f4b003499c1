"""How well a map outlines a finding, on images that show it and on images that don't: Dice in both conventions, and IoU.

A map is judged by its values as they are, never scaled by its own minimum and maximum: scaled so, every map would call a
pixel, also of an image without the finding. Pixels of the bilinearly enlarged map at or above a threshold are called; one
threshold holds for all images and findings, chosen on other patients than those that are reported.

`dice_positives` is the mean over the images that show the finding. `dice_all` is the mean over these and the images that
don't, where calling nothing counts 1 and calling anything 0. The two must not be compared with each other: where few images
show a finding, calling nothing at all (`all_empty_dice_all`) is already high. `iou` is over images that show the finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError
from medlip.evaluation.grounding import Pixels, enlarge
from medlip.evaluation.outcomes import Outcomes
from medlip.metrics.classification import Array, bootstrap, interval, mean_statistic, number


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept of one map and its mask: a few hundred numbers, whatever the size of the image.

    Attributes:
        pathology: the finding.
        patient: whose image it is.
        thresholds: rising, (K,).
        predicted: pixels called at each of them, (K,).
        common: those of them that are in the mask, (K,).
        target: pixels of the mask; 0 on an image that doesn't show the finding.
        pixels: pixels of the image.
    """

    pathology: str
    patient: str
    thresholds: Array
    predicted: NDArray[np.int32]
    common: NDArray[np.int32]
    target: int
    pixels: int

    @property
    def dice(self) -> Array:
        """2 |A and B| / (|A| + |B|) at each threshold, (K,); 1 where both are empty."""
        size = self.predicted + self.target
        return np.where(size > 0, 2 * self.common / np.maximum(size, 1), 1.0)

    @property
    def iou(self) -> Array:
        """Intersection over union at each threshold, (K,); 1 where both are empty."""
        union = self.predicted + self.target - self.common
        return np.where(union > 0, self.common / np.maximum(union, 1), 1.0)


def judge_mask(heat: ArrayLike, mask: Pixels | None, pathology: str, patient: str, thresholds: ArrayLike) -> Judged:
    """Hold one map against the mask of its finding; maps come one by one and aren't kept.

    Args:
        heat: (h, w) map of any size and scale, such as probabilities; it covers the whole image.
        mask: (H, W) pixels of the image that show the finding. All False, or None, where the image doesn't show it; None
            judges the map at its own size.
        pathology: the finding.
        patient: whose image it is.
        thresholds: rising, (K,), on the scale of the map; such as `np.linspace(0.01, 0.99, 99)` for probabilities.

    Raises:
        MedLIPError: the map or the mask is no (h, w) array, the map is not finite, or thresholds don't rise.
    """
    heat, thresholds = np.asarray(heat, float), np.asarray(thresholds, float)
    if heat.ndim != 2 or not np.isfinite(heat).all():
        raise MedLIPError(f"the map of {pathology} has shape {heat.shape} or is not finite: it must be (h, w) numbers.")
    if thresholds.ndim != 1 or not len(thresholds) or not (np.diff(thresholds) >= 0).all():
        raise MedLIPError("thresholds must be (K,) numbers that rise, at least one.")
    mask = np.zeros(heat.shape, bool) if mask is None else np.asarray(mask, bool)
    if mask.ndim != 2:
        raise MedLIPError(f"the mask of {pathology} has shape {mask.shape}: it must be (H, W).")
    large = enlarge(heat, mask.shape)
    # Sorting once and placing the thresholds is five times faster than placing every pixel among the thresholds.
    predicted, common = (
        (values.size - np.searchsorted(np.sort(values, axis=None), thresholds)).astype(np.int32)
        for values in (large, large[mask])
    )
    return Judged(pathology, patient, thresholds, predicted, common, int(mask.sum()), mask.size)


def choose_threshold(judged: Sequence[Judged]) -> float:
    """Return the threshold with the highest mean Dice over `judged`, the lowest among equals; NaN without any.

    Images that don't show the finding count as in `dice_all`; hand over only those that do for the best `dice_positives`.

    Raises:
        MedLIPError: they were judged at different thresholds.
    """
    if not judged:
        return np.nan
    return float(_thresholds(judged)[np.mean([one.dice for one in judged], axis=0).argmax()])


def segmentation_result(
    judged: Sequence[Judged], threshold: float, *, rule: str, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return Dice in both conventions and IoU with intervals over patients, all of them and per finding, ready for JSON.

    A number that is undefined is null, with a `reason` beside it. Baselines: `all_ones_…` call every pixel,
    `all_empty_dice_all` calls none.

    Args:
        judged: those that are reported.
        threshold: of theirs, chosen on other patients; NaN when there were none.
        rule: how the threshold was chosen, for people.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MedLIPError: they were judged at different thresholds, or this is none of theirs.
    """
    at = _index(judged, threshold)
    per_class = {
        name: _summary([one for one in judged if one.pathology == name], at, resamples, seed)
        for name in sorted({one.pathology for one in judged})
    }
    return _summary(judged, at, resamples, seed) | {
        "threshold": number(threshold),
        "threshold_rule": rule,
        "per_class": per_class,
    }


def segmentation_outcomes(judged: Sequence[Judged], threshold: float) -> list[Outcomes]:
    """Return every map's part in the means of `segmentation_result`, which takes the same."""
    at = _index(judged, threshold)
    if at is None:
        return []
    return [
        Outcomes(
            f"segmentation/{name}",
            [one.pathology for one in counted],
            [pseudonym(one.patient) for one in counted],
            np.array([getattr(one, measure)[at] for one in counted], float),
        )
        for name, measure, counted in _measures(judged)
    ]


def _measures(judged: Sequence[Judged]) -> list[tuple[str, str, Sequence[Judged]]]:
    """Return what is reported: its name, the property that it is the mean of, and which maps count."""
    positives = [one for one in judged if one.target]
    return [("dice_positives", "dice", positives), ("iou", "iou", positives), ("dice_all", "dice", judged)]


def _index(judged: Sequence[Judged], threshold: float) -> int | None:
    """Return which of the maps' thresholds it is; None of no map or for NaN."""
    if not judged or np.isnan(threshold):
        return None
    distance = np.abs(_thresholds(judged) - threshold)
    at = int(distance.argmin())
    if distance[at] > 1e-9 * max(1.0, abs(threshold)):
        raise MedLIPError(f"threshold={threshold} is none of those that maps were judged at. Choose one of them.")
    return at


def _thresholds(judged: Sequence[Judged]) -> Array:
    first = judged[0].thresholds
    if not all(one.thresholds is first or np.array_equal(one.thresholds, first) for one in judged):
        raise MedLIPError("maps were judged at different thresholds: judge all of them at the same ones.")
    return first


def _summary(judged: Sequence[Judged], at: int | None, resamples: int, seed: int) -> dict[str, Any]:
    positives = [one for one in judged if one.target]
    result: dict[str, Any] = {}
    for name, measure, counted in _measures(judged):
        values = np.array([] if at is None else [getattr(one, measure)[at] for one in counted])
        ones = [one.target / one.pixels for one in counted]
        if measure == "dice":
            ones = [2 * share / (1 + share) for share in ones]
        result |= {
            name: float(values.mean()) if len(values) else None,
            f"{name}_interval": _interval(values, counted, resamples, seed) if len(values) else None,
            f"all_ones_{name}": float(np.mean(ones)) if ones else None,
        }
    result["all_empty_dice_all"] = (len(judged) - len(positives)) / len(judged) if judged else None
    result |= {"n_positives": len(positives), "n_negatives": len(judged) - len(positives)}
    if not positives or at is None:
        lacks = "no image shows it" if not positives else "there is no image to choose a threshold on"
        result["reason"] = lacks
    return result


def _interval(values: Array, judged: Sequence[Judged], resamples: int, seed: int) -> list[float] | None:
    low, high = bootstrap(mean_statistic(values), [one.patient for one in judged], resamples, seed)
    return interval(float(low), float(high))
