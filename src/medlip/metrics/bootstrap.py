"""Intervals, comparisons and spreads: how far a number is to be trusted. Patients are drawn, not images.

A statistic is written as a function of weights, how often each image counts, so that a thousand resamples cost little.

The plain percentile bootstrap is too sure of itself where few patients carry a number. Two remedies stand here, chosen by
their simulated coverage (docs/intervals.md):

- A share, a number between 0 and 1 such as an AUROC, an overlap or a rate, has Wilson's score interval (1927) with an
  effective number of cases, n = s (1 - s) / (v + s (1 - s) / m^2): s and v are the share's mean and variance over the
  resamples, m the number of patients that carry it. The second term is what one patient as bad as can be would add. Where
  no resample differs, n = m.
- Any other number, such as a difference, has the expanded percentile interval (Hesterberg 2015): its tails are those that
  would give Student's interval, were the resamples' values normal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from medlip.errors import MedLIPError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From weights (R, N), how often each of N images counts in each of R resamples, to values (R,) or (R, …)."""

Patients = Sequence[Hashable] | NDArray[np.generic]
"""The patient of each of N images, by any name."""

INTERVALS = (
    "95 %, by a bootstrap over patients: Wilson's score interval of its variance for shares, expanded percentiles for others"
)
"""The rule, as results state it."""

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
    statistic: Statistic,
    patients: Patients,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    shares: ArrayLike = False,
    carriers: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Return the bootstrap interval of a statistic, with patients drawn, not images: images of one go together.

    Args:
        statistic: from weights (R, N) to values (R,) or (R, …); see `ranking_statistic` and `mean_statistic`.
        patients: the patient of each of the N images.
        resamples: how many samples of patients to draw with replacement.
        seed: same seed, same interval.
        level: how often the interval is to hold the truth.
        shares: which values lie between 0 and 1 by nature, () or (…).
        carriers: how many patients carry each value, () or (…), see `carriers_of_classes`; None: all of them.

    Returns:
        Low and high ends, () or (…). Resamples in which a value is undefined (NaN: no positive drawn) are left out of its
        interval; NaN where none is left, or where fewer than two patients carry the value.

    Raises:
        MedLIPError: `resamples` or `level` is out of range.
    """
    values = resampled(statistic, patients, resamples, seed)
    carried = np.broadcast_to(_n_patients(patients) if carriers is None else np.asarray(carriers, float), values.shape[1:])
    ends = _percentiles(values, carried, _tail(level))
    if np.any(shares):
        found = statistic(np.ones((1, len(patients))))[0]
        ends = np.where(np.broadcast_to(shares, carried.shape), _score_interval(found, values, carried, level), ends)
    low, high = np.where(carried < 2, np.nan, ends)
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
    *,
    carriers: ArrayLike | None = None,
) -> Difference:
    """Compare two methods on the same images by a paired bootstrap: both see every sample of patients.

    The p-value is twice the share of samples in which the difference has the rarer sign, zero counting for both, and one
    sample added (Davison and Hinkley 1997): never below 2 / (resamples + 1). It is then taken to Student's distribution, as
    the tails of the interval are.

    Args:
        first: from weights (R, N) to values (R, K), such as `auroc_statistic` of the first method.
        second: the same of the second.
        patients: the patient of each of the N images.
        resamples: how many samples of patients to draw.
        seed: same seed, same answer.
        level: of the interval.
        carriers: as for `bootstrap`, () or (K,).

    Returns:
        NaN where either is undefined; resamples in which it is are left out.

    Raises:
        MedLIPError: `resamples` or `level` is out of range.
    """

    def statistic(weights: Array) -> Array:
        return second(weights) - first(weights)

    values = resampled(statistic, patients, resamples, seed)
    carried = np.broadcast_to(_n_patients(patients) if carriers is None else np.asarray(carriers, float), values.shape[1:])
    low, high = _percentiles(values, carried, _tail(level))
    defined = (~np.isnan(values)).sum(axis=0)
    rarer = np.minimum((values <= 0).sum(axis=0), (values >= 0).sum(axis=0))
    tail = np.minimum(0.5, (rarer + 1) / np.maximum(defined + 1, 1))
    freedom = np.maximum(carried, 2) - 1
    p = np.where((defined > 0) & (carried > 1), 2 * stdtr(freedom, ndtri(tail) / _expansion(carried)), np.nan)
    return Difference(statistic(np.ones((1, len(patients))))[0], low, high, p)


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


def _score_interval(found: Array, values: Array, carriers: Array, level: float) -> Array:
    """Return Wilson's interval (2, …) of shares (…) with the effective number of cases that resamples (R, …) tell of."""
    z = -ndtri(_tail(level))
    defined = ~np.isnan(values)
    mean = ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))
    variance = ratio(np.where(defined, (values - mean) ** 2, 0).sum(axis=0), defined.sum(axis=0) - 1.0)
    spread = mean * (1 - mean)
    cases = np.where(variance > 0, ratio(spread, variance + spread / np.maximum(carriers, 1) ** 2), carriers)
    cases = np.where(defined.any(axis=0), np.maximum(cases, 1), np.nan)
    middle = (found + z**2 / (2 * cases)) / (1 + z**2 / cases)
    half = z / (1 + z**2 / cases) * np.sqrt(np.clip(found * (1 - found), 0, None) / cases + z**2 / (4 * cases**2))
    return np.stack([np.minimum(middle - half, found), np.maximum(middle + half, found)])  # despite rounding


def _percentiles(values: Array, carriers: Array, tail: float) -> Array:
    """Return the expanded percentiles (2, …) over the first axis, of what is not NaN; NaN where nothing is."""
    ends = np.full((2, *values.shape[1:]), np.nan)
    defined = ~np.isnan(values).all(axis=0) & (carriers > 1)
    for count in np.unique(carriers[defined]).tolist():
        chosen = defined & (carriers == count)
        outer = float(ndtr(_expansion(count) * stdtrit(count - 1, tail)))
        ends[:, chosen] = np.nanquantile(values[:, chosen], (outer, 1 - outer), axis=0)
    return ends


def _expansion(carriers: Array | float) -> Array:
    """Return by how much the standard error of so many patients exceeds that of their resamples."""
    counts = np.maximum(carriers, 2)
    expansion: Array = np.sqrt(counts / (counts - 1))
    return expansion


def _n_patients(patients: Patients) -> int:
    return len(np.unique(np.asarray(patients)))


def _draw(generator: np.random.Generator, resamples: int, n: int) -> Array:
    """Return how often each of n patients is drawn in each resample of n, (R, n)."""
    drawn = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise MedLIPError(f"level={level}: give a share between 0 and 1.")
    return (1 - level) / 2
