"""Numbers of a classifier, per class, safe with unknown labels, with bootstrap intervals over patients.

Scores and labels are (N, C): images by classes. A label is 1 (present), 0 (absent), or NaN or -1 (unknown: the image doesn't
count for that class). A class without a positive or without a negative has no AUROC: its value is NaN, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medlip.errors import MedLIPError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Statistic = Callable[[Array], Array]
"""From weights (R, N), how often each of N images counts in each of R resamples, to values (R,) or (R, K)."""

CELLS = 2_000_000  # weights held at a time


def auroc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the area under the ROC curve of each class, (C,): P(positive above negative), a tie counting half.

    Args:
        scores: (N, C), higher means more likely present.
        labels: (N, C), 1, 0, and NaN or -1 for unknown.

    Returns:
        Values in 0..1; NaN for a class without a positive or without a negative.

    Raises:
        MedLIPError: shapes differ, a label is none of those values, or an image with a known label has no finite score.
    """
    scores, labels = _checked(scores, labels)
    values: Array = auroc_statistic(scores, labels)(np.ones((1, len(scores))))[0]
    return values


def auroc_statistic(scores: ArrayLike, labels: ArrayLike) -> Statistic:
    """Return the AUROC as a function of weights, (R, N) -> (R, C), for `bootstrap`: the scores are sorted only once."""
    scores, labels = _checked(scores, labels)
    ranked = [_ranked(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]

    def area(
        weights: Array, positives: Indices, negatives: Indices, level: Indices, below: Indices, up_to: Indices
    ) -> float:
        weight_below = np.append(0.0, np.cumsum(weights[positives]))
        all_positives = weight_below[-1]
        wins_of_level = all_positives - (weight_below[below] + weight_below[up_to]) / 2
        negatives_of_level = np.bincount(level, weights[negatives], minlength=len(below))
        pairs = all_positives * negatives_of_level.sum()
        return float(negatives_of_level @ wins_of_level / pairs) if pairs else np.nan

    def statistic(weights: Array) -> Array:
        return np.array([[area(resample, *ranks) for ranks in ranked] for resample in weights])

    return statistic


def auprc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the average precision of each class, (C,): sum over thresholds of (R_n - R_(n-1)) P_n; NaN as in `auroc`.

    Chance is the share of positives, not 0.5.
    """
    scores, labels = _checked(scores, labels)
    return np.array([_average_precision(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the threshold of each class, (C,), at which F1 is highest: for validation data, never for what is reported.

    An image is called positive when its score is at or above the threshold. Thresholds are scores that occur; among
    equally good ones the highest is taken. NaN for a class without a positive or without a negative.
    """
    scores, labels = _checked(scores, labels)
    return np.array([_best_threshold(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def f1(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each class at its threshold, (C,); NaN without a threshold or a positive."""
    true, false, missed, _ = _decide(scores, labels, thresholds)
    return np.where(true + missed > 0, _ratio(2 * true, 2 * true + false + missed), np.nan)


def accuracy(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return the share of known labels that each class gets right at its threshold, (C,); NaN without either."""
    true, false, missed, rejected = _decide(scores, labels, thresholds)
    return _ratio(true + rejected, true + false + missed + rejected)


def mean_statistic(values: ArrayLike) -> Statistic:
    """Return the mean over images of (N,) or (N, K) values as a function of weights, for `bootstrap`."""
    values = np.asarray(values, float)

    def statistic(weights: Array) -> Array:
        totals = weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        return _ratio(weights @ values, totals)

    return statistic


def bootstrap(
    statistic: Statistic, patients: Sequence[Any] | NDArray[Any], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval of a statistic, with patients drawn, not images: images of one go together.

    Args:
        statistic: from weights (R, N) to values (R,) or (R, K); see `auroc_statistic` and `mean_statistic`.
        patients: the patient of each of the N images.
        resamples: how many samples of patients to draw with replacement.
        seed: same seed, same interval.
        level: share of the resamples inside the interval.

    Returns:
        Low and high ends, () or (K,). Resamples in which a value is undefined (NaN: no positive drawn) are left out of its
        interval; NaN where none is left, or where there are fewer than two patients.

    Raises:
        MedLIPError: `resamples` or `level` is out of range.
    """
    if resamples < 1 or not 0 < level < 1:
        raise MedLIPError(f"resamples={resamples}, level={level}: give at least 1 resample and a level between 0 and 1.")
    patient_of_image = np.unique(np.asarray(patients), return_inverse=True)[1]
    n_patients = int(patient_of_image.max(initial=-1)) + 1
    if n_patients < 2:
        undefined = np.full(statistic(np.ones((1, len(patient_of_image)))).shape[1:], np.nan)
        return undefined, undefined.copy()
    generator = np.random.default_rng(seed)
    at_a_time = max(1, CELLS // len(patient_of_image))
    values = [
        statistic(_draw(generator, min(at_a_time, resamples - done), n_patients)[:, patient_of_image])
        for done in range(0, resamples, at_a_time)
    ]
    low, high = _quantiles(np.concatenate(values), (1 - level) / 2)
    return low, high


def number(value: float) -> float | None:
    """Return a value for JSON: None where it is NaN."""
    return None if np.isnan(value) else float(value)


def interval(low: float, high: float) -> list[float] | None:
    """Return the ends of an interval for JSON: None where they are NaN."""
    return None if np.isnan(low) or np.isnan(high) else [float(low), float(high)]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    scores, labels = np.asarray(scores, float), np.asarray(labels, float)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise MedLIPError(f"scores {scores.shape} and labels {labels.shape} must both be (images, classes).")
    labels = np.where(labels == -1, np.nan, labels)
    known = ~np.isnan(labels)
    if not np.isin(labels[known], (0, 1)).all():
        raise MedLIPError("labels must be 1 (present), 0 (absent), or NaN or -1 (unknown).")
    broken = known & ~np.isfinite(scores)
    if broken.any():
        image, c = np.argwhere(broken)[0]
        raise MedLIPError(
            f"{int(broken.sum())} scores are not finite (first: image {image}, class {c}). The model gives NaN: "
            "check its weights and its training log."
        )
    return scores, labels


def _ranked(scores: Array, labels: Array) -> tuple[Indices, ...]:
    """Sort one class for good.

    Returns:
        The positives by rising score; the negatives; the level of each negative, where one level has the same number of
        positives below it and the same number tied with it; and per level how many positives are below, and not above.
    """
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    positives = positives[np.argsort(scores[positives], kind="stable")]
    below, up_to = (np.searchsorted(scores[positives], scores[negatives], side) for side in ("left", "right"))
    base = len(positives) + 1  # one number for the two counts: unique() sorts rows many times slower
    levels, level = np.unique(below * base + up_to, return_inverse=True)
    return positives, negatives, level, *np.divmod(levels, base)


def _curve(scores: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return the thresholds of one class, falling, and the true and false positives at or above each."""
    known = ~np.isnan(labels)
    order = np.argsort(-scores[known], kind="stable")
    scores, labels = scores[known][order], labels[known][order]
    last_of_ties = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.empty(0, np.intp)
    true = np.cumsum(labels)[last_of_ties]
    return scores[last_of_ties], true, last_of_ties + 1 - true


def _has_both(labels: Array) -> bool:
    return bool((labels == 1).any() and (labels == 0).any())


def _average_precision(scores: Array, labels: Array) -> float:
    if not _has_both(labels):
        return np.nan
    _, true, false = _curve(scores, labels)
    return float(np.sum(np.diff(true, prepend=0) / true[-1] * true / (true + false)))


def _best_threshold(scores: Array, labels: Array) -> float:
    if not _has_both(labels):
        return np.nan
    thresholds, true, false = _curve(scores, labels)
    return float(thresholds[np.argmax(2 * true / (true + false + true[-1]))])


def _decide(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> tuple[Array, Array, Array, Array]:
    """Return true and false positives, false and true negatives of each class; all 0 where it has no threshold."""
    scores, labels = _checked(scores, labels)
    thresholds = np.asarray(thresholds, float)
    called, usable = scores >= thresholds, ~np.isnan(thresholds)
    present, absent = (labels == 1) & usable, (labels == 0) & usable
    true, false = (called & present).sum(axis=0), (called & absent).sum(axis=0)
    return true * 1.0, false * 1.0, present.sum(axis=0) - true * 1.0, absent.sum(axis=0) - false * 1.0


def _ratio(numerator: Array, denominator: Array) -> Array:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratio: Array = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
    return ratio


def _draw(generator: np.random.Generator, resamples: int, n: int) -> Array:
    """Return how often each of n patients is drawn in each resample of n, (R, n)."""
    drawn = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _quantiles(values: Array, tail: float) -> Array:
    defined = ~np.isnan(values).all(axis=0)
    ends = np.full((2, *values.shape[1:]), np.nan)
    ends[:, defined] = np.nanquantile(values[:, defined], (tail, 1 - tail), axis=0)
    return ends
