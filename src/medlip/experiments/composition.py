"""Pairs of a pathology and an anatomy that training never shows together, to ask for them afterwards.

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
from medlip.files import write_atomic

Pair = tuple[str, str]
"""A pathology and an anatomy, by name."""


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
