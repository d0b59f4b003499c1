"""How good a method is on women and men, young and old, by view: AUROC of each group over the same classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from medlip.evaluation.selection import ATTRIBUTES
from medlip.metrics import Array, Estimate, auroc, auroc_statistic, bootstrap, carriers_of_mean, mean_defined, number

AGE_BANDS = ((0, "under 40"), (40, "40 to 59"), (60, "60 to 79"), (80, "80 and over"))  # from which age on
SEXES = {"f": "female", "m": "male"}


class GroupResult(BaseModel):
    """One group of images.

    Attributes:
        n: its images.
        n_patients: whose they are.
        macro_auroc: mean over the classes of the comparison.
        auroc: of each class, None where it isn't defined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    n_patients: int
    macro_auroc: Estimate
    auroc: dict[str, float | None]


class AttributeResult(BaseModel):
    """The groups of one attribute, compared over the same classes.

    Attributes:
        classes: of the comparison.
        groups: by name.
        left_out: groups that have too few usable classes, with reasons.
        unknown: images without a known value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: list[str]
    groups: dict[str, GroupResult]
    left_out: dict[str, str]
    unknown: int


def group_of(attribute: str, value: str) -> str:
    """Return the group of one image, "" for unknown: "female", "40 to 59", or the view itself.

    >>> group_of("sex", "F"), group_of("age", "058Y"), group_of("age", "6M"), group_of("view", "PA")
    ('female', '40 to 59', 'under 40', 'PA')
    """
    value = value.strip()
    if attribute == "sex":
        return SEXES.get(value[:1].lower(), "")
    if attribute == "age":
        found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([YMWD]?)", value, re.IGNORECASE)
        if found is None:
            return ""
        years = float(found[1]) if found[2].upper() in ("", "Y") else 0
        return [name for start, name in AGE_BANDS if years >= start][-1]
    return value


def subgroup_results(
    classes: Sequence[str],
    scores: Array,
    labels: Array,
    patients: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    *,
    minimum: int,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, AttributeResult]:
    """Return AUROC by group of every attribute that splits the images.

    Groups of one attribute are compared over the same classes: those with at least `minimum` positives and a negative in
    each of them. A group that has fewer than half of the usable classes is left out, and said to be.

    Args:
        classes: C names.
        scores: (N, C).
        labels: (N, C): 1, 0, or NaN for unknown.
        patients: (N,).
        attributes: (N,) values by name, "" for unknown; see `ATTRIBUTES`.
        minimum: positives that a class needs in a group.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    results = {}
    for attribute in ATTRIBUTES:
        groups = np.array([group_of(attribute, value) for value in attributes.get(attribute, ())])
        names = sorted(set(groups) - {""})
        if len(names) < 2:
            continue
        usable = {name: _usable(labels[groups == name], minimum) for name in names}
        enough = np.any(list(usable.values()), axis=0).sum() / 2
        kept = [name for name in names if usable[name].sum() >= max(1, enough)]
        shared = np.all([usable[name] for name in kept], axis=0) if kept else np.zeros(len(classes), bool)
        results[attribute] = AttributeResult(
            classes=[name for name, used in zip(classes, shared, strict=True) if used],
            groups={
                name: _group(groups == name, classes, shared, scores, labels, patients, resamples, seed) for name in kept
            },
            left_out={
                name: f"{usable[name].sum()} of {len(classes)} classes have {minimum} positives and a negative among its "
                f"{(groups == name).sum()} images"
                for name in names
                if name not in kept
            },
            unknown=int((groups == "").sum()),
        )
    return results


def _usable(labels: Array, minimum: int) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = ((labels == 1).sum(axis=0) >= minimum) & (labels == 0).any(axis=0)
    return usable


def _group(
    members: NDArray[np.bool_],
    classes: Sequence[str],
    shared: NDArray[np.bool_],
    scores: Array,
    labels: Array,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> GroupResult:
    scores, labels, own = scores[members], labels[members], np.asarray(patients)[members]
    areas, statistic = auroc(scores, labels), auroc_statistic(scores[:, shared], labels[:, shared])
    low, high = bootstrap(
        lambda weights: mean_defined(statistic(weights)),
        own,
        resamples,
        seed,
        shares=True,
        carriers=carriers_of_mean(labels[:, shared], own),
    )
    return GroupResult(
        n=int(members.sum()),
        n_patients=len(set(own.tolist())),
        macro_auroc=Estimate.of(float(mean_defined(areas[None, shared])[0]), float(low), float(high), chance=0.5),
        auroc={name: number(area) for name, area in zip(classes, areas, strict=True)},
    )
