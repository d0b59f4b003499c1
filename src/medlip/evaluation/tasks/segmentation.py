"""How well a map outlines a finding, on images that show it and on images that don't: Dice in both conventions, and IoU.

A map is judged by its values as they are, never scaled by its own minimum and maximum: scaled so, every map would call a
pixel, also of an image without the finding. Pixels of the bilinearly enlarged map at or above a threshold are called; one
threshold holds for all images and findings, chosen on other patients than those that are reported.

`dice_positives` is the mean over the images that show the finding. `dice_all` is the mean over these and the images that
don't, where calling nothing counts 1 and calling anything 0. The two must not be compared with each other: where few images
show a finding, calling nothing at all (the chance beside it) is already high. `iou` is over images that show the finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError, name_some
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.regions import checked_map, drawn_findings, paint_masks
from medlip.evaluation.selection import ON_REPORTED, Cohort, EvaluationOptions, Questions, seeded_half
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import ImageBatch, Needs, Task, register_task
from medlip.images.preprocessing import enlarge
from medlip.metrics import Array, Estimate, Measure, Pixels, dice, iou, mean_estimate, number, overlap_counts

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers

QUANTILES = 1 - np.geomspace(1, 1e-4, 100)  # from calling all pixels to calling one in ten thousand
SAMPLED = 256


class SegmentationResult(TaskResult):
    """How maps outline; estimates are means over maps.

    Attributes:
        threshold: on the scale of the maps; None where there was no image to choose it on.
        n_positives: maps of images that show their finding.
        n_negatives: maps of images that don't.
    """

    threshold: float | None
    n_positives: int
    n_negatives: int


@dataclass(frozen=True, slots=True)
class SegmentationCase:
    """What is kept of one map and its mask: a few hundred numbers, whatever the size of the image.

    Attributes:
        finding: its name.
        patient: whose image it is.
        thresholds: rising, (K,).
        predicted: pixels called at each of them, (K,).
        intersection: those of them that are in the mask, (K,).
        target: pixels of the mask; 0 on an image that doesn't show the finding.
        pixels: pixels of the image.
    """

    finding: str
    patient: str
    thresholds: Array
    predicted: Array
    intersection: Array
    target: int
    pixels: int

    @property
    def dice(self) -> Array:
        """2 |A and B| / (|A| + |B|) at each threshold, (K,); 1 where both are empty."""
        return dice(self.intersection, self.predicted, self.target, empty=1)

    @property
    def iou(self) -> Array:
        """Intersection over union at each threshold, (K,); 1 where both are empty."""
        return iou(self.intersection, self.predicted, self.target, empty=1)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A map that waits for its thresholds, with its mask, 8 pixels a byte; None where the image doesn't show the finding."""

    finding: str
    patient: str
    heat: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    shape: tuple[int, int]

    def judge(self, thresholds: Array) -> SegmentationCase:
        mask = None
        if self.mask is not None:
            mask = np.unpackbits(self.mask, count=self.shape[0] * self.shape[1]).astype(bool).reshape(self.shape)
        return segmentation_case(self.heat, mask, self.finding, self.patient, thresholds)


@register_task
class Segmentation(Task):
    """How well does the map of a finding outline it?"""

    name = "segmentation"
    title = "segmentation"
    measures = (
        Measure("dice_positives", "Dice over positives", chance="calling every pixel"),
        Measure("dice_all", "Dice over all images", chance="calling no pixel"),
        Measure("iou", "IoU over positives", chance="calling every pixel"),
    )
    result_type = SegmentationResult
    tunes = True

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.needs = Needs(maps=bool(questions.outlined))
        self.drawn: list[_Drawn] = []
        self.unmasked: list[str] = []
        # Thresholds are chosen from quantiles of these images' maps: of all images, or of a half of the patients.
        rows = np.arange(len(cohort))
        self._samples = {"all": _spread(rows), "half": _spread(rows[seeded_half(cohort.patients, options.seed)])}
        self._maps: dict[int, NDArray[np.float32]] = {}
        self._judged: tuple[list[SegmentationCase], float] | None = None

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return the prompts of all findings that have masks."""
        return self._prompts

    @property
    def _prompts(self) -> list[str]:
        return [self.questions.findings[name] for name in self.questions.outlined]

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Keep the maps, small as they are, and the masks."""
        if answers.maps is None or not self.questions.outlined:
            return
        sampled = self._samples["all"] | self._samples["half"]
        columns = batch.columns_of(self._prompts)
        for row, record, maps in zip(batch.rows, batch.records, answers.maps[:, columns].float().numpy(), strict=True):
            if row in sampled:
                self._maps[row] = maps
            for name, heat in zip(self.questions.outlined, maps, strict=True):
                if self._is_known(record, name):
                    self._draw(record, name, heat)

    def result(self, tuned_on: Self | None, rule: str) -> SegmentationResult | None:
        """Return the numbers; None where no image has a mask, and where phrases are asked for."""
        if not self.drawn:
            return None
        reported, threshold = self._tuned(tuned_on)
        settings = {"resamples": self.options.resamples, "seed": self.options.seed}
        return segmentation_result(reported, threshold, rule=rule, **settings)

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return every map's part in the means."""
        return segmentation_outcomes(*self._tuned(tuned_on)) if self.drawn else ()

    def rules(self) -> Mapping[str, str]:
        """Return how maps are read, and the threshold chosen."""
        if not self.questions.outlined:
            return {}
        tuned = "highest mean Dice over images that show their finding, on patients that are not reported"
        return {
            "segmentation map": "as the method gives it, not scaled by itself; also of images without the finding",
            "segmentation threshold": ON_REPORTED if self.options.on_reported else tuned,
            "segmentation thresholds to choose from": (
                f"quantiles of the maps of up to {SAMPLED} images among those that it is chosen on"
            ),
        }

    def notes(self) -> Iterator[str]:
        """Say what was left out."""
        if self.unmasked:
            yield (
                f"{len(self.unmasked)} present findings left out of segmentation, which have no mask: "
                f"{name_some(self.unmasked)}"
            )

    def _is_known(self, record: Record, name: str) -> bool:
        """Return whether it is known of an image that it shows a finding, or that it doesn't."""
        drawn = name in drawn_findings(record.boxes, record.masks)
        label = record.labels.get(name, "present" if drawn else None)
        return label == "present" or (label == "absent" and not drawn)

    def _draw(self, record: Record, name: str, heat: NDArray[np.float32]) -> None:
        checked_map(heat, name)
        shape = record.image.shape
        mask = paint_masks((mask for mask in record.masks if mask.pathology == name), shape)
        if mask.any():
            self.drawn.append(_Drawn(name, record.patient, heat, np.packbits(mask), shape))
        elif record.labels.get(name) == "absent":  # whether anything is called there shows at the map's own size
            self.drawn.append(_Drawn(name, record.patient, heat, None, shape))
        else:
            self.unmasked.append(f"{record.id}: {name}")

    def _tuned(self, tuned_on: Self | None) -> tuple[list[SegmentationCase], float]:
        """Return the judged maps that are reported, and their threshold."""
        if self._judged is None:
            self._judged = self._tune(tuned_on)
        return self._judged

    def _tune(self, tuned_on: Self | None) -> tuple[list[SegmentationCase], float]:
        source = self if tuned_on is None else tuned_on
        rows = source._samples["half" if tuned_on is None else "all"]
        values = np.concatenate([np.empty(0, np.float32), *(source._maps[row].ravel() for row in sorted(rows))]).astype(
            float
        )
        values = values[np.isfinite(values)]
        thresholds = np.quantile(values, QUANTILES) if len(values) else np.zeros(1)
        judged = [one.judge(thresholds) for one in self.drawn]
        if tuned_on is None:
            patients = np.array(self.cohort.patients)
            half = set(patients[seeded_half(self.cohort.patients, self.options.seed)].tolist())
            tuning = [one for one in judged if one.patient in half]
            judged = [one for one in judged if one.patient not in half]
        else:
            tuning = judged if tuned_on is self else [one.judge(thresholds) for one in tuned_on.drawn]
        return judged, choose_threshold([one for one in tuning if one.target])


def segmentation_case(
    heat: ArrayLike, mask: Pixels | None, finding: str, patient: str, thresholds: ArrayLike
) -> SegmentationCase:
    """Hold one map against the mask of its finding; maps come one by one and aren't kept.

    Args:
        heat: (h, w) map of any size and scale, such as probabilities; it covers the whole image.
        mask: (H, W) pixels of the image that show the finding. All False, or None, where the image doesn't show it; None
            judges the map at its own size.
        finding: its name.
        patient: whose image it is.
        thresholds: rising, (K,), on the scale of the map; such as `np.linspace(0.01, 0.99, 99)` for probabilities.

    Raises:
        MedLIPError: the map or the mask is no (h, w) array, the map is not finite, or thresholds don't rise.
    """
    heat, thresholds = checked_map(heat, finding), np.asarray(thresholds, float)
    if thresholds.ndim != 1 or not len(thresholds) or not (np.diff(thresholds) >= 0).all():
        raise MedLIPError("thresholds must be (K,) numbers that rise, at least one.")
    mask = np.zeros(heat.shape, bool) if mask is None else np.asarray(mask, bool)
    if mask.ndim != 2:
        raise MedLIPError(f"the mask of {finding} has shape {mask.shape}: it must be (H, W).")
    predicted, intersection = overlap_counts(enlarge(heat, (mask.shape[0], mask.shape[1])), mask, thresholds)
    return SegmentationCase(finding, patient, thresholds, predicted, intersection, int(mask.sum()), mask.size)


def choose_threshold(cases: Sequence[SegmentationCase]) -> float:
    """Return the threshold with the highest mean Dice over cases, the lowest among equals; NaN without any.

    Images that don't show the finding count as in `dice_all`; hand over only those that do for the best `dice_positives`.

    Raises:
        MedLIPError: they were judged at different thresholds.
    """
    if not cases:
        return np.nan
    return float(_thresholds(cases)[np.mean([case.dice for case in cases], axis=0).argmax()])


def segmentation_result(
    cases: Sequence[SegmentationCase], threshold: float, *, rule: str, resamples: int = 1000, seed: int = 0
) -> SegmentationResult:
    """Return Dice in both conventions and IoU with intervals over patients, all of them and per finding.

    Args:
        cases: those that are reported.
        threshold: of theirs, chosen on other patients; NaN when there were none.
        rule: how the threshold was chosen, for people.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MedLIPError: they were judged at different thresholds, or this is none of theirs.
    """
    at = _index(cases, threshold)
    per_class = {}
    for name in sorted({case.finding for case in cases}):
        own = [case for case in cases if case.finding == name]
        positives = sum(case.target > 0 for case in own)
        per_class[name] = ClassResult(n=len(own), positives=positives, **_estimates(own, at, resamples, seed))
    positives = sum(case.target > 0 for case in cases)
    return SegmentationResult(
        **_estimates(cases, at, resamples, seed),
        per_class=per_class,
        threshold=number(threshold),
        threshold_rule=rule,
        n_positives=positives,
        n_negatives=len(cases) - positives,
    )


def segmentation_outcomes(cases: Sequence[SegmentationCase], threshold: float) -> list[Outcomes]:
    """Return every map's part in the means of `segmentation_result`, which takes the same."""
    at = _index(cases, threshold)
    if at is None:
        return []
    return [
        Outcomes(
            f"{Segmentation.name}/{each.name}",
            [case.finding for case in counted],
            [pseudonym(case.patient) for case in counted],
            values,
        )
        for each in Segmentation.measures
        for counted, values in [_values(each.name, cases, at)]
    ]


def _values(name: str, cases: Sequence[SegmentationCase], at: int | None) -> tuple[Sequence[SegmentationCase], Array]:
    """Return the cases that a measure counts, and its value for each; none for want of a threshold."""
    counted = cases if name == "dice_all" else [case for case in cases if case.target]
    overlaps = () if at is None else ((case.iou if name == "iou" else case.dice)[at] for case in counted)
    return counted, np.array(list(overlaps), float)


def _estimates(cases: Sequence[SegmentationCase], at: int | None, resamples: int, seed: int) -> dict[str, Estimate]:
    estimates = {}
    for each in Segmentation.measures:
        counted, values = _values(each.name, cases, at)
        if each.name == "dice_all":
            chances = np.array([float(not case.target) for case in counted])
        else:
            shares = np.array([case.target / case.pixels for case in counted])
            chances = shares if each.name == "iou" else 2 * shares / (1 + shares)
        if counted and not len(values):
            reason = "there is no image to choose a threshold on"
            estimates[each.name] = Estimate.of(np.nan, chance=float(chances.mean()), n=len(counted), reason=reason)
        else:
            estimates[each.name] = mean_estimate(
                values,
                [case.patient for case in counted],
                chance=chances,
                resamples=resamples,
                seed=seed,
                reason="no image shows it",
            )
    return estimates


def _spread(rows: NDArray[np.int64]) -> frozenset[int]:
    """Return up to `SAMPLED` rows, evenly spread."""
    if not len(rows):
        return frozenset()
    return frozenset(rows[np.linspace(0, len(rows) - 1, SAMPLED).round().astype(int)].tolist())


def _index(cases: Sequence[SegmentationCase], threshold: float) -> int | None:
    """Return which of the maps' thresholds it is; None of no map or for NaN."""
    if not cases or np.isnan(threshold):
        return None
    distance = np.abs(_thresholds(cases) - threshold)
    at = int(distance.argmin())
    if distance[at] > 1e-9 * max(1.0, abs(threshold)):
        raise MedLIPError(f"threshold={threshold} is none of those that maps were judged at. Choose one of them.")
    return at


def _thresholds(cases: Sequence[SegmentationCase]) -> Array:
    first = cases[0].thresholds
    if not all(case.thresholds is first or np.array_equal(case.thresholds, first) for case in cases):
        raise MedLIPError("maps were judged at different thresholds: judge all of them at the same ones.")
    return first
