"""The one type of a reported number, and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from medlip.metrics.bootstrap import bootstrap, mean_statistic


class Estimate(BaseModel):
    """One number that is reported.

    Attributes:
        value: None where it is undefined.
        interval: its 95 % interval; None where there is none.
        chance: what a guess gives on the same cases; None where that is not defined.
        n: over how many cases it is; None where that is not counted.
        reason: why the value is undefined, or what else a reader must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    interval: tuple[float, float] | None = None
    chance: float | None = None
    n: int | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        value: float,
        low: float = float("nan"),
        high: float = float("nan"),
        *,
        chance: float = float("nan"),
        n: int | None = None,
        reason: str | None = None,
    ) -> Estimate:
        """Return the estimate of plain floats, in which NaN stands for what is undefined."""
        interval = None if isnan(low) or isnan(high) else (float(low), float(high))
        return cls(value=_defined(value), interval=interval, chance=_defined(chance), n=n, reason=reason)


@dataclass(frozen=True, slots=True)
class Measure:
    """What an estimate means; declared once, by the task that computes it.

    Attributes:
        name: where a task's result holds the estimate, such as "macro_auroc"; by class without "macro_".
        title: for people, such as "AUROC".
        unit: of the value, "" for a share or a pure number.
        chance: what the chance beside it is, for people, such as "share of the image that the boxes cover".
        better: which way is better.
        summary: how the estimate sums up its cases, which paired comparisons have to do alike.
    """

    name: str
    title: str
    unit: str = ""
    chance: str = ""
    better: Literal["higher", "lower"] = "higher"
    summary: Literal["mean", "median"] = "mean"

    @property
    def class_name(self) -> str:
        """Name of the estimate of a single class."""
        return self.name.removeprefix("macro_")


def mean_estimate(
    values: ArrayLike,
    patients: Sequence[str],
    *,
    chance: ArrayLike = float("nan"),
    resamples: int = 1000,
    seed: int = 0,
    reason: str = "there is no case",
) -> Estimate:
    """Return the mean over cases, with its bootstrap interval over patients; values that all lie in 0..1 are shares.

    Args:
        values: (N,) of each case, NaN where the measure isn't defined: such a case is left out, and `n` counts the others.
        patients: whose case it is, (N,).
        chance: what a guess gives, on average or for each case, (N,).
        resamples: of the bootstrap.
        seed: of the bootstrap.
        reason: why there is no value, should there be none.
    """
    values = np.asarray(values, float)
    counted = ~np.isnan(values)
    if not counted.any():
        return Estimate(value=None, n=0, reason=reason)
    guess = float(np.broadcast_to(np.asarray(chance, float), counted.shape)[counted].mean())
    defined = values[counted]
    shares = bool(((defined >= 0) & (defined <= 1)).all())
    low, high = bootstrap(mean_statistic(defined), np.asarray(patients)[counted], resamples, seed, shares=shares)
    return Estimate.of(float(defined.mean()), float(low), float(high), chance=guess, n=int(counted.sum()))


def _defined(value: float) -> float | None:
    return None if isnan(value) else float(value)


def number(value: float) -> float | None:
    """Return a value for JSON: None where it is NaN."""
    return _defined(value)


def interval(low: float, high: float) -> list[float] | None:
    """Return the ends of an interval for JSON: None where they are NaN."""
    return None if isnan(low) or isnan(high) else [float(low), float(high)]
