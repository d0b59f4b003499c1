"""How often 95 % intervals hold the truth, with few patients: run it to print the table of docs/intervals.md.

Every setting draws data sets whose truth is known, many times, and counts. Percentiles of the same resamples stand beside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from scipy.special import ndtri

from medlip.metrics import (
    Array,
    Statistic,
    auprc,
    auroc_statistic,
    bootstrap,
    carriers_of_classes,
    carriers_of_mean,
    mean_defined,
    mean_statistic,
    ranking_statistic,
    resampled,
)

NEGATIVES = 200
RESAMPLES = 400
FEW = (5, 8, 12, 22, 50)


@dataclass(frozen=True)
class Drawn:
    """One data set: the statistic, whose images they are, and what `bootstrap` is told of it."""

    statistic: Statistic
    patients: Array
    shares: bool = True
    carriers: float | None = None


@dataclass(frozen=True)
class Setting:
    """A kind of number with its truth, and how data sets of so many patients are drawn."""

    name: str
    truth: float
    patients: int
    draw: Callable[[np.random.Generator], Drawn]


def settings() -> Iterator[Setting]:
    """Yield what docs/intervals.md tabulates."""
    for area, m in product((0.6, 0.75, 0.9, 0.97), FEW):
        yield Setting(f"AUROC of {area}", area, m, partial(_classes, area=area, counts=(m,)))
    for area, counts in product((0.75, 0.9), ((5, 5), (5, 5, 5, 5), (5, 8, 12, 22), (12,) * 8)):
        name = f"mean AUROC of {area}, classes of {', '.join(map(str, counts))}"
        yield Setting(name, area, sum(counts), partial(_classes, area=area, counts=counts))
    for m in FEW:
        truth = _average_precision(0.9, m)
        yield Setting("average precision at AUROC 0.9", truth, m, partial(_precision, area=0.9, positives=m))
    for m in FEW:
        yield Setting("difference of AUROC, 0.85 and 0.85", 0.0, m, partial(_difference, area=0.85, positives=m))
    for rate, m in product((0.3, 0.8, 0.95), FEW):
        yield Setting(f"rate of {rate}, 1 to 3 cases a patient", rate, m, partial(_rate, rate=rate, patients=m))
    for m in FEW:
        yield Setting("mean overlap of 0.25", 0.25, m, partial(_overlap, patients=m))
    for m in FEW:
        yield Setting("mean of a skewed number (exponential)", 1.0, m, partial(_skewed, patients=m))


def coverage(setting: Setting, repetitions: int, seed: int = 0) -> tuple[float, float, float, float]:
    """Return how often the interval holds the truth and how wide it is on average, and both of plain percentiles."""
    random = np.random.default_rng(seed)
    held, widths = np.zeros(2), np.zeros(2)
    for repetition in range(repetitions):
        drawn = setting.draw(random)
        ours = bootstrap(
            drawn.statistic, drawn.patients, RESAMPLES, repetition, shares=drawn.shares, carriers=drawn.carriers
        )
        plain = np.nanquantile(resampled(drawn.statistic, drawn.patients, RESAMPLES, repetition), (0.025, 0.975))
        for kind, (low, high) in enumerate((ours, plain)):
            held[kind] += low <= setting.truth <= high
            widths[kind] += float(high - low)
    (hold, plainly), (wide, plain_width) = held / repetitions, widths / repetitions
    return float(hold), float(wide), float(plainly), float(plain_width)


def _scored(random: np.random.Generator, area: float, counts: tuple[int, ...]) -> tuple[Array, Array]:
    """Return scores and labels (N, C) with normal scores; the positives of each class are drawn anew."""
    labels = np.zeros((NEGATIVES + max(counts), len(counts)))
    for c, count in enumerate(counts):
        labels[random.choice(len(labels), count, replace=False), c] = 1
    return random.normal(size=labels.shape) + np.sqrt(2) * ndtri(area) * labels, labels


def _classes(random: np.random.Generator, area: float, counts: tuple[int, ...]) -> Drawn:
    scores, labels = _scored(random, area, counts)
    areas, patients = auroc_statistic(scores, labels), np.arange(float(len(labels)))
    return Drawn(lambda weights: mean_defined(areas(weights)), patients, carriers=carriers_of_mean(labels, patients))


def _precision(random: np.random.Generator, area: float, positives: int) -> Drawn:
    scores, labels = _scored(random, area, (positives,))
    ranking, patients = ranking_statistic(scores, labels), np.arange(float(len(labels)))
    return Drawn(
        lambda weights: ranking(weights)[:, 1, 0], patients, carriers=float(carriers_of_classes(labels, patients)[0])
    )


def _average_precision(area: float, positives: int) -> float:
    """Return the average precision that a very large sample with the same share of positives has."""
    random, many = np.random.default_rng(0), 2000
    labels = np.r_[np.ones(many * positives), np.zeros(many * NEGATIVES)]
    scores = random.normal(size=len(labels)) + np.sqrt(2) * ndtri(area) * labels
    return float(auprc(scores[:, None], labels[:, None])[0])


def _difference(random: np.random.Generator, area: float, positives: int) -> Drawn:
    """Two equally good methods that see half of the same."""
    labels = np.r_[np.ones(positives), np.zeros(NEGATIVES)][:, None]
    shared = random.normal(size=labels.shape)
    first, second = (
        auroc_statistic((shared + random.normal(size=labels.shape)) / np.sqrt(2) + np.sqrt(2) * ndtri(area) * labels, labels)
        for _ in range(2)
    )
    patients = np.arange(float(len(labels)))
    return Drawn(lambda weights: second(weights)[:, 0] - first(weights)[:, 0], patients, False, float(positives))


def _rate(random: np.random.Generator, rate: float, patients: int) -> Drawn:
    """Hits of which, with each patient, about half are alike."""
    whose = np.repeat(np.arange(float(patients)), random.integers(1, 4, patients))
    alike = (random.random(patients) < rate)[whose.astype(int)]
    hits = np.where(random.random(len(whose)) < 0.5, alike, random.random(len(whose)) < rate)
    return Drawn(mean_statistic(hits), whose)


def _overlap(random: np.random.Generator, patients: int) -> Drawn:
    return Drawn(mean_statistic(random.beta(1, 3, patients)), np.arange(float(patients)))


def _skewed(random: np.random.Generator, patients: int) -> Drawn:
    return Drawn(mean_statistic(random.exponential(size=patients)), np.arange(float(patients)), False)


def main(repetitions: int) -> None:
    """Print the table."""
    print("| number | patients | coverage | width | coverage of percentiles | their width |")
    print("|---|---|---|---|---|---|")
    for setting in settings():
        hold, wide, plainly, plain_width = coverage(setting, repetitions)
        print(
            f"| {setting.name} | {setting.patients} | {hold:.3f} | {wide:.2f} | {plainly:.3f} | {plain_width:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
