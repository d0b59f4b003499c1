"""Composition: pairs of a pathology and an anatomy that training never shows together, and what a method makes of them.

Both factors of a held-out pair stay in training with other partners. What is held out is kept in a file, so that training
(`medlip pretrain --without`) and evaluation (`medlip disentangle --pairs`) speak of the same pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import is_place
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.experiments.factors import (
    Facts,
    Reported,
    SeenAndHeldOut,
    factor_indices,
    findings_in_places,
    frequent_enough,
    labels_within,
    seen_and_held_out,
)
from medlip.files import write_atomic
from medlip.metrics import Array, auroc_statistic, carriers_of_mean, mean_defined, mean_statistic

Pair = tuple[str, str]
"""A pathology and an anatomy, by name."""

HIGHEST = 1 / 3
"""Share of the places among which the right one should be."""


def compositional_split(
    store: Store, share: float = 0.2, seed: int = 0, *, minimum: int = 20
) -> tuple[Store, tuple[Pair, ...]]:
    """Hold out pairs of the split `train`: draw them, and leave out every image with one of them.

    A pair is an abnormal finding in an anatomy that is a place ("unspecified" and "other" are none). It is held out only if
    every pathology and every place keeps `minimum` images with other partners, and those that have fewer to begin with at
    least one. Places that overlap count as different: a "left lower lobe" stays where a "left lower lung" is held out.

    Args:
        store: the data; its split `train` is divided.
        share: of the pairs with at least `minimum` images, how many to hold out, between 0 and 1; at least one.
        seed: of the draw.
        minimum: images of a pair that may be drawn, and that each factor must keep.

    Returns:
        What to train on, and the held-out pairs in the order of the vocabulary: pathologies first.

    Raises:
        MedLIPError: a share or minimum out of range, no split `train`, or fewer pairs than asked for can be held out.
    """
    if not 0 < share < 1 or minimum < 1:
        raise MedLIPError(
            f"share={share}, minimum={minimum}: hold out a share between 0 and 1, of pairs with at least 1 image."
        )
    train, vocabulary = store.select("train"), store.vocabulary
    rows, pathologies, anatomies, present = _findings(train, vocabulary)
    cells, count = np.unique(np.stack([pathologies, anatomies])[:, present], axis=1, return_counts=True)
    candidates = cells.T[count >= minimum]
    wanted = max(1, round(share * len(candidates)))
    kept = np.ones(len(train), bool)
    factors = (pathologies, len(vocabulary.pathologies)), (anatomies, len(vocabulary.anatomies))

    def images(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        there = present & kept[rows]
        return np.concatenate([_images(rows[there], values[there], size) for values, size in factors])

    before = images(kept)
    least = np.where(before >= minimum, minimum, np.minimum(before, 1))
    chosen: list[tuple[int, int]] = []
    for pathology, anatomy in np.random.default_rng(seed).permutation(candidates).tolist():
        if len(chosen) == wanted:
            break
        without = kept.copy()
        without[rows[(pathologies == pathology) & (anatomies == anatomy)]] = False
        if (images(without) >= least).all():
            kept = without
            chosen.append((pathology, anatomy))
    if len(chosen) < wanted:
        raise MedLIPError(
            f"{store.root}: only {len(chosen)} of {wanted} pairs can be held out so that every pathology and every place "
            f"keeps {minimum} training images with other partners. Ask for a smaller share, or prepare more studies."
        )
    pairs = tuple((vocabulary.pathologies[p].name, vocabulary.anatomies[a].name) for p, a in sorted(chosen))
    return without_pairs(train, pairs), pairs


def without_pairs(store: Store, pairs: Sequence[Pair]) -> Store:
    """Return the part of a store in which no image has one of these pairs as a present or an uncertain fact.

    Facts are those of the study's report, so all views of a study go together.

    Raises:
        MedLIPError: nothing is left.
    """
    held_out = set(pairs)
    kept = [
        row
        for row, facts in enumerate(store.column("facts"))
        if not any((fact.pathology, fact.anatomy) in held_out and fact.presence != "absent" for fact in facts)
    ]
    if not kept:
        raise MedLIPError(f"{store.root}: every image has one of the {len(pairs)} held-out pairs. Hold out fewer.")
    return store.take(kept)


def save_pairs(path: Path, pairs: Sequence[Pair], **about: object) -> None:
    """Write pairs to a JSON file, with plain data on how they were drawn."""
    named = [{"pathology": pathology, "anatomy": anatomy} for pathology, anatomy in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**about, "pairs": named}, indent=1).encode())


def read_pairs(path: Path, vocabulary: Vocabulary) -> tuple[Pair, ...]:
    """Read what `save_pairs` wrote.

    Raises:
        MedLIPError: the file is missing or broken, empty of pairs, or names what the vocabulary does not have.
    """
    try:
        pairs = tuple(
            (str(pair["pathology"]), str(pair["anatomy"])) for pair in json.loads(path.read_text("utf-8"))["pairs"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedLIPError(
            f"{path}: no file of held-out pairs ({error}). Make one: medlip data hold-out STORE --out {path}"
        ) from error
    known = vocabulary.pathology_index, vocabulary.anatomy_index
    unknown = [name for pair in pairs for name, index in zip(pair, known, strict=True) if name not in index]
    if unknown or not pairs:
        what = f"the vocabulary has no {unknown[0]!r}" if unknown else "it names no pair"
        raise MedLIPError(f"{path}: {what}. Use the file with the data that it was made from.")
    return pairs


class Placing(SeenAndHeldOut):
    """The share of present findings whose place is among the highest third of what the method answers; ties count half.

    Attributes:
        n_seen: findings in seen pairs.
        n_held_out: findings in held-out pairs.
    """

    n_seen: int
    n_held_out: int


class PlacedPair(Reported):
    """A held-out pair: its findings `n`, and the share of them whose place is among the highest third; None without any."""

    pathology: str
    anatomy: str
    n: int
    place: float | None


class CompositionResult(Reported):
    """How well pathologies are found, and placed, in pairs that were seen and that were held out.

    Attributes:
        auroc: macro over `classes` of positives whose only places are seen, or held out, against the images without the
            pathology.
        classes: pathologies with enough of either.
        left_out: those with too few.
        place: whether findings are placed.
        pairs: that were held out.
        trained_without: whether the method was trained on this data without the pairs; None where that's not known.
    """

    auroc: SeenAndHeldOut
    classes: list[str]
    left_out: dict[str, str]
    place: Placing
    pairs: list[PlacedPair]
    trained_without: bool | None = None


class Composition:
    """What a method makes of pairs that training never showed together, beside the same pathologies' other pairs.

    Args:
        facts: of the N images, as `Known` has them.
        patients: (N,).
        vocabulary: of the facts.
        pairs: that were held out.
    """

    def __init__(self, facts: Facts, patients: Sequence[str], vocabulary: Vocabulary, pairs: Sequence[Pair]) -> None:
        self.patients, self.pairs = patients, tuple(pairs)
        self.prompts = tuple(name for name in vocabulary.pathology_index if name in {pathology for pathology, _ in pairs})
        self._held_out = np.zeros((len(vocabulary.anatomies), len(self.prompts)), bool)
        for pathology, anatomy in pairs:
            self._held_out[vocabulary.anatomy_index[anatomy], self.prompts.index(pathology)] = True
        self._cells = facts[:, :, [vocabulary.pathology_index[name] for name in self.prompts]].transpose(0, 2, 1)
        self._names = list(vocabulary.anatomy_index)
        places = np.zeros(len(self._names), bool)
        places[factor_indices(vocabulary, "anatomy")[findings_in_places(facts, vocabulary, (1,)).any((0, 2))]] = True
        self._places = places
        self._scores = np.full((len(facts), len(self.prompts)), np.nan)
        self._found: list[tuple[int, int, int, float]] = []

    def add(self, first: int, scores: Array, places: Array) -> None:
        """Take probabilities of the pairs' pathologies (B, K), and of their anatomies (B, K, A), from image `first` on."""
        self._scores[first : first + len(scores)] = scores
        for row, likely in enumerate(places, first):
            for k, a in np.argwhere((self._cells[row] == 1) & self._places):
                others = likely[k, self._places]
                rank = (others > likely[k, a]).sum() + ((others == likely[k, a]).sum() - 1) / 2
                self._found.append((row, k, a, rank / len(others)))

    def result(self, resamples: int = 1000, seed: int = 0, *, trained_without: bool | None = None) -> CompositionResult:
        """Return how well pathologies are found, and placed, in pairs that were `seen` and that were `held_out`.

        Args:
            resamples: of the bootstrap.
            seed: of the bootstrap.
            trained_without: whether the method was trained on this data without the pairs; None where that's not known.
        """
        halves = [
            np.stack([labels_within(self._cells[:, k], np.flatnonzero(inside[:, k])) for k in range(len(self.prompts))], 1)
            for inside in (~self._held_out & np.array(list(map(is_place, self._names)))[:, None], self._held_out)
        ]
        kept, left_out = frequent_enough(self.prompts, {"in seen pairs": halves[0], "in held-out pairs": halves[1]})
        areas = [auroc_statistic(self._scores[:, kept], half[:, kept]) for half in halves]
        return CompositionResult(
            auroc=seen_and_held_out(
                lambda weights: mean_defined(areas[0](weights)),
                lambda weights: mean_defined(areas[1](weights)),
                self.patients,
                resamples,
                seed,
                min(carriers_of_mean(half[:, kept], self.patients) for half in halves),
            ),
            classes=[self.prompts[k] for k in kept],
            left_out=left_out,
            place=self._placing(resamples, seed),
            pairs=[self._pair(pathology, anatomy) for pathology, anatomy in self.pairs],
            trained_without=trained_without,
        )

    def _placing(self, resamples: int, seed: int) -> Placing:
        patients = np.array([self.patients[row] for row, *_ in self._found], str)
        held_out = np.array([self._held_out[a, k] for _, k, a, _ in self._found], bool)
        among = np.array([rank < HIGHEST for *_, rank in self._found], float)
        seen_mean, held_mean = mean_statistic(among[~held_out]), mean_statistic(among[held_out])
        shares = seen_and_held_out(
            lambda weights: seen_mean(weights[:, ~held_out]),
            lambda weights: held_mean(weights[:, held_out]),
            patients.tolist(),
            resamples,
            seed,
            min(len(set(patients[part])) for part in (~held_out, held_out)),
        )
        return Placing(**dict(shares), n_seen=int((~held_out).sum()), n_held_out=int(held_out.sum()))

    def _pair(self, pathology: str, anatomy: str) -> PlacedPair:
        k, a = self.prompts.index(pathology), self._names.index(anatomy)
        among = [rank < HIGHEST for _, column, place, rank in self._found if (column, place) == (k, a)]
        share = float(np.mean(among)) if among else None
        return PlacedPair(pathology=pathology, anatomy=anatomy, n=len(among), place=share)


def _findings(store: Store, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], ...]:
    """Return row, pathology, anatomy and whether it is present of all abnormal findings in a place that are not absent."""
    abnormal = {pathology.name for pathology in vocabulary.pathologies if pathology.kind == "abnormal"}
    found = [
        (row, vocabulary.pathology_index[fact.pathology], vocabulary.anatomy_index[fact.anatomy], fact.presence == "present")
        for row, facts in enumerate(store.column("facts"))
        for fact in facts
        if fact.presence != "absent" and fact.pathology in abnormal and is_place(fact.anatomy)
    ]
    rows, pathologies, anatomies, present = np.array(sorted(set(found)), np.int64).reshape(-1, 4).T
    return rows, pathologies, anatomies, present.astype(bool)


def _images(rows: NDArray[np.int64], factor: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Count the images of each of `size` values of a factor."""
    return np.bincount(np.unique(np.stack([rows, factor]), axis=1)[1], minlength=size)
