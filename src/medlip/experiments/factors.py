"""The two factors of a finding, pathology (what) and anatomy (where), as labels of images; and estimates by factor.

Labels come from facts. A pathology is positive where it is present anywhere in the image, an anatomy where any abnormal
finding is present in it. Where that is merely uncertain, the image doesn't count; what isn't mentioned counts as absent.
Abnormal findings are meant throughout ("the heart is normal" is none), and anatomies that are places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import is_place
from medlip.metrics import Array, Estimate, Statistic, bootstrap
from medlip.reports import fact_matrix
from medlip.reports.facts import IGNORED

if TYPE_CHECKING:
    from medlip.data.store import Store

Facts = NDArray[np.int8]
Factor = Literal["pathology", "anatomy"]
FACTORS: tuple[Factor, Factor] = ("pathology", "anatomy")
MINIMUM = 5  # positives of a class, to learn from and to be tested on


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of N images.

    Attributes:
        facts: int8 (N, A, P): 1 present, 0 absent, -1 not mentioned, -2 uncertain.
        patients: (N,).
        features: representations by name, (N, d) each.
    """

    facts: Facts
    patients: Sequence[str]
    features: Mapping[str, Array] = field(default_factory=dict)


class Reported(BaseModel):
    """A part of a result; what is undefined in it is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SeenAndHeldOut(Reported):
    """A number on pairs that were learned from, on others, and what is lost from the ones to the others.

    Attributes:
        seen: on pairs that were learned from.
        held_out: on others.
        loss: seen less held out.
    """

    seen: Estimate
    held_out: Estimate
    loss: Estimate


def read_facts(store: Store, vocabulary: Vocabulary) -> Facts:
    """Return the facts of a store's images as `Known` has them."""
    return np.stack([fact_matrix(facts, vocabulary, ignored=IGNORED) for facts in store.column("facts")])


def factor_indices(vocabulary: Vocabulary, factor: Factor) -> NDArray[np.int64]:
    """Return which pathologies are abnormal, or which anatomies are places."""
    if factor == "pathology":
        chosen = [pathology.kind == "abnormal" for pathology in vocabulary.pathologies]
    else:
        chosen = [is_place(anatomy.name) for anatomy in vocabulary.anatomies]
    return np.flatnonzero(chosen)


def factor_classes(vocabulary: Vocabulary, factor: Factor) -> list[str]:
    """Return the names of a factor's C classes."""
    concepts = vocabulary.pathologies if factor == "pathology" else vocabulary.anatomies
    return [concepts[i].name for i in factor_indices(vocabulary, factor)]


def factor_cells(facts: Facts, vocabulary: Vocabulary, factor: Factor) -> Facts:
    """Return the facts (N, C, K) of a factor's classes with their partners: pathologies, or anatomies with catch-alls."""
    abnormal = facts[:, :, factor_indices(vocabulary, "pathology")]
    return abnormal.transpose(0, 2, 1) if factor == "pathology" else abnormal[:, factor_indices(vocabulary, "anatomy")]


def distinct_partners(vocabulary: Vocabulary, factor: Factor) -> NDArray[np.bool_]:
    """Return which of the K partners can be told from one another: an anatomy that is no place may be any."""
    if factor == "anatomy":
        return np.ones(len(factor_indices(vocabulary, "pathology")), bool)
    return np.isin(np.arange(len(vocabulary.anatomies)), factor_indices(vocabulary, "anatomy"))


def findings_in_places(facts: Facts, vocabulary: Vocabulary, values: Sequence[int]) -> NDArray[np.bool_]:
    """Return which abnormal findings have one of these values in which places, (N, places, abnormal pathologies)."""
    return np.isin(factor_cells(facts, vocabulary, "anatomy"), values)


def factor_labels(cells: Facts) -> Array:
    """Return 1 where a class is present with any partner, NaN where it is uncertain, else 0: (N, C, K) -> (N, C)."""
    unknown = np.where((cells == IGNORED).any(-1), np.nan, 0.0)
    return np.where((cells == 1).any(-1), 1.0, unknown)


def labels_within(cells: Facts, partners: NDArray[np.int64]) -> Array:
    """Return labels (N,) of one class (N, K) where it is present with these partners alone; NaN where with others."""
    outside = np.delete(cells, partners, axis=1)
    return np.where((outside == 1).any(-1), np.nan, factor_labels(cells))


def frequent_enough(names: Sequence[str], parts: Mapping[str, Array]) -> tuple[list[int], dict[str, str]]:
    """Return the classes with enough positives and negatives in all parts (N, C), and why others that occur are left out."""
    positives = np.stack([(part == 1).sum(0) for part in parts.values()])
    negatives = np.stack([(part == 0).sum(0) for part in parts.values()])
    enough = (np.minimum(positives, negatives) >= MINIMUM).all(0)
    left_out = {
        names[c]: "; ".join(
            f"{p} positives and {n} negatives {where}"
            for where, p, n in zip(parts, positives[:, c], negatives[:, c], strict=True)
        )
        for c in np.flatnonzero(~enough & positives.any(0)).tolist()
    }
    return np.flatnonzero(enough).tolist(), left_out


def estimates(
    statistic: Statistic,
    patients: Sequence[str] | NDArray[np.str_],
    resamples: int,
    seed: int,
    *,
    shares: Sequence[bool],
    carriers: float | None = None,
) -> list[Estimate]:
    """Return each of the K values of a statistic, (R, N) -> (R, K), with its interval over patients, see `bootstrap`."""
    values = statistic(np.ones((1, len(patients))))[0]
    low, high = bootstrap(statistic, patients, resamples, seed, shares=shares, carriers=carriers)
    return [Estimate.of(float(value), *ends) for value, *ends in zip(values, low, high, strict=True)]


def seen_and_held_out(
    seen: Statistic, held_out: Statistic, patients: Sequence[str], resamples: int, seed: int, carriers: float | None = None
) -> SeenAndHeldOut:
    """Return both statistics, (R, N) -> (R,), shares carried by so many patients, and their difference."""

    def statistic(weights: Array) -> Array:
        old, new = seen(weights), held_out(weights)
        return np.stack([old, new, old - new], axis=1)

    shares = (True, True, False)
    first, second, loss = estimates(statistic, patients, resamples, seed, shares=shares, carriers=carriers)
    return SeenAndHeldOut(seen=first, held_out=second, loss=loss)
