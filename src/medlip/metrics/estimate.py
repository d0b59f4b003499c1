"""The one type of a reported number, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Literal

from pydantic import BaseModel, ConfigDict


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
    """

    name: str
    title: str
    unit: str = ""
    chance: str = ""
    better: Literal["higher", "lower"] = "higher"

    @property
    def class_name(self) -> str:
        """Name of the estimate of a single class."""
        return self.name.removeprefix("macro_")


def _defined(value: float) -> float | None:
    return None if isnan(value) else float(value)
