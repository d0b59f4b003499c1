"""Numbers of a classifier, per class, safe with unknown labels.

Scores and labels are (N, C): images by classes. A label is 1 (present), 0 (absent), or NaN or -1 (unknown: the image doesn't
count for that class). A class without a positive or without a negative has no AUROC: its value is NaN, never a guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from medlip.errors import MedLIPError
from medlip.metrics.bootstrap import Array, Patients, Statistic, ratio

IN_CACHE = 200_000  # weights in one product


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


def ranking_statistic(scores: ArrayLike, labels: ArrayLike) -> Statistic:
    """Return AUROC and average precision as a function of weights, (R, N) -> (R, 2, C), for `bootstrap`.

    The scores are sorted only once: a resample then adds up weights in bins, by a sparse product for several at a time.
    """
    scores, labels = _checked(scores, labels)
    ranked = [_ranked(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]

    def statistic(weights: Array) -> Array:
        values = np.empty((len(weights), 2, len(ranked)))
        at_once = max(1, IN_CACHE // max(1, len(scores)))
        for start in range(0, len(weights), at_once):
            some = np.ascontiguousarray(weights[start : start + at_once].T)
            for c, bins in enumerate(ranked):
                values[start : start + at_once, :, c] = _areas(bins @ some).T
        return values

    return statistic


def carriers_of_classes(labels: ArrayLike, patients: Patients) -> Array:
    """Return how many patients carry what is told of each class, (C,): those with a positive, or a negative if fewer.

    Args:
        labels: (N, C), 1, 0, and NaN or -1 for unknown.
        patients: whose images they are, (N,).
    """
    labels, patient = np.asarray(labels, float), np.unique(np.asarray(patients), return_inverse=True)[1]
    return np.minimum(*(_patients_with(labels == value, patient) for value in (1, 0)))


def carriers_of_mean(labels: ArrayLike, patients: Patients) -> float:
    """Return how many patients carry the mean over classes: those with a positive of any, or a negative if fewer."""
    labels, patient = np.asarray(labels, float), np.unique(np.asarray(patients), return_inverse=True)[1]
    return float(min(_patients_with((labels == value).any(1, keepdims=True), patient)[0] for value in (1, 0)))


def auroc_statistic(scores: ArrayLike, labels: ArrayLike) -> Statistic:
    """Return the AUROC as a function of weights, (R, N) -> (R, C), for `bootstrap`."""
    both = ranking_statistic(scores, labels)
    return lambda weights: both(weights)[:, 0]


def auprc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Return the average precision of each class, (C,): sum over thresholds of (R_n - R_(n-1)) P_n; NaN as in `auroc`.

    Chance is the share of positives, not 0.5.
    """
    scores, labels = _checked(scores, labels)
    values: Array = ranking_statistic(scores, labels)(np.ones((1, len(scores))))[0, 1]
    return values


def sensitivity_at_specificity(scores: ArrayLike, labels: ArrayLike, specificity: float = 0.9) -> Array:
    """Return the highest sensitivity of each class at any threshold with at least this specificity, (C,); NaN as in `auroc`.

    A point of the ROC curve, as the AUROC is its area: no threshold to act on follows from it.

    Raises:
        MedLIPError: `specificity` is not within 0..1.
    """
    if not 0 <= specificity <= 1:
        raise MedLIPError(f"specificity={specificity}: give a share from 0 to 1.")
    scores, labels = _checked(scores, labels)

    def sensitivity(scores: Array, labels: Array) -> float:
        if not _has_both(labels):
            return np.nan
        _, true, false = _curve(scores, labels)
        allowed = false <= (1 - specificity) * false[-1] + 1e-9  # 0.9 leaves 0.0999… in floating point
        return float(true[allowed].max(initial=0) / true[-1])

    return np.array([sensitivity(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def brier(probabilities: ArrayLike, labels: ArrayLike) -> Array:
    """Return the mean of (probability - label)^2 of each class, (C,), 0 at best.

    NaN for a class without a known label, and for one with a score outside of 0..1, which is no probability.
    """
    probabilities, labels = _checked(probabilities, labels)
    known = ~np.isnan(labels)
    squares = np.where(known, probabilities - labels, 0) ** 2
    return np.where(_are_probabilities(probabilities, known), ratio(squares.sum(axis=0), known.sum(axis=0)), np.nan)


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Array:
    """Return the expected calibration error of each class, (C,).

    It is the sum over bins of n_b / n |mean probability - share present|. Bins are equally wide, (0, 1/bins] and so on.
    NaN as in `brier`.
    """
    probabilities, labels = _checked(probabilities, labels)
    known = ~np.isnan(labels)

    def error(c: int) -> float:
        means, shares, counts = reliability(probabilities[:, c], labels[:, c], bins)
        return float(counts @ np.abs(means - shares) / counts.sum()) if len(counts) else np.nan

    valid = _are_probabilities(probabilities, known)
    return np.array([error(c) if valid[c] else np.nan for c in range(len(valid))])


def reliability(probabilities: Array, labels: Array, bins: int = 15) -> tuple[Array, Array, Array]:
    """Return what a calibration plot shows of one class: mean probability, share present, and images of each filled bin.

    Args:
        probabilities: (N,) in 0..1.
        labels: (N,): 1, 0, or NaN for unknown.
        bins: equally wide ones.
    """
    known = ~np.isnan(labels)
    bin_of_image = np.searchsorted(np.arange(1, bins) / bins, probabilities[known])
    weights = np.ones(int(known.sum())), probabilities[known], labels[known]
    counts, sums, present = (np.bincount(bin_of_image, weight, bins) for weight in weights)
    filled = counts > 0
    means: Array = sums[filled] / counts[filled]
    shares: Array = present[filled] / counts[filled]
    return means, shares, np.asarray(counts[filled], float)


def roc_curve(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Return 1 - specificity and sensitivity of one class, from (0, 0) to (1, 1); NaN where either is undefined.

    Args:
        scores: (N,).
        labels: (N,): 1, 0, or NaN for unknown.
    """
    _, true, false = _curve(scores, labels)
    true, false = np.append(0.0, true), np.append(0.0, false)
    return ratio(false, false[-1:]), ratio(true, true[-1:])


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
    return np.where(true + missed > 0, ratio(2 * true, 2 * true + false + missed), np.nan)


def accuracy(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return the share of known labels that each class gets right at its threshold, (C,); NaN without either."""
    true, false, missed, rejected = _decide(scores, labels, thresholds)
    return ratio(true + rejected, true + false + missed + rejected)


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


def _ranked(scores: Array, labels: Array) -> csr_array:
    """Sort one class for good: return which image is in which of 3L + 1 bins, (3L + 1, N), for L scores that positives have.

    Of the negatives, bin 2i lies between the levels i - 1 and i, bin 2i + 1 is tied with level i. Then come the positives by
    level. What is unknown is in none.
    """
    known, positive = np.flatnonzero(~np.isnan(labels)), labels == 1
    levels = np.unique(scores[positive])
    below, up_to = (np.searchsorted(levels, scores, side) for side in ("left", "right"))
    bins = np.where(positive, 2 * len(levels) + 1 + below, below + up_to)[known]
    return csr_array((np.ones(len(known)), (bins, known)), shape=(3 * len(levels) + 1, len(scores)))


def _areas(weights: Array) -> Array:
    """Return AUROC and average precision, (2, R), of weights by bin, (3L + 1, R); NaN without weight on either side."""
    levels = len(weights) // 3
    positives, negatives_up_to = weights[2 * levels + 1 :], weights[: 2 * levels + 1].cumsum(axis=0)
    below, up_to = negatives_up_to[:-1:2], negatives_up_to[1::2]
    true = positives[::-1].cumsum(axis=0)[::-1]
    all_positives, all_negatives = positives.sum(axis=0), negatives_up_to[-1]
    precision = true / np.maximum(true + all_negatives - below, 1e-12)  # 0 / 0 where nothing that is drawn is as high
    area = np.einsum("lr,lr->r", positives, below + up_to) / 2
    pairs = all_positives * all_negatives
    return np.stack([ratio(area, pairs), ratio(all_negatives * np.einsum("lr,lr->r", positives, precision), pairs)])


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


def _are_probabilities(scores: Array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = known & ((scores < 0) | (scores > 1))
    return np.logical_not(outside.any(axis=0))


def _patients_with(images: NDArray[np.bool_], patient: NDArray[np.int64]) -> Array:
    """Count the patients (C,) with at least one of the images (N, C)."""
    found = np.zeros((patient.max(initial=-1) + 1, images.shape[1]), bool)
    rows, classes = np.nonzero(images)
    found[patient[rows], classes] = True
    counts: Array = found.sum(axis=0).astype(float)
    return counts
