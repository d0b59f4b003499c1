"""Image-text retrieval: whether an image finds its report, a report its image, and the words for a class its images.

Every study gives one report, every image is a query. A right answer is the own report, or one that reads word for word the
same (many normal reports do): no method can tell these apart. From text to image it is any image of such reports. Tied
answers count by the expectation over all their orders, so that a method that says the same of everything gets chance. The
similarities are held some rows at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.predictions import Predictions
from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions, label_matrix
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks.base import ImageBatch, Needs, Task, register_task
from medlip.methods.base import EmbedsReports, method_names
from medlip.metrics import (
    INTERVALS,
    Array,
    Estimate,
    Integers,
    Measure,
    Ranks,
    Vectors,
    bootstrap,
    mean_defined,
    mean_statistic,
    median_statistic,
    precision_statistic,
    rank_first,
)
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers, Method

RECALLS = (1, 5, 10)
PRECISIONS = (5, 10, 100)
WAYS = {"image_to_text": "image to report", "text_to_image": "report to image"}


class RetrievalResult(TaskResult):
    """Recall both ways, and the precision of the first images of each class; `n` of a recall counts the queries.

    Attributes:
        pool: how many answers there are to tell apart, by way.
        n_reports: among which images are told apart.
        left_out_of_macro: classes without a positive, with reasons.
        undefined_in_macro: classes with fewer than k images, by the measure's name by class.
    """

    pool: dict[str, int]
    n_reports: int
    left_out_of_macro: dict[str, str]
    undefined_in_macro: dict[str, list[str]]


@register_task
class Retrieval(Task):
    """Does an image find its report, a report its image, the words for a class its images?"""

    name = "retrieval"
    title = "retrieval"
    measures = (
        *(
            each
            for way, title in WAYS.items()
            for each in (
                *(Measure(f"{way}_recall_at_{k}", f"{title}, recall at {k}", chance="any order") for k in RECALLS),
                Measure(f"{way}_median_rank", f"{title}, median rank", chance="any order", better="lower", summary="median"),
            )
        ),
        *(
            Measure(f"macro_precision_at_{k}", f"images by class, precision at {k}", chance="share of positives")
            for k in PRECISIONS
        ),
    )
    needs = Needs(embeddings=True)
    result_type = RetrievalResult
    by_default = False

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        """Draw the pool.

        Raises:
            MedLIPError: there are fewer than two reports, or fewer than the pool is to have.
        """
        super().__init__(cohort, questions, options)
        self.drawn, self.unreported = _draw_pool(cohort, options.pool, options.seed)
        self.scores = np.empty((len(cohort), len(questions.classes)))
        self._in_pool = frozenset(self.drawn.images)
        self.vectors: list[Vectors] = []
        self.texts: Vectors = np.empty((0, 0), np.float32)
        self._ranks: dict[str, _Ranked] = {}
        self._cut = ""

    def begin(self, method: Method) -> None:
        """Embed the reports.

        Raises:
            MedLIPError: the method doesn't put images and reports into one space.
        """
        if not isinstance(method, EmbedsReports):
            raise MedLIPError(
                f"method {method.name!r} doesn't embed images and reports, so it can't retrieve. Methods that do: "
                f"{', '.join(method_names(EmbedsReports))}."
            )
        texts, step = self.drawn.texts, self.options.batch_size
        cut = method.cut(texts[text] for text in self.drawn.reports)
        self._cut = cut.describe() if cut else ""
        starts = range(0, len(texts), step)
        self.texts = np.concatenate(
            [
                method.embed_reports(texts[start : start + step]).float().cpu().numpy()
                for start in track(starts, "reading reports", len(starts))
            ]
        )

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return the prompts of all classes."""
        return self.questions.classes.values()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Keep the scores, and the vectors of images in the pool."""
        assert answers.embeddings is not None
        columns = batch.columns_of(self.questions.classes.values())
        self.scores[batch.rows.start : batch.rows.stop] = answers.scores.float().numpy()[:, columns]
        in_pool = [row - batch.rows.start for row in batch.rows if row in self._in_pool]
        self.vectors.append(answers.embeddings[in_pool].float().numpy())

    def result(self, tuned_on: Self | None, rule: str) -> RetrievalResult:
        """Return the numbers.

        Raises:
            MedLIPError: a vector or a score is not finite; names its image, report or class.
        """
        names, labels = list(self.questions.classes), self._labels
        ids, patients = self.cohort.of_studies(self.cohort.ids), self.cohort.of_studies(self.cohort.patients)
        scores = self.scores[self.cohort.first_rows]
        Predictions(ids, patients, names, scores, labels)  # refuses what is not finite
        resamples, seed = self.options.resamples, self.options.seed
        estimates = {
            name: estimate
            for way, ranked in self._ranked().items()
            for name, estimate in _recalls(way, ranked, resamples, seed).items()
        }
        precisions = precision_result(names, scores, labels, patients, resamples, seed) if names else Precisions()
        return RetrievalResult(
            **estimates,
            **precisions.macro,
            per_class=precisions.per_class,
            pool={way: ranked.pool for way, ranked in self._ranked().items()},
            n_reports=len(self.drawn.reports),
            left_out_of_macro=precisions.left_out,
            undefined_in_macro=precisions.undefined,
        )

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return every query's part in the recalls, and its rank."""
        for way, ranked in self._ranked().items():
            patients = [pseudonym(patient) for patient in ranked.patients]
            measures = [f"recall_at_{k}" for k in RECALLS] + ["median_rank"]
            values = np.column_stack([ranked.hits, ranked.ranks.expected]).T
            for name, own in zip(measures, values, strict=True):
                yield Outcomes(f"{self.name}/{way}_{name}", [""] * len(patients), patients, own)

    def rules(self) -> Mapping[str, str]:
        """Return what counts as right, and among how many."""
        pool = self.options.pool
        return {
            "right": (
                "the image's own report and any that reads the same word for word; likewise all images with the report's "
                "words"
            ),
            "recall": "share of queries with a right answer among the first k; a report is found by any image of its study",
            "median rank": "of the first right answer",
            "precision": "share of present labels among the k highest scores of images whose label is known",
            "ties": "expectation over all their orders",
            "similarity": "dot product in float64, compared in float32",
            "intervals": f"{INTERVALS}: of queries, or of ranked images by class; the pool stays",
            "pool": f"{pool} reports, drawn by the seed" if pool else "all reports",
        }

    def notes(self) -> Iterator[str]:
        """Say what was left out or not read, and what can't be told apart."""
        if self._cut:
            yield self._cut
        if self.unreported:
            yield f"left out of recall: {self.unreported:,} images whose study has no report (findings or impression)"
        repeated = sum(count for count in Counter(self.drawn.reports.tolist()).values() if count > 1)
        if repeated:
            yield (
                f"{repeated:,} of {len(self.drawn.reports):,} reports read word for word like another; all of one text are "
                "right, also in the chance beside recall"
            )
        if not self.questions.classes:
            yield "no precision by class: the data has no labels that are asked for"
            return
        positives = (self._labels == 1).sum(axis=0)
        lacking = [name for name, count in zip(self.questions.classes, positives, strict=True) if not count]
        if lacking:
            yield f"no precision, for want of a positive: {', '.join(lacking)}"

    @property
    def _labels(self) -> Array:
        return label_matrix(self.cohort.study_labels, list(self.questions.classes))

    def _ranked(self) -> dict[str, _Ranked]:
        """Rank reports for every image and images for every report, once."""
        if not self._ranks:
            drawn, images, texts = self.drawn, np.concatenate(self.vectors), self.texts
            _require_finite(images, [f"image {self.cohort.ids[row]!r}" for row in drawn.images])
            firsts = np.unique(drawn.image_texts, return_index=True)[1]
            _require_finite(texts, [f"report of {self.cohort.ids[drawn.images[first]]!r}" for first in firsts])
            self._ranks = _rank_both_ways(drawn, images, texts)
        return self._ranks


@dataclass(frozen=True, slots=True)
class Precisions:
    """The precision of the first images of each class.

    Attributes:
        macro: means over classes with a positive, by measure.
        per_class: of each class.
        left_out: of the means: classes without a positive, with reasons.
        undefined: classes with fewer than k images, by the measure's name by class.
    """

    macro: Mapping[str, Estimate] = field(default_factory=dict)
    per_class: Mapping[str, ClassResult] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    undefined: Mapping[str, list[str]] = field(default_factory=dict)


def precision_result(
    classes: Sequence[str], scores: Array, labels: Array, patients: Sequence[str], resamples: int = 1000, seed: int = 0
) -> Precisions:
    """Return the precision of the first 5, 10 and 100 images that each class's prompt retrieves.

    With fewer positives than k it can't reach 1. Chance is the class's share of positives, and its mean.

    Args:
        classes: C names.
        scores: (N, C).
        labels: (N, C): 1, 0, or NaN for unknown; such an image is not ranked for the class.
        patients: whose images they are, (N,).
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    ranked = precision_statistic(scores, labels, PRECISIONS)
    positives, images = (labels == 1).sum(axis=0), (~np.isnan(labels)).sum(axis=0)
    counted = positives > 0

    def statistic(weights: Array) -> Array:
        values = np.where(counted, ranked(weights), np.nan)
        return np.concatenate([values, np.stack([mean_defined(at) for at in values.swapaxes(0, 1)], 1)[..., None]], axis=2)

    values = statistic(np.ones((1, len(scores))))[0]
    carriers = np.minimum(len(set(patients)), PRECISIONS)[:, None]
    low, high = bootstrap(statistic, patients, resamples, seed, shares=True, carriers=carriers)
    shares = np.divide(positives, images, out=np.full(len(classes), np.nan), where=images > 0)
    defined = ~np.isnan(values[:, :-1])  # (K, C)
    chances = np.column_stack([np.tile(shares, (len(PRECISIONS), 1)), mean_defined(np.where(defined, shares, np.nan))])
    lacks = [_undefined(*counts) for counts in zip(positives.tolist(), images.tolist(), strict=True)]

    def estimate(row: int, c: int, reason: str) -> Estimate:
        value = values[row, c]
        return Estimate.of(
            value, low[row, c], high[row, c], chance=chances[row, c], reason=reason if np.isnan(value) else None
        )

    missing = "no class has enough images" if counted.any() else "no class has a positive"
    return Precisions(
        macro={f"macro_precision_at_{k}": estimate(row, len(classes), missing) for row, k in enumerate(PRECISIONS)},
        per_class={
            name: ClassResult(
                n=int(images[c]),
                positives=int(positives[c]),
                **{f"precision_at_{k}": estimate(row, c, lacks[c]) for row, k in enumerate(PRECISIONS)},
            )
            for c, name in enumerate(classes)
        },
        left_out={name: lacks[c] for c, name in enumerate(classes) if not counted[c]},
        undefined={
            f"precision_at_{k}": lacking
            for row, k in enumerate(PRECISIONS)
            if (lacking := [name for c, name in enumerate(classes) if counted[c] and not defined[row, c]])
        },
    )


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


def _draw_pool(cohort: Cohort, pool: int | None, seed: int) -> tuple[_Pool, int]:
    """Draw studies with a report, and count the images whose study has none; the order of the store plays no part.

    Of a study whose views are read together, the first image stands for all.
    """
    store, counted = cohort.store, cohort.first_rows
    studies = list(zip(store.column("source"), store.column("study"), strict=True))
    patients, sentences = store.column("patient"), store.column("sentences")
    reports = {study: text for study, text in zip(studies, sentences, strict=True) if text}
    if len(reports) < 2:
        raise MedLIPError(
            f"{len(reports)} of the evaluated studies have a report (findings or impression), and retrieval tells at "
            "least two apart. Give data with reports; data with labels alone can be evaluated."
        )
    if pool is not None and not 2 <= pool <= len(reports):
        raise MedLIPError(f"pool={pool}: the evaluated studies have {len(reports)} reports. Give a number from 2 to that.")
    chosen = sorted(reports)
    if pool is not None:
        chosen = [chosen[i] for i in np.random.default_rng(seed).choice(len(chosen), pool, replace=False)]
    texts = sorted({reports[study] for study in chosen})
    index = {text: i for i, text in enumerate(texts)}
    text_of_study = {study: index[reports[study]] for study in chosen}
    patient_of_study = dict(zip(studies, patients, strict=True))
    images = [row for row in counted if studies[row] in text_of_study]
    return _Pool(
        texts,
        np.array([text_of_study[study] for study in chosen]),
        [patient_of_study[study] for study in chosen],
        images,
        np.array([text_of_study[studies[row]] for row in images]),
        [patients[row] for row in images],
    ), sum(studies[row] not in reports for row in counted)


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

    def progress(blocks: Sequence[int]) -> Iterable[int]:
        return track(blocks, "ranking", len(blocks))

    found = rank_first(images, drawn.image_texts, texts[drawn.reports], drawn.reports, progress)
    # One ranking for each text: reports that read the same retrieve the same.
    by_text = rank_first(texts, np.arange(len(texts)), images, drawn.image_texts, progress)
    found_images = Ranks(*(values[drawn.reports] for values in (by_text.above, by_text.tied, by_text.right)))
    return {
        "image_to_text": _Ranked.of(found, drawn.image_texts, drawn.reports, drawn.image_patients),
        "text_to_image": _Ranked.of(found_images, drawn.reports, drawn.image_texts, drawn.patients),
    }


def _recalls(way: str, ranked: _Ranked, resamples: int, seed: int) -> dict[str, Estimate]:
    none, all_tied = np.zeros_like(ranked.right), np.full_like(ranked.right, ranked.pool)
    guessed = _Ranked(Ranks(none, all_tied, ranked.right), ranked.right, ranked.pool, ranked.patients)
    hits, chances, queries = ranked.hits, guessed.hits, len(ranked.right)
    low, high = bootstrap(mean_statistic(hits), ranked.patients, resamples, seed, shares=True)
    ranks, guesses = ranked.ranks.expected, guessed.ranks.expected
    lowest, highest = bootstrap(median_statistic(ranks), ranked.patients, resamples, seed)
    recalls = {
        f"{way}_recall_at_{k}": Estimate.of(
            float(hits[:, row].mean()), low[row], high[row], chance=float(chances[:, row].mean()), n=queries
        )
        for row, k in enumerate(RECALLS)
    }
    median = Estimate.of(float(np.median(ranks)), float(lowest), float(highest), chance=float(np.median(guesses)), n=queries)
    return recalls | {f"{way}_median_rank": median}


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
