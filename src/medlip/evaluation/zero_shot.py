"""How well asking for a finding by its name or words ranks and classifies images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlip.evaluation.metrics import (
    Array,
    accuracy,
    auprc,
    auroc,
    auroc_statistic,
    best_threshold,
    bootstrap,
    f1,
    interval,
    number,
)

MINIMUM_POSITIVES = 5
"""A class with fewer positives is reported but left out of the macro average: its AUROC is mostly noise."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What thresholds are chosen on: images whose patients are not among those that F1 and accuracy count.

    Attributes:
        scores: (M, C).
        labels: (M, C), as in `medlip.evaluation.metrics`.
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
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return AUROC with intervals over patients, and F1 and accuracy at the tuned thresholds, ready for JSON.

    A number that is undefined is null, with a `reason` beside it. The macro average is the plain mean over classes with at
    least `MINIMUM_POSITIVES` positives and a negative; in a resample that happens to draw no positive of a class, over the
    others.

    Args:
        classes: C names.
        scores: (N, C) probabilities.
        labels: (N, C): 1, 0, or NaN for unknown.
        patients: whose images they are, (N,).
        tuning: where thresholds come from.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    areas, precisions = auroc(scores, labels), auprc(scores, labels)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    left_out = {
        name: f"{n_positive} positives, fewer than {MINIMUM_POSITIVES}" if n_positive < MINIMUM_POSITIVES else "no negative"
        for name, n_positive, n_negative in zip(classes, positives, negatives, strict=True)
        if n_positive < MINIMUM_POSITIVES or n_negative == 0
    }
    in_macro = np.array([name not in left_out for name in classes], bool)
    per_class_statistic = auroc_statistic(scores, labels)

    def statistic(weights: Array) -> Array:
        values = per_class_statistic(weights)
        return np.column_stack([values, _mean_defined(values[:, in_macro])])

    low, high = bootstrap(statistic, patients, resamples, seed)
    thresholds = best_threshold(tuning.scores, tuning.labels)
    f1s, accuracies = (metric(scores[tuning.reported], labels[tuning.reported], thresholds) for metric in (f1, accuracy))
    per_class = {
        name: {
            "auroc": number(areas[c]),
            "interval": interval(low[c], high[c]),
            "auprc": number(precisions[c]),
            "f1": number(f1s[c]),
            "accuracy": number(accuracies[c]),
            "threshold": number(thresholds[c]),
            "positives": int(positives[c]),
            "n": int(positives[c] + negatives[c]),
        }
        | _reason(labels[:, c], tuning.labels[:, c], labels[tuning.reported, c])
        for c, name in enumerate(classes)
    }
    macro = {
        name: number(_mean_defined(values[None, in_macro])[0])
        for name, values in (("macro_auroc", areas), ("macro_f1", f1s), ("macro_accuracy", accuracies))
    }
    return {
        "macro_auroc": macro.pop("macro_auroc"),
        "interval": interval(low[-1], high[-1]),
        "chance": 0.5,
        **macro,
        **({} if in_macro.any() else {"reason": "no class has enough positives and a negative"}),
        "classes_in_macro": [name for name in classes if name not in left_out],
        "left_out_of_macro": left_out,
        "threshold_rule": tuning.rule,
        "n_tuning": len(tuning.labels),
        "n_at_threshold": int(tuning.reported.sum()),
        "per_class": per_class,
    }


def _mean_defined(values: Array) -> Array:
    """Return the mean of each row over what is not NaN, NaN where nothing is."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1)
    mean: Array = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean


def _reason(labels: Array, tuning_labels: Array, reported_labels: Array) -> dict[str, str]:
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
    return {"reason": "; ".join(lacks)} if lacks else {}
