"""From a classifier's scores to probabilities that hold, and to thresholds with a stated sensitivity or specificity.

Everything here is of one class: scores (N,) in 0..1 and labels (N,), 1 or 0. A map from score to probability never falls, so
that it keeps the order of images; what is decided with a threshold on the probability can be decided on the score as well.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit, logit

from medlip.errors import MedLIPError
from medlip.metrics.bootstrap import Array

FARTHEST = 1e-6
"""Scores are no closer to 0 and 1 than this, where a logarithm is taken of them."""
STEPS = 100
"""Sensitivities and specificities that an operating curve has a threshold for, equally far apart."""


class _Fitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Platt(_Fitted):
    """A logistic curve over the score's logit (Platt 1999): two numbers, which few images suffice for.

    Attributes:
        kind: which it is, in files.
        slope: not negative.
        intercept: of the logit.
    """

    kind: Literal["platt"] = "platt"
    slope: float = Field(ge=0)
    intercept: float

    def __call__(self, scores: ArrayLike) -> Array:
        """Return the probabilities of scores."""
        return np.asarray(expit(self.slope * _logits(scores) + self.intercept))


class Isotonic(_Fitted):
    """The closest curve that never falls (Zadrozny and Elkan 2002), straight between its knots: for many images.

    Attributes:
        kind: which it is, in files.
        scores: of the knots, rising.
        probabilities: of the knots.
    """

    kind: Literal["isotonic"] = "isotonic"
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Array:
        """Return the probabilities of scores."""
        return np.asarray(np.interp(np.asarray(scores, float), self.scores, self.probabilities))


Recalibration = Annotated[Platt | Isotonic, Field(discriminator="kind")]
Kind = Literal["platt", "isotonic"]


def fit_platt(scores: ArrayLike, labels: ArrayLike) -> Platt:
    """Fit a logistic curve to the logits of scores by Newton's method.

    Labels count as (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), as Platt has it, so that no score becomes certain. Where scores
    speak against the class the slope is 0: everything gets the share of positives.

    Raises:
        MedLIPError: there is no positive or no negative.
    """
    scores, labels = _both(scores, labels)
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    inputs = np.stack([_logits(scores), np.ones(len(scores))], 1)
    weights = np.array([0.0, logit(targets.mean())])
    for _ in range(100):
        guess = expit(inputs @ weights)
        curvature = (inputs * (guess * (1 - guess))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (guess - targets))
        weights -= step * min(1, 5 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < 0:
        return Platt(slope=0, intercept=float(logit(targets.mean())))
    return Platt(slope=float(weights[0]), intercept=float(weights[1]))


def fit_isotonic(scores: ArrayLike, labels: ArrayLike) -> Isotonic:
    """Fit the closest curve that never falls; no probability is closer to 0 or 1 than 1 / (n + 2).

    Raises:
        MedLIPError: there is no positive or no negative.
    """
    from scipy.optimize import isotonic_regression  # slow to import, and whoever reads with a curve doesn't need it

    scores, labels = _both(scores, labels)
    knots, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(where, labels) / counts
    fitted = isotonic_regression(shares, weights=counts).x
    least = 1 / (len(labels) + 2)
    fitted = np.clip(fitted, least, 1 - least)
    inner = np.append(True, np.diff(fitted) != 0) | np.append(np.diff(fitted) != 0, True)  # the ends of each level
    return Isotonic(scores=tuple(knots[inner].tolist()), probabilities=tuple(fitted[inner].tolist()))


def fit(kind: Kind, scores: ArrayLike, labels: ArrayLike) -> Platt | Isotonic:
    """Fit one of the two."""
    return fit_platt(scores, labels) if kind == "platt" else fit_isotonic(scores, labels)


class OperatingCurve(_Fitted):
    """Thresholds of one class with the sensitivity and specificity that they had: from the highest threshold down.

    What is at or above a threshold is called positive. The first threshold is above all that was seen.

    Attributes:
        thresholds: falling.
        sensitivity: at each, rising.
        specificity: at each, falling.
    """

    thresholds: tuple[float, ...] = Field(min_length=1)
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike) -> Self:
        """Return the curve of scores and labels, with a threshold for each hundredth of sensitivity and of specificity.

        Raises:
            MedLIPError: there is no positive or no negative.
        """
        scores, labels = _both(scores, labels)
        thresholds, counts = np.unique(-scores, return_counts=True)
        last = counts.cumsum() - 1
        true = labels[np.argsort(-scores, kind="stable")].cumsum()[last]
        sensitivity = np.append(0, true / labels.sum())
        specificity = np.append(1, 1 - (last + 1 - true) / (len(labels) - labels.sum()))
        thresholds = np.append(np.nextafter(-thresholds[0], np.inf), -thresholds)
        wanted = np.linspace(0, 1, STEPS + 1) - 1e-12
        first = np.searchsorted(sensitivity, wanted)
        final = len(specificity) - 1 - np.searchsorted(specificity[::-1], wanted)
        kept = np.unique(np.append(first, final))
        return cls(
            thresholds=tuple(thresholds[kept].tolist()),
            sensitivity=tuple(sensitivity[kept].tolist()),
            specificity=tuple(specificity[kept].tolist()),
        )

    def threshold(self, measure: Literal["sensitivity", "specificity"], value: float) -> float:
        """Return the threshold with at least this sensitivity (specificity), and the most of the other.

        Args:
            measure: which one is stated.
            value: from 0 to 1; between hundredths the next higher one is taken.

        Raises:
            MedLIPError: the value is no share.
        """
        if not 0 <= value <= 1:
            raise MedLIPError(f"{measure}={value:g}: give a share from 0 to 1.")
        reached = np.array(getattr(self, measure)) >= value - 1e-9
        rows = np.flatnonzero(reached)
        return self.thresholds[int(rows[0] if measure == "sensitivity" else rows[-1])]


def _logits(scores: ArrayLike) -> Array:
    return np.asarray(logit(np.clip(np.asarray(scores, float), FARTHEST, 1 - FARTHEST)))


def _both(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    scores, labels = np.asarray(scores, float), np.asarray(labels, float)
    if scores.ndim != 1 or scores.shape != labels.shape or not np.isin(labels, (0, 1)).all():
        raise MedLIPError(f"scores {scores.shape} and labels {labels.shape} must both be (images,), labels 1 or 0.")
    if not np.isfinite(scores).all():
        raise MedLIPError("scores are not finite: the model gives NaN. Check its weights and its training log.")
    if labels.min(initial=1) == labels.max(initial=0):
        raise MedLIPError("there is no image with the finding, or none without it.")
    return scores, labels
