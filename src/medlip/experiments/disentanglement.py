"""Does each stream of a method hold its own factor, pathology (what) or anatomy (where)? Both are known of images by facts.

What a stream holds is read off its representation of an image before any query looks at it, by linear probes. The states of
queries would say nothing: their order gives the factor away by construction.

Labels come from facts. A pathology is positive where it is present anywhere in the image, an anatomy where any abnormal
finding is present in it. Where that is merely uncertain, the image doesn't count; what isn't mentioned counts as absent.
Abnormal findings are meant throughout ("the heart is normal" is none), and anatomies that are places.

Probes: the higher a stream's AUROC of a factor, the more of it can be read off. A stream that is free of the other factor is
near 0.5 at it only where the factors are independent of one another in the data, and they are not: who knows that there is
cardiomegaly, knows that something is at the heart. Hence the comparison of streams (`own_minus_other`: the same labels, the
same images), and the second kind of probe.

Probes with the other factor held out: a probe of a pathology learns from positives in a random half of its places, and is
tested on positives in the other half. What it took from the place is then of no use: `loss` is how much lower its AUROC is
than on the places it learned from, with the same negatives. Each half is learned from once and held out once. A
representation that is free of the other factor loses little; one that is near 0.5 to begin with has nothing to lose, so
read it beside `seen`. What it can't tell: a stream with a code of its own for every pair may know the held-out ones by
elimination, as unlike all that was negative. Pairs held out of training itself (composition) have no such way out.

Maps: for a present finding in a place, the cosine of where the two streams' queries look, each map scaled from its minimum
to its maximum (1: at the same locations, 0: nowhere together). Beside it the control, the maps of other places in which the
image has no finding. Broad maps overlap anyway: only the difference to the control says that the streams look at one thing.

Composition: what a method makes of pairs of pathology and anatomy that training never showed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import is_place
from medlip.data.batch import evaluation_batches
from medlip.errors import MedLIPError
from medlip.evaluation.basis import default_split, inference, provenance
from medlip.evaluation.places import TellsPlaces
from medlip.experiments.composition import Pair, without_pairs
from medlip.methods.base import method_names
from medlip.metrics.classification import (
    Array,
    Statistic,
    auroc_statistic,
    bootstrap,
    interval,
    mean_defined,
    mean_statistic,
    number,
)
from medlip.parallel import track
from medlip.reports import fact_matrix
from medlip.reports.facts import IGNORED

if TYPE_CHECKING:
    from medlip.data.store import Store

Facts = NDArray[np.int8]
FACTORS = ("pathology", "anatomy")
REPRESENTATIONS = ("encoder", *FACTORS)
MINIMUM = 5  # positives of a class, to learn from and to be tested on
STRENGTH = 0.1  # scikit-learn's C, the same for all probes: nothing is chosen on what is reported
HIGHEST = 1 / 3  # of the places, among which the right one should be
RULES = {
    "probe": f"logistic regression on standardised features, C = {STRENGTH} for all, trained on images of train",
    "macro": f"mean AUROC over classes with at least {MINIMUM} positives both in training and in testing",
    "held out": "positives in a random half of the partners learned from, those in the other half tested; both ways",
    "maps": "cosine of cross-attention, mean over layers and heads, each map scaled from its minimum to its maximum",
    "control": "mean over other places that have a finding in some image, do not overlap, and have none in this one",
    "place": "the right place is among the highest third of the places that have a finding in some image; chance 1/3",
    "intervals": "95 % percentile bootstrap over patients of the tested images; probes are not trained anew",
}


@runtime_checkable
class HasStreams(Protocol):
    """A method with a representation for each factor."""

    def streams(self, images: Tensor) -> dict[str, Tensor]:
        """Return representations of images by name, `REPRESENTATIONS`, (B, d) each."""
        ...

    def stream_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return where the queries of each stream look, {"pathology": (B, P, h, w), "anatomy": (B, A, h, w)}."""
        ...


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


def disentanglement(
    method: Any,
    store: Store,
    *,
    pairs: Sequence[Pair] | None = None,
    split: str | None = None,
    images: int = 2000,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how well a method keeps pathology and anatomy apart, and how it puts them together anew.

    Args:
        method: one with `streams` and `stream_maps`, as MeDSLIP has; with `pairs`, one with `score_anatomies` will do.
        store: the data; probes learn from its split `train`.
        pairs: what was held out of training (see `medlip.experiments.composition`); None: composition is not measured.
        split: which split to test on; None for `test` where there is one, else `val`.
        images: how many of `train` probes learn from, at most, drawn with the seed.
        batch_size: images at a time.
        resamples: of the bootstrap.
        seed: of the images to learn from, the halves and the bootstrap.

    Returns:
        Plain data without NaN; a number is {"value", "interval"}, None where it is undefined. `probes` (see `probe`),
        `held_out` (see `probe_held_out`) and `maps` (see `Overlaps.result`), all None for a method without streams;
        `composition` (see `Composition.result`, and `trained_without`: whether the method was trained on this data without
        the pairs), None without `pairs`; `split`, `n_images`, `n_patients`, `n_train`, `rules`, `overlap` with training,
        `run`, `data`, `resamples`, `seed`, `versions`, `notes` for people, `disclaimer`.

    Raises:
        MedLIPError: the method has no streams (and no `pairs` are given) or tells no places, the store lacks a split, has
            another vocabulary, or no class can be tested; a representation is not finite.
    """
    streams = isinstance(method, HasStreams)
    _require(method, streams, pairs)
    if images < 1 or batch_size < 1:
        raise MedLIPError(f"images={images}, batch_size={batch_size}: give at least 1 of each.")
    vocabulary: Vocabulary = method.vocabulary
    vocabulary.require_same(store.vocabulary, store.root)
    split = split or default_split(store.splits)
    tested = store.select(split)
    facts = read_facts(tested, vocabulary)
    patients = tested.column("patient")
    overlaps = Overlaps(facts, patients, vocabulary) if streams else None
    composition = Composition(facts, patients, vocabulary, pairs) if pairs is not None else None
    n_train, probes, held_out = 0, None, None
    if streams:
        if split == "train":
            raise MedLIPError("probes learn from the split 'train': test them on another one.")
        learned = _draw(store.select("train"), images, seed)
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
    composed = None
    if composition and pairs is not None:
        composed = composition.result(resamples, seed) | {"trained_without": _trained_without(method, store, pairs)}
    return {
        "probes": probes,
        "held_out": held_out,
        "maps": overlaps.result(resamples, seed) if overlaps else None,
        "composition": composed,
        "split": split,
        "n_images": len(tested),
        "n_patients": len(set(patients)),
        "n_train": n_train,
        "rules": RULES,
        "data": store.hash,
        "resamples": resamples,
        "seed": seed,
        **provenance(method, tested, _notes(method, streams, composed)),
    }


def read_facts(store: Store, vocabulary: Vocabulary) -> Facts:
    """Return the facts of a store's images as `Known` has them."""
    return np.stack([fact_matrix(facts, vocabulary, ignored=IGNORED) for facts in store.column("facts")])


def probe(
    train: Known, test: Known, vocabulary: Vocabulary, factor: str, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Read a factor off every representation.

    Args:
        train: what probes learn from.
        test: what they are tested on, of other patients.
        vocabulary: of the facts.
        factor: "pathology" or "anatomy".
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `macro_auroc`: of each representation; `own_minus_other`: that of the factor's own stream less that of the other one;
        `per_class`: positives in `train` and `test`, and the `auroc` of each representation; `left_out`: classes that occur,
        but with too few positives or negatives, with how many there are.

    Raises:
        MedLIPError: no class has enough of both, or a representation is not finite.
    """
    classes = _classes(vocabulary, factor)
    learned, asked = (_labels(_cells(known.facts, vocabulary, factor)) for known in (train, test))
    kept, left_out = _sort_out(classes, {"to learn from": learned, "to test on": asked})
    if not kept:
        raise MedLIPError(
            f"no {factor} has {MINIMUM} positives both among the {len(learned)} images to learn from and among the "
            f"{len(asked)} to test on. Take more images."
        )
    answers = {name: auroc_statistic(_ask(train, test, name, learned[:, kept]), asked[:, kept]) for name in train.features}

    def statistic(weights: Array) -> Array:
        macro = {name: mean_defined(areas(weights)) for name, areas in answers.items()}
        return np.stack([*macro.values(), _own_minus_other(macro, factor)], axis=1)

    *macro, difference = _estimates(statistic, test.patients, resamples, seed)
    areas = {name: area(np.ones((1, len(asked))))[0] for name, area in answers.items()}
    return {
        "macro_auroc": dict(zip(answers, macro, strict=True)),
        "own_minus_other": difference,
        "per_class": {
            classes[c]: {
                "train": int((learned[:, c] == 1).sum()),
                "test": int((asked[:, c] == 1).sum()),
                "auroc": {name: number(values[column]) for name, values in areas.items()},
            }
            for column, c in enumerate(kept)
        },
        "left_out": left_out,
    }


def probe_held_out(
    train: Known, test: Known, vocabulary: Vocabulary, factor: str, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Read a factor off every representation where it comes with partners of which the probe has seen none.

    Partners of a pathology are the places it occurs in, those of an anatomy the pathologies that occur there. Each class
    has its partners halved at random; images with partners of both halves, or without a place, don't count.

    Args:
        train: what probes learn from.
        test: what they are tested on, of other patients.
        vocabulary: of the facts.
        factor: "pathology" or "anatomy".
        resamples: of the bootstrap.
        seed: of the bootstrap and the halves.

    Returns:
        `macro_auroc`: for each representation `seen`, `held_out` and `loss` (seen less held out); `own_minus_other`:
        held-out AUROC of the factor's own stream less that of the other one; `classes`: names; `left_out`: classes that
        occur with a single partner, or too rarely in a half. Without a class that can be tested, numbers are None.

    Raises:
        MedLIPError: a representation is not finite.
    """
    classes = _classes(vocabulary, factor)
    cells = {"train": _cells(train.facts, vocabulary, factor), "test": _cells(test.facts, vocabulary, factor)}
    targets: list[list[Array]] = [[], [], []]  # to learn from; the test's seen and held-out ones; both ways of every class
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for c, name in enumerate(classes):
        occurs = [(part[:, c] == 1).any(0) for part in cells.values()]
        partners = np.flatnonzero((occurs[0] | occurs[1]) & _usable(vocabulary, factor))
        if len(partners) < 2:
            if len(partners):
                left_out[name] = "it occurs with a single partner"
            continue
        drawn = np.random.default_rng((seed, FACTORS.index(factor), c)).permutation(partners)
        halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        learned, asked = (np.stack([_labels_within(part[:, c], half) for half in halves], 1) for part in cells.values())
        fits, reasons = _sort_out([name] * 2, {"to learn from": learned, "to test on": asked})
        if len(fits) < 2:
            left_out[name] = next(iter(reasons.values()), "a half of its partners has no positive")
            continue
        kept.append(name)
        for columns, both_ways in zip(targets, (learned, asked, asked[:, ::-1]), strict=True):
            columns.append(both_ways)
    if not kept:
        nothing = {"value": None, "interval": None}
        return {
            "macro_auroc": {name: dict.fromkeys(("seen", "held_out", "loss"), nothing) for name in train.features},
            "own_minus_other": nothing,
            "classes": [],
            "left_out": left_out,
        }
    learned, seen, held_out = (np.concatenate(columns, 1) for columns in targets)
    areas = {}
    for name in train.features:
        scores = _ask(train, test, name, learned)
        areas[name] = auroc_statistic(scores, seen), auroc_statistic(scores, held_out)

    def statistic(weights: Array) -> Array:
        macro = {name: [mean_defined(part(weights)) for part in both] for name, both in areas.items()}
        values = [value for old, new in macro.values() for value in (old, new, old - new)]
        return np.stack([*values, _own_minus_other({name: new for name, (_, new) in macro.items()}, factor)], axis=1)

    *estimates, difference = _estimates(statistic, test.patients, resamples, seed)
    return {
        "macro_auroc": {
            name: dict(zip(("seen", "held_out", "loss"), estimates[3 * i : 3 * i + 3], strict=True))
            for i, name in enumerate(areas)
        },
        "own_minus_other": difference,
        "classes": kept,
        "left_out": left_out,
    }


def overlap_of_maps(pathologies: Array, anatomies: Array) -> Array:
    """Return the cosine (A, P) of pathology maps (P, N) and anatomy maps (A, N), each scaled from minimum to maximum.

    From 0 (nowhere together) to 1 (the same but for scale); NaN for a map that is the same everywhere.
    """
    overlap: Array = _scaled(anatomies) @ _scaled(pathologies).T
    return overlap


class Overlaps:
    """Whether the two streams look at the same locations for a present finding and its place, image by image.

    Args:
        facts: of the N images, as `Known` has them.
        patients: (N,).
        vocabulary: of the facts.
    """

    def __init__(self, facts: Facts, patients: Sequence[str], vocabulary: Vocabulary) -> None:
        self.patients = patients
        self._pathologies, self._anatomies = _indices(vocabulary, "pathology"), _indices(vocabulary, "anatomy")
        self._present, self._mentioned = (_findings(facts, vocabulary, values) for values in ((1,), (1, IGNORED)))
        self._unfit = vocabulary.unfit_anatomies[np.ix_(self._anatomies, self._anatomies)]
        self._found: list[tuple[int, float, float]] = []

    def add(self, row: int, maps: Mapping[str, Array]) -> None:
        """Take the maps of image `row`: {"pathology": (P, h, w), "anatomy": (A, h, w)}."""
        pathologies, anatomies = (maps[stream].reshape(len(maps[stream]), -1) for stream in FACTORS)
        cosines = overlap_of_maps(pathologies[self._pathologies], anatomies[self._anatomies])
        others = self._present.any((0, 2)) & ~self._mentioned[row].any(1)  # places with a finding, but not in this image
        for a, p in np.argwhere(self._present[row]):
            control = cosines[others & ~self._unfit[a], p]
            defined = control[~np.isnan(control)]
            self._found.append((row, cosines[a, p], defined.mean() if len(defined) else np.nan))

    def result(self, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Return the mean over present findings with a place.

        Returns:
            `own`: the cosine of the finding's map and its place's; `control`: that of other places' (see `RULES`);
            `difference`: own less control; `n`: findings; `left_out`: those whose map, or whose control's, is the same
            everywhere, or that no other place can be held against.
        """
        rows = [row for row, *_ in self._found]
        values = np.array([both for _, *both in self._found]).reshape(-1, 2)
        defined = ~np.isnan(values).any(1)
        patients = np.array(self.patients)[rows][defined] if rows else np.array([], str)
        statistic = mean_statistic(np.c_[values, values[:, 0] - values[:, 1]][defined])
        own, control, difference = _estimates(statistic, patients, resamples, seed)
        return {
            "own": own,
            "control": control,
            "difference": difference,
            "n": int(defined.sum()),
            "left_out": int((~defined).sum()),
        }


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
        places[_indices(vocabulary, "anatomy")[_findings(facts, vocabulary, (1,)).any((0, 2))]] = True
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

    def result(self, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Return how well pathologies are found, and placed, in pairs that were `seen` and that were `held_out`.

        Returns:
            `auroc`: macro over `classes` of positives whose only places are seen, or held out, against the images without
            the pathology; `left_out`: pathologies with too few of either. `place`: the share of present findings whose place
            is among the highest third of what the method answers (see `RULES`; ties count half), by `seen`, `held_out` and
            `loss` (seen less held out); `pairs`: for each held-out pair its findings `n` and that share, None without any.
        """
        return {
            **self._presence(resamples, seed),
            "place": self._placing(resamples, seed),
            "pairs": [self._pair(pathology, anatomy) for pathology, anatomy in self.pairs],
        }

    def _presence(self, resamples: int, seed: int) -> dict[str, Any]:
        halves = [
            np.stack([_labels_within(self._cells[:, k], np.flatnonzero(inside[:, k])) for k in range(len(self.prompts))], 1)
            for inside in (~self._held_out & np.array(list(map(is_place, self._names)))[:, None], self._held_out)
        ]
        kept, left_out = _sort_out(self.prompts, {"in seen pairs": halves[0], "in held-out pairs": halves[1]})
        areas = [auroc_statistic(self._scores[:, kept], half[:, kept]) for half in halves]
        return {
            "auroc": _seen_and_held_out(
                lambda weights: mean_defined(areas[0](weights)),
                lambda weights: mean_defined(areas[1](weights)),
                self.patients,
                resamples,
                seed,
            ),
            "classes": [self.prompts[k] for k in kept],
            "left_out": left_out,
        }

    def _placing(self, resamples: int, seed: int) -> dict[str, Any]:
        held_out = np.array([self._held_out[a, k] for _, k, a, _ in self._found], bool)
        among = np.array([rank < HIGHEST for *_, rank in self._found], float)
        patients = [self.patients[row] for row, *_ in self._found]
        seen_mean, held_mean = mean_statistic(among[~held_out]), mean_statistic(among[held_out])
        return _seen_and_held_out(
            lambda weights: seen_mean(weights[:, ~held_out]),
            lambda weights: held_mean(weights[:, held_out]),
            patients,
            resamples,
            seed,
        ) | {"n_seen": int((~held_out).sum()), "n_held_out": int(held_out.sum())}

    def _pair(self, pathology: str, anatomy: str) -> dict[str, Any]:
        k, a = self.prompts.index(pathology), self._names.index(anatomy)
        among = [rank < HIGHEST for _, column, place, rank in self._found if (column, place) == (k, a)]
        share = float(np.mean(among)) if among else None
        return {"pathology": pathology, "anatomy": anatomy, "n": len(among), "place": share}


def _require(method: Any, streams: bool, pairs: Sequence[Pair] | None) -> None:
    name = getattr(method, "name", type(method).__name__)
    if pairs is None and not streams:
        raise MedLIPError(
            f"method {name!r} has no streams to tell apart. Methods that have them: {', '.join(method_names('streams'))}. "
            "What it makes of held-out pairs can be measured: give them (--pairs)."
        )
    if pairs is not None and not isinstance(method, TellsPlaces):
        raise MedLIPError(
            f"method {name!r} doesn't say where its findings lie, so it can't be asked for held-out pairs. Methods that do: "
            f"{', '.join(method_names('score_anatomies'))}."
        )


def _notes(method: Any, streams: bool, composition: Mapping[str, Any] | None) -> Iterator[str]:
    if not streams:
        yield f"method {getattr(method, 'name', type(method).__name__)!r} has no streams: only composition was measured"
    if composition is None:
        return
    if composition["trained_without"] is None:
        yield "not known what the method was trained on: whether the pairs were held out of it was not looked for"
    if composition["trained_without"] is False:
        yield (
            "WARNING: THE METHOD WAS NOT TRAINED ON THIS DATA WITHOUT THESE PAIRS: it may have seen them. "
            "Train it so: medlip pretrain RECIPE --data STORE --without PAIRS"
        )
    if unseen := [f"{pair['pathology']} in {pair['anatomy']}" for pair in composition["pairs"] if not pair["n"]]:
        yield f"{len(unseen)} of the held-out pairs are in none of the tested images: {', '.join(unseen)}"


def _trained_without(method: Any, store: Store, pairs: Sequence[Pair]) -> bool | None:
    """Whether the method was trained on the split `train` of this store without the pairs; None where that's not known."""
    made_by = getattr(method, "made_by", None)
    if made_by is None:
        return None
    return "train" in store.splits and bool(made_by["data"]["hash"] == without_pairs(store.select("train"), pairs).hash)


def _draw(store: Store, images: int, seed: int) -> Store:
    """Return that many images of a store at random, in its order; all where it has no more."""
    if len(store) <= images:
        return store
    return store.take(np.sort(np.random.default_rng(seed).permutation(len(store))[:images]))


def _look(
    method: Any,
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
                asked = composition.prompts
                composition.add(first, _array(method.score(images, asked)), _array(method.score_anatomies(images, asked)))
            first += len(batch)
    return {name: np.concatenate(parts) for name, parts in features.items()}


def _scaled(maps: Array) -> Array:
    """Return maps (K, N) from 0 up, of length 1; NaN for one that is the same everywhere."""
    above = maps - maps.min(axis=1, keepdims=True)
    length = np.linalg.norm(above, axis=1, keepdims=True)
    directions: Array = np.divide(above, length, out=np.full_like(above, np.nan), where=length > 0)
    return directions


def _array(values: Tensor) -> Array:
    return values.float().cpu().numpy().astype(float)


def _indices(vocabulary: Vocabulary, factor: str) -> NDArray[np.int64]:
    """Return which pathologies are abnormal, or which anatomies are places."""
    if factor == "pathology":
        chosen = [pathology.kind == "abnormal" for pathology in vocabulary.pathologies]
    else:
        chosen = [is_place(anatomy.name) for anatomy in vocabulary.anatomies]
    return np.flatnonzero(chosen)


def _classes(vocabulary: Vocabulary, factor: str) -> list[str]:
    concepts = vocabulary.pathologies if factor == "pathology" else vocabulary.anatomies
    return [concepts[i].name for i in _indices(vocabulary, factor)]


def _cells(facts: Facts, vocabulary: Vocabulary, factor: str) -> Facts:
    """Return the facts (N, C, K) of a factor's classes with their partners: pathologies, or anatomies with catch-alls."""
    abnormal = facts[:, :, _indices(vocabulary, "pathology")]
    return abnormal.transpose(0, 2, 1) if factor == "pathology" else abnormal[:, _indices(vocabulary, "anatomy")]


def _usable(vocabulary: Vocabulary, factor: str) -> NDArray[np.bool_]:
    """Return which partners can be told from one another: an anatomy that is no place may be any."""
    if factor == "anatomy":
        return np.ones(len(_indices(vocabulary, "pathology")), bool)
    return np.isin(np.arange(len(vocabulary.anatomies)), _indices(vocabulary, "anatomy"))


def _findings(facts: Facts, vocabulary: Vocabulary, values: Sequence[int]) -> NDArray[np.bool_]:
    """Return which abnormal findings have one of these values in which places, (N, places, abnormal pathologies)."""
    return np.isin(_cells(facts, vocabulary, "anatomy"), values)


def _labels(cells: Facts) -> Array:
    """Return 1 where a class is present with any partner, NaN where it is uncertain, else 0: (N, C, K) -> (N, C)."""
    unknown = np.where((cells == IGNORED).any(-1), np.nan, 0.0)
    return np.where((cells == 1).any(-1), 1.0, unknown)


def _labels_within(cells: Facts, partners: NDArray[np.int64]) -> Array:
    """Return labels (N,) of one class (N, K) where it is present with these partners alone; NaN where with others."""
    outside = np.delete(cells, partners, axis=1)
    return np.where((outside == 1).any(-1), np.nan, _labels(cells))


def _sort_out(names: Sequence[str], parts: Mapping[str, Array]) -> tuple[list[int], dict[str, str]]:
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


def _ask(train: Known, test: Known, name: str, labels: Array) -> Array:
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


def _own_minus_other(values: Mapping[str, Array], factor: str) -> Array:
    (other,) = set(FACTORS) - {factor}
    return values[factor] - values[other]


def _estimates(
    statistic: Statistic, patients: Sequence[str] | NDArray[Any], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return each of the K values of a statistic, (R, N) -> (R, K), with its interval over patients."""
    values = statistic(np.ones((1, len(patients))))[0]
    low, high = bootstrap(statistic, patients, resamples, seed)
    return [{"value": number(value), "interval": interval(*ends)} for value, *ends in zip(values, low, high, strict=True)]


def _seen_and_held_out(
    seen: Statistic, held_out: Statistic, patients: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    def statistic(weights: Array) -> Array:
        old, new = seen(weights), held_out(weights)
        return np.stack([old, new, old - new], axis=1)

    return dict(zip(("seen", "held_out", "loss"), _estimates(statistic, patients, resamples, seed), strict=True))
