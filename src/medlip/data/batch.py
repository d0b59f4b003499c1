"""Batches for training and evaluation: pixels pre-processed, facts packed, everything mirrored and moved together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice, pairwise
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.data.mirror import mirror_anatomy, mirror_facts
from medlip.data.store import Record, Store
from medlip.data.studies import Studies, joined
from medlip.data.study import Box, Mask
from medlip.data.views import ViewKind, Views
from medlip.errors import MedLIPError
from medlip.images.augment import Augment, AugmentPlan, move_boxes, move_masks
from medlip.images.preprocessing import Preprocessing
from medlip.reports import Presence, UncertainPolicy, fact_matrix, mirror_sides
from medlip.reports.facts import IGNORED

T = TypeVar("T")
Rest = Literal["drop", "keep"]
"""What becomes of the images that an epoch leaves over beside whole batches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B images with what their reports say; or B studies, whose V images are read together.

    Attributes:
        images: float32 (B, 3, S, S), pre-processed; (V, 3, S, S) of studies.
        facts: int8 (B, A, P): 1 present, 0 absent, -1 not mentioned; uncertain facts by the named policy, -2 where it is
            to ignore them.
        ids: of the records.
        patients: by record.
        reports: text, its sides swapped where the image is mirrored.
        sentences: of findings and impression, likewise.
        labels: image-level labels by name.
        boxes: in pixels of `images`; boxes that left the image are gone. Empty unless asked for.
        masks: (S, S). Empty unless asked for.
        mirrored: bool (B,).
        seeds: int64 (B,), on the host: for what a loss draws at random for each image; another in every epoch, the same
            whenever the epoch comes again, whatever else is in the batch.
        host_facts: the facts as they are on the host, None where `facts` are: what is looked up there needs no waiting for
            an accelerator.
        shares: images of each process in this step, where not all have as many; else None.
        finish: makes `images` of what is in their place on the way to a device, uint8 (B, H, W); else None.
        views: which study each image belongs to, and what it shows; None where each image stands for itself. `ids` are then
            those of the studies' first images, even where these were left out, and boxes and masks are left out.
    """

    images: Tensor
    facts: Tensor
    ids: tuple[str, ...]
    patients: tuple[str, ...]
    reports: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    labels: tuple[Mapping[str, Presence], ...]
    boxes: tuple[tuple[Box, ...], ...]
    masks: tuple[tuple[Mask, ...], ...]
    mirrored: Tensor
    seeds: Tensor
    host_facts: Tensor | None = None
    shares: tuple[int, ...] | None = None
    finish: Callable[[Tensor], Tensor] | None = None
    views: Views | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self, count: int) -> list[Batch]:
        """Return the batch, once its images are finished, in `count` parts as equal as can be.

        There are fewer parts where a process has fewer images.
        """
        count = min(count, *(self.shares or (len(self),)))
        edges = [_split(images, count) for images in (len(self), *(self.shares or ()))]
        return [self._part(slice(*own), [end - start for start, end in others]) for own, *others in zip(*edges, strict=True)]

    def _part(self, rows: slice, shares: Sequence[int]) -> Batch:
        views, images = (None, rows) if self.views is None else self.views.part(rows)
        apart = ("images", "views", "shares", "finish")
        per_item = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        part: Any = {name: value if value is None else value[rows] for name, value in per_item.items()}
        return Batch(images=self.images[images], views=views, **part, shares=tuple(shares) or None)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with images, which are finished there, and facts on a device."""
        images, facts = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.facts))
        images = images if self.finish is None else self.finish(images)
        host_facts = self.facts if self.host_facts is None else self.host_facts
        return replace(self, images=images, facts=facts, host_facts=host_facts, finish=None)


def _split(images: int, parts: int) -> list[tuple[int, int]]:
    """Return where each of several parts of so many images starts and ends."""
    return list(pairwise(images * part // parts for part in range(parts + 1)))


class TrainingBatches:
    """Augmented batches of a store, epoch by epoch, each in an order of its own.

    The order and every sample's augmentation follow from seed, epoch and store alone, so an epoch goes on at any batch as if
    it had never stopped; and several processes take their parts of the batches that one would take. Decoded images stay in
    memory while they fit into `cache_bytes`; a larger store goes through memory in windows of that size, shuffled over the
    windows and inside each. A thread works ahead of the training step.
    """

    def __init__(
        self,
        store: Store,
        preprocessing: Preprocessing,
        augment: Augment,
        batch_size: int,
        seed: int,
        vocabulary: Vocabulary,
        *,
        uncertain: UncertainPolicy = "ignore",
        implied: bool = False,
        regions: bool = False,
        rank: int = 0,
        ranks: int = 1,
        ahead: int = 2,
        cache_bytes: int = 4 << 30,
        rest: Rest = "drop",
        on_device: bool = False,
        pin: bool = False,
        studies: Studies | None = None,
        drop_view: float = 0.0,
    ) -> None:
        """Set up batches.

        Args:
            store: what to train on, such as `store.select("train")`.
            preprocessing: of the model; its size is the augmentation's.
            augment: makes the images of a batch.
            batch_size: images a batch and process.
            seed: of order and augmentation.
            vocabulary: of the facts; must be the store's.
            uncertain: what an uncertain fact counts as.
            implied: whether absences that follow from a normal statement count as absent.
            regions: whether batches carry boxes and masks.
            rank: of this process among `ranks` that train together; each has its part of every batch.
            ranks: number of such processes.
            rest: what becomes of the images that an epoch leaves over beside whole batches: `drop` them, which are others in
                every epoch, or `keep` them as a last, smaller batch (a larger one, if they are fewer than processes).
            on_device: make the images of a batch where it is moved `to`, rather than on the host.
            pin: keep batches in memory that an accelerator can fetch by itself.
            ahead: batches made ahead by a thread; 0 for none.
            cache_bytes: memory for decoded images, part of what the order follows from when the store is larger.
            studies: of the store, whose views are read together: a study is then what an image is else. One is mirrored or
                not as a whole, but for its lateral views, which never are; one without any other view stays as it is.
            drop_view: probability in [0, 1) that a view of a study is left out, drawn in every epoch anew. Where all would
                be, one of them stays: any, so that each kind of view is also learned from alone.

        Raises:
            MedLIPError: another vocabulary, sizes that differ, or fewer images than a batch.
        """
        vocabulary.require_same(store.vocabulary, store.root)
        if preprocessing.size != augment.size:
            raise MedLIPError(
                f"the model takes {preprocessing.size} px, the augmentation gives {augment.size} px. Give one size to both."
            )
        self.store, self.preprocessing, self.augment, self.vocabulary = store, preprocessing, augment, vocabulary
        self.batch_size, self.seed, self.uncertain, self.implied = batch_size, seed, uncertain, implied
        self.regions, self.ahead, self.rank, self.ranks = regions, ahead, rank, ranks
        self.on_device, self.pin = on_device, pin
        self.side = min(store.size, 2 * augment.size)
        self.studies, self.drop_view = studies, drop_view
        self._groups = store.groups() if studies is None else studies.groups(store)
        self._items, most = (len(store), 1) if studies is None else (len(studies), studies.most)
        self._steps, left = divmod(self._items, batch_size * ranks)
        self._keeps = rest == "keep" and (left >= ranks or (left > 0 and self._steps > 0))
        self._steps += self._keeps and left >= ranks
        if not self._steps:
            have = f"{store.root}: {self._items} {'images' if studies is None else 'studies'}"
            raise MedLIPError(f"{have} {_too_few(self._items, batch_size, ranks)}")
        cells = len(vocabulary.anatomies) * len(vocabulary.pathologies)
        self._bytes = most * self.side**2
        self._window_size = max(batch_size * ranks, cache_bytes // (self._bytes + cells))
        self._window: tuple[list[int], dict[int, _Sample]] = [], {}

    def __len__(self) -> int:
        return self._steps

    @property
    def cached_bytes(self) -> int:
        """Memory that decoded images take."""
        return self._bytes * min(self._window_size, self._items)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        samples = self._samples(epoch, start)
        batches = (
            self._batch(list(islice(samples, self._shares(step)[self.rank])), epoch, self._shares(step))
            for step in range(start, self._steps)
        )
        return _ahead(batches, self.ahead) if self.ahead else batches

    def _shares(self, step: int) -> list[int]:
        """Return how many images of a step each process has."""
        whole = self.batch_size * self.ranks
        images = self._items - step * whole if self._keeps and step == self._steps - 1 else whole
        return [end - start for start, end in _split(images, self.ranks)]

    def _samples(self, epoch: int, start: int) -> Iterator[_Sample]:
        """Yield this process's samples of the epoch in order, from step `start` on; no others are decoded."""
        mine = [np.zeros(0, np.int64)]
        for step in range(start, self._steps):
            shares = self._shares(step)
            first = step * self.batch_size * self.ranks + sum(shares[: self.rank])
            mine.append(np.arange(first, first + shares[self.rank]))
        places, passed = np.concatenate(mine), 0
        random = np.random.default_rng((self.seed, epoch))
        for groups in self._windows(random):
            rows = np.concatenate([self._groups[group] for group in groups])
            rows = rows[random.permutation(len(rows))]
            own = rows[places[(places >= passed) & (places < passed + len(rows))] - passed].tolist()
            passed += len(rows)
            if own:
                window = self._load(groups, own)
                yield from (window[row] for row in own)

    def _windows(self, random: np.random.Generator) -> list[list[int]]:
        """Divide the groups into windows that fit into memory, shuffled unless one window holds all."""
        if self._items <= self._window_size:
            return [list(range(len(self._groups)))]
        windows: list[list[int]] = [[]]
        room = self._window_size
        for group in random.permutation(len(self._groups)).tolist():
            if len(self._groups[group]) > room and windows[-1]:
                windows.append([])
                room = self._window_size
            windows[-1].append(group)
            room -= len(self._groups[group])
        return windows

    def _load(self, groups: list[int], rows: Sequence[int]) -> dict[int, _Sample]:
        if self._window[0] != groups:
            self._window = groups, {}
        window = self._window[1]
        missing = set(rows) - window.keys()
        window.update({row: self._sample(row) for group in groups for row in self._groups[group].tolist() if row in missing})
        return window

    def _sample(self, item: int) -> _Sample:
        rows, kinds, records, record = _read(self.store, self.studies, item, self.vocabulary)
        facts = [*record.facts, *(record.implied if self.implied else ())]
        matrix = fact_matrix(facts, self.vocabulary, self.uncertain, ignored=IGNORED)
        pixels = np.stack([self._square(each.image) for each in records])
        if not self.regions:
            record = replace(record, boxes=(), masks=())
        shape = record.image.shape
        record = replace(record, image=_NO_PIXELS, facts=(), implied=())
        return _Sample(rows, kinds, torch.from_numpy(pixels), matrix, record, shape)

    def _square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if pixels.shape == (square := (self.side, self.side)):
            return pixels
        return np.array(Image.fromarray(pixels).resize(square, Image.Resampling.BILINEAR))

    def _batch(self, samples: Sequence[_Sample], epoch: int, shares: Sequence[int]) -> Batch:
        own = torch.tensor([hash((self.seed, epoch, sample.rows[0])) for sample in samples])
        if self.drop_view:
            samples = [self._shown(sample, epoch) for sample in samples]
        seeds = [(self.seed << 64) + (epoch << 32) + row for sample in samples for row in sample.rows]
        plan = self.augment.plan(seeds, None if self.studies is None else _mirrored_by(samples))
        finish = partial(_finished, self.augment, plan, self.preprocessing)
        images = torch.cat([sample.pixels for sample in samples])
        batch = replace(
            _assemble(samples, plan, images if self.on_device else finish(images), self.vocabulary, self.augment),
            seeds=own,
            shares=tuple(shares) if len(set(shares)) > 1 else None,
            finish=finish if self.on_device else None,
        )
        return replace(batch, images=batch.images.pin_memory(), facts=batch.facts.pin_memory()) if self.pin else batch

    def _shown(self, sample: _Sample, epoch: int) -> _Sample:
        """Return a study with the views that it shows in an epoch."""
        draws = np.random.default_rng((self.seed, epoch, sample.rows[0])).random(len(sample.rows))
        kept = np.flatnonzero(draws >= min(self.drop_view, draws.max())).tolist()
        rows, kinds = tuple(sample.rows[view] for view in kept), tuple(sample.kinds[view] for view in kept)
        return replace(sample, rows=rows, kinds=kinds, pixels=sample.pixels[kept])


def evaluation_batches(
    store: Store,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    uncertain: UncertainPolicy = "ignore",
    implied: bool = False,
    studies: Studies | None = None,
) -> Iterator[Batch]:
    """Yield the records of a store in order, not augmented, with their boxes and masks; the last batch may be smaller.

    Of `studies`, all views are read together, and boxes and masks are left out.
    """
    vocabulary = store.vocabulary
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    items = len(store) if studies is None else len(studies)
    for start in range(0, items, batch_size):
        samples = []
        for item in range(start, min(start + batch_size, items)):
            rows, kinds, records, record = _read(store, studies, item, vocabulary)
            pixels = torch.cat([preprocessing(torch.from_numpy(each.image)[None]) for each in records])
            facts = [*record.facts, *(record.implied if implied else ())]
            matrix = fact_matrix(facts, vocabulary, uncertain, ignored=IGNORED)
            samples.append(_Sample(rows, kinds, pixels, matrix, record, record.image.shape))
        images = torch.cat([sample.pixels for sample in samples])
        unmoved = AugmentPlan(identity.expand(len(images), 2, 3), torch.zeros(len(images), dtype=torch.bool), torch.zeros(0))
        yield replace(
            _assemble(samples, unmoved, images, vocabulary),
            seeds=torch.tensor([hash((start, row)) for row in range(len(samples))]),
        )


def _too_few(count: int, batch_size: int, ranks: int) -> str:
    """Say why there is no step, and what to set."""
    if ranks > count:
        return f"are fewer than the {ranks} processes. Start at most {count}."
    each = f" on each of {ranks} processes" if ranks > 1 else ""
    return (
        f"are fewer than a batch of {batch_size}{each}. Set training.batch_size={count // ranks} or less, or "
        "training.rest=keep."
    )


_NO_PIXELS = np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class _Sample:
    """An image, or the views of a study: `pixels` has one or more, of which the first has the record's `shape`."""

    rows: Sequence[int]
    kinds: tuple[ViewKind, ...]
    pixels: Tensor
    facts: NDArray[np.int8]
    record: Record
    shape: tuple[int, ...]


def _read(
    store: Store, studies: Studies | None, item: int, vocabulary: Vocabulary
) -> tuple[tuple[int, ...], tuple[ViewKind, ...], list[Record], Record]:
    """Return an item's rows, what each shows (nothing of an image that stands for itself), their records, and all as one."""
    if studies is None:
        record = store[item]
        return (item,), (), [record], record
    records = [store[row] for row in studies.rows[item]]
    return studies.rows[item], studies.kinds[item], records, joined(records, vocabulary)


def _mirrored_by(samples: Sequence[_Sample]) -> list[int]:
    """Return for each image whose draw says whether it is mirrored: the first of its study that is not lateral; -1: none."""
    deciders: list[int] = []
    for sample in samples:
        first = len(deciders) + next((place for place, kind in enumerate(sample.kinds) if kind != "lateral"), 0)
        deciders += [-1 if kind == "lateral" else first for kind in sample.kinds]
    return deciders


def _finished(augment: Augment, plan: AugmentPlan, preprocessing: Preprocessing, pixels: Tensor) -> Tensor:
    """Return what a model takes, (B, 3, S, S), of pixels (B, H, W)."""
    return preprocessing.standardize(augment.carry_out(plan, pixels))


def _assemble(
    samples: Sequence[_Sample], plan: AugmentPlan, images: Tensor, vocabulary: Vocabulary, augment: Augment | None = None
) -> Batch:
    """Put samples together, whose images were moved as planned: by an augmentation, or not at all."""
    counts = [len(sample.rows) for sample in samples]
    mirrored = torch.stack([part.any() for part in torch.split(plan.mirrored, counts)])
    flags = [augment is not None and augment.swap_sides and flag for flag in mirrored.tolist()]
    size = images.shape[-1] if augment is None else augment.size
    records = [sample.record for sample in samples]
    facts = [
        mirror_facts(sample.facts, vocabulary) if flag else sample.facts for sample, flag in zip(samples, flags, strict=True)
    ]
    moved = [
        _move_regions(sample, transform, size, vocabulary if flag else None)
        for sample, (transform, *_), flag in zip(samples, torch.split(plan.transforms, counts), flags, strict=True)
    ]
    return Batch(
        images=images,
        facts=torch.from_numpy(np.stack(facts)),
        ids=tuple(record.id for record in records),
        patients=tuple(record.patient for record in records),
        reports=tuple(_sided(record.report, flag) for record, flag in zip(records, flags, strict=True)),
        sentences=tuple(
            tuple(_sided(sentence, flag) for sentence in record.sentences)
            for record, flag in zip(records, flags, strict=True)
        ),
        labels=tuple(record.labels for record in records),
        boxes=tuple(boxes for boxes, _ in moved),
        masks=tuple(masks for _, masks in moved),
        mirrored=mirrored,
        seeds=torch.zeros(len(samples), dtype=torch.int64),
        views=Views(tuple(sample.kinds for sample in samples)) if samples[0].kinds else None,
    )


def _sided(text: str, mirrored: bool) -> str:
    return mirror_sides(text) if mirrored else text


def _move_regions(
    sample: _Sample, transform: Tensor, size: int, mirror: Vocabulary | None
) -> tuple[tuple[Box, ...], tuple[Mask, ...]]:
    boxes, masks = sample.record.boxes, sample.record.masks
    if boxes:
        height, width = sample.shape
        shares = torch.tensor([[box.x / width, box.y / height, box.width / width, box.height / height] for box in boxes])
        corners = (move_boxes(shares, transform) * size).tolist()
        boxes = tuple(
            replace(box, x=x, y=y, width=across, height=down)
            for box, (x, y, across, down) in zip(boxes, corners, strict=True)
            if across > 0 and down > 0
        )
    if masks:
        pixels = torch.from_numpy(np.stack([mask.pixels for mask in masks]))
        masks = tuple(
            replace(mask, pixels=moved.numpy())
            for mask, moved in zip(masks, move_masks(pixels, transform, size), strict=True)
        )
    if mirror is not None:
        boxes = tuple(mirror_anatomy(box, mirror) for box in boxes)
        masks = tuple(mirror_anatomy(mask, mirror) for mask in masks)
    return boxes, masks


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Yield `items`, made by one thread up to `count` ahead; what it raises is raised here."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    end = object()
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield cast(T, item)
    finally:
        pool.shutdown(cancel_futures=True)
