from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.batch import Batch, TrainingBatches, evaluation_batches
from medlip.data.mirror import mirror_facts
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import ROWS_PER_GROUP, Store
from medlip.data.study import Box, Mask, Study, View
from medlip.errors import MedLIPError
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.reports import Fact

VOCABULARY = default_vocabulary()
PREPROCESSING = Preprocessing(32)
COUNT = 150  # over three row groups


def study(number: int) -> Study:
    pixels = np.random.default_rng(number).integers(0, 256, (48, 40)).astype(np.uint8)
    mask = np.zeros(pixels.shape, bool)
    mask[12:36, :20] = True
    view = View(
        pixels, "PA", (Box("effusion", 0, 12, 20, 24, "right_lung_unspec"),), (Mask("effusion", mask, "right_lung_unspec"),)
    )
    facts = (Fact("effusion", "right_lung_unspec", "present"), Fact("edema", "left_lung_unspec", "uncertain"))
    return Study(str(number), f"p{number}", (view,), "FINDINGS: Right effusion.", facts, {}, "train")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("store") / "s"
    prepare([Source("made", {str(i): study(i) for i in range(COUNT)})], out, size=40, workers=0)
    return Store.open(out)


def batches(store: Store, **options: object) -> TrainingBatches:
    augment = options.pop("augment", Augment(32))
    size = options.pop("batch_size", 16)
    return TrainingBatches(store, PREPROCESSING, augment, size, 3, VOCABULARY, **options)  # type: ignore[arg-type]


def ids(epoch: Iterator[Batch]) -> list[str]:
    return [id for batch in epoch for id in batch.ids]


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own(store: Store) -> None:
    made = batches(store)
    first, second = ids(made.epoch(0)), ids(made.epoch(1))
    assert len(first) == len(set(first)) == len(made) * 16 == COUNT // 16 * 16
    assert first != second and first != sorted(first) and first == ids(batches(store).epoch(0))


@pytest.mark.parametrize("cache_bytes", [4 << 30, 1])
def test_an_epoch_goes_on_as_if_it_had_never_stopped(store: Store, cache_bytes: int) -> None:
    whole = list(batches(store, cache_bytes=cache_bytes).epoch(2))
    resumed = list(batches(store, cache_bytes=cache_bytes).epoch(2, start=5))
    assert len(resumed) == len(whole) - 5
    for ours, theirs in zip(resumed, whole[5:], strict=True):
        assert ours.ids == theirs.ids and torch.equal(ours.images, theirs.images) and torch.equal(ours.facts, theirs.facts)


def test_a_store_beyond_the_memory_goes_through_in_shuffled_windows(store: Store) -> None:
    made = batches(store, cache_bytes=70 * (40 * 40 + 75 * 51))  # room for one row group
    order = [int(id.split(":")[1]) for id in ids(made.epoch(0))]
    assert len(set(order)) == len(order) == COUNT // 16 * 16
    first = [number // ROWS_PER_GROUP for number in order[:20]]
    assert len(set(first)) == 1 and order[:20] != sorted(order[:20])


@pytest.mark.parametrize("settings", [{}, {"cache_bytes": 40 * (40**2 + 3825)}, {"rest": "keep"}], ids=str)
def test_several_processes_take_their_parts_of_the_batches_that_one_would(store: Store, settings: dict[str, Any]) -> None:
    alone = batches(store, **settings, batch_size=9)
    shares = [batches(store, **settings, batch_size=3, rank=rank, ranks=3) for rank in range(3)]
    assert {len(share) for share in shares} == {len(alone)}
    for epoch, start in ((0, 0), (1, 2)):
        together = zip(*(share.epoch(epoch, start) for share in shares), strict=True)
        for whole, parts in zip(alone.epoch(epoch, start), together, strict=True):
            assert whole.ids == tuple(id_ for part in parts for id_ in part.ids)
            assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
            assert torch.equal(whole.seeds, torch.cat([part.seeds for part in parts]))
            sizes = tuple(map(len, parts))
            assert {part.shares for part in parts} == {sizes if len(set(sizes)) > 1 else None}


@pytest.mark.parametrize(("batch_size", "ranks"), [(16, 1), (7, 2), (5, 3), (11, 9), (200, 4)])
def test_an_epoch_can_give_every_image_once(store: Store, batch_size: int, ranks: int) -> None:
    settings = {"batch_size": batch_size, "ranks": ranks, "rest": "keep"}
    orders = []
    for epoch in (0, 1):
        given = [batches(store, rank=rank, **settings) for rank in range(ranks)]
        each = [list(share.epoch(epoch)) for share in given]
        assert {len(some) for some in each} == {len(given[0])}  # gradients are exchanged at each step
        assert all(len(batch) for some in each for batch in some)
        orders.append([id_ for some in each for batch in some for id_ in batch.ids])
        assert sorted(orders[-1]) == sorted(store.column("id"))
    assert orders[0] != orders[1]


def test_a_batch_in_parts_has_every_image_once_in_as_many_parts_everywhere(store: Store) -> None:
    given = [batches(store, batch_size=9, ranks=2, rank=rank, rest="keep") for rank in range(2)]
    for both in zip(*(share.epoch(0) for share in given), strict=True):
        parts = [batch.parts(4) for batch in both]
        assert len(parts[0]) == len(parts[1])
        for batch, some in zip(both, parts, strict=True):
            assert batch.ids == tuple(id_ for part in some for id_ in part.ids)
        for pair in zip(*parts, strict=True):
            sizes = tuple(map(len, pair))
            assert {part.shares or (sizes[0],) * 2 for part in pair} == {sizes}


def test_images_made_on_the_device_are_those_of_the_host(store: Store) -> None:
    host, device = (next(batches(store, on_device=on).epoch(0)) for on in (False, True))
    assert device.images.dtype == torch.uint8
    finished = device.to(torch.device("cpu"))
    assert torch.equal(finished.images, host.images)
    assert torch.equal(finished.facts, host.facts)


def test_a_thread_ahead_changes_nothing_and_hands_on_errors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(batches(store, ahead=0).epoch(0)) == ids(batches(store, ahead=3).epoch(0))
    made = batches(store)
    epoch = made.epoch(0)
    next(epoch)
    monkeypatch.setattr(made, "_batch", lambda *given: (_ for _ in ()).throw(MedLIPError("broken shard")))
    with pytest.raises(MedLIPError, match="broken shard"):
        list(epoch)


def test_uncertain_facts_follow_the_policy(store: Store) -> None:
    row, column = VOCABULARY.anatomy_index["left_lung_unspec"], VOCABULARY.pathology_index["edema"]
    for policy, value in (("ignore", -2), ("present", 1), ("absent", 0)):
        batch = next(batches(store, uncertain=policy).epoch(0))
        assert (batch.facts[:, row, column] == value).all()


def test_mirroring_swaps_sides_in_everything(store: Store) -> None:
    size = 32
    still = {"scale": (1, 1), "rotate": 0, "translate": 0, "contrast": 0, "brightness": 0, "tone": 0}
    plain, mirrored = (
        next(batches(store, augment=Augment(size, mirror=mirror, **still), regions=True).epoch(0)) for mirror in (0, 1)
    )
    assert plain.ids == mirrored.ids and mirrored.mirrored.all() and not plain.mirrored.any()
    torch.testing.assert_close(mirrored.images, plain.images.flip(3), atol=1e-4, rtol=0)
    right, left = (VOCABULARY.anatomy_index[name] for name in ("right_lung_unspec", "left_lung_unspec"))
    effusion = VOCABULARY.pathology_index["effusion"]
    assert (plain.facts[:, right, effusion] == 1).all() and (plain.facts[:, left, effusion] == -1).all()
    assert (mirrored.facts[:, left, effusion] == 1).all() and (mirrored.facts[:, right, effusion] == -1).all()
    assert plain.sentences[0] == ("Right effusion.",) and mirrored.sentences[0] == ("Left effusion.",)
    assert mirrored.reports[0] == "FINDINGS: Left effusion."
    (box,), (mask,) = mirrored.boxes[0], mirrored.masks[0]
    assert box.anatomy == mask.anatomy == "left_lung_unspec"
    np.testing.assert_allclose([box.x, box.y, box.width, box.height], [16, 8, 16, 16], atol=1e-4)
    assert mask.pixels[8:24, 16:].all() and mask.pixels.sum() == 16 * 16
    naive = next(batches(store, augment=Augment(size, mirror=1, swap_sides=False, **still), regions=True).epoch(0))
    torch.testing.assert_close(naive.images, mirrored.images)
    assert naive.mirrored.all() and torch.equal(naive.facts, plain.facts) and naive.sentences == plain.sentences
    assert naive.boxes[0][0].anatomy == plain.boxes[0][0].anatomy and naive.boxes[0][0].x == box.x


def test_boxes_and_masks_come_only_when_asked_for(store: Store) -> None:
    batch = next(batches(store).epoch(0))
    assert set(batch.boxes) == {()} and set(batch.masks) == {()}


def test_where_mirrored_rows_meet_present_wins() -> None:
    vocabulary = VOCABULARY
    targets = [
        vocabulary.mirror_index.index(row) for row in vocabulary.mirror_index if vocabulary.mirror_index.count(row) > 1
    ]
    assert targets, "the vocabulary has places without a twin of their own"
    row = vocabulary.mirror_index[targets[0]]
    meeting = [source for source, target in enumerate(vocabulary.mirror_index) if target == row][:2]
    matrix = np.full((len(vocabulary.anatomies), len(vocabulary.pathologies)), -1, np.int8)
    matrix[meeting[0], 0], matrix[meeting[1], 0] = 1, 0
    assert mirror_facts(matrix, vocabulary)[row, 0] == 1
    matrix[meeting, 0] = -1, -2
    assert mirror_facts(matrix, vocabulary)[row, 0] == -2
    matrix[meeting, 0] = -1, 0
    assert mirror_facts(matrix, vocabulary)[row, 0] == 0
    matrix[meeting, 0] = 0, -2  # what may be there in a part may be there
    assert mirror_facts(matrix, vocabulary)[row, 0] == -2


WITH_TWIN = [row for row, mirror in enumerate(VOCABULARY.mirror_index) if VOCABULARY.mirror_index[mirror] == row]
ROWS = st.lists(st.sampled_from([1, 0, -1, -2]), min_size=len(VOCABULARY.anatomies), max_size=len(VOCABULARY.anatomies))


@given(ROWS)
def test_mirroring_facts_twice_gives_them_back(values: list[int]) -> None:
    matrix = np.array(values, np.int8)[:, None]
    lone = np.setdiff1d(np.arange(len(matrix)), WITH_TWIN)
    assert {VOCABULARY.anatomies[row].name for row in lone} == {"middle_right_lobe", "right_atrium", "right_ventricle"}
    once = mirror_facts(matrix, VOCABULARY)
    twice = mirror_facts(once, VOCABULARY)
    assert (twice[lone] == -1).all()  # the row on the other side that contains these tells them no longer apart
    np.testing.assert_array_equal(mirror_facts(twice, VOCABULARY), once)
    matrix[lone] = -1
    np.testing.assert_array_equal(mirror_facts(mirror_facts(matrix, VOCABULARY), VOCABULARY), matrix)


@pytest.mark.parametrize("anatomy", VOCABULARY.anatomy_index)
def test_every_anatomy_that_has_a_twin_or_is_its_own_comes_back(anatomy: str) -> None:
    row = VOCABULARY.anatomy_index[anatomy]
    matrix = np.full((len(VOCABULARY.anatomies), 1), -1, np.int8)
    matrix[row] = 1
    twice = mirror_facts(mirror_facts(matrix, VOCABULARY), VOCABULARY)
    place = anatomy if row in WITH_TWIN else VOCABULARY.anatomies[VOCABULARY.mirror_index[row]].mirror
    assert [VOCABULARY.anatomies[found].name for found in np.flatnonzero(twice[:, 0] == 1)] == [place]


def test_evaluation_batches_keep_the_order_and_lose_nothing(store: Store) -> None:
    made = list(evaluation_batches(store.take(range(20)), PREPROCESSING, 16))
    assert [len(batch) for batch in made] == [16, 4]
    assert [id for batch in made for id in batch.ids] == store.column("id")[:20]
    torch.testing.assert_close(made[0].images[:1], PREPROCESSING(torch.from_numpy(store[0].image)[None]))
    assert made[0].boxes[0][0].x == 0 and made[0].boxes[0][0].height == 16 and made[0].masks[0][0].pixels.shape == (32, 32)


def test_wrong_settings_are_named(store: Store) -> None:
    with pytest.raises(MedLIPError, match=r"fewer than a batch of 151\. Set training\.batch_size=150 or less"):
        batches(store, batch_size=COUNT + 1)
    with pytest.raises(MedLIPError, match=r"fewer than a batch of 60 on each of 4 processes\. Set training\.batch_size=37"):
        batches(store, batch_size=60, rank=3, ranks=4)
    with pytest.raises(MedLIPError, match=r"fewer than the 200 processes\. Start at most 150"):
        batches(store, batch_size=1, rank=0, ranks=200, rest="keep")
    with pytest.raises(MedLIPError, match="one size to both"):
        batches(store, augment=Augment(64))
    other = Vocabulary.model_validate(
        VOCABULARY.model_dump() | {"pathologies": VOCABULARY.model_dump()["pathologies"][::-1]}
    )
    with pytest.raises(MedLIPError, match="differ from the vocabulary in use"):
        TrainingBatches(store, PREPROCESSING, Augment(32), 4, 0, other)


@pytest.mark.slow
def test_a_store_is_read_faster_than_originals() -> None:
    from medlip.data.bench import bench_store

    result = bench_store(images=64, originals=2, size=64)
    assert result["speedup"] == pytest.approx(result["images_per_second"] / result["raw_images_per_second"], rel=0.1)
    assert result["images_per_second"] > result["raw_images_per_second"] > 0 and result["peak_memory_mb"] > 0
