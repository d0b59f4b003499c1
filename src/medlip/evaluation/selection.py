"""What is evaluated: the options, the images of each side by their columns, and how classes are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from medlip.concepts import Vocabulary
from medlip.data.studies import Studies, studies_of, united, united_labels
from medlip.errors import MedLIPError, name_some
from medlip.evaluation.protocols import Protocol
from medlip.metrics import Array
from medlip.reports import Fact, Presence

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.data.study import Box
    from medlip.data.views import ViewKind

T = TypeVar("T")
ATTRIBUTES = ("sex", "age", "view")
HALF = "a seeded half of the patients, for want of a validation split; F1, accuracy, IoU and Dice count the other half"
ON_REPORTED = "tuned on the reported images themselves, as published: F1, accuracy, IoU and Dice are optimistic"
_LABEL_VALUES: dict[Presence | None, float] = {"present": 1.0, "absent": 0.0}


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How a method is evaluated.

    Attributes:
        split: which split to evaluate; None for `test` where there is one, else `val`; "all" for every image. `train` must
            be asked for.
        classes: which labels, by name, or {name: prompt}; None for all that the vocabulary has, each asked for by its name.
        protocol: a named one, which says split, classes, prompts and where thresholds come from.
        images: a split list: the images of the split to evaluate, by id, study or file name; None for all.
        validation: other data of the same classes to choose thresholds on; it shares no patient with what is evaluated.
            Without it they are chosen on the split `val`, when another one is evaluated; else on a seeded half of the
            patients, and what depends on them (F1, accuracy, IoU, Dice) counts the other half alone.
        pool: of retrieval: among so many reports, drawn by the seed; None for all. The more, the harder.
        batch_size: images at a time.
        resamples: of the bootstrap.
        seed: of the bootstrap, the half and the pool.

    Raises:
        MedLIPError: a number is out of range, or a protocol comes with a split or classes beside it.
    """

    split: str | None = None
    classes: Sequence[str] | Mapping[str, str] | None = None
    protocol: Protocol | None = None
    images: Sequence[str] | None = None
    validation: Store | None = None
    pool: int | None = None
    batch_size: int = 64
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.batch_size < 1:
            raise MedLIPError(f"batch_size={self.batch_size}: evaluate at least one image at a time.")
        if self.resamples < 1:
            raise MedLIPError(f"resamples={self.resamples}: draw at least 1.")
        if self.protocol is not None and (self.split or self.classes is not None):
            raise MedLIPError(f"the protocol {self.protocol.name} says which split and classes: give none beside it.")

    @property
    def on_reported(self) -> bool:
        """Whether thresholds are chosen on the reported images themselves, as some protocols have it."""
        return self.protocol is not None and self.protocol.thresholds == "test"


@dataclass(frozen=True)
class Cohort:
    """The images of one side of an evaluation, by the columns of their store: no pixel is read.

    Attributes:
        store: N images.
        vocabulary: what the method knows by name.
        training: images of other patients, from the split train of the same data, that tell where findings usually are; None
            where there are none.
        together: the studies whose views are read together, their images one behind the other; None where each image is
            read by itself.
    """

    store: Store
    vocabulary: Vocabulary
    training: Cohort | None = None
    together: Studies | None = None

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def studies(self) -> Sequence[tuple[int, ...]]:
        """The images that are read together and count once for what is said of a study, (n,); else every image."""
        return [(row,) for row in range(len(self))] if self.together is None else self.together.rows

    @cached_property
    def first_rows(self) -> list[int]:
        """Each study's first image, (n,)."""
        return [rows[0] for rows in self.studies]

    def of_studies(self, column: Sequence[T]) -> list[T]:
        """Return a column's values for the studies, those of their first images, (n,)."""
        return [column[row] for row in self.first_rows]

    @cached_property
    def study_labels(self) -> list[Mapping[str, Presence]]:
        """Labels of the studies, (n,)."""
        return [united_labels([self.labels[row] for row in rows]) for rows in self.studies]

    @cached_property
    def study_facts(self) -> list[tuple[Fact, ...]]:
        """What the reports of the studies state, (n,)."""
        return [united([self.facts[row] for row in rows], self.vocabulary) for rows in self.studies]

    @cached_property
    def ids(self) -> list[str]:
        """Names of the images in their store, (N,)."""
        return self.store.column("id")

    @cached_property
    def patients(self) -> list[str]:
        """Whose they are, (N,)."""
        return self.store.column("patient")

    @cached_property
    def labels(self) -> list[Mapping[str, Presence]]:
        """Image-level labels by name, (N,)."""
        return self.store.column("labels")

    @cached_property
    def facts(self) -> list[tuple[Fact, ...]]:
        """What the reports state, (N,)."""
        return self.store.column("facts")

    @cached_property
    def boxes(self) -> list[tuple[Box, ...]]:
        """Findings with a box, (N,)."""
        return self.store.column("boxes")

    @cached_property
    def masked(self) -> list[frozenset[str]]:
        """Names of the findings that an image has a mask of, (N,)."""
        return self.store.masked_findings()

    @cached_property
    def drawn(self) -> list[frozenset[str]]:
        """Names of the findings that an image has a box or a mask of, (N,)."""
        both = zip(self.boxes, self.masked, strict=True)
        return [frozenset(box.pathology for box in boxes) | masked for boxes, masked in both]

    @cached_property
    def located(self) -> list[list[str]]:
        """Those of them that the image's labels don't contradict, in order, (N,)."""
        return [
            sorted(name for name in drawn if labels.get(name, "present") == "present")
            for drawn, labels in zip(self.drawn, self.labels, strict=True)
        ]

    @cached_property
    def attributes(self) -> dict[str, list[str]]:
        """Sex, age and view as the data has them, (N,) each, "" where unknown."""
        values = {name: [known.get(name, "") for known in self.store.column("attributes")] for name in ATTRIBUTES[:-1]}
        return values | {"view": self.store.column("view")}


@dataclass(frozen=True, slots=True)
class Questions:
    """What a method is asked.

    Attributes:
        classes: prompts of what the data labels, by name.
        findings: prompts of what the data has a box or a mask of, by name.
        outlined: those of them with masks, which are segmented.
        unasked: names of the data's labels that are not asked for.
        phrases: findings are located by the phrases of their boxes, not by their prompts.
    """

    classes: Mapping[str, str]
    findings: Mapping[str, str]
    outlined: Sequence[str]
    unasked: Sequence[str]
    phrases: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The two sides of an evaluation.

    Attributes:
        split: that is evaluated.
        evaluated: its images.
        tuning: images that thresholds are chosen on; the evaluated ones for protocols that have it so; None for a half of
            their patients.
        rule: where thresholds come from, for people.
    """

    split: str
    evaluated: Cohort
    tuning: Cohort | None
    rule: str


def select(store: Store, options: EvaluationOptions, vocabulary: Vocabulary, kinds: Collection[ViewKind] = ()) -> Selection:
    """Choose the evaluated images, and those that thresholds are chosen on.

    Args:
        store: the data.
        options: of the evaluation.
        vocabulary: of the method.
        kinds: of views that it reads together, and no others; none where it reads image by image.

    Raises:
        MedLIPError: there is no such split or listed image, or nothing to evaluate.
    """
    splits = store.splits
    split = (options.protocol.split if options.protocol else options.split) or default_split(splits)
    part = select_split(store, split, splits)
    if options.images is not None:
        part = select_listed(part, options.images, split)
    training = Cohort(store.select("train"), vocabulary) if "train" in splits and split not in ("train", "all") else None
    evaluated = cohort_of(part, vocabulary, kinds, training)
    if options.on_reported:
        return Selection(split, evaluated, evaluated, ON_REPORTED)
    if options.validation is not None:
        tuning, rule = cohort_of(options.validation, vocabulary, kinds), "the validation data that was given"
    elif split not in ("val", "all") and "val" in splits:
        tuning, rule = cohort_of(select_split(store, "val", splits), vocabulary, kinds), "the split val"
    else:
        return Selection(split, evaluated, None, HALF)
    return Selection(split, evaluated, tuning, rule)


def cohort_of(store: Store, vocabulary: Vocabulary, kinds: Collection[ViewKind], training: Cohort | None = None) -> Cohort:
    """Return the images of a store, by study where views of such kinds are read together; others are left out.

    Raises:
        MedLIPError: no study has such a view.
    """
    if not kinds:
        return Cohort(store, vocabulary, training)
    part, together = studies_of(store, kinds=kinds).alone(store)
    return Cohort(part, vocabulary, training, together)


def default_split(splits: Collection[str]) -> str:
    """Return the split to evaluate where none is named: `test`, else `val`; never `train`.

    Raises:
        MedLIPError: there is neither.
    """
    for split in ("test", "val"):
        if split in splits:
            return split
    if not splits:
        raise MedLIPError("the data has no image: nothing to evaluate.")
    raise MedLIPError(
        f"the data has neither a split 'test' nor 'val', only {_list(splits)}: nothing was kept back to evaluate on. "
        "Name a split to evaluate it all the same, or 'all'."
    )


def select_split(store: Store, split: str, splits: Collection[str]) -> Store:
    """Return the part of one split, or everything for "all".

    Raises:
        MedLIPError: there is no such split.
    """
    if split == "all":
        return store
    if split not in splits:
        raise MedLIPError(f"the data has no split {split!r}. Its splits: {_list(splits)}; or 'all'.")
    return store.select(split=split)


def select_listed(store: Store, images: Sequence[str], split: str) -> Store:
    """Return those images of a split that a list names: by id, by study, or by a file name that begins with either.

    Raises:
        MedLIPError: an image isn't there.
    """
    rows: dict[str, list[int]] = {}
    for row, (name, study) in enumerate(zip(store.column("id"), store.column("study"), strict=True)):
        for key in {name, study}:
            rows.setdefault(key, []).append(row)
    keys = {name: name if name in rows else Path(name).stem for name in images}
    lacking = [name for name, key in keys.items() if key not in rows]
    if lacking:
        raise MedLIPError(
            f"the list names {len(lacking)} images that are not among the {len(store):,} of the split {split!r}: "
            f"{name_some(lacking)}. Complete the data, or correct the list."
        )
    return store.take(sorted({row for key in keys.values() for row in rows[key]}))


def choose_questions(cohort: Cohort, options: EvaluationOptions) -> Questions:
    """Return what a method is asked about the evaluated images.

    Raises:
        MedLIPError: a class is named that the data has no label of.
    """
    labelled = {name for labels in cohort.labels for name in labels}
    located = {name for names in cohort.located for name in names}
    masked = {name for names in cohort.masked for name in names}
    protocol = options.protocol
    names = sorted(labelled | located)
    prompts = resolve_prompts(names, protocol.classes if protocol else options.classes, cohort.vocabulary)
    findings = {name: prompt for name, prompt in prompts.items() if name in located}
    phrases = protocol is not None and protocol.ask == "phrases"
    return Questions(
        classes={name: prompt for name, prompt in prompts.items() if name in labelled},
        findings=findings,
        outlined=[] if phrases else sorted(masked & set(findings)),
        unasked=[name for name in names if name not in prompts],
        phrases=phrases,
    )


def seeded_half(patients: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Return which entries belong to a seeded half of the patients, (N,)."""
    order = np.random.default_rng(seed).permutation(sorted(set(patients)))
    return np.isin(patients, order[: len(order) // 2])


def resolve_prompts(
    names: Sequence[str], classes: Sequence[str] | Mapping[str, str] | None, vocabulary: Vocabulary
) -> dict[str, str]:
    """Return the prompt of each class: those that are named, or all of the data's `names` that the vocabulary has.

    Raises:
        MedLIPError: a class is named that is none of `names`.
    """
    if classes is None:
        return {name: name for name in names if vocabulary.find_pathology(name)}
    prompts = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    unknown = [name for name in prompts if name not in names]
    if unknown:
        raise MedLIPError(f"the data labels no {', '.join(map(repr, unknown))}. Its classes: {', '.join(names)}.")
    return prompts


def canonical_prompts(prompts: Mapping[str, str], vocabulary: Vocabulary) -> dict[str, str]:
    """Return for each prompt the pathology that it names, or the prompt itself, by class."""
    found = {name: vocabulary.find_pathology(prompt) for name, prompt in prompts.items()}
    return {name: pathology.name if pathology else prompts[name] for name, pathology in found.items()}


def label_matrix(labels: Sequence[Mapping[str, Presence]], classes: Sequence[str]) -> Array:
    """Return labels as (N, C): 1 present, 0 absent, NaN for uncertain and for what an image has no label of."""
    return np.array([[_LABEL_VALUES.get(label.get(name), np.nan) for name in classes] for label in labels])


def _list(splits: Collection[str]) -> str:
    return ", ".join(repr(split) for split in sorted(splits))
