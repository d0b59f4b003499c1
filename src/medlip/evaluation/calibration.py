"""How a model's scores become probabilities that hold, which thresholds have a stated sensitivity, what it knows of places.

All of it is told by data that the model wasn't trained on, and kept beside the weights in one file. The truth is what the
data labels; or, without labels, what its reports state: a finding is there when the report says that it is present, and not
when the report denies it or doesn't mention it; where the report leaves it open the image doesn't count. A probability is
then that of being reported.

What the file says of itself (calibration error after, sensitivity, specificity) is measured on patients that the curve and
the threshold in question were not made of: they are made five times, each time without a fifth of the patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from medlip.errors import MedLIPError, first_problem
from medlip.evaluation.driver import ask_all, inference
from medlip.evaluation.provenance import provenance
from medlip.evaluation.selection import (
    Cohort,
    EvaluationOptions,
    Questions,
    canonical_prompts,
    cohort_of,
    label_matrix,
    resolve_prompts,
    select_split,
)
from medlip.evaluation.tasks.base import ImageBatch, Task
from medlip.evaluation.tasks.places import Places, places_result
from medlip.evaluation.tasks.zero_shot import ZeroShot
from medlip.files import write_atomic
from medlip.images.frontal import appearance
from medlip.methods.base import views_of
from medlip.metrics import Array, Estimate, brier, calibration_error, mean_estimate
from medlip.metrics.recalibration import Kind, OperatingCurve, Recalibration, fit

if TYPE_CHECKING:
    from medlip.data.store import Record, Store
    from medlip.methods.base import Answers, Method
    from medlip.reports import Fact

SCHEMA_VERSION = 1
FEWEST = 5
"""Images with a finding, and without it, that calibrating it takes."""
FOLDS = 5
MANY = 1000, 100
"""Images, and of these positives and negatives each, from which an isotonic curve is chosen over a logistic one."""
LOOKED_AT = 100
"""Images from which their appearance is told."""
FAR = 1.25
"""Times the distance that one image in a hundred is beyond: farther than that is unlike the others."""
SIDED = 20
"""Cases from which a finding's own share of right sides decides, and not that of all findings together."""

Truth = Literal["labels", "reports"]
_TRUTHS: Mapping[Truth, str] = {
    "labels": "the labels of the data; unknown and uncertain ones don't count",
    "reports": "present as the reports state it, against denied or not mentioned; what they leave open doesn't count",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OperatingPoint(_Part):
    """Which threshold is wanted: the one with a stated sensitivity, or specificity, and the most of the other.

    Attributes:
        measure: which of the two is stated.
        value: of it, from 0 to 1.
    """

    measure: Literal["sensitivity", "specificity"]
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "sensitivity=0.9".

        Raises:
            MedLIPError: it says something else.
        """
        measure, _, value = text.partition("=")
        known = get_args(cls.model_fields["measure"].annotation)
        try:
            share = float(value)
        except ValueError:
            share = np.nan
        if measure.strip() not in known or not 0 <= share <= 1:
            raise MedLIPError(f"{text!r} is no operating point. Give sensitivity=0.9 or specificity=0.9, with your number.")
        return cls(measure=measure.strip(), value=share)

    def __str__(self) -> str:
        return f"{self.measure}={self.value:g}"


class Appearance(_Part):
    """How the images of some data look: the middle and the spread of a few numbers, and how far from it is too far.

    Attributes:
        middle: mean of the numbers, (K,).
        precision: inverse of their covariance, (K, K).
        limit: a Mahalanobis distance beyond that of nearly all of the images.
    """

    middle: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    @classmethod
    def of(cls, looks: Array) -> Self:
        """Return the appearance of images, by their numbers (N, K)."""
        middle = looks.mean(0)
        covariance = np.cov(looks.T) + 0.05 * np.diag(looks.var(0) + 1e-3)
        precision = np.linalg.inv(covariance)
        far = np.einsum("nk,kl,nl->n", looks - middle, precision, looks - middle)
        limit = FAR * float(np.sqrt(np.quantile(far, 0.99)))
        return cls(middle=tuple(middle.tolist()), precision=tuple(map(tuple, precision.tolist())), limit=limit)

    def is_far(self, look: Array) -> bool:
        """Whether an image looks unlike the others, by its numbers (K,)."""
        away = look - self.middle
        return bool(np.sqrt(away @ np.array(self.precision) @ away) > self.limit)


class CalibratedFinding(_Part):
    """What is known of one finding.

    Attributes:
        images: of which the truth is known.
        positives: those of them with the finding.
        curve: from the model's score to a probability; None where there were too few images.
        operating: thresholds on that probability; None likewise.
        calibration_error_before: of the scores themselves.
        calibration_error_after: of the probabilities.
        brier_before: mean squared error of the scores.
        brier_after: of the probabilities.
        sensitivity: at the threshold that was asked for when calibrating.
        specificity: likewise.
        side: how often the stated side is the more probable one.
        reason: why there is no curve, "" where there is.
    """

    images: int
    positives: int
    curve: Recalibration | None = None
    operating: OperatingCurve | None = None
    calibration_error_before: Estimate | None = None
    calibration_error_after: Estimate | None = None
    brier_before: Estimate | None = None
    brier_after: Estimate | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    side: Estimate | None = None
    reason: str = ""


class Calibration(_Part):
    """What `calibrate` found of a model on some data: the content of `calibration.json` in a run's folder.

    Attributes:
        schema_version: of the file.
        model: hash of the weights that it holds for.
        data: hash of the calibration data.
        sources: where the data came from.
        split: of the data.
        images: how many there are.
        patients: whose they are.
        truth: what counted as the truth, "labels" or "reports".
        rule: the same for people.
        at: at which thresholds are taken where nothing else is asked for.
        findings: by pathology.
        appearance: of the images; None where there are fewer than `LOOKED_AT`.
        side: how often the stated side of a finding is the more probable one; chance is 0.5.
        first_place: how often the likeliest place is a stated one.
        from_memory: how often the finding's commonest place in training would be.
        versions: of what numbers depend on.
        notes: for people.
        disclaimer: not a medical device.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    data: str
    sources: tuple[str, ...]
    split: str
    images: int
    patients: int
    truth: Truth
    rule: str
    at: OperatingPoint
    findings: dict[str, CalibratedFinding]
    appearance: Appearance | None = None
    side: Estimate | None = None
    first_place: Estimate | None = None
    from_memory: Estimate | None = None
    versions: dict[str, str]
    notes: tuple[str, ...]
    disclaimer: str

    def probability(self, pathology: str, score: float) -> float | None:
        """Return the probability of a finding by the model's score; None where it isn't calibrated."""
        found = self.findings.get(pathology)
        return None if found is None or found.curve is None else float(found.curve([score])[0])

    def threshold(self, pathology: str, at: OperatingPoint | None = None) -> float | None:
        """Return from which probability on a finding is called; None where it isn't calibrated."""
        found, at = self.findings.get(pathology), at or self.at
        return None if found is None or found.operating is None else found.operating.threshold(at.measure, at.value)

    def no_side(self, pathology: str) -> str:
        """Say why no side of a finding is to be named: the data showed it no better known than by chance; else ""."""
        found = self.findings.get(pathology)
        own = found.side if found is not None and found.side is not None and (found.side.n or 0) >= SIDED else self.side
        if own is None or own.value is None or (own.interval is not None and own.interval[0] > 0.5):
            return ""
        low, high = own.interval or (0.0, 1.0)
        return f"right in {own.value:.0%} of {own.n} cases ({low:.0%} to {high:.0%}), where chance is 50 %"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: Path, model: str) -> Self:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: hash of the weights that it is to be used with.

        Raises:
            MedLIPError: it can't be read, is of another version, or was made with other weights.
        """
        again = "Run `medlip calibrate` again, or delete the file to read without it."
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            what = first_problem(error)[1] if isinstance(error, ValidationError) else error.strerror
            raise MedLIPError(f"{path}: not readable as a calibration ({what}). {again}") from error
        if found.schema_version != SCHEMA_VERSION:
            raise MedLIPError(
                f"{path}: a calibration of schema version {found.schema_version}, not {SCHEMA_VERSION}. {again}"
            )
        if found.model != model:
            raise MedLIPError(f"{path}: was made with other weights ({found.model}, the model's are {model}). {again}")
        return found


def calibrate(
    method: Method,
    store: Store,
    *,
    split: str | None = None,
    truth: Truth | None = None,
    kind: Kind | Literal["auto"] = "auto",
    at: OperatingPoint | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Calibration:
    """Fit, for every abnormal finding of a method, a probability to its score, and look at what it knows of places.

    Args:
        method: the model, on the device that it is on.
        store: data that it wasn't trained on.
        split: of the data; None for `val` where there is one, else `test`.
        truth: "labels" or "reports"; None for labels where the data has any of a finding that the method knows.
        kind: of curves; "auto" takes an isotonic one from `MANY` images on.
        at: the threshold that is used where nothing else is asked for; None for a specificity of 0.9.
        batch_size: images at a time.
        seed: of the folds, and of intervals.

    Raises:
        MedLIPError: there is no such split, or no finding with a known truth.
    """
    splits = store.splits
    name = split or ("val" if "val" in splits else "test")
    part = select_split(store, name, splits)
    training = Cohort(store.select("train"), method.vocabulary) if "train" in splits and name != "train" else None
    cohort = cohort_of(part, method.vocabulary, views_of(method), training)
    abnormal = {pathology.name for pathology in method.vocabulary.pathologies if pathology.kind == "abnormal"}
    labelled = _labels(cohort, abnormal)
    truth = truth or ("labels" if labelled else "reports")
    known = labelled if truth == "labels" else _stated(cohort, abnormal)
    if not known:
        raise MedLIPError(
            f"{store.root}: the split {name!r} has no {truth} of any finding that the model knows. "
            "Give data with labels or with reports in English."
        )
    options = EvaluationOptions(split=name, batch_size=batch_size, seed=seed)
    questions = Questions({finding: finding for finding in known}, {}, (), ())
    scored, placed = ZeroShot(cohort, questions, options), Places(cohort, questions, options)
    looks = _Looks(cohort, questions, options)
    with inference(method):
        ask_all(method, cohort, [scored, placed, looks], options, "calibrating")
    scored.predictions()  # refuses what is not finite
    at = at or OperatingPoint(measure="specificity", value=0.9)
    scores, patients = scored.scores, np.asarray(scored.patients)
    folds = _folds(patients, seed)
    places = places_result(placed.placed, seed=seed).estimates if placed.placed else {}
    findings = {
        finding: _calibrated(_Cases(scores[:, c], known[finding], patients, folds), kind, at, seed)
        for c, finding in enumerate(known)
    }
    for finding in sorted({case.finding for case in placed.placed}):
        cases = [case for case in placed.placed if case.finding == finding]
        side = places_result(cases, seed=seed)["side"]
        entry = findings.get(finding) or CalibratedFinding(images=0, positives=0, reason=f"the data has no {truth} of it")
        findings[finding] = entry.model_copy(update={"side": side if side.n else None})
    about = provenance(method, part, [])
    return Calibration(
        model=method.fingerprint,
        data=part.hash,
        sources=tuple(sorted({*cohort.store.column("source")})),
        split=name,
        images=len(cohort.studies),
        patients=len(set(cohort.patients)),
        truth=truth,
        rule=_TRUTHS[truth],
        at=at,
        findings=findings,
        appearance=Appearance.of(np.array(looks.found)) if len(cohort) >= LOOKED_AT else None,
        side=places.get("side"),
        first_place=places.get("first_place"),
        from_memory=places.get("first_place_from_memory"),
        versions=about.versions,
        notes=tuple(about.notes),
        disclaimer=about.disclaimer,
    )


class _Looks(Task):
    """How the images look that go by; asks nothing of the method."""

    name = "looks"
    title = "how images look"
    measures = ()

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.found: list[Array] = []

    def prompts(self, records: Sequence[Record]) -> Sequence[str]:
        return ()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        self.found += [appearance(record.image) for record in batch.records]

    def result(self, tuned_on: Self | None, rule: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Cases:
    """One finding in N images: the model's scores, the truth (1, 0, NaN for unknown), and each image's patient and fold."""

    scores: Array
    truth: Array
    patients: NDArray[Any]
    folds: Array

    def where(self, rows: NDArray[np.bool_]) -> _Cases:
        return _Cases(self.scores[rows], self.truth[rows], self.patients[rows], self.folds[rows])

    def parts(self) -> Iterator[tuple[_Cases, NDArray[np.bool_]]]:
        """Yield what is outside of each fold, and which rows are in it."""
        for fold in range(FOLDS):
            own = self.folds == fold
            yield self.where(~own), own


def _calibrated(all_cases: _Cases, kind: Kind | Literal["auto"], at: OperatingPoint, seed: int) -> CalibratedFinding:
    cases = all_cases.where(~np.isnan(all_cases.truth))
    images, positives = len(cases.truth), int(cases.truth.sum())
    fewer = min(positives, images - positives)
    if fewer < FEWEST:
        which = "with the finding" if positives < FEWEST else "without it"
        return CalibratedFinding(
            images=images, positives=positives, reason=f"{fewer} images {which}: at least {FEWEST} are needed"
        )
    chosen: Kind = kind if kind != "auto" else "isotonic" if images >= MANY[0] and fewer >= MANY[1] else "platt"
    curve = fit(chosen, cases.scores, cases.truth)
    if np.ptp(curve(cases.scores)) == 0:
        why = "images with the finding have no higher scores than those without it"
        return CalibratedFinding(images=images, positives=positives, reason=why)
    probabilities, called = np.full(images, np.nan), np.full(images, np.nan)
    for others, own in cases.parts():
        if not own.any() or len(np.unique(others.truth)) < 2:
            continue
        without = fit(chosen, others.scores, others.truth)
        probabilities[own] = without(cases.scores[own])
        threshold = OperatingCurve.of(without(others.scores), others.truth).threshold(at.measure, at.value)
        called[own] = probabilities[own] >= threshold
    fitted, present = ~np.isnan(probabilities), cases.truth == 1
    before, after = ((p[fitted, None], cases.truth[fitted, None]) for p in (cases.scores, probabilities))
    return CalibratedFinding(
        images=images,
        positives=positives,
        curve=curve,
        operating=OperatingCurve.of(curve(cases.scores), cases.truth),
        calibration_error_before=Estimate.of(float(calibration_error(*before)[0]), n=int(fitted.sum())),
        calibration_error_after=Estimate.of(float(calibration_error(*after)[0]), n=int(fitted.sum())),
        brier_before=Estimate.of(float(brier(*before)[0]), n=int(fitted.sum())),
        brier_after=Estimate.of(float(brier(*after)[0]), n=int(fitted.sum())),
        sensitivity=mean_estimate(called[present], cases.patients[present], seed=seed),
        specificity=mean_estimate(1 - called[~present], cases.patients[~present], seed=seed),
    )


def _folds(patients: NDArray[Any], seed: int) -> Array:
    """Return the fold of each image, (N,): all images of a patient are in one."""
    names, where = np.unique(patients, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(names))[where] % FOLDS)


def _labels(cohort: Cohort, abnormal: set[str]) -> dict[str, Array]:
    """Return the labels of each pathology that the data labels, (N,), by its own name."""
    names = sorted({name for labels in cohort.labels for name in labels})
    canonical = canonical_prompts(resolve_prompts(names, None, cohort.vocabulary), cohort.vocabulary)
    matrix = label_matrix(cohort.study_labels, list(canonical))
    found: dict[str, Array] = {}
    for column, pathology in enumerate(canonical.values()):
        if pathology in abnormal and not np.isnan(matrix[:, column]).all():
            found.setdefault(pathology, matrix[:, column])
    return found


def _stated(cohort: Cohort, abnormal: set[str]) -> dict[str, Array]:
    """Return what reports state of each abnormal pathology that any of them mentions, (N,)."""
    names = sorted({fact.pathology for facts in cohort.facts for fact in facts} & abnormal)
    reports = cohort.of_studies(cohort.store.column("report"))
    found = {name: np.full(len(reports), np.nan) for name in names}
    for row, (facts, report) in enumerate(zip(cohort.study_facts, reports, strict=True)):
        if report or facts:
            for name in names:
                found[name][row] = _of_one(facts, name)
    return found


def _of_one(facts: Sequence[Fact], pathology: str) -> float:
    presences = {fact.presence for fact in facts if fact.pathology == pathology}
    return 1.0 if "present" in presences else np.nan if "uncertain" in presences else 0.0
