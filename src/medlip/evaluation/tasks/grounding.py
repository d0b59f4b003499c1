"""Does the map of a finding lie where the finding is? Pointing game, contrast, IoU and Dice, beside what chance would give.

A case is an image and a finding that is present in it and has a box or a mask. Every case is judged by itself: its map is
scaled by its own minimum and maximum, so that no neighbour in a batch moves its result. Pixels are those of the image; a
pixel belongs to a box when its centre lies in it.

Pointing game: a hit when the centre of the maximum of the map, bilinearly enlarged to the image, lies in a box of the
finding (in its mask, where it has no box). A maximum that spans several pixels (the outer half of a border cell is flat) is
taken at the one nearest to their centroid, the first in reading order among equals; a map that is the same everywhere points
nowhere and misses. Chance is the share of the image that the boxes cover: where a pixel drawn at random would hit.

Own less other: whether the map points right, less how often the maps of other patients with the same finding do in the
same image. A method that names where the finding usually is, and looks at nothing, has 0. Regions are sampled at 256 pixels
a side for it. Frontal images are compared with frontal ones, and lateral with lateral; so it is with maps from memory.

Pointing game from memory: that of a map which has seen nothing of the patient: how often the finding's regions cover each
place in the training split; where that has none, on phantoms; of a finding that neither has, in the evaluated images of
other patients.

Contrast to noise: of the enlarged map, inside and outside of what is pointed at; see `medlip.metrics.contrast_to_noise`. A
map that is the same everywhere has 0, which is also chance. Left out: targets that cover the whole image, and maps without
any variance inside and outside, whose contrast is infinite.

IoU and Dice: pixels of the enlarged map, scaled to 0..1, at or above a threshold, against the finding's mask (the union of
its boxes, where it has no mask); means over cases. One threshold holds for all findings: the one with the highest mean IoU
on cases that are kept for choosing it. Chance is calling every pixel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from medlip.data.overlap import pseudonym
from medlip.data.study import Box, Mask
from medlip.data.views import ViewKind, read_as
from medlip.errors import name_some
from medlip.evaluation.cases import CASES, FINDINGS, Case, Choice, make_case, save_cases
from medlip.evaluation.nulls import SampledRegion, StaticMaps, other_hits, other_region_hits, relative_peak
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.regions import checked_map, drawn_findings, paint_boxes, paint_masks
from medlip.evaluation.selection import ON_REPORTED, Cohort, EvaluationOptions, Questions, seeded_half
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import AddedMeasure, ImageBatch, Needs, Task, added_measures, register_task, task_measures
from medlip.images.preprocessing import enlarge
from medlip.metrics import (
    Array,
    Estimate,
    Measure,
    cell_hit,
    contrast_to_noise,
    dice,
    iou,
    mean_estimate,
    number,
    overlap_counts,
    pointing_game,
    scale_to_unit,
)

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers

THRESHOLDS = np.arange(100) / 100
"""The thresholds to choose from; 0 calls every pixel positive."""


class GroundingResult(TaskResult):
    """Where maps lie; estimates are means over cases.

    Attributes:
        threshold: of the scaled maps, for IoU and Dice; None where there was no case to choose it on.
        pointed_at: cases by what the pointing game was played on, "boxes" or "masks".
        compared_with: cases by what IoU and Dice are taken against.
        per_view: the same by kind of view, where there are several.
    """

    threshold: float | None
    pointed_at: dict[str, int]
    compared_with: dict[str, int]
    per_view: dict[str, ClassResult] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroundingCase:
    """What is kept of one map: a few hundred numbers, whatever the size of the image.

    Attributes:
        finding: its name.
        patient: whose image it is.
        pointed_at: "boxes" or "masks", what the pointing game was played on.
        compared_with: "boxes" or "masks", what IoU and Dice are taken against.
        hit: the maximum of the enlarged map lies in it.
        cell_hit: any pixel of the highest cell of the map as it was lies in it (the released rule).
        cover: share of the image that `pointed_at` covers.
        contrast: contrast to noise of the map, inside and outside of `pointed_at`; NaN where it isn't defined.
        predicted: positive pixels at each of `THRESHOLDS`, (K,).
        intersection: those of them that are in the target, (K,).
        target: pixels of the target.
        pixels: pixels of the image.
        heat: (h, w), the map as the method gave it.
        row: of its image in the cohort.
        prompt: that asked where it is.
        memory_hit: 1 where the map of the training split or of phantoms points right, else 0; NaN where there is none.
        peak: (row, column) of the map's maximum, as shares of height and width; None of a flat map.
        reach: what the pointing game is played on, sampled.
        view: the kind of view that the image is.
        added: values of measures from outside, by name.
    """

    finding: str
    patient: str
    pointed_at: str
    compared_with: str
    hit: bool
    cell_hit: bool
    cover: float
    contrast: float
    predicted: Array
    intersection: Array
    target: int
    pixels: int
    heat: NDArray[np.float32]
    row: int = 0
    prompt: str = ""
    memory_hit: float = np.nan
    peak: tuple[float, float] | None = None
    reach: SampledRegion | None = None
    view: ViewKind = "frontal"
    added: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, float]:
        """Every measure that needs neither a threshold nor other cases, by name."""
        own = {
            "pointing_game": self.hit,
            "pointing_game_any_pixel_of_cell": self.cell_hit,
            "contrast_to_noise": self.contrast,
        }
        return own | dict(self.added)

    @property
    def iou(self) -> Array:
        """Intersection over union at each of `THRESHOLDS`, (K,)."""
        return iou(self.intersection, self.predicted, self.target, empty=np.nan)  # there is always a target

    @property
    def dice(self) -> Array:
        """2 |A and B| / (|A| + |B|) at each of `THRESHOLDS`, (K,)."""
        return dice(self.intersection, self.predicted, self.target, empty=np.nan)


@dataclass(frozen=True, slots=True)
class Region:
    """A finding of one image with the prompt that asks where it is, and where it is."""

    finding: str
    prompt: str
    boxes: Sequence[Box]
    masks: Sequence[Mask]


@register_task
class Grounding(Task):
    """Does the map of a finding lie where the finding is?"""

    name = "grounding"
    title = "grounding"
    measures = (
        Measure("own_less_other", "own map less other patients'", chance="maps that see nothing in their own image"),
        Measure("pointing_game", "pointing game", chance="share of the image that the boxes cover"),
        Measure("pointing_game_any_pixel_of_cell", "pointing game, any pixel of the highest cell"),
        Measure("pointing_game_from_memory", "pointing game of a map that has seen no image"),
        Measure("contrast_to_noise", "contrast to noise", chance="a map that is the same everywhere"),
        Measure("iou", "IoU", chance="calling every pixel"),
        Measure("dice", "Dice", chance="calling every pixel"),
    )
    result_type = GroundingResult
    tunes = True
    extensible = "the enlarged map (H, W) and where the finding is, boolean (H, W)"

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.needs = Needs(maps=bool(questions.findings))
        self.located: list[GroundingCase] = []
        self.uncovered: list[str] = []
        self.memory = StaticMaps(cohort) if self.needs.maps else None
        self.added = added_measures(self.name)

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return the prompts of all findings, always; of phrases those of the batch, for all would be too many."""
        if not self.questions.phrases:
            return self.questions.findings.values()
        return (region.prompt for record in records for region in self._regions(record))

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Judge the maps of what has a box or a mask."""
        if answers.maps is None:
            return
        for row, record, maps in zip(batch.rows, batch.records, answers.maps, strict=True):
            view = read_as(record.view)
            for region in self._regions(record):
                heat = maps[batch.columns[region.prompt]].float().numpy()
                case = grounding_case(
                    heat,
                    record.image.shape,
                    region.boxes,
                    region.masks,
                    region.finding,
                    record.patient,
                    row=row,
                    prompt=region.prompt,
                    view=view,
                    memory=self.memory.of(region.finding, view) if self.memory else None,
                    added=self.added,
                )
                if case is None:
                    self.uncovered.append(f"{record.id}: {region.finding}")
                else:
                    self.located.append(case)

    def result(self, tuned_on: Self | None, rule: str) -> GroundingResult | None:
        """Return the numbers; None where no present finding has a box or a mask."""
        if not self.located:
            return None
        threshold, reported = self._tuned(tuned_on)
        settings = {"resamples": self.options.resamples, "seed": self.options.seed}
        return grounding_result(self.located, threshold=threshold, reported=reported, rule=rule, **settings)

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return every case's part in the means."""
        threshold, reported = self._tuned(tuned_on)
        for each in task_measures(self.name):
            counted, values = _values(each.name, self.located, threshold, reported)
            if len(values):
                yield Outcomes(
                    f"{self.name}/{each.name}",
                    [case.finding for case in counted],
                    [pseudonym(case.patient) for case in counted],
                    values,
                )

    def rules(self) -> Mapping[str, str]:
        """Return how maps are held against regions, and the threshold chosen."""
        tuned = "highest mean IoU over all findings, on patients that are not reported"
        phrases = {"grounding asks for": "each phrase that came with boxes, by itself, held against its own boxes"}
        return {
            "own less other": "hit, less the share of other patients' maps of the finding that point right in the image",
            "from memory": self.memory.rule if self.memory else "",
            "pointing game": "centre of the maximum of the bilinearly enlarged map in a box of the finding",
            "map scaling": "minimum to maximum of each map",
            "overlap threshold": ON_REPORTED if self.options.on_reported else tuned,
            "overlap target": "mask, else union of boxes",
        } | (phrases if self.questions.phrases else {})

    def notes(self) -> Iterator[str]:
        """Say what was left out."""
        if not self.located:
            yield "no grounding result: no present finding has a box or a mask"
        if (lacking := np.isnan(memory_hits(self.located))).any():
            names = sorted({case.finding for case, lacks in zip(self.located, lacking, strict=True) if lacks})
            yield (
                f"{lacking.sum()} of {len(lacking)} findings have no pointing game from memory: neither the training split, "
                f"nor phantoms, nor other evaluated patients show where they usually are: {name_some(names)}"
            )
        ids = self.cohort.ids
        unlabelled = [
            f"{name}: {finding}"
            for name, drawn, located in zip(ids, self.cohort.drawn, self.cohort.located, strict=True)
            for finding in sorted(drawn - set(located))
        ]
        wordless = [
            f"{name}: {box.pathology}"
            for name, boxes in zip(ids, self.cohort.boxes, strict=True)
            for box in boxes
            if self.questions.phrases and not box.phrase
        ]
        for names, reason in (
            (self.uncovered, "whose boxes cover no pixel of the image"),
            (unlabelled, "which have boxes or masks but which the labels of their image don't call present"),
            (wordless, "whose boxes came without a phrase to ask for"),
        ):
            if names:
                yield f"{len(names)} findings left out of grounding, {reason}: {name_some(names)}"

    def save(self, folder: Path, tuned_on: Self | None) -> None:
        """Write the best and the worst case of the most frequent findings."""
        if self.located:
            save_cases(list(self._shown(tuned_on)), folder / CASES)

    def _regions(self, record: Record) -> Iterator[Region]:
        """Yield what is to be found in an image: each finding, or each phrase of its boxes."""
        for name in sorted(drawn_findings(record.boxes, record.masks) & self.questions.findings.keys()):
            if record.labels.get(name, "present") != "present":
                continue
            boxes = [box for box in record.boxes if box.pathology == name]
            if self.questions.phrases:
                for phrase in dict.fromkeys(box.phrase for box in boxes if box.phrase):
                    yield Region(name, phrase, [box for box in boxes if box.phrase == phrase], ())
            else:
                masks = [mask for mask in record.masks if mask.pathology == name]
                yield Region(name, self.questions.findings[name], boxes, masks)

    def _tuned(self, tuned_on: Self | None) -> tuple[float, NDArray[np.bool_]]:
        """Return the threshold, and which cases IoU and Dice count: those that had no part in choosing it."""
        if tuned_on is not None:
            return choose_threshold(tuned_on.located), np.ones(len(self.located), bool)
        half = seeded_half([case.patient for case in self.located], self.options.seed)
        return choose_threshold([case for case, chosen in zip(self.located, half, strict=True) if chosen]), ~half

    def _shown(self, tuned_on: Self | None) -> Iterator[Case]:
        threshold, reported = self._tuned(tuned_on)
        if np.isnan(threshold):
            return
        for choice in choose_cases(self.located, reported, threshold_index(threshold)):
            case = self.located[choice.case]
            record = self.cohort.store[case.row]  # a dozen images are read again, none was kept
            (region,) = (
                each for each in self._regions(record) if (each.finding, each.prompt) == (case.finding, case.prompt)
            )
            shape = record.image.shape
            masked = case.compared_with == "masks"
            target = paint_masks(region.masks, shape) if masked else paint_boxes(region.boxes, shape)
            yield make_case(choice, record.id, record.image, case.heat.astype(float), target)


def choose_cases(cases: Sequence[GroundingCase], reported: Sequence[bool] | NDArray[np.bool_], at: int) -> Iterator[Choice]:
    """Yield the cases of the highest and of the lowest IoU of each of the `FINDINGS` most frequent findings.

    Only what is reported counts. Among equal IoUs the best case is a hit of the pointing game and the worst a miss, if there
    is one, and the first in the order of the data. A finding's only case is its best.

    Args:
        cases: of all findings.
        reported: for each case whether it is (it had no part in choosing the threshold).
        at: which of the thresholds was chosen.
    """
    counted = [index for index, counts in enumerate(reported) if counts]
    frequent = Counter(cases[index].finding for index in counted)
    for finding in sorted(frequent, key=lambda name: (-frequent[name], name))[:FINDINGS]:
        own = [index for index in counted if cases[index].finding == finding]
        quality = {index: (float(cases[index].iou[at]), cases[index].hit) for index in own}
        best, worst = max(own, key=quality.__getitem__), min(own, key=quality.__getitem__)
        yield Choice(best, finding, "best", len(own), *quality[best])
        if worst != best:
            yield Choice(worst, finding, "worst", len(own), *quality[worst])


def grounding_case(
    heat: ArrayLike,
    shape: tuple[int, int],
    boxes: Sequence[Box],
    masks: Sequence[Mask],
    finding: str,
    patient: str,
    *,
    row: int = 0,
    prompt: str = "",
    view: ViewKind = "frontal",
    memory: Array | None = None,
    added: Sequence[AddedMeasure] = (),
) -> GroundingCase | None:
    """Hold one map against the boxes and masks of its finding.

    Args:
        heat: (h, w) map, any size and scale; it covers the whole image.
        shape: (H, W) of the image that boxes and masks are in.
        boxes: boxes of the finding, possibly none.
        masks: masks of the finding, possibly none; there is a box or a mask.
        finding: its name.
        patient: whose image it is.
        row: of its image in the cohort.
        prompt: that asked for it.
        view: the kind of view that the image is.
        memory: (h, w), where the finding usually is; None where that isn't known.
        added: measures from outside.

    Returns:
        The case, or None when boxes and masks cover no pixel of the image.

    Raises:
        MedLIPError: the map is not a finite (h, w) array, or a mask has not the shape of the image.
    """
    heat = checked_map(heat, finding)
    boxed, masked = paint_boxes(boxes, shape), paint_masks(masks, shape)
    pointed_at, in_reach = ("boxes", boxed) if boxed.any() else ("masks", masked)
    compared_with, target = ("masks", masked) if masked.any() else ("boxes", boxed)
    if not in_reach.any():
        return None
    large = enlarge(heat, shape)
    predicted, intersection = overlap_counts(scale_to_unit(large), target, THRESHOLDS)
    return GroundingCase(
        finding=finding,
        patient=patient,
        pointed_at=pointed_at,
        compared_with=compared_with,
        hit=pointing_game(large, in_reach),
        cell_hit=cell_hit(heat, in_reach),
        cover=float(in_reach.mean()),
        contrast=contrast_to_noise(large, in_reach),
        memory_hit=np.nan if memory is None else float(pointing_game(enlarge(memory, shape), in_reach)),
        peak=relative_peak(large),
        reach=SampledRegion.of(in_reach),
        predicted=predicted,
        intersection=intersection,
        target=int(target.sum()),
        pixels=target.size,
        heat=heat.astype(np.float32),
        row=row,
        prompt=prompt,
        view=view,
        added={each.measure.name: float(each.function(large, target)) for each in added},
    )


def choose_threshold(cases: Sequence[GroundingCase]) -> float:
    """Return the one of `THRESHOLDS` with the highest mean IoU over cases, the lowest among equals; NaN without a case."""
    return float(THRESHOLDS[np.mean([case.iou for case in cases], axis=0).argmax()]) if cases else np.nan


def threshold_index(threshold: float) -> int:
    """Return which of `THRESHOLDS` it is."""
    return int(np.flatnonzero(np.isclose(THRESHOLDS, threshold))[0])


def grounding_result(
    cases: Sequence[GroundingCase],
    *,
    threshold: float,
    reported: Sequence[bool] | NDArray[np.bool_],
    rule: str,
    resamples: int = 1000,
    seed: int = 0,
) -> GroundingResult:
    """Return the means over cases, with intervals over patients, all of them and per finding.

    Args:
        cases: at least one.
        threshold: of `THRESHOLDS`, chosen on other patients than those that are reported; NaN when there were none.
        reported: for each case whether IoU and Dice are to count it (it had no part in choosing the threshold).
        rule: how the threshold was chosen, for people.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    reported = np.asarray(reported, bool)
    names, views = np.array([case.finding for case in cases]), np.array([case.view for case in cases])

    def estimates(which: NDArray[np.bool_]) -> dict[str, Estimate]:
        own = [case for case, chosen in zip(cases, which, strict=True) if chosen]
        return {
            each.name: _estimate(each.name, own, threshold, reported[which], resamples, seed)
            for each in task_measures(Grounding.name)
        }

    counted = [case for case, counts in zip(cases, reported, strict=True) if counts]
    return GroundingResult(
        **estimates(np.ones(len(cases), bool)),
        per_class={
            name: ClassResult(n=int((names == name).sum()), **estimates(names == name))
            for name in sorted(set(names.tolist()))
        },
        per_view={
            view: ClassResult(n=int((views == view).sum()), **estimates(views == view))
            for view in sorted(set(views.tolist()))
            if (views != view).any()
        },
        threshold=number(threshold),
        threshold_rule=rule,
        pointed_at=dict(Counter(case.pointed_at for case in cases)),
        compared_with=dict(Counter(case.compared_with for case in counted)),
    )


def memory_hits(cases: Sequence[GroundingCase]) -> Array:
    """Return whether a map that has seen nothing of the patient points right in each case, (N,): 1 or 0.

    Of a finding without a map of the training split or of phantoms, it is the mean of other patients' regions; NaN where
    there is none either.
    """
    hits = np.array([case.memory_hit for case in cases], float)
    unknown = [index for index, hit in enumerate(hits) if np.isnan(hit)]
    lacking = [cases[index] for index in unknown]
    hits[unknown] = other_region_hits(
        [case.finding for case in lacking],
        [case.patient for case in lacking],
        [case.reach for case in lacking],
        [case.view for case in lacking],
    )
    return hits


def _values(
    name: str, cases: Sequence[GroundingCase], threshold: float, reported: NDArray[np.bool_]
) -> tuple[Sequence[GroundingCase], Array]:
    """Return the cases that a measure counts, and its value for each; none for want of a threshold."""
    if name in ("iou", "dice"):
        counted = [case for case, counts in zip(cases, reported, strict=True) if counts]
        if np.isnan(threshold):
            return counted, np.empty(0)
        at = threshold_index(threshold)
        return counted, np.array([(case.iou if name == "iou" else case.dice)[at] for case in counted], float)
    if name == "own_less_other":
        others = other_hits(
            [case.finding for case in cases],
            [case.patient for case in cases],
            [case.peak for case in cases],
            [case.reach for case in cases],
            [case.view for case in cases],
        )
        return cases, np.array([case.hit for case in cases], float) - others
    if name == "pointing_game_from_memory":
        return cases, memory_hits(cases)
    return cases, np.array([case.values[name] for case in cases], float)


def _estimate(
    name: str, cases: Sequence[GroundingCase], threshold: float, reported: NDArray[np.bool_], resamples: int, seed: int
) -> Estimate:
    counted, values = _values(name, cases, threshold, reported)
    chances = {
        "pointing_game": np.array([case.cover for case in counted]),
        "own_less_other": np.zeros(len(counted)),
        "contrast_to_noise": np.zeros(len(counted)),
        "iou": np.array([case.target / case.pixels for case in counted]),
        "dice": np.array([2 * case.target / (case.target + case.pixels) for case in counted]),
    }
    chance = chances.get(name, np.full(len(counted), np.nan))
    reason = "not defined for any case"
    if name in ("iou", "dice"):
        reason = "there is no case to choose a threshold on" if counted else "all its cases went into choosing the threshold"
        if counted and not len(values):
            return Estimate.of(np.nan, chance=float(chance.mean()), n=len(counted), reason=reason)
    return mean_estimate(
        values, [case.patient for case in counted], chance=chance, resamples=resamples, seed=seed, reason=reason
    )
