"""How well asking for a finding by its name or words ranks and classifies images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlip.evaluation.subgroups import subgroup_results
from medlip.metrics.classification import (
    Array,
    accuracy,
    best_threshold,
    bootstrap,
    brier,
    calibration_error,
    f1,
    interval,
    mean_defined,
    number,
    ranking_statistic,
    sensitivity_at_specificity,
)

MINIMUM_POSITIVES = 5
"""A class with fewer positives is reported but left out of the macro average: its AUROC is mostly noise."""

SPECIFICITY = 0.9
"""At which the sensitivity is reported."""

SENSITIVITY = f"sensitivity_at_{100 * SPECIFICITY:.0f}_specificity"


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


def zero_shot_result(
    classes: Sequence[str],
    scores: Array,
    labels: Array,
    patients: Sequence[str],
    tuning: Tuning,
    attributes: Mapping[str, Sequence[str]] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return AUROC and AUPRC with intervals over patients, F1 and accuracy at the tuned thresholds and more, ready for JSON.

    A number that is undefined is null, with a `reason` beside it. A macro average is the plain mean over classes with at
    least `MINIMUM_POSITIVES` positives and a negative; where one of them has no value, `undefined_in_macro` names it. In a
    resample that happens to draw no positive of a class, it is the mean over the others.

    Args:
        classes: C names.
        scores: (N, C) probabilities.
        labels: (N, C): 1, 0, or NaN for unknown.
        patients: whose images they are, (N,).
        tuning: where thresholds come from.
        attributes: sex, age, view, (N,) each; `subgroups` holds the results by them.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    ranking = ranking_statistic(scores, labels)
    areas, precisions = ranking(np.ones((1, len(scores))))[0]
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    left_out = {
        name: f"{n_positive} positives, fewer than {MINIMUM_POSITIVES}" if n_positive < MINIMUM_POSITIVES else "no negative"
        for name, n_positive, n_negative in zip(classes, positives, negatives, strict=True)
        if n_positive < MINIMUM_POSITIVES or n_negative == 0
    }
    in_macro = np.array([name not in left_out for name in classes], bool)

    def statistic(weights: Array) -> Array:
        values = ranking(weights)
        macro = [mean_defined(values[:, kind][:, in_macro]) for kind in (0, 1)]
        return np.concatenate([values, np.stack(macro, axis=1)[..., None]], axis=2)

    low, high = bootstrap(statistic, patients, resamples, seed)
    thresholds = best_threshold(tuning.scores, tuning.labels)
    reported = scores[tuning.reported], labels[tuning.reported]
    measures = {
        "auroc": areas,
        "auprc": precisions,
        "f1": f1(*reported, thresholds),
        "accuracy": accuracy(*reported, thresholds),
        SENSITIVITY: sensitivity_at_specificity(scores, labels, SPECIFICITY),
        "brier": brier(scores, labels),
        "calibration_error": calibration_error(scores, labels),
    }
    per_class = {
        name: {measure: number(values[c]) for measure, values in measures.items()}
        | {
            "interval": interval(low[0, c], high[0, c]),
            "auprc_interval": interval(low[1, c], high[1, c]),
            "threshold": number(thresholds[c]),
            "positives": int(positives[c]),
            "n": int(positives[c] + negatives[c]),
        }
        | _reason(scores[:, c], labels[:, c], tuning.labels[:, c], labels[tuning.reported, c])
        for c, name in enumerate(classes)
    }
    macro = {f"macro_{name}": number(mean_defined(values[None, in_macro])[0]) for name, values in measures.items()}
    undefined = {
        measure: names
        for measure, values in measures.items()
        if (names := [name for c, name in enumerate(classes) if in_macro[c] and np.isnan(values[c])])
    }
    groups = attributes or {}
    settings = {"minimum": MINIMUM_POSITIVES, "resamples": resamples, "seed": seed}
    return {
        "macro_auroc": macro.pop("macro_auroc"),
        "interval": interval(low[0, -1], high[0, -1]),
        "chance": 0.5,
        **macro,
        "macro_auprc_interval": interval(low[1, -1], high[1, -1]),
        **({} if in_macro.any() else {"reason": "no class has enough positives and a negative"}),
        "classes_in_macro": [name for name in classes if name not in left_out],
        "left_out_of_macro": left_out,
        "undefined_in_macro": undefined,
        "threshold_rule": tuning.rule,
        "n_tuning": len(tuning.labels),
        "n_at_threshold": int(tuning.reported.sum()),
        "per_class": per_class,
        "subgroups": subgroup_results(classes, scores, labels, patients, groups, **settings),
    }


def _reason(scores: Array, labels: Array, tuning_labels: Array, reported_labels: Array) -> dict[str, str]:
    """Return why numbers of a class are null, {} when none is."""
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
    return {"reason": "; ".join(lacks)} if lacks else {}
