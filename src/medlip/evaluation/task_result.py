"""What a task found: one shape for every number, of the whole and by class."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from medlip.metrics import Estimate


class ClassResult(BaseModel):
    """What a task found of one class: its estimates by name ("auroc"), and how many cases there are.

    Attributes:
        n: cases with a known truth.
        positives: those of them that show the finding, where that is told.
        threshold: at which the class is called, where there is one.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Estimate] = Field(init=False)

    n: int | None = None
    positives: int | None = None
    threshold: float | None = None

    def __getitem__(self, name: str) -> Estimate:
        """Return one estimate by the name of its measure."""
        return self.estimates[name]

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All estimates by name."""
        return self.__pydantic_extra__


class TaskResult(BaseModel):
    """What a task found: its estimates by the names of its measures ("macro_auroc"), and what explains them.

    Tasks that have more to say derive a model of their own, with named fields.

    Attributes:
        per_class: the same by class.
        threshold_rule: how thresholds were chosen, for people; "" where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Estimate] = Field(init=False)

    per_class: dict[str, ClassResult] = {}
    threshold_rule: str = ""

    def __getitem__(self, name: str) -> Estimate:
        """Return one estimate by the name of its measure."""
        return self.estimates[name]

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All estimates by name."""
        return self.__pydantic_extra__
