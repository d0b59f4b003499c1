"""What a number is a number of: results under one record can stand in one column, others can't."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class EvaluationRecord(BaseModel):
    """Everything that a result depends on beside the method: frozen, named, hashed; and the rule of the method's maps.

    Attributes:
        name: for people; the hash tells records apart.
        hash: short hash over all but the name and the map rule; worked out where it isn't given.
        data: hash of the data set.
        split: name of the evaluated split.
        images: hash of the evaluated images' names, in order.
        tuning: hash of the images that thresholds are chosen on, or how they are taken from the evaluated ones.
        classes: each class with its prompt as resolved: the name of a pathology, or the text itself.
        findings: the same for what is located.
        rules: decision rules and metrics by name.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of the half that thresholds are chosen on.
        map_rule: how the method makes its maps; "" where none were looked at. It is the method's: not hashed, and results
            that differ in it can stand in one column, which says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hash: str = ""
    data: str
    split: str
    images: str
    tuning: str
    classes: dict[str, str]
    findings: dict[str, str]
    rules: dict[str, str]
    resamples: int
    seed: int
    map_rule: str = ""

    @model_validator(mode="after")
    def _hashed(self) -> Self:
        if not self.hash:
            content = self.model_dump(mode="json", exclude={"name", "hash", "map_rule"})
            digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
            object.__setattr__(self, "hash", digest)
        return self
