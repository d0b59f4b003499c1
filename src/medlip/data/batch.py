"""Batches for training and evaluation: pixels pre-processed, facts packed, everything mirrored and moved together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.data.mirror import mirror_anatomy, mirror_facts
from medlip.data.store import Record, Store
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.images.augment import Augment, Augmented, move_boxes, move_masks
from medlip.images.preprocessing import Preprocessing
from medlip.reports import Presence, UncertainPolicy, fact_matrix, mirror_sides
from medlip.reports.facts import IGNORED

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """B images with what their reports say.

    Attributes:
        images: float32 (B, 3, S, S), pre-processed.
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
        seed: for what a loss draws at random: another for every batch, the same whenever the batch comes again.
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
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self, count: int) -> list[Batch]:
        """Return the batch in `count` parts of B / count images, each with a seed of its own."""
        size = len(self) // count
        return [
            self._part(slice(start, start + size), hash((self.seed, start)) % 2**63) for start in range(0, len(self), size)
        ]

    def _part(self, rows: slice, seed: int) -> Batch:
        values = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "seed"}
        return Batch(**values, seed=seed)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with images and facts on a device."""
        return replace(
            self, images=self.images.to(device, non_blocking=True), facts=self.facts.to(device, non_blocking=True)
        )


class TrainingBatches:
    """Augmented batches of a store, epoch by epoch, each in an order of its own.

    The order and every sample's augmentation follow from seed, epoch and store alone, so an epoch goes on at any batch as if
    it had never stopped. Decoded images stay in memory while they fit into `cache_bytes`; a larger store goes through memory
    in windows of that size, shuffled over the windows and inside each. A thread works ahead of the training step.
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
    ) -> None:
        """Set up batches.

        Args:
            store: what to train on, such as `store.select("train")`.
            preprocessing: of the model; its size is the augmentation's.
            augment: makes the images of a batch.
            batch_size: images a batch; a rest below it is left out of the epoch.
            seed: of order and augmentation.
            vocabulary: of the facts; must be the store's.
            uncertain: what an uncertain fact counts as.
            implied: whether absences that follow from a normal statement count as absent.
            regions: whether batches carry boxes and masks.
            rank: of this process among `ranks` that train together; each has its own share of the store.
            ranks: number of such processes.
            ahead: batches made ahead by a thread; 0 for none.
            cache_bytes: memory for decoded images, part of what the order follows from when the store is larger.

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
        self.regions, self.ahead = regions, ahead
        self.side = min(store.size, 2 * augment.size)
        groups = store.groups()
        self._groups = groups[rank::ranks]
        # Every rank takes as many steps as the one with the smallest share: gradients are exchanged at each.
        self._steps = min(sum(map(len, groups[other::ranks])) for other in range(ranks)) // batch_size
        if not self._steps:
            raise MedLIPError(
                f"{store.root}: {len(store)} images are fewer than a batch of {batch_size} on each of {ranks} processes. "
                "Use a smaller batch."
            )
        cells = len(vocabulary.anatomies) * len(vocabulary.pathologies)
        self._window_size = max(batch_size, cache_bytes // (self.side**2 + cells))
        self._window: tuple[list[int], dict[int, _Sample]] = [], {}

    def __len__(self) -> int:
        return self._steps

    @property
    def cached_bytes(self) -> int:
        """Memory that decoded images take."""
        return self.side**2 * min(self._window_size, sum(map(len, self._groups)))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        samples = self._samples(epoch, start * self.batch_size)
        batches = (self._batch(list(islice(samples, self.batch_size)), epoch) for _ in range(start, self._steps))
        return _ahead(batches, self.ahead) if self.ahead else batches

    def _samples(self, epoch: int, skip: int) -> Iterator[_Sample]:
        """Yield the epoch's samples in order, from sample `skip` on; windows that lie before it are not read."""
        random = np.random.default_rng((self.seed, epoch))
        for groups in self._windows(random):
            rows = np.concatenate([self._groups[group] for group in groups])
            order = rows[random.permutation(len(rows))]
            if skip >= len(order):
                skip -= len(order)
                continue
            window = self._load(groups)
            yield from (window[index] for index in order[skip:])
            skip = 0

    def _windows(self, random: np.random.Generator) -> list[list[int]]:
        """Divide the groups into windows that fit into memory, shuffled unless one window holds all."""
        if sum(map(len, self._groups)) <= self._window_size:
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

    def _load(self, groups: list[int]) -> dict[int, _Sample]:
        if self._window[0] != groups:
            self._window = [], {}  # let go of the old one before the new one is read
            rows = (int(row) for group in groups for row in self._groups[group])
            self._window = groups, {row: self._sample(row) for row in rows}
        return self._window[1]

    def _sample(self, row: int) -> _Sample:
        record = self.store[row]
        facts = [*record.facts, *(record.implied if self.implied else ())]
        matrix = fact_matrix(facts, self.vocabulary, self.uncertain, ignored=IGNORED)
        pixels, square = record.image, (self.side, self.side)
        if pixels.shape != square:
            pixels = np.array(Image.fromarray(pixels).resize(square, Image.Resampling.BILINEAR))
        if not self.regions:
            record = replace(record, boxes=(), masks=())
        shape = record.image.shape
        return _Sample(row, torch.from_numpy(pixels), matrix, replace(record, image=_NO_PIXELS, facts=(), implied=()), shape)

    def _batch(self, samples: Sequence[_Sample], epoch: int) -> Batch:
        seeds = [(self.seed << 64) + (epoch << 32) + sample.row for sample in samples]
        augmented = self.augment(torch.stack([sample.pixels for sample in samples]), seeds)
        images = self.preprocessing.normalise(augmented.images)
        batch = _assemble(samples, augmented, images, self.vocabulary, self.augment.swap_sides)
        return replace(batch, seed=hash((self.seed, epoch, samples[0].row)) % 2**63)


def evaluation_batches(
    store: Store,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    uncertain: UncertainPolicy = "ignore",
    implied: bool = False,
) -> Iterator[Batch]:
    """Yield the records of a store in order, not augmented, with their boxes and masks; the last batch may be smaller."""
    vocabulary = store.vocabulary
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    records = iter(store)
    while chunk := list(islice(records, batch_size)):
        images = torch.cat([preprocessing(torch.from_numpy(record.image)[None]) for record in chunk])
        facts = [[*record.facts, *(record.implied if implied else ())] for record in chunk]
        samples = [
            _Sample(
                row, images[row], fact_matrix(facts[row], vocabulary, uncertain, ignored=IGNORED), record, record.image.shape
            )
            for row, record in enumerate(chunk)
        ]
        unmoved = Augmented(images, identity.expand(len(chunk), 2, 3), torch.zeros(len(chunk), dtype=torch.bool))
        yield _assemble(samples, unmoved, images, vocabulary)


_NO_PIXELS = np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class _Sample:
    row: int
    pixels: Tensor
    facts: NDArray[np.int8]
    record: Record
    shape: tuple[int, ...]


def _assemble(
    samples: Sequence[_Sample], augmented: Augmented, images: Tensor, vocabulary: Vocabulary, swap_sides: bool = True
) -> Batch:
    flags = [swap_sides and mirrored for mirrored in augmented.mirrored.tolist()]
    size = images.shape[-1]
    records = [sample.record for sample in samples]
    facts = [
        mirror_facts(sample.facts, vocabulary) if flag else sample.facts for sample, flag in zip(samples, flags, strict=True)
    ]
    moved = [
        _move_regions(sample, transform, size, vocabulary if flag else None)
        for sample, transform, flag in zip(samples, augmented.transforms, flags, strict=True)
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
        mirrored=augmented.mirrored,
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
