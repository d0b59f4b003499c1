"""Does each stream of a method hold its own factor, pathology (what) or anatomy (where)? Both are known of images by facts.

What a stream holds is read off its representation of an image before any query looks at it: by linear probes of all images
(`medlip.experiments.probes`), and by those of images that are alike in one factor (`medlip.experiments.conditional`). The
states of queries would say nothing: their order gives the factor away by construction. Where the streams look, their maps
say (`medlip.experiments.stream_maps`). Composition is what a method makes of pairs of pathology and anatomy that training
never showed together (`medlip.experiments.composition`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.data.batch import evaluation_batches
from medlip.data.overlap import require_disjoint
from medlip.errors import MedLIPError
from medlip.evaluation.driver import inference
from medlip.evaluation.provenance import provenance
from medlip.evaluation.results import Provenance
from medlip.evaluation.selection import default_split
from medlip.experiments.composition import Composition, CompositionResult, Pair, without_pairs
from medlip.experiments.conditional import OWN, Asked, ConditionalProbes, probe_given
from medlip.experiments.factors import FACTORS, MINIMUM, Known, read_facts
from medlip.experiments.probes import STRENGTH, FactorProbes, HeldOutProbes, probe, probe_held_out
from medlip.experiments.stream_maps import MapOverlap, Overlaps
from medlip.methods.base import HasStreams, Method, TellsPlaces, method_names
from medlip.metrics import INTERVALS, Array
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Store

RULES = {
    "probe": f"logistic regression on standardised features, C = {STRENGTH} for all, trained on images of train",
    "macro": f"mean AUROC over classes with at least {MINIMUM} positives both in training and in testing",
    "held out": "positives in a random half of the partners learned from, those in the other half tested; both ways",
    "given": "images with a finding in one place (which?), on one side (which?), with one finding in a place (which?); "
    f"answers with {MINIMUM} images and {MINIMUM} without; mean over findings or places of their mean over answers",
    "maps": "cosine of cross-attention, mean over layers and heads, each map scaled from its minimum to its maximum",
    "control": "mean over other places that have a finding in some image, do not overlap, and have none in this one",
    "place": "the right place is among the highest third of the places that have a finding in some image; chance 1/3",
    "intervals": f"{INTERVALS}; probes are not trained anew",
}


class Disentanglement(Provenance):
    """How well a method keeps pathology and anatomy apart, and how it puts them together anew.

    Attributes:
        probes: what can be read of each factor off each representation; None for a method without streams.
        held_out: the same with the other factor held out; None likewise.
        given: what can be told of place, side and finding in images that are alike in the other factor; None likewise.
        maps: whether the streams look at one thing; None likewise.
        composition: what it makes of held-out pairs; None without such pairs.
        split: that was tested on.
        n_images: tested on.
        n_patients: whose they are.
        n_train: images that probes learned from.
        rules: of measurement, by name.
        data: hash of the data set.
        resamples: of the bootstrap.
        seed: of the images to learn from, the halves and the bootstrap.
    """

    probes: dict[str, FactorProbes] | None
    held_out: dict[str, HeldOutProbes] | None
    given: dict[Asked, ConditionalProbes] | None = None
    maps: MapOverlap | None
    composition: CompositionResult | None
    split: str
    n_images: int
    n_patients: int
    n_train: int
    rules: dict[str, str]
    data: str
    resamples: int
    seed: int


def disentanglement(
    method: Method,
    store: Store,
    *,
    pairs: Sequence[Pair] | None = None,
    split: str | None = None,
    images: int = 2000,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
) -> Disentanglement:
    """Measure how well a method keeps pathology and anatomy apart, and how it puts them together anew.

    Args:
        method: one that `HasStreams`; with `pairs`, one that `TellsPlaces` will do.
        store: the data; probes learn from its split `train`.
        pairs: what was held out of training (see `medlip.experiments.composition`); None: composition is not measured.
        split: which split to test on; None for `test` where there is one, else `val`.
        images: how many of `train` probes learn from, at most, drawn with the seed.
        batch_size: images at a time.
        resamples: of the bootstrap.
        seed: of the images to learn from, the halves and the bootstrap.

    Raises:
        MedLIPError: the method has no streams (and no `pairs` are given) or tells no places, the store lacks a split, has
            another vocabulary, or a patient both in `train` and in what is tested; no class can be tested; a representation
            is not finite.
    """
    streams = isinstance(method, HasStreams)
    _require(method, streams, pairs)
    if images < 1 or batch_size < 1:
        raise MedLIPError(f"images={images}, batch_size={batch_size}: give at least 1 of each.")
    vocabulary: Vocabulary = method.vocabulary
    vocabulary.require_same(store.vocabulary, store.root)
    split = split or default_split(store.splits)
    tested = store.select(split)
    facts, patients = read_facts(tested, vocabulary), tested.column("patient")
    overlaps = Overlaps(facts, patients, vocabulary) if streams else None
    composition = Composition(facts, patients, vocabulary, pairs) if pairs is not None else None
    n_train, probes, held_out, given = 0, None, None, None
    if streams:
        if split == "train":
            raise MedLIPError("probes learn from the split 'train': test them on another one.")
        train_part = store.select("train")
        require_disjoint(
            {"train": train_part.column("patient"), split: patients},
            "probes would be tested on people they learned from",
            "Give each patient one split, and prepare the data again.",
        )
        learned = _draw(train_part, images, seed)
        n_train = len(learned)
        train = Known(
            read_facts(learned, vocabulary),
            learned.column("patient"),
            _look(method, learned, batch_size, "learning from train"),
        )
    features = _look(method, tested, batch_size, f"testing on {split}", overlaps, composition)
    if streams:
        test = Known(facts, patients, features)
        probes = {
            factor: probe(train, test, vocabulary, factor, resamples=resamples, seed=seed)
            for factor in track(FACTORS, "probing", len(FACTORS))
        }
        held_out = {
            factor: probe_held_out(train, test, vocabulary, factor, resamples=resamples, seed=seed)
            for factor in track(FACTORS, "probing, the other factor held out", len(FACTORS))
        }
        given = {
            asked: probe_given(train, test, vocabulary, asked, resamples=resamples, seed=seed)
            for asked in track(OWN, "probing, the other factor given", len(OWN))
        }
    composed = None
    if composition and pairs is not None:
        composed = composition.result(resamples, seed, trained_without=_trained_without(method, store, pairs))
    return Disentanglement(
        probes=probes,
        held_out=held_out,
        given=given,
        maps=overlaps.result(resamples, seed) if overlaps else None,
        composition=composed,
        split=split,
        n_images=len(tested),
        n_patients=len(set(patients)),
        n_train=n_train,
        rules=RULES,
        data=store.hash,
        resamples=resamples,
        seed=seed,
        **dict(provenance(method, tested, _notes(method, streams, composed))),
    )


def _require(method: Method, streams: bool, pairs: Sequence[Pair] | None) -> None:
    if pairs is None and not streams:
        raise MedLIPError(
            f"method {method.name!r} has no streams to tell apart. Methods that have them: "
            f"{', '.join(method_names(HasStreams))}. "
            "What it makes of held-out pairs can be measured: give them (--pairs)."
        )
    if pairs is not None and not isinstance(method, TellsPlaces):
        raise MedLIPError(
            f"method {method.name!r} doesn't say where its findings lie, so it can't be asked for held-out pairs. Methods "
            f"that do: {', '.join(method_names(TellsPlaces))}."
        )


def _notes(method: Method, streams: bool, composition: CompositionResult | None) -> Iterator[str]:
    if not streams:
        yield f"method {method.name!r} has no streams: only composition was measured"
    if composition is None:
        return
    if composition.trained_without is None:
        yield "not known what the method was trained on: whether the pairs were held out of it was not looked for"
    if composition.trained_without is False:
        yield (
            "WARNING: THE METHOD WAS NOT TRAINED ON THIS DATA WITHOUT THESE PAIRS: it may have seen them. "
            "Train it so: medlip pretrain RECIPE --data STORE --without PAIRS"
        )
    if unseen := [f"{pair.pathology} in {pair.anatomy}" for pair in composition.pairs if not pair.n]:
        yield f"{len(unseen)} of the held-out pairs are in none of the tested images: {', '.join(unseen)}"


def _trained_without(method: Method, store: Store, pairs: Sequence[Pair]) -> bool | None:
    """Whether the method was trained on the split `train` of this store without the pairs; None where that's not known."""
    if method.made_by is None:
        return None
    known = "train" in store.splits
    return known and bool(method.made_by["data"]["hash"] == without_pairs(store.select("train"), pairs).hash)


def _draw(store: Store, images: int, seed: int) -> Store:
    """Return that many images of a store at random, in its order; all where it has no more."""
    if len(store) <= images:
        return store
    return store.take(np.sort(np.random.default_rng(seed).permutation(len(store))[:images]))


def _look(
    method: Method,
    store: Store,
    batch_size: int,
    description: str,
    overlaps: Overlaps | None = None,
    composition: Composition | None = None,
) -> dict[str, Array]:
    """Return the representations of a store's images, and hand on maps and answers where they are wanted."""
    features: dict[str, list[Array]] = {}
    first = 0
    with inference(method) as device:
        batches = evaluation_batches(store, method.preprocessing, batch_size)
        for batch in track(batches, description, -(-len(store) // batch_size)):
            images = batch.images.to(device)
            if isinstance(method, HasStreams):
                for name, values in method.streams(images).items():
                    features.setdefault(name, []).append(_array(values))
                if overlaps is not None:
                    maps = {stream: _array(values) for stream, values in method.stream_maps(images).items()}
                    for row in range(len(batch)):
                        overlaps.add(first + row, {stream: values[row] for stream, values in maps.items()})
            if composition is not None:
                answers = method.answer(images, composition.prompts, anatomies=True)
                assert answers.anatomies is not None
                composition.add(first, _array(answers.scores), _array(answers.anatomies))
            first += len(batch)
    return {name: np.concatenate(parts) for name, parts in features.items()}


def _array(values: Tensor) -> Array:
    return values.float().cpu().numpy().astype(float)
