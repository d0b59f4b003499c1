"""Intervals, comparisons and spreads: how far a number is to be trusted. Patients are drawn, not images.

A statistic is written as a function of weights, how often each image counts, so that a thousand resamples cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from medlip.errors import MedLIPError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From weights (R, N), how often each of N images counts in each of R resamples, to values (R,) or (R, …)."""

Patients = Sequence[Hashable] | NDArray[np.generic]
"""The patient of each of N images, by any name."""

CELLS = 2_000_000  # weights held at a time


def mean_statistic(values: ArrayLike) -> Statistic:
    """Return the mean over images of (N,) or (N, K) values as a function of weights, for `bootstrap`."""
    values = np.asarray(values, float)

    def statistic(weights: Array) -> Array:
        totals = weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
        return ratio(weights @ values, totals)

    return statistic


def median_statistic(values: Array) -> Statistic:
    """Return the median of (N,) values as a function of whole weights, (R, N) -> (R,), for `bootstrap`."""
    order = np.argsort(values)
    ordered = values[order]

    def statistic(weights: Array) -> Array:
        reached = weights[:, order].cumsum(axis=1)
        half = reached[:, -1:] / 2
        middle: Array = (ordered[(reached < half).sum(axis=1)] + ordered[(reached <= half).sum(axis=1)]) / 2
        return middle

    return statistic


def resampled(statistic: Statistic, patients: Patients, resamples: int = 1000, seed: int = 0) -> Array:
    """Return a statistic of samples of patients drawn with replacement, (resamples, …): images of one go together.

    Args:
        statistic: from weights (R, N) to values (R, …); see `ranking_statistic` and `mean_statistic`.
        patients: the patient of each of the N images.
        resamples: how many samples to draw.
        seed: same seed, same samples.

    Returns:
        NaN where a value is undefined (no positive drawn), and everywhere where there are fewer than two patients.

    Raises:
        MedLIPError: `resamples` is out of range.
    """
    if resamples < 1:
        raise MedLIPError(f"resamples={resamples}: draw at least 1.")
    patient_of_image = np.unique(np.asarray(patients), return_inverse=True)[1]
    n_patients = int(patient_of_image.max(initial=-1)) + 1
    if n_patients < 2:
        return np.full((resamples, *statistic(np.ones((1, len(patient_of_image)))).shape[1:]), np.nan)
    generator = np.random.default_rng(seed)
    at_a_time = max(1, CELLS // len(patient_of_image))
    values = [
        statistic(_draw(generator, min(at_a_time, resamples - done), n_patients)[:, patient_of_image])
        for done in range(0, resamples, at_a_time)
    ]
    return np.concatenate(values)


def bootstrap(
    statistic: Statistic, patients: Patients, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval of a statistic, with patients drawn, not images: images of one go together.

    Args:
        statistic: from weights (R, N) to values (R,) or (R, …); see `ranking_statistic` and `mean_statistic`.
        patients: the patient of each of the N images.
        resamples: how many samples of patients to draw with replacement.
        seed: same seed, same interval.
        level: share of the resamples inside the interval.

    Returns:
        Low and high ends, () or (…). Resamples in which a value is undefined (NaN: no positive drawn) are left out of its
        interval; NaN where none is left, or where there are fewer than two patients.

    Raises:
        MedLIPError: `resamples` or `level` is out of range.
    """
    low, high = quantiles(resampled(statistic, patients, resamples, seed), _tail(level))
    return low, high


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a second method differs from a first one on the same images; K values at once.

    Attributes:
        value: second minus first, (K,).
        low: lower end of its interval, (K,).
        high: upper end, (K,).
        p: two-sided p-value of no difference, (K,).
    """

    value: Array
    low: Array
    high: Array
    p: Array


def paired_difference(
    first: Statistic,
    second: Statistic,
    patients: Patients,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Compare two methods on the same images by a paired bootstrap: both see every sample of patients.

    The p-value is twice the share of samples in which the difference has the rarer sign, zero counting for both, and one
    sample added (Davison and Hinkley 1997): never below 2 / (resamples + 1).

    Args:
        first: from weights (R, N) to values (R, K), such as `auroc_statistic` of the first method.
        second: the same of the second.
        patients: the patient of each of the N images.
        resamples: how many samples of patients to draw.
        seed: same seed, same answer.
        level: of the interval.

    Returns:
        NaN where either is undefined; resamples in which it is are left out.

    Raises:
        MedLIPError: `resamples` or `level` is out of range.
    """

    def statistic(weights: Array) -> Array:
        return second(weights) - first(weights)

    values = resampled(statistic, patients, resamples, seed)
    low, high = quantiles(values, _tail(level))
    defined = (~np.isnan(values)).sum(axis=0)
    rarer = np.minimum((values <= 0).sum(axis=0), (values >= 0).sum(axis=0))
    p = np.where(defined > 0, np.minimum(1, 2 * (rarer + 1) / (defined + 1)), np.nan)
    return Difference(statistic(np.ones((1, len(patients))))[0], low, high, p)


def quantiles(values: Array, tail: float) -> Array:
    """Return the quantiles `tail` and 1 - `tail` over the first axis, (2, …), of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values).all(axis=0)
    ends = np.full((2, *values.shape[1:]), np.nan)
    ends[:, defined] = np.nanquantile(values[:, defined], (tail, 1 - tail), axis=0)
    return ends


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over S seeds.

    Attributes:
        mean: of the values.
        low: the lowest.
        high: the highest.
        interval: 95 % interval of the mean (Student's t); None of one seed.
        values: (S,).
    """

    mean: float
    low: float
    high: float
    interval: tuple[float, float] | None
    values: tuple[float, ...]


def over_seeds(values: Sequence[float]) -> Spread | None:
    """Return the spread of a number over S seeds; None without any."""
    if not values:
        return None
    middle, ends = mean(values), None
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
        ends = middle - half, middle + half
    return Spread(middle, min(values), max(values), ends, tuple(values))


def p_of_no_mean(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean of 0 over S seeds (Student's t); None of one, or where they are all equal."""
    if len(values) < 2:
        return None
    error = stdev(values) / sqrt(len(values))
    if error <= 1e-12 * max(map(abs, values)):  # what rounding leaves
        return None
    return float(2 * stdtr(len(values) - 1, -abs(mean(values)) / error))


def mean_defined(values: Array) -> Array:
    """Return the mean of each row of (R, K) over what is not NaN, (R,); NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return a ratio, NaN where the denominator is not positive."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratio: Array = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
    return ratio


def _draw(generator: np.random.Generator, resamples: int, n: int) -> Array:
    """Return how often each of n patients is drawn in each resample of n, (R, n)."""
    drawn = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise MedLIPError(f"level={level}: give a share between 0 and 1.")
    return (1 - level) / 2
