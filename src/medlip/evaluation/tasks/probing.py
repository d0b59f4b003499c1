"""What tasks share that ask a method again, about changed images: they are slow, and evaluated when they are named."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medlip.data.overlap import pseudonym
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import ImageBatch, Task
from medlip.metrics import Array, Estimate, mean_estimate

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers, Method

AT_ONCE = 64
"""Images that the method is asked about at a time."""


@dataclass(frozen=True, slots=True)
class ProbeCase:
    """What one probe of one finding in one image gave.

    Attributes:
        finding: its name.
        patient: whose image it is.
        values: by the names of the task's measures; NaN, or missing, where one isn't defined.
        chances: what a guess gives, by measure, where that is another for every case.
    """

    finding: str
    patient: str
    values: Mapping[str, float]
    chances: Mapping[str, float] = field(default_factory=dict)


class Probing(Task):
    """A task whose cases are probes of the method; its estimates are means over them, of all and by finding."""

    by_default = False
    chances: ClassVar[Mapping[str, float]] = {}
    """What a guess gives, by measure."""

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.probed: list[ProbeCase] = []

    def begin(self, method: Method) -> None:
        """Keep the method, to ask it about changed images."""
        self.method = method

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return nothing: what is asked is asked of the method itself."""
        return ()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Probe the images of a batch."""
        for record in batch.records:
            self.probed += self.probe(record)

    @abstractmethod
    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield what probes of one image give."""

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Array:
        """Return the method's scores (N, C) of images (H, W) for prompts."""
        parts = []
        for start in range(0, len(images), AT_ONCE):
            batch = self.method.preprocessing.of_images(images[start : start + AT_ONCE]).to(self.method.device)
            parts.append(self.method.score(batch, prompts).double().cpu().numpy())
        return np.concatenate(parts)

    def present(self, record: Record) -> list[str]:
        """Return the findings that are asked for and that an image's labels, or else its report, call present."""
        stated = {fact.pathology for fact in record.facts if fact.presence == "present"}
        vocabulary = self.cohort.vocabulary
        known = {
            name: (pathology.name if (pathology := vocabulary.find_pathology(prompt)) else name)
            for name, prompt in self.questions.classes.items()
        }
        labelled = [name for name in known if record.labels.get(name) == "present"]
        return labelled or sorted(stated & {p.name for p in vocabulary.pathologies if p.kind == "abnormal"})

    def prompt(self, finding: str) -> str:
        """Return by what a finding is asked for."""
        return self.questions.classes.get(finding) or self.questions.findings.get(finding) or finding

    def result(self, tuned_on: Self | None, rule: str) -> TaskResult | None:
        """Return the numbers; None where there was nothing to probe."""
        if not self.probed:
            return None
        by_finding: dict[str, list[ProbeCase]] = {}
        for case in self.probed:
            by_finding.setdefault(case.finding, []).append(case)
        return TaskResult(
            **self._estimates(self.probed),
            per_class={
                name: ClassResult(n=len(cases), **self._estimates(cases)) for name, cases in sorted(by_finding.items())
            },
        )

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return every probe's part in the means."""
        findings, patients = [case.finding for case in self.probed], [pseudonym(case.patient) for case in self.probed]
        for measure in self.measures if self.probed else ():
            values = np.array([case.values.get(measure.name, np.nan) for case in self.probed])
            yield Outcomes(f"{self.name}/{measure.name}", findings, patients, values)

    def _estimates(self, cases: Sequence[ProbeCase]) -> dict[str, Estimate]:
        return {
            measure.name: mean_estimate(
                [case.values.get(measure.name, np.nan) for case in cases],
                [case.patient for case in cases],
                chance=[{**self.chances, **case.chances}.get(measure.name, np.nan) for case in cases],
                resamples=self.options.resamples,
                seed=self.options.seed,
            )
            for measure in self.measures
        }
