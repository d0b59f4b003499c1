"""A store in memory, for tests of what reads one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FakeRecord:
    id: str
    patient: str
    split: str
    image: np.ndarray
    labels: dict = field(default_factory=dict)
    boxes: tuple = ()
    masks: tuple = ()
    view: str = ""
    attributes: dict = field(default_factory=dict)
    facts: tuple = ()


class FakeStore(list):
    hash = "fake"

    @property
    def splits(self):
        return Counter(record.split for record in self)

    def column(self, name):
        return [getattr(record, name) for record in self]

    def select(self, split):
        return FakeStore(record for record in self if record.split == split)
