"""Do answers depend on the image at all? The same question about other patients' images should have another answer.

A case is an image and a finding that is present in it. The method is asked the same of `OTHERS` images of other patients,
and of the image with its blocks shuffled, which keeps what it is made of and nothing of what it shows. Own less other: the
score of the image less the mean over the others. Own less shuffled likewise. Who answers from memory has 0 in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions
from medlip.evaluation.tasks.base import register_task
from medlip.evaluation.tasks.probing import ProbeCase, Probing
from medlip.metrics import Measure

if TYPE_CHECKING:
    from medlip.data.store import Record

OTHERS = 8
"""Images of other patients, the same for all cases."""
BLOCKS = 8
"""A side of the image is cut into so many blocks when it is shuffled."""


@register_task
class Dependence(Probing):
    """Does the score of a finding depend on the image?"""

    name = "dependence"
    title = "dependence on the image"
    measures = (
        Measure("own_minus_other", "less other images", chance="not looking at the image"),
        Measure("own_minus_shuffled", "less shuffled", chance="not looking at the image"),
    )
    chances: ClassVar[Mapping[str, float]] = {"own_minus_other": 0.0, "own_minus_shuffled": 0.0}

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self._drawn: list[Record] = []

    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield how far the scores of an image's findings are from those of other images."""
        findings = self.present(record)
        if not findings:
            return
        prompts = [self.prompt(finding) for finding in findings]
        others = [other.image for other in self._others() if other.patient != record.patient]
        scores = self.score([record.image, shuffled(record.image, self.options.seed), *others], prompts)
        for column, finding in enumerate(findings):
            own, mixed, rest = scores[0, column], scores[1, column], scores[2:, column]
            other = float(own - rest.mean()) if len(rest) else np.nan
            yield ProbeCase(finding, record.patient, {"own_minus_other": other, "own_minus_shuffled": float(own - mixed)})

    def rules(self) -> Mapping[str, str]:
        """Return what the image is compared with."""
        return {"other images": f"{OTHERS} drawn by the seed", "shuffled": f"{BLOCKS} x {BLOCKS} blocks"}

    def _others(self) -> list[Record]:
        if not self._drawn:
            rows = np.random.default_rng(self.options.seed).permutation(len(self.cohort))[: OTHERS + 1]
            self._drawn = [self.cohort.store[int(row)] for row in rows]
        return self._drawn


def shuffled(image: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Return an image (H, W) whose blocks have changed places."""
    high, wide = (max(1, side // BLOCKS) for side in image.shape)
    rows, columns = image.shape[0] // high, image.shape[1] // wide
    blocks = image[: rows * high, : columns * wide].reshape(rows, high, columns, wide).swapaxes(1, 2).reshape(-1, high, wide)
    order = np.random.default_rng(seed).permutation(len(blocks))
    mixed = image.copy()
    mixed[: rows * high, : columns * wide] = (
        blocks[order].reshape(rows, columns, high, wide).swapaxes(1, 2).reshape(rows * high, columns * wide)
    )
    return mixed
