"""How long a training is, in steps or in time, and at which learning rates: warm-up, then constant or along a cosine.

All is a function of how far the training is, and of nothing else, so nothing of it needs saving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol


class Budget(Protocol):
    """When training is over."""

    @property
    def steps(self) -> int | None:
        """Steps of the training, None where that is not known beforehand."""
        ...

    def share(self, step: int, seconds: float) -> float:
        """Return how much of the training is done once the next step is taken, from 0 to 1.

        Args:
            step: how many were taken before.
            seconds: that they took.
        """
        ...

    def spent(self, step: int, seconds: float) -> bool:
        """Whether it is over after so many steps and so much time."""
        ...


@dataclass(frozen=True, slots=True)
class Steps:
    """Training is over after so many steps."""

    steps: int

    def share(self, step: int, seconds: float) -> float:
        """Return the share of the steps."""
        return (step + 1) / self.steps

    def spent(self, step: int, seconds: float) -> bool:
        """Whether all steps are taken."""
        return step >= self.steps


@dataclass(frozen=True, slots=True)
class Seconds:
    """Training is over after so much time; what comes before the first batch is there doesn't count."""

    seconds: float
    steps: None = None

    def share(self, step: int, seconds: float) -> float:
        """Return the share of the time that has passed."""
        return min(1.0, seconds / self.seconds)

    def spent(self, step: int, seconds: float) -> bool:
        """Whether the time has passed."""
        return seconds >= self.seconds


class Schedule(Protocol):
    """What rate each step is taken at."""

    def __call__(self, highest: float, step: int, share: float) -> float:
        """Return the rate of a step.

        Args:
            highest: rate of the parameters in question.
            step: how many were taken before.
            share: of the training that is done once it is taken, from 0 to 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """So many steps of linear warm-up, then a cosine over all that remain, to a lowest rate.

    Attributes:
        steps: of the training.
        warmup: steps of warm-up; a tenth of the training at most.
        lowest: rate where the cosine ends.
    """

    steps: int
    warmup: int = 0
    lowest: float = 0.0

    def __call__(self, highest: float, step: int, share: float) -> float:
        """Return the rate of a step, see `Schedule`."""
        warmup = min(self.warmup, self.steps // 10)
        if step < warmup:
            return highest * (step + 1) / warmup
        return cosine((step - warmup) / max(1, self.steps - warmup), highest, self.lowest)


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shape over the whole training, by steps or by time, times a rise over its first part.

    Attributes:
        shape: `cosine` to 0, or `constant`.
        warmup: share of the training in which rates rise.
    """

    shape: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0

    def __call__(self, highest: float, step: int, share: float) -> float:
        """Return the rate of a step, see `Schedule`."""
        rise = min(1.0, share / self.warmup) if self.warmup else 1.0
        return highest * (rise * (1.0 if self.shape == "constant" else cosine(share)))


def cosine(share: float, highest: float = 1.0, lowest: float = 0.0) -> float:
    """Return half a wave of the cosine, from the highest value at share 0 to the lowest at 1."""
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * share)) / 2
