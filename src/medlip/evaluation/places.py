"""Does a method say where a finding lies: the place by its name, and the side?

A case is a finding that a report states as present in one or more places. Candidates are the places that have a finding in
any evaluated report. Both measures read the probability of each place that the method gives for the finding; ties count by
the expectation over their orders.

First place: the most probable candidate is one of those stated. Chance is their share of the candidates.

Side: a stated place is more probable than its mirror image, where that is not stated as well; mean over the case's sided
places. Chance is 0.5. A method trained on mirrored images whose reports kept their sides can't tell them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import is_place
from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError
from medlip.evaluation.basis import Answering, inference, preprocessed
from medlip.evaluation.outcomes import Outcomes
from medlip.metrics.classification import Array, bootstrap, interval, mean_statistic, number
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Store

RULES = {
    "first place": "most probable of the places with a finding in any evaluated report, among those stated for the finding",
    "side": "a stated place is more probable than its mirror image, where that isn't stated too",
}


@runtime_checkable
class TellsPlaces(Protocol):
    """A method that ties pathologies to anatomies."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C)."""
        ...

    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C, A)."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """How a method places one finding.

    Attributes:
        pathology: the finding.
        patient: whose image it is.
        first: whether the most probable place is a stated one, 0 to 1.
        chance: of that.
        side: whether the stated side is the more probable one, 0 to 1; NaN where no side is stated, or both are.
    """

    pathology: str
    patient: str
    first: float
    chance: float
    side: float


def stated_places(store: Store, vocabulary: Vocabulary) -> list[dict[str, frozenset[str]]]:
    """Return for each image its present abnormal findings with the places where its report states them."""
    abnormal = {pathology.name for pathology in vocabulary.pathologies if pathology.kind == "abnormal"}
    places = {name for name in vocabulary.anatomy_index if is_place(name)}
    stated = []
    for facts in store.column("facts"):
        found: dict[str, set[str]] = {}
        for fact in facts:
            if fact.presence == "present" and fact.pathology in abnormal and fact.anatomy in places:
                found.setdefault(fact.pathology, set()).add(fact.anatomy)
        stated.append({name: frozenset(where) for name, where in found.items()})
    return stated


def name_places(
    method: Answering, store: Store, stated: Sequence[Mapping[str, frozenset[str]]], batch_size: int = 64
) -> list[Placed]:
    """Ask where the stated findings of each image lie; nothing of a method that doesn't say.

    Raises:
        MedLIPError: a probability is not finite; names the image.
    """
    rows = [row for row, found in enumerate(stated) if found]
    if not rows or not isinstance(method, TellsPlaces):
        return []
    pathologies = sorted({name for found in stated for name in found})
    candidates = sorted({place for found in stated for places in found.values() for place in places})
    columns = [method.vocabulary.anatomy_index[place] for place in candidates]
    placed = []
    with inference(method) as device:
        for start in track(range(0, len(rows), batch_size), "asking for places"):
            records = [store[row] for row in rows[start : start + batch_size]]
            images = preprocessed(records, method.preprocessing).to(device)
            likely = method.score_anatomies(images, pathologies).double().cpu().numpy()
            broken = [record.id for record, of_image in zip(records, likely, strict=True) if not np.isfinite(of_image).all()]
            if broken:
                raise MedLIPError(
                    f"image {broken[0]!r}: the places of its findings are not finite. The method gives NaN: check its "
                    "weights and its training log."
                )
            for row, record, of_image in zip(rows[start:], records, likely, strict=False):
                for name, places in stated[row].items():
                    of_finding = of_image[pathologies.index(name)]
                    first, chance = _first(of_finding[columns], [place in places for place in candidates])
                    side = _side(of_finding, places, method.vocabulary)
                    placed.append(Placed(name, record.patient, first, chance, side))
    return placed


def places_result(placed: Sequence[Placed], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return both measures with intervals over patients, ready for JSON.

    Args:
        placed: at least one.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `first_place` and `side` as {value, interval, chance, n}; `side` is null where no finding has one side.
    """
    sided = [one for one in placed if not np.isnan(one.side)]
    return {
        "first_place": _measure(placed, [one.first for one in placed], [one.chance for one in placed], resamples, seed),
        "side": _measure(sided, [one.side for one in sided], [0.5] * len(sided), resamples, seed),
    }


def places_outcomes(placed: Sequence[Placed]) -> list[Outcomes]:
    """Return every finding's part in the means of `places_result`."""
    findings, patients = [one.pathology for one in placed], [pseudonym(one.patient) for one in placed]
    return [
        Outcomes(f"places/{name}/value", findings, patients, np.array(values, float))
        for name, values in (("first_place", [one.first for one in placed]), ("side", [one.side for one in placed]))
    ]


def _measure(
    placed: Sequence[Placed], values: Sequence[float], chances: Sequence[float], resamples: int, seed: int
) -> dict[str, Any] | None:
    if not placed:
        return None
    low, high = bootstrap(mean_statistic(values), [one.patient for one in placed], resamples, seed)
    return {
        "value": number(float(np.mean(values))),
        "interval": interval(float(low), float(high)),
        "chance": float(np.mean(chances)),
        "n": len(placed),
    }


def _first(likely: Array, stated: Sequence[bool]) -> tuple[float, float]:
    highest = likely == likely.max()
    return float(np.mean(np.array(stated)[highest])), float(np.mean(stated))


def _side(likely: Array, stated: frozenset[str], vocabulary: Vocabulary) -> float:
    """Return how often a stated place is more probable than its twin, (A,) given; NaN without a twin that isn't stated."""
    right = []
    for place in stated:
        anatomy = vocabulary.anatomies[vocabulary.anatomy_index[place]]
        twin = vocabulary.anatomies[vocabulary.anatomy_index[anatomy.mirror]]
        if anatomy.side and twin.side and twin.name not in stated:
            own, other = (likely[vocabulary.anatomy_index[each.name]] for each in (anatomy, twin))
            right.append(float(own > other) + float(own == other) / 2)
    return float(np.mean(right)) if right else np.nan
