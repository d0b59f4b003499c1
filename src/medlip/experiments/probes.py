"""Linear probes: what can be read off a frozen representation by logistic regression.

For transfer: a probe of one class, as strong as other images say (`best_probe`).

For disentanglement: probes of a factor on every representation of an image, the streams' and the encoder's. The higher a
stream's AUROC of a factor, the more of it can be read off. A stream that is free of the other factor is near 0.5 at it only
where the factors are independent of one another in the data, and they are not: who knows that there is cardiomegaly, knows
that something is at the heart. Hence the comparison of streams (`own_minus_other`: the same labels, the same images), and
the second kind of probe.

Probes with the other factor held out: a probe of a pathology learns from positives in a random half of its places, and is
tested on positives in the other half. What it took from the place is then of no use: `loss` is how much lower its AUROC is
than on the places it learned from, with the same negatives. Each half is learned from once and held out once. A
representation that is free of the other factor loses little; one that is near 0.5 to begin with has nothing to lose, so
read it beside `seen`. What it can't tell: a stream with a code of its own for every pair may know the held-out ones by
elimination, as unlike all that was negative. Pairs held out of training itself (composition) have no such way out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.experiments.factors import (
    FACTORS,
    MINIMUM,
    Factor,
    Known,
    Reported,
    SeenAndHeldOut,
    distinct_partners,
    estimates,
    factor_cells,
    factor_classes,
    factor_labels,
    frequent_enough,
    labels_within,
)
from medlip.metrics import Array, Estimate, auroc, auroc_statistic, carriers_of_mean, mean_defined, number

STRENGTH = 0.1  # scikit-learn's C, the same for all probes of factors: nothing is chosen on what is reported
UNCHOSEN = 1.0  # scikit-learn's C where there is nothing to choose it on
UNDEFINED = Estimate(value=None, reason="no class can be tested")


class ProbedClass(Reported):
    """A class that was probed.

    Attributes:
        train: positives to learn from.
        test: positives to test on.
        auroc: of each representation.
    """

    train: int
    test: int
    auroc: dict[str, float | None]


class FactorProbes(Reported):
    """What can be read of a factor off each representation.

    Attributes:
        macro_auroc: of each representation.
        own_minus_other: that of the factor's own stream less that of the other one.
        per_class: classes with enough positives.
        left_out: classes that occur, but with too few positives or negatives, with how many there are.
    """

    macro_auroc: dict[str, Estimate]
    own_minus_other: Estimate
    per_class: dict[str, ProbedClass]
    left_out: dict[str, str]


class HeldOutProbes(Reported):
    """What can be read of a factor where it comes with partners of which the probe has seen none.

    Attributes:
        macro_auroc: of each representation.
        own_minus_other: held-out AUROC of the factor's own stream less that of the other one.
        classes: that were tested; without any, numbers are undefined.
        left_out: classes that occur with a single partner, or too rarely in a half.
    """

    macro_auroc: dict[str, SeenAndHeldOut]
    own_minus_other: Estimate
    classes: list[str]
    left_out: dict[str, str]


def best_probe(
    features: Array, labels: Array, tuning: Array, tuning_labels: Array, test: Array, strengths: Sequence[float]
) -> tuple[Array, Array]:
    """Fit logistic regressions, and keep the one with the highest AUROC on other images.

    Args:
        features: (N, d) to learn from.
        labels: (N,), 1 or 0, both of them.
        tuning: (M, d) to choose on.
        tuning_labels: (M,), NaN for unknown; where they have no positive or no negative, C is `UNCHOSEN`.
        test: (T, d).
        strengths: scikit-learn's C to choose from.

    Returns:
        Probabilities of `tuning` (M,) and of `test` (T,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, Any] | None = None
    if not ((tuning_labels == 1).any() and (tuning_labels == 0).any()):
        strengths = (UNCHOSEN,)
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(features, labels)
        area = float(np.nan_to_num(auroc(model.predict_proba(tuning)[:, 1:], tuning_labels[:, None])[0], nan=0.5))
        if best is None or area > best[0]:
            best = area, model
    assert best is not None
    return best[1].predict_proba(tuning)[:, 1], best[1].predict_proba(test)[:, 1]


def probe(
    train: Known, test: Known, vocabulary: Vocabulary, factor: Factor, *, resamples: int = 1000, seed: int = 0
) -> FactorProbes:
    """Read a factor off every representation.

    Args:
        train: what probes learn from.
        test: what they are tested on, of other patients.
        vocabulary: of the facts.
        factor: which one.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MedLIPError: no class has enough positives and negatives, or a representation is not finite.
    """
    classes = factor_classes(vocabulary, factor)
    learned, asked = (factor_labels(factor_cells(known.facts, vocabulary, factor)) for known in (train, test))
    kept, left_out = frequent_enough(classes, {"to learn from": learned, "to test on": asked})
    if not kept:
        raise MedLIPError(
            f"no {factor} has {MINIMUM} positives both among the {len(learned)} images to learn from and among the "
            f"{len(asked)} to test on. Take more images."
        )
    answers = {
        name: auroc_statistic(probe_scores(train, test, name, learned[:, kept]), asked[:, kept]) for name in train.features
    }

    def statistic(weights: Array) -> Array:
        macro = {name: mean_defined(areas(weights)) for name, areas in answers.items()}
        return np.stack([*macro.values(), own_minus_other(macro, factor)], axis=1)

    *macro, difference = estimates(
        statistic,
        test.patients,
        resamples,
        seed,
        shares=[*[True] * len(answers), False],
        carriers=carriers_of_mean(asked[:, kept], test.patients),
    )
    areas = {name: area(np.ones((1, len(asked))))[0] for name, area in answers.items()}
    return FactorProbes(
        macro_auroc=dict(zip(answers, macro, strict=True)),
        own_minus_other=difference,
        per_class={
            classes[c]: ProbedClass(
                train=int((learned[:, c] == 1).sum()),
                test=int((asked[:, c] == 1).sum()),
                auroc={name: number(values[column]) for name, values in areas.items()},
            )
            for column, c in enumerate(kept)
        },
        left_out=left_out,
    )


def probe_held_out(
    train: Known, test: Known, vocabulary: Vocabulary, factor: Factor, *, resamples: int = 1000, seed: int = 0
) -> HeldOutProbes:
    """Read a factor off every representation where it comes with partners of which the probe has seen none.

    Partners of a pathology are the places it occurs in, those of an anatomy the pathologies that occur there. Each class
    has its partners halved at random; images with partners of both halves, or without a place, don't count.

    Args:
        train: what probes learn from.
        test: what they are tested on, of other patients.
        vocabulary: of the facts.
        factor: which one.
        resamples: of the bootstrap.
        seed: of the bootstrap and the halves.

    Raises:
        MedLIPError: a representation is not finite.
    """
    cells = [factor_cells(known.facts, vocabulary, factor) for known in (train, test)]
    targets: list[list[Array]] = [[], [], []]  # to learn from; the test's seen and held-out ones; both ways of every class
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for c, name in enumerate(factor_classes(vocabulary, factor)):
        occurs = [(part[:, c] == 1).any(0) for part in cells]
        partners = np.flatnonzero((occurs[0] | occurs[1]) & distinct_partners(vocabulary, factor))
        if len(partners) < 2:
            if len(partners):
                left_out[name] = "it occurs with a single partner"
            continue
        drawn = np.random.default_rng((seed, FACTORS.index(factor), c)).permutation(partners)
        halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        learned, asked = (np.stack([labels_within(part[:, c], half) for half in halves], 1) for part in cells)
        fits, reasons = frequent_enough([name] * 2, {"to learn from": learned, "to test on": asked})
        if len(fits) < 2:
            left_out[name] = next(iter(reasons.values()), "a half of its partners has no positive")
            continue
        kept.append(name)
        for columns, both_ways in zip(targets, (learned, asked, asked[:, ::-1]), strict=True):
            columns.append(both_ways)
    if not kept:
        nothing = SeenAndHeldOut(seen=UNDEFINED, held_out=UNDEFINED, loss=UNDEFINED)
        return HeldOutProbes(
            macro_auroc=dict.fromkeys(train.features, nothing), own_minus_other=UNDEFINED, classes=[], left_out=left_out
        )
    learned, seen, held_out = (np.concatenate(columns, 1) for columns in targets)
    areas = {}
    for name in train.features:
        scores = probe_scores(train, test, name, learned)
        areas[name] = auroc_statistic(scores, seen), auroc_statistic(scores, held_out)

    def statistic(weights: Array) -> Array:
        macro = {name: [mean_defined(part(weights)) for part in both] for name, both in areas.items()}
        values = [value for old, new in macro.values() for value in (old, new, old - new)]
        return np.stack([*values, own_minus_other({name: new for name, (_, new) in macro.items()}, factor)], axis=1)

    *found, difference = estimates(
        statistic,
        test.patients,
        resamples,
        seed,
        shares=[*[True, True, False] * len(areas), False],
        carriers=min(carriers_of_mean(part, test.patients) for part in (seen, held_out)),
    )
    return HeldOutProbes(
        macro_auroc={
            name: SeenAndHeldOut(seen=found[3 * i], held_out=found[3 * i + 1], loss=found[3 * i + 2])
            for i, name in enumerate(areas)
        },
        own_minus_other=difference,
        classes=kept,
        left_out=left_out,
    )


def probe_scores(train: Known, test: Known, name: str, labels: Array) -> Array:
    """Train a probe for each column of labels (N, C) on one representation; return scores of the tested images (M, C)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if not (np.isfinite(train.features[name]).all() and np.isfinite(test.features[name]).all()):
        raise MedLIPError(f"the representation {name!r} is not finite: check the model's weights and its training log.")
    scaler = StandardScaler().fit(train.features[name])
    learned, asked = scaler.transform(train.features[name]), scaler.transform(test.features[name])
    scores = np.empty((len(asked), labels.shape[1]))
    for c, targets in enumerate(labels.T):
        known = ~np.isnan(targets)
        model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(learned[known], targets[known])
        scores[:, c] = model.decision_function(asked)
    return scores


def own_minus_other(values: Mapping[str, Array], factor: Factor) -> Array:
    """Return the value of the factor's own stream less that of the other one."""
    (other,) = set(FACTORS) - {factor}
    return values[factor] - values[other]
