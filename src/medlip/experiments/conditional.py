"""Conditional probes: is a stream free of the other factor, in images that are alike in its own?

Probes of all images (`medlip.experiments.probes`) can't say so: a stream that knows that there is an effusion knows that
something is at the pleura. Here images are alike in one factor, and the other one is asked for:

- place: of images with a finding in exactly one place, which place it is;
- side: of images with a finding on one side alone, which side;
- finding: of images with exactly one finding in a place, which finding.

Where place is drawn independently of the pathology (`phantom:N?independent`), whatever else a free stream knows of an image
is of no use: it has 0.5. Elsewhere other findings may tell, and only the streams' difference says whose place is whose. A
stream that knows its own factor and nothing more, such as the places of all findings of an image, has a little less than 1,
0.97 to 0.99 on those phantoms: it doesn't know which finding is where.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from medlip.concepts import Vocabulary
from medlip.experiments.factors import (
    Factor,
    Facts,
    Known,
    Reported,
    estimates,
    factor_cells,
    factor_classes,
    factor_indices,
    frequent_enough,
)
from medlip.experiments.probes import UNDEFINED, own_minus_other, probe_scores
from medlip.metrics import Array, Estimate, auroc_statistic, carriers_of_mean, mean_defined, number
from medlip.reports.facts import IGNORED

Asked = Literal["place", "side", "finding"]
OWN: dict[Asked, Factor] = {"place": "anatomy", "side": "anatomy", "finding": "pathology"}
"""The factor that each question belongs to; images are alike in the other one."""


class Condition(Reported):
    """A finding, or a place, that images have in common.

    Attributes:
        train: images to learn from.
        test: images to test on.
        asked: what was told from the rest: places, the left side, or findings.
        too_rare: what has too few images, or all but a few of them, to be told.
        auroc: mean over what was asked, of each representation.
    """

    train: int
    test: int
    asked: list[str]
    too_rare: list[str]
    auroc: dict[str, float | None]


class ConditionalProbes(Reported):
    """What can be told of one factor in images that are alike in the other.

    Attributes:
        macro_auroc: mean over conditions of their means, of each representation.
        own_minus_other: that of the factor's own stream less that of the other one, on the same images.
        conditions: by the finding or place that images have in common; without any, numbers are undefined.
        left_out: conditions in which nothing has enough images, with how many there are.
    """

    macro_auroc: dict[str, Estimate]
    own_minus_other: Estimate
    conditions: dict[str, Condition]
    left_out: dict[str, str]


def probe_given(
    train: Known, test: Known, vocabulary: Vocabulary, asked: Asked, *, resamples: int = 1000, seed: int = 0
) -> ConditionalProbes:
    """Tell one factor from every representation, in images that are alike in the other.

    Args:
        train: what probes learn from.
        test: what they are tested on, of other patients.
        vocabulary: of the facts.
        asked: what is to be told.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MedLIPError: a representation is not finite.
    """
    classes = ["left"] if asked == "side" else factor_classes(vocabulary, OWN[asked])
    found: dict[str, Condition] = {}
    left_out: dict[str, str] = {}
    targets: tuple[list[Array], list[Array]] = [], []
    both = (_labels(known.facts, vocabulary, asked) for known in (train, test))
    for (name, learned), (_, tested) in zip(*both, strict=True):
        either = np.concatenate([learned, tested])
        if not ((either == 1).any(0) & (either == 0).any(0)).any():
            continue  # always in one place, or never alone: there is nothing to tell
        kept, too_rare = frequent_enough(classes, {"to learn from": learned, "to test on": tested})
        n_train, n_test = (int((~np.isnan(part[:, 0])).sum()) for part in (learned, tested))
        if not kept:
            left_out[name] = f"{n_train} images to learn from and {n_test} to test on"
            continue
        names = [classes[c] for c in kept]
        found[name] = Condition(train=n_train, test=n_test, asked=names, too_rare=list(too_rare), auroc={})
        for columns, part in zip(targets, (learned, tested), strict=True):
            columns.append(part[:, kept])
    if not found:
        nothing = dict.fromkeys(train.features, UNDEFINED)
        return ConditionalProbes(macro_auroc=nothing, own_minus_other=UNDEFINED, conditions={}, left_out=left_out)
    to_learn, to_tell = (np.concatenate(columns, 1) for columns in targets)
    ends = np.cumsum([len(condition.asked) for condition in found.values()])[:-1]
    answers = {name: auroc_statistic(probe_scores(train, test, name, to_learn), to_tell) for name in train.features}

    def by_condition(name: str, weights: Array) -> Array:
        return np.stack([mean_defined(part) for part in np.split(answers[name](weights), ends, axis=1)], axis=1)

    def statistic(weights: Array) -> Array:
        macro = {name: mean_defined(by_condition(name, weights)) for name in answers}
        return np.stack([*macro.values(), own_minus_other(macro, OWN[asked])], axis=1)

    *macro, difference = estimates(
        statistic,
        test.patients,
        resamples,
        seed,
        shares=[*[True] * len(answers), False],
        carriers=carriers_of_mean(to_tell, test.patients),
    )
    areas = {name: by_condition(name, np.ones((1, len(to_tell))))[0] for name in answers}
    return ConditionalProbes(
        macro_auroc=dict(zip(answers, macro, strict=True)),
        own_minus_other=difference,
        conditions={
            name: condition.model_copy(update={"auroc": {name: number(values[k]) for name, values in areas.items()}})
            for k, (name, condition) in enumerate(found.items())
        },
        left_out=left_out,
    )


def _labels(facts: Facts, vocabulary: Vocabulary, asked: Asked) -> Iterator[tuple[str, Array]]:
    """Yield each condition's name, and its images' labels (N, C) of what is asked; NaN where an image doesn't meet it."""
    sides = np.array([vocabulary.anatomies[i].side or "" for i in factor_indices(vocabulary, "anatomy")])
    alike: Factor = "anatomy" if asked == "finding" else "pathology"
    conditions = factor_cells(facts, vocabulary, "anatomy").transpose((1, 0, 2) if asked == "finding" else (2, 0, 1))
    for name, partners in zip(factor_classes(vocabulary, alike), conditions, strict=True):
        present, certain = partners == 1, ~(partners == IGNORED).any(1)
        if asked == "side":
            left, right, neither = (present[:, sides == side].any(1) for side in ("left", "right", ""))
            yield name, np.where(certain & (left ^ right) & ~neither, left, np.nan)[:, None]
        else:
            yield name, np.where((certain & (present.sum(1) == 1))[:, None], present, np.nan)
