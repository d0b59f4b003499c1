"""Do maps mean the same everywhere: are they bright inside findings, and dark in images that don't show them?

A case is an image of which it is known whether it shows a finding that the data has boxes or masks of. Its map counts as the
method gives it, not scaled by itself, bilinearly enlarged and sampled at 64 pixels a side, or at every fourth of them where
there is no finding. Every image weighs the same.

Pixel AUROC: how often a pixel inside a finding has the higher value of two, the other one outside of it or in an image that
doesn't show it; ties count half. Overall it is over the pixels of all findings together, so that it costs where maps of one
finding are brighter everywhere than another's. Values are told apart as far as 256 quantiles of them do.

Mass inside: the share of a map's sum that lies inside its finding, negative values counted as 0; 0 of a map that is dark
everywhere. The mean over cases that show it; chance is the share of the image that the finding covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from medlip.data.overlap import pseudonym
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.regions import centres, checked_map, paint_finding
from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import ImageBatch, Needs, Task, register_task
from medlip.images.preprocessing import enlarge
from medlip.metrics import Array, Estimate, Measure, Statistic, bootstrap, mean_estimate, ratio

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers

SIDE, STEP = 64, 4
"""Pixels a side at which a map and its finding are sampled; where there is no finding, one of so many."""

BINS = 256


@dataclass(frozen=True, slots=True)
class MapCase:
    """What is kept of one map.

    Attributes:
        finding: its name.
        patient: whose image it is.
        values: of the map, (K,).
        inside: which of them lie in the finding, (K,); None of an image that doesn't show it.
    """

    finding: str
    patient: str
    values: NDArray[np.float32]
    inside: NDArray[np.bool_] | None = None

    @property
    def mass_inside(self) -> float:
        """Share of the map's sum inside the finding; NaN where there is none."""
        if self.inside is None:
            return np.nan
        mass = self.values.clip(0).astype(float)
        return float(mass[self.inside].sum() / mass.sum()) if mass.any() else 0.0


@register_task
class Maps(Task):
    """Are maps bright inside findings, and dark in images that don't show them?"""

    name = "maps"
    title = "maps on their own scale"
    measures = (
        Measure(
            "pixel_auroc", "pixel AUROC, images without the finding included", chance="a map that is the same everywhere"
        ),
        Measure("mass_inside", "share of the map inside the finding", chance="share of the image that the finding covers"),
    )

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.findings = {} if questions.phrases else questions.findings
        self.needs = Needs(maps=bool(self.findings))
        self.mapped: list[MapCase] = []

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return the prompts of all findings that have a box or a mask."""
        return self.findings.values()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Sample the maps of what is known to be there, or not to be."""
        if answers.maps is None or not self.findings:
            return
        columns = batch.columns_of(self.findings.values())
        for record, maps in zip(batch.records, answers.maps[:, columns].float().numpy(), strict=True):
            for name, heat in zip(self.findings, maps, strict=True):
                case = map_case(heat, record, name)
                if case is not None:
                    self.mapped.append(case)

    def result(self, tuned_on: Self | None, rule: str) -> TaskResult | None:
        """Return the numbers; None where no image shows a finding that has a box or a mask."""
        if not any(case.inside is not None for case in self.mapped):
            return None
        by_class = {name: [case for case in self.mapped if case.finding == name] for name in self.findings}
        return TaskResult(
            **self._estimates(self.mapped),
            per_class={
                name: ClassResult(n=len(own), positives=sum(case.inside is not None for case in own), **self._estimates(own))
                for name, own in sorted(by_class.items())
                if own
            },
        )

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return the mass inside of every case that shows its finding."""
        shown = [case for case in self.mapped if case.inside is not None]
        if shown:
            findings, patients = [case.finding for case in shown], [pseudonym(case.patient) for case in shown]
            yield Outcomes(f"{self.name}/mass_inside", findings, patients, np.array([case.mass_inside for case in shown]))

    def rules(self) -> Mapping[str, str]:
        """Return how maps are read."""
        return {"pixel AUROC": f"maps as the method gives them, sampled at {SIDE} pixels a side"} if self.findings else {}

    def _estimates(self, cases: Sequence[MapCase]) -> dict[str, Estimate]:
        options = self.options
        covers = [np.nan if case.inside is None else case.inside.mean() for case in cases]
        mass = mean_estimate(
            [case.mass_inside for case in cases],
            [case.patient for case in cases],
            chance=covers,
            resamples=options.resamples,
            seed=options.seed,
            reason="no image shows it",
        )
        return {"pixel_auroc": _pixel_auroc(cases, options.resamples, options.seed), "mass_inside": mass}


def map_case(heat: Array, record: Record, finding: str) -> MapCase | None:
    """Sample the map (h, w) of a finding; None where it isn't known whether the image shows it, or where.

    Raises:
        MedLIPError: the map is not finite, or a mask has not the shape of the image.
    """
    label, inside = record.labels.get(finding, "present"), None
    if label != "absent":
        shape = record.image.shape
        region = paint_finding(record.boxes, record.masks, finding, shape) if label == "present" else None
        if region is None:
            return None
        inside = region[np.ix_(*(centres(size, SIDE) for size in shape))].ravel()
        if not inside.any():
            return None  # too small to be sampled, or off the image, which grounding names
    large = enlarge(checked_map(heat, finding), (SIDE, SIDE)).astype(np.float32)
    values = large[STEP // 2 :: STEP, STEP // 2 :: STEP] if inside is None else large
    return MapCase(finding, record.patient, values.ravel(), inside)


def pixel_auroc_statistic(cases: Sequence[MapCase]) -> Statistic:
    """Return the pixel AUROC as a function of weights (R, N), how often each of N cases counts, for `bootstrap`."""
    pooled = np.concatenate([case.values for case in cases])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, BINS + 1)[1:-1], method="higher"))
    inside, outside = (np.zeros((len(cases), len(edges) + 1), np.float32) for _ in range(2))
    for row, case in enumerate(cases):
        bins = np.searchsorted(edges, case.values, side="right")
        within = np.zeros(len(bins), bool) if case.inside is None else case.inside
        inside[row] = np.bincount(bins[within], minlength=len(edges) + 1) / len(bins)
        outside[row] = np.bincount(bins[~within], minlength=len(edges) + 1) / len(bins)

    def statistic(weights: Array) -> Array:
        positive, negative = weights @ inside, weights @ outside
        below = negative.cumsum(axis=1) - negative / 2
        found: Array = ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))
        return found

    return statistic


def _pixel_auroc(cases: Sequence[MapCase], resamples: int, seed: int) -> Estimate:
    showing = {case.patient for case in cases if case.inside is not None}
    if not showing:
        return Estimate(value=None, n=len(cases), reason="no image shows it")
    statistic = pixel_auroc_statistic(cases)
    patients = [case.patient for case in cases]
    low, high = bootstrap(statistic, patients, resamples, seed, shares=True, carriers=len(showing))
    value = float(statistic(np.ones((1, len(cases))))[0])
    return Estimate.of(value, float(low), float(high), chance=0.5, n=len(cases))
