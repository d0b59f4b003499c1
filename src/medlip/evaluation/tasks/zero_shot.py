"""How well asking for a finding by its name or words ranks and classifies images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from medlip.data.overlap import pseudonym
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.selection import ON_REPORTED, Cohort, EvaluationOptions, Questions, label_matrix, seeded_half
from medlip.evaluation.subgroups import AttributeResult, subgroup_results
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import AddedMeasure, ImageBatch, Task, added_measures, register_task
from medlip.metrics import (
    Array,
    Estimate,
    Measure,
    accuracy,
    best_threshold,
    bootstrap,
    brier,
    calibration_error,
    carriers_of_classes,
    carriers_of_mean,
    f1,
    mean_defined,
    number,
    ranking_statistic,
    sensitivity_at_specificity,
)

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers

MINIMUM_POSITIVES = 5
"""A class with fewer positives is reported but left out of the macro average: its AUROC is mostly noise."""

SPECIFICITY = 0.9
"""At which the sensitivity is reported."""

SENSITIVITY = f"sensitivity_at_{100 * SPECIFICITY:.0f}_specificity"
RANKINGS = ("macro_auroc", "macro_auprc")
"""The measures that `medlip.metrics.ranking_statistic` gives, in its order."""


class ZeroShotResult(TaskResult):
    """Classification by prompts; estimates of the whole are means over classes.

    Attributes:
        classes_in_macro: classes that the means are over: at least `MINIMUM_POSITIVES` positives and a negative.
        left_out_of_macro: the other classes, with reasons.
        undefined_in_macro: classes of the mean for which a measure isn't defined, by the measure's name by class.
        n_tuning: images that thresholds are chosen on.
        n_at_threshold: images that F1 and accuracy count.
        subgroups: the AUROC by sex, age and view, where the data tells them.
    """

    classes_in_macro: list[str]
    left_out_of_macro: dict[str, str]
    undefined_in_macro: dict[str, list[str]]
    n_tuning: int
    n_at_threshold: int
    subgroups: dict[str, AttributeResult]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What thresholds are chosen on: images whose patients are not among those that F1 and accuracy count.

    Attributes:
        scores: (M, C).
        labels: (M, C), as in `medlip.metrics.classification`.
        reported: (N,) which of the evaluated images F1 and accuracy count.
        rule: where the M images come from, for people.
    """

    scores: Array
    labels: Array
    reported: NDArray[np.bool_]
    rule: str


@register_task
class ZeroShot(Task):
    """Does the score of a prompt tell images with the finding from those without?"""

    name = "zero_shot"
    title = "zero-shot classification"
    measures = (
        Measure("macro_auroc", "AUROC", chance="any order of the images"),
        Measure("macro_auprc", "AUPRC", chance="share of positives"),
        Measure("macro_f1", "F1"),
        Measure("macro_accuracy", "accuracy"),
        Measure(f"macro_{SENSITIVITY}", f"sensitivity at {SPECIFICITY:g} specificity"),
        Measure("macro_brier", "Brier", better="lower"),
        Measure("macro_calibration_error", "calibration error", better="lower"),
    )
    result_type = ZeroShotResult
    tunes = True
    extensible = "scores (N,) and labels (N,) of one class"

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        self.of_images = np.empty((len(cohort), len(questions.classes)))

    @property
    def scores(self) -> Array:
        """What the method gives, (N, C): of every image, or once of each study whose views are read together."""
        return self.of_images[self.cohort.first_rows]

    @property
    def labels(self) -> Array:
        """What the data says of each class, (N, C): 1, 0, or NaN for unknown."""
        return label_matrix(self.cohort.study_labels, list(self.questions.classes))

    @property
    def patients(self) -> list[str]:
        """Whose they are, (N,)."""
        return self.cohort.of_studies(self.cohort.patients)

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Sex, age and view, (N,) each."""
        return {name: self.cohort.of_studies(values) for name, values in self.cohort.attributes.items()}

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return the prompts of all classes, always: what an image gets may not depend on its neighbours."""
        return self.questions.classes.values()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Keep the scores."""
        columns = batch.columns_of(self.questions.classes.values())
        self.of_images[batch.rows.start : batch.rows.stop] = answers.scores.float().numpy()[:, columns]

    def predictions(self) -> Predictions:
        """Return the scores with what they are scores of, patients told apart but not named.

        Raises:
            MedLIPError: a score is not finite; names its image and class.
        """
        ids, patients = self.cohort.of_studies(self.cohort.ids), [pseudonym(patient) for patient in self.patients]
        return Predictions(ids, patients, list(self.questions.classes), self.scores, self.labels, self.attributes)

    def result(self, tuned_on: Self | None, rule: str) -> ZeroShotResult | None:
        """Return the numbers; None where the data labels nothing that is asked for."""
        if not self.questions.classes:
            return None
        self.predictions()  # refuses what is not finite
        scores, labels, patients = self.scores, self.labels, self.patients
        if tuned_on is not None:
            tuned_on.predictions()
            tuning = Tuning(tuned_on.scores, tuned_on.labels, np.ones(len(labels), bool), rule)
        else:
            half = seeded_half(patients, self.options.seed)
            tuning = Tuning(scores[half], labels[half], ~half, rule)
        return zero_shot_result(
            list(self.questions.classes),
            scores,
            labels,
            patients,
            tuning,
            self.attributes,
            resamples=self.options.resamples,
            seed=self.options.seed,
        )

    def rules(self) -> Mapping[str, str]:
        """Return how classes are averaged, and thresholds chosen."""
        tuned = "highest F1 of each class, on patients that are not reported"
        return {
            "macro": f"mean AUROC over classes with at least {MINIMUM_POSITIVES} positives and a negative",
            SENSITIVITY: "a point of the ROC curve of what is evaluated",
            "calibration_error": "15 equally wide bins of each class's probability",
            "classification threshold": ON_REPORTED if self.options.on_reported else tuned,
        }

    def notes(self) -> Iterator[str]:
        """Say that there was nothing to classify."""
        if not self.questions.classes:
            yield "no zero-shot result: the data has no labels"

    def save(self, folder: Path, tuned_on: Self | None) -> None:
        """Write the scores of every image, which `medlip compare` reads."""
        self.predictions().save(folder / PREDICTIONS)


def zero_shot_result(
    classes: Sequence[str],
    scores: Array,
    labels: Array,
    patients: Sequence[str],
    tuning: Tuning,
    attributes: Mapping[str, Sequence[str]] | None = None,
    *,
    left_out: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> ZeroShotResult:
    """Return AUROC and AUPRC with intervals over patients, F1 and accuracy at the tuned thresholds and more.

    A macro average is the plain mean over classes with at least `MINIMUM_POSITIVES` positives and a negative; where one of
    them has no value, `undefined_in_macro` names it. In a resample that happens to draw no positive of a class, it is the
    mean over the others.

    Args:
        classes: C names.
        scores: (N, C) probabilities.
        labels: (N, C): 1, 0, or NaN for unknown.
        patients: whose images they are, (N,).
        tuning: where thresholds come from.
        attributes: sex, age, view, (N,) each; `subgroups` holds the results by them.
        left_out: classes to leave out of the means whatever their labels, with reasons.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    ranking = ranking_statistic(scores, labels)
    areas, precisions = ranking(np.ones((1, len(scores))))[0]
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    left_out = dict(left_out or {}) | {
        name: f"{n_positive} positives, fewer than {MINIMUM_POSITIVES}" if n_positive < MINIMUM_POSITIVES else "no negative"
        for name, n_positive, n_negative in zip(classes, positives, negatives, strict=True)
        if n_positive < MINIMUM_POSITIVES or n_negative == 0
    }
    in_macro = np.array([name not in left_out for name in classes], bool)

    def statistic(weights: Array) -> Array:
        values = ranking(weights)
        macro = [mean_defined(values[:, kind][:, in_macro]) for kind in (0, 1)]
        return np.concatenate([values, np.stack(macro, axis=1)[..., None]], axis=2)

    carriers = [*carriers_of_classes(labels, patients), carriers_of_mean(labels[:, in_macro], patients)]
    low, high = bootstrap(statistic, patients, resamples, seed, shares=True, carriers=carriers)
    thresholds = best_threshold(tuning.scores, tuning.labels)
    reported = scores[tuning.reported], labels[tuning.reported]
    shares = np.divide(positives, positives + negatives, out=np.full(len(classes), np.nan), where=positives + negatives > 0)
    undefined = np.full(len(classes) + 1, np.nan)
    values = {
        "macro_auroc": areas,
        "macro_auprc": precisions,
        "macro_f1": f1(*reported, thresholds),
        "macro_accuracy": accuracy(*reported, thresholds),
        f"macro_{SENSITIVITY}": sensitivity_at_specificity(scores, labels, SPECIFICITY),
        "macro_brier": brier(scores, labels),
        "macro_calibration_error": calibration_error(scores, labels),
    }
    named = {each.name: each for each in ZeroShot.measures}
    for added in added_measures(ZeroShot.name):
        named[added.measure.name] = added.measure
        values[added.measure.name] = _by_class(added, scores, labels)
    ends = {"macro_auroc": (low[0], high[0]), "macro_auprc": (low[1], high[1])}
    chances = {"macro_auroc": np.full(len(classes), 0.5), "macro_auprc": shares}
    reasons = [
        _reason(scores[:, c], labels[:, c], tuning.labels[:, c], labels[tuning.reported, c]) for c in range(len(classes))
    ]

    def estimate(name: str, c: int) -> Estimate:
        """Return the estimate of one class."""
        (lower, upper), chance = ends.get(name, (undefined, undefined)), chances.get(name, undefined)
        value = values[name][c]
        reason = (reasons[c] or "not defined for this class") if np.isnan(value) else None
        return Estimate.of(value, lower[c], upper[c], chance=chance[c], reason=reason)

    def mean(name: str) -> Estimate:
        """Return the estimate of the mean over classes."""
        (lower, upper), chance = ends.get(name, (undefined, undefined)), chances.get(name, undefined[:-1])
        value = float(mean_defined(values[name][None, in_macro])[0])
        reason = None
        if np.isnan(value):
            reason = (
                "not defined for any of its classes" if in_macro.any() else "no class has enough positives and a negative"
            )
        guess = 0.5 if name == "macro_auroc" else float(mean_defined(chance[None, in_macro])[0])
        return Estimate.of(value, lower[-1], upper[-1], chance=guess, reason=reason)

    return ZeroShotResult(
        **{name: mean(name) for name in values},
        per_class={
            name: ClassResult(
                n=int(positives[c] + negatives[c]),
                positives=int(positives[c]),
                threshold=number(thresholds[c]),
                **{named[each].class_name: estimate(each, c) for each in values},
            )
            for c, name in enumerate(classes)
        },
        classes_in_macro=[name for name in classes if name not in left_out],
        left_out_of_macro=left_out,
        undefined_in_macro={
            named[each].class_name: names
            for each, found in values.items()
            if (names := [name for c, name in enumerate(classes) if in_macro[c] and np.isnan(found[c])])
        },
        threshold_rule=tuning.rule,
        n_tuning=len(tuning.labels),
        n_at_threshold=int(tuning.reported.sum()),
        subgroups=subgroup_results(
            classes, scores, labels, patients, attributes or {}, minimum=MINIMUM_POSITIVES, resamples=resamples, seed=seed
        ),
    )


def _by_class(added: AddedMeasure, scores: Array, labels: Array) -> Array:
    """Return a measure from outside of each class, (C,); NaN for a class without a positive or without a negative."""
    values = np.full(len(labels.T), np.nan)
    for c, (own_scores, own_labels) in enumerate(zip(scores.T, labels.T, strict=True)):
        known = ~np.isnan(own_labels)
        if len(set(own_labels[known].tolist())) == 2:
            values[c] = float(added.function(own_scores[known], own_labels[known]))
    return values


def _reason(scores: Array, labels: Array, tuning_labels: Array, reported_labels: Array) -> str:
    """Return why numbers of a class are undefined, "" when none is."""
    needs: list[tuple[str, Array, Sequence[int]]] = [
        ("the evaluated images", labels, (1, 0)),
        ("the images that thresholds are chosen on", tuning_labels, (1, 0)),
    ]
    if (labels == 1).any():
        needs.append(("the images that F1 counts", reported_labels, (1,)))
    names = {1: "positive", 0: "negative"}
    lacks = [
        f"no {' and no '.join(missing)} among {where}"
        for where, values, wanted in needs
        if (missing := [names[value] for value in wanted if not (values == value).any()])
    ]
    known = scores[~np.isnan(labels)]
    if ((known < 0) | (known > 1)).any():
        lacks.append("scores outside of 0..1 are no probabilities")
    return "; ".join(lacks)
