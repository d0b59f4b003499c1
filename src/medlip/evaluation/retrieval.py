"""Image-text retrieval: whether an image finds its report, a report its image, and the words for a class its images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Seam

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError
from medlip.evaluation.basis import (
    ON_TRAINED,
    UNASKED,
    Answering,
    choose_prompts,
    default_split,
    hash_names,
    inference,
    label_matrix,
    preprocessed,
    provenance,
    resolved,
    select_split,
)
from medlip.evaluation.outcomes import Outcomes, save_outcomes
from medlip.evaluation.predictions import Predictions
from medlip.evaluation.protocol import Protocol
from medlip.files import write_atomic
from medlip.metrics.classification import (
    Array,
    Statistic,
    bootstrap,
    interval,
    mean_defined,
    mean_statistic,
    median_statistic,
    number,
)
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Store

RECALLS = (1, 5, 10)
PRECISIONS = (5, 10, 100)
RESULT = "retrieval.json"
QUERIES = "queries.parquet"
MEDIAN_RANK = "median_rank"
CELLS = 4_000_000  # similarities held at a time
RULES = {
    "right": "the image's own report and any that reads the same word for word; likewise all images with the report's words",
    "recall": "share of queries with a right answer among the first k; a report is found by any image of its study",
    "median rank": "of the first right answer",
    "precision": "share of present labels among the k highest scores of images whose label is known",
    "ties": "expectation over all their orders",
    "similarity": "dot product in float64, compared in float32",
    "intervals": "95 % percentile bootstrap over the patients of queries, or of ranked images by class; the pool stays",
}
Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


class Retrieving(Answering, Seam):
    """What retrieval knows of a method."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Return vectors (B, d)."""
        ...

    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return vectors (R, d)."""
        ...


def retrieve(
    method: Retrieving,
    store: Store,
    *,
    split: str | None = None,
    pool: int | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Rank reports for every image, images for every report, and images for every class.

    Every study gives one report, every image is a query. A right answer is the own report, or one that reads word for word
    the same (many normal reports do): no method can tell these apart. From text to image it is any image of such reports.
    Tied answers count by the expectation over all their orders, so that a method that says the same of everything gets
    chance. The similarities are held some rows at a time.

    Args:
        method: what is evaluated; any `medlip.methods.Method` will do.
        store: the data. Images whose study has no report are left out of recall, and counted in the notes.
        split: which split to evaluate; None for `test` where there is one, else `val`; "all" for every image. `train`
            must be asked for.
        pool: recall among so many reports, drawn by `seed`, and their images; None for all. The more, the harder.
        classes: which labels images are retrieved by, by name, or {name: prompt}; None for all that the vocabulary has, each
            asked for by its name.
        batch_size: images at a time.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the pool.
        out: a folder to write retrieval.json and queries.parquet (what became of every query) into, which `medlip compare`
            reads.

    Returns:
        Plain data without NaN: `image_to_text` and `text_to_image`, each with `recall_at_1`, 5, 10 and `median_rank` as
        {value, interval, chance}, `queries` and `pool`; `classes` (see `precision_result`; None without labels); `n_images`,
        `n_reports`, `n_patients`, `split`, `overlap`, `run`, `protocol`, `versions`, `notes`, `disclaimer` as in `evaluate`.
        The chance of recall@k is k / pool, and more where several answers are right.

    Raises:
        MedLIPError: there is no such split or class, there are fewer than two reports or than `pool`, `out` holds a result
            already, or the method gives NaN or can't answer a prompt.
    """
    if batch_size < 1:
        raise MedLIPError(f"batch_size={batch_size}: embed at least one image at a time.")
    if out is not None and (out / RESULT).exists():
        raise MedLIPError(f"{out}: holds a {RESULT} already. Give another folder.")
    splits = store.splits
    split = split or default_split(splits)
    evaluated = select_split(store, split, splits)
    ids, patients = evaluated.column("id"), evaluated.column("patient")
    drawn, unreported = _draw_pool(evaluated, pool, seed, split)
    labels = evaluated.column("labels")
    names = sorted({name for image in labels for name in image})
    prompts = choose_prompts(names, classes, method.vocabulary)
    with inference(method) as device:
        scores, images = _read_images(method, evaluated, prompts, drawn.images, batch_size, f"evaluating {split}", device)
        texts = _read_reports(method, drawn.texts, batch_size)
    _require_finite(images, [f"image {ids[row]!r}" for row in drawn.images])
    firsts = np.unique(drawn.image_texts, return_index=True)[1]
    _require_finite(texts, [f"report of {ids[drawn.images[first]]!r}" for first in firsts])
    known = label_matrix(labels, list(prompts))
    Predictions(ids, patients, list(prompts), scores, known)  # says which image and class have a score that is NaN
    made_under = Protocol(
        name="image-text retrieval",
        data=store.hash,
        split=split,
        images=hash_names(ids),
        tuning="nothing is tuned",
        classes={name: resolved(prompt, method.vocabulary) for name, prompt in prompts.items()},
        findings={},
        rules=RULES | {"pool": f"{pool} reports, drawn by the seed" if pool else "all reports"},
        resamples=resamples,
        seed=seed,
    )
    notes = [
        *_notes("train" in evaluated.splits, unreported, drawn, [name for name in names if name not in prompts]),
        *_class_notes(prompts, known),
    ]
    ranked = _rank_both_ways(drawn, images, texts)
    result = {
        **{way: _recall_result(each, resamples, seed) for way, each in ranked.items()},
        "classes": precision_result(list(prompts), scores, known, patients, resamples, seed) if prompts else None,
        "n_images": len(ids),
        "n_reports": len(drawn.reports),
        "n_patients": len(set(patients)),
        "split": split,
        "protocol": made_under.to_dict(),
        **provenance(method, evaluated, notes),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_outcomes((one for way, each in ranked.items() for one in _recall_outcomes(way, each)), out / QUERIES)
        write_atomic(out / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    return result


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the first right answer of each of Q queries stands, the order of ties left open.

    Attributes:
        above: (Q,) answers that fit better than the best right one.
        tied: (Q,) answers that fit as well as it does, itself among them.
        right: (Q,) right ones among those tied.
    """

    above: Integers
    tied: Integers
    right: Integers

    def found(self, k: int) -> Array:
        """Return how likely a right answer is among the first k, (Q,), over all orders of ties."""
        missed = np.ones(len(self.above))
        for place in range(k):
            earlier = place - self.above  # of those tied
            wrong = np.maximum(self.tied - self.right - earlier, 0) / np.maximum(self.tied - earlier, 1)
            missed *= np.where((earlier >= 0) & (earlier < self.tied), wrong, 1)
        return 1 - missed

    @property
    def expected(self) -> Array:
        """The rank of the first right answer, (Q,), from 1 on, on average over all orders of ties."""
        rank: Array = self.above + (self.tied + 1) / (self.right + 1)
        return rank


def rank_first(queries: Vectors, query_texts: Integers, answers: Vectors, answer_texts: Integers) -> Ranks:
    """Rank M answers for each of Q queries by dot product, and return where the first right one stands.

    Args:
        queries: (Q, d).
        query_texts: (Q,) the text that each belongs to.
        answers: (M, d).
        answer_texts: (M,) likewise; an answer of the query's text is right. Every query has one.
    """
    above, tied, right = (np.empty(len(queries), np.int64) for _ in range(3))
    across = answers.astype(np.float64).T
    step = max(1, CELLS // len(answers))
    starts = range(0, len(queries), step)
    for start in track(starts, "ranking", len(starts)):
        rows = slice(start, start + step)
        # A product's last bits depend on where in the matrix it stands; equal vectors must tie all the same.
        fits = (queries[rows].astype(np.float64) @ across).astype(np.float32)
        own = query_texts[rows, None] == answer_texts
        best = np.where(own, fits, -np.inf).max(axis=1, keepdims=True)
        same = fits == best
        above[rows], tied[rows], right[rows] = ((fits > best).sum(1), same.sum(1), (same & own).sum(1))
    return Ranks(above, tied, right)


def precision_result(
    classes: Sequence[str], scores: Array, labels: Array, patients: Sequence[str], resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the precision of the first 5, 10 and 100 images that each class's prompt retrieves, ready for JSON.

    With fewer positives than k it can't reach 1.

    Args:
        classes: C names.
        scores: (N, C).
        labels: (N, C): 1, 0, or NaN for unknown; such an image is not ranked for the class.
        patients: whose images they are, (N,).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `mean` over classes with a positive, and `per_class`, with `precision_at_5` and so on as {value, interval, chance}; a
        value that is undefined is null, with a `reason`. Chance is the class's share of positives, and its mean.
        `left_out_of_mean` names classes without a positive, `undefined_in_mean` those with fewer than k images, by measure.
    """
    ranked = precision_statistic(scores, labels)
    positives, images = (labels == 1).sum(axis=0), (~np.isnan(labels)).sum(axis=0)
    counted = positives > 0

    def statistic(weights: Array) -> Array:
        values = np.where(counted, ranked(weights), np.nan)
        return np.concatenate([values, np.stack([mean_defined(at) for at in values.swapaxes(0, 1)], 1)[..., None]], axis=2)

    values = statistic(np.ones((1, len(scores))))[0]
    low, high = bootstrap(statistic, patients, resamples, seed)
    shares = np.divide(positives, images, out=np.full(len(classes), np.nan), where=images > 0)
    defined = ~np.isnan(values[:, :-1])  # (K, C)
    chances = np.column_stack([np.tile(shares, (len(PRECISIONS), 1)), mean_defined(np.where(defined, shares, np.nan))])

    def entry(c: int) -> dict[str, Any]:
        return {
            f"precision_at_{k}": _number(values[row, c], low[row, c], high[row, c], chances[row, c])
            for row, k in enumerate(PRECISIONS)
        }

    reasons = [_undefined(*counts) for counts in zip(positives.tolist(), images.tolist(), strict=True)]
    return {
        "mean": entry(len(classes)) | ({} if counted.any() else {"reason": "no class has a positive"}),
        "left_out_of_mean": {name: reasons[c] for c, name in enumerate(classes) if not counted[c]},
        "undefined_in_mean": {
            f"precision_at_{k}": lacking
            for row, k in enumerate(PRECISIONS)
            if (lacking := [name for c, name in enumerate(classes) if counted[c] and not defined[row, c]])
        },
        "per_class": {
            name: entry(c)
            | {"positives": int(positives[c]), "n": int(images[c])}
            | ({"reason": reasons[c]} if reasons[c] else {})
            for c, name in enumerate(classes)
        },
    }


def precision_statistic(scores: Array, labels: Array) -> Statistic:
    """Return the precision at each of `PRECISIONS` as a function of weights, (R, N) -> (R, K, C), for `bootstrap`.

    The places that tied images share count by their share of positives. NaN where fewer than k images have a known label.
    """
    ranked = []
    for c in range(scores.shape[1]):
        known = np.flatnonzero(~np.isnan(labels[:, c]))
        order = known[np.argsort(-scores[known, c], kind="stable")]
        first_of_ties = np.flatnonzero(np.append(True, np.diff(scores[order, c]) != 0)[: len(order)])
        ranked.append((order, labels[order, c], first_of_ties))

    def statistic(weights: Array) -> Array:
        values = np.full((len(weights), len(PRECISIONS), len(ranked)), np.nan)
        for c, (order, present, first_of_ties) in enumerate(ranked):
            if not len(order):
                continue
            sorted_weights = weights[:, order]
            tied = np.add.reduceat(sorted_weights, first_of_ties, axis=1)
            shares = np.add.reduceat(sorted_weights * present, first_of_ties, axis=1) / np.maximum(tied, 1)
            before = tied.cumsum(axis=1) - tied
            for row, k in enumerate(PRECISIONS):
                precision = (np.clip(k - before, 0, tied) * shares).sum(axis=1) / k
                values[:, row, c] = np.where(sorted_weights.sum(axis=1) >= k, precision, np.nan)
        return values

    return statistic


@dataclass(frozen=True, slots=True)
class _Pool:
    """The reports among which images are told apart, and the images of their studies.

    Attributes:
        texts: U different reports, as sentences.
        reports: (R,) the text of each study's report.
        patients: (R,) whose it is.
        images: (M,) rows of the evaluated images that belong to these studies, in order.
        image_texts: (M,) the text of each image's report.
        image_patients: (M,) whose it is.
    """

    texts: list[tuple[str, ...]]
    reports: Integers
    patients: list[str]
    images: list[int]
    image_texts: Integers
    image_patients: list[str]


def _draw_pool(store: Store, pool: int | None, seed: int, split: str) -> tuple[_Pool, int]:
    """Draw studies with a report, and count the images whose study has none; the order of the store plays no part."""
    studies = list(zip(store.column("source"), store.column("study"), strict=True))
    patients, sentences = store.column("patient"), store.column("sentences")
    reports = {study: text for study, text in zip(studies, sentences, strict=True) if text}
    if len(reports) < 2:
        raise MedLIPError(
            f"{len(reports)} studies of the split {split!r} have a report (findings or impression), and retrieval tells at "
            "least two apart. Give data with reports; data with labels alone can be evaluated."
        )
    if pool is not None and not 2 <= pool <= len(reports):
        raise MedLIPError(f"pool={pool}: the split {split!r} has {len(reports)} reports. Give a number from 2 to that.")
    chosen = sorted(reports)
    if pool is not None:
        chosen = [chosen[i] for i in np.random.default_rng(seed).choice(len(chosen), pool, replace=False)]
    texts = sorted({reports[study] for study in chosen})
    index = {text: i for i, text in enumerate(texts)}
    text_of_study = {study: index[reports[study]] for study in chosen}
    patient_of_study = dict(zip(studies, patients, strict=True))
    images = [row for row, study in enumerate(studies) if study in text_of_study]
    return _Pool(
        texts,
        np.array([text_of_study[study] for study in chosen]),
        [patient_of_study[study] for study in chosen],
        images,
        np.array([text_of_study[studies[row]] for row in images]),
        [patients[row] for row in images],
    ), sum(study not in reports for study in studies)


def _read_images(
    method: Retrieving,
    store: Store,
    prompts: Mapping[str, str],
    embedded: Sequence[int],
    batch_size: int,
    description: str,
    device: torch.device,
) -> tuple[Array, Vectors]:
    """Return the scores (N, C) of all images, and the vectors (M, d) of those to be embedded."""
    scores, wanted = np.empty((len(store), len(prompts))), set(embedded)
    vectors = []
    starts = range(0, len(store), batch_size)
    for start in track(starts, description, len(starts)):
        rows = range(start, min(start + batch_size, len(store)))
        in_pool = [row - start for row in rows if row in wanted]
        if not prompts and not in_pool:
            continue
        images = preprocessed([store[row] for row in rows], method.preprocessing).to(device)
        if prompts:
            scores[start : rows.stop] = method.score(images, list(prompts.values())).float().cpu().numpy()
        if in_pool:
            vectors.append(method.embed_images(images[in_pool]).float().cpu().numpy())
    return scores, np.concatenate(vectors)


def _read_reports(method: Retrieving, texts: Sequence[Sequence[str]], batch_size: int) -> Vectors:
    starts = range(0, len(texts), batch_size)
    return np.concatenate(
        [
            method.embed_reports(texts[start : start + batch_size]).float().cpu().numpy()
            for start in track(starts, "reading reports", len(starts))
        ]
    )


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Where the right answers of Q queries stand, one way.

    Attributes:
        ranks: of each query.
        right: (Q,) how many answers are right.
        pool: how many answers there are.
        patients: (Q,) whose query it is.
    """

    ranks: Ranks
    right: Integers
    pool: int
    patients: Sequence[str]

    @classmethod
    def of(cls, ranks: Ranks, query_texts: Integers, answer_texts: Integers, patients: Sequence[str]) -> _Ranked:
        return cls(ranks, np.bincount(answer_texts)[query_texts], len(answer_texts), patients)

    @property
    def hits(self) -> Array:
        """How likely each query has a right answer among the first of each of `RECALLS`, (Q, K)."""
        return np.stack([self.ranks.found(k) for k in RECALLS], axis=1)


def _rank_both_ways(drawn: _Pool, images: Vectors, texts: Vectors) -> dict[str, _Ranked]:
    said = texts.any(axis=0)  # most of the facts that a report could state are stated by none
    images, texts = images[:, said], texts[:, said]
    found = rank_first(images, drawn.image_texts, texts[drawn.reports], drawn.reports)
    # One ranking for each text: reports that read the same retrieve the same.
    by_text = rank_first(texts, np.arange(len(texts)), images, drawn.image_texts)
    found_images = Ranks(*(values[drawn.reports] for values in (by_text.above, by_text.tied, by_text.right)))
    return {
        "image_to_text": _Ranked.of(found, drawn.image_texts, drawn.reports, drawn.image_patients),
        "text_to_image": _Ranked.of(found_images, drawn.reports, drawn.image_texts, drawn.patients),
    }


def _recall_result(ranked: _Ranked, resamples: int, seed: int) -> dict[str, Any]:
    none, all_tied = np.zeros_like(ranked.right), np.full_like(ranked.right, ranked.pool)
    guessed = _Ranked(Ranks(none, all_tied, ranked.right), ranked.right, ranked.pool, ranked.patients)
    hits, chances = ranked.hits, guessed.hits
    low, high = bootstrap(mean_statistic(hits), ranked.patients, resamples, seed)
    ends = bootstrap(median_statistic(ranked.ranks.expected), ranked.patients, resamples, seed)
    return {
        **{
            f"recall_at_{k}": _number(hits[:, row].mean(), low[row], high[row], chances[:, row].mean())
            for row, k in enumerate(RECALLS)
        },
        MEDIAN_RANK: _number(np.median(ranked.ranks.expected), *ends, np.median(guessed.ranks.expected)),
        "queries": len(ranked.right),
        "pool": ranked.pool,
    }


def _recall_outcomes(way: str, ranked: _Ranked) -> list[Outcomes]:
    """Return every query's part in the recalls, and its rank."""
    measures = [f"recall_at_{k}" for k in RECALLS] + [MEDIAN_RANK]
    values = np.column_stack([ranked.hits, ranked.ranks.expected]).T
    patients = [pseudonym(patient) for patient in ranked.patients]
    findings = [""] * len(patients)
    return [Outcomes(f"{way}/{name}/value", findings, patients, own) for name, own in zip(measures, values, strict=True)]


def _number(value: Any, low: Any, high: Any, chance: Any) -> dict[str, Any]:
    return {"value": number(value), "interval": interval(low, high), "chance": number(chance)}


def _undefined(positives: int, images: int) -> str:
    """Return why numbers of a class are null, "" when none is."""
    if not positives:
        return f"no positive among {images:,} images with a known label"
    lacking = [str(k) for k in PRECISIONS if k > images]
    return f"{images:,} images with a known label: fewer than {' and '.join(lacking)}" if lacking else ""


def _require_finite(vectors: Vectors, names: Sequence[str]) -> None:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise MedLIPError(
            f"{len(broken)} vectors are not finite; the first is of the {names[broken[0]]}. The method gives NaN: check its "
            "weights and its training log."
        )


def _notes(trained_on: bool, unreported: int, drawn: _Pool, unasked: Sequence[str]) -> Iterator[str]:
    if trained_on:
        yield ON_TRAINED
    if unreported:
        yield f"left out of recall: {unreported:,} images whose study has no report (findings or impression)"
    repeated = sum(count for count in Counter(drawn.reports.tolist()).values() if count > 1)
    if repeated:
        yield (
            f"{repeated:,} of {len(drawn.reports):,} reports read word for word like another; all of one text are right, "
            "also in the chance beside recall"
        )
    if unasked:
        yield f"{UNASKED}: {', '.join(unasked)}"


def _class_notes(prompts: Mapping[str, str], labels: Array) -> Iterator[str]:
    if not prompts:
        yield "no precision by class: the data has no labels that are asked for"
    lacking = [name for name, positives in zip(prompts, (labels == 1).sum(axis=0), strict=True) if not positives]
    if lacking:
        yield f"no precision, for want of a positive: {', '.join(lacking)}"
