"""The cases that are shown: the best and the worst of each finding, of what is reported, with the map that was judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.app.pages.compare_page import render_page
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.cases import CASES, FINDINGS, SIDE, load_cases, make_case, save_cases
from medlip.evaluation.compare import Evaluated, compare
from medlip.evaluation.outcomes import OUTCOMES, load_outcomes
from medlip.evaluation.tasks.grounding import GroundingCase, choose_cases, grounding_case

SHAPE = (40, 48)
NAMES = ("effusion", "nodule")


class Drawing(FakeMethod):
    """A method that draws random maps, its own for every image, which it knows by the grey value."""

    def __init__(self):
        super().__init__(16)
        self.drawn = []

    def localise(self, images, prompts):
        self.drawn.append(len(images))
        values = (255 * images[:, 0, 0, 0]).round().int().tolist()
        return torch.stack(
            [torch.stack([torch.from_numpy(self.map(value, prompt)) for prompt in prompts]) for value in values]
        )

    @staticmethod
    def map(value, prompt):
        seed = (value, len(prompt))
        return 1e-6 * np.random.default_rng(seed).random((5, 6))  # as faint as attention may be


def make_store(n=24):
    """Effusions with boxes in every image, nodules with masks in every third; half of the images for validation."""
    rng = np.random.default_rng(0)
    store = FakeStore()
    for i in range(n):
        x, y = rng.integers(0, 24, 2).tolist()
        mask = np.zeros(SHAPE, bool)
        mask[y : y + 9, x : x + 7] = True
        masks = () if i % 3 else (Mask("nodule", mask),)
        boxes = (Box("effusion", x, y, 20, 15),)
        split = "val" if i < n // 2 else "test"
        store.append(
            FakeRecord(f"image{i}", f"secret-{i // 2}", split, np.full(SHAPE, i, np.uint8), boxes=boxes, masks=masks)
        )
    return store


def overlap(heat, target, threshold):
    """Intersection over union, pixel by pixel, of a map of a few cells."""
    large = torch.nn.functional.interpolate(torch.tensor(heat)[None, None].double(), SHAPE, mode="bilinear")[0, 0].numpy()
    positive = (large - large.min()) / (large.max() - large.min()) >= threshold
    return (positive & target).sum() / (positive | target).sum()


def target_of(record, finding):
    if finding == "nodule":
        return record.masks[0].pixels
    (box,) = record.boxes
    target = np.zeros(SHAPE, bool)
    target[box.y : box.y + box.height, box.x : box.x + box.width] = True
    return target


@pytest.mark.parametrize("split", [None, "val"])
def test_the_cases_are_the_extremes_of_what_is_reported(split, tmp_path):
    store, method = make_store(), Drawing()
    result = evaluate(method, store, split=split, resamples=5, batch_size=5, out=tmp_path)
    cases = {(case.finding, case.rank): case for case in load_cases(tmp_path / CASES)}
    assert list(cases) == [(name, rank) for name in NAMES for rank in ("best", "worst")]
    assert sum(method.drawn) == 24 if split is None else 12  # each image once, those that are shown as well
    threshold = result["grounding"].threshold
    for finding in NAMES:
        records = [record for record in store.select(split or "test") if finding == "effusion" or record.masks]
        ious = {
            record.id: overlap(Drawing.map(int(record.image[0, 0]), finding), target_of(record, finding), threshold)
            for record in records
        }
        best, worst = cases[finding, "best"], cases[finding, "worst"]
        if split is None:
            assert best.image == max(ious, key=ious.get)
            assert worst.image == min(ious, key=ious.get)
        assert best.of == worst.of == result["grounding"].per_class[finding]["iou"].n
        assert worst.iou < result["grounding"].per_class[finding]["iou"].value < best.iou
        for case in (best, worst):
            assert case.iou == pytest.approx(ious[case.image])
            (record,) = [record for record in records if record.id == case.image]
            np.testing.assert_array_equal(case.pixels, record.image)
            np.testing.assert_array_equal(case.target, target_of(record, finding))
            assert case.iou == pytest.approx(overlap(case.heat, case.target, threshold), abs=0.02)  # rounded to float16
    assert b"secret" not in (tmp_path / CASES).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "predictions.parquet", OUTCOMES, CASES}
    kept = load_outcomes(tmp_path / OUTCOMES).values()
    assert not any("secret" in patient for outcomes in kept for patient in outcomes.patients)


def test_without_boxes_and_masks_no_case_is_kept(tmp_path):
    store = FakeStore(
        FakeRecord(record.id, record.patient, "test", record.image, labels={"effusion": "absent"}) for record in make_store()
    )
    evaluate(Drawing(), store, resamples=5, out=tmp_path)
    assert not (tmp_path / CASES).exists()


def made(finding="effusion", iou=1.0, hit=True):
    """A case with this IoU at every threshold."""
    counts = np.full(100, 100.0)
    heat = np.zeros((2, 2), np.float32)
    return GroundingCase(
        finding, "p", "boxes", "boxes", hit, hit, 0.1, 0.0, counts, iou * counts, int(100 * iou), 1000, heat
    )


def chosen(cases, reported=None):
    return [(choice.case, choice.rank) for choice in choose_cases(cases, reported or [True] * len(cases), 50)]


def test_among_equals_the_best_case_hits_and_the_worst_misses():
    assert chosen([made(hit=False), made(), made(), made(hit=False)]) == [(1, "best"), (0, "worst")]


def test_an_only_case_is_shown_once_and_what_is_not_reported_never():
    assert chosen([made(iou=0.5)]) == [(0, "best")]
    assert chosen([made(iou=0.5), made(iou=0.9), made(iou=0.1)], [True, False, False]) == [(0, "best")]
    assert chosen([made()], [False]) == []


def test_the_most_frequent_findings_come_first_and_the_rest_not_at_all():
    cases = [made(f"finding {k}") for k in range(FINDINGS + 2) for _ in range(k + 1)]
    shown = [cases[choice.case].finding for choice in choose_cases(cases, [True] * len(cases), 50)]
    assert list(dict.fromkeys(shown)) == [f"finding {k}" for k in range(FINDINGS + 1, 1, -1)]


def small(shape, target, heat=None):
    box = Box("nodule", 0, 0, 9, 9)
    case = grounding_case(np.eye(4), shape, [box], [], "nodule", "p")
    (choice,) = choose_cases([case], [True], 50)
    return make_case(choice, "x", np.zeros(shape, np.uint8), np.eye(4) if heat is None else heat, target)


def test_a_large_image_is_made_small_and_the_smallest_finding_keeps_a_pixel():
    target = np.zeros((1500, 1000), bool)
    target[750, 500] = True
    case = small(target.shape, target)
    assert case.pixels.shape == case.target.shape == (SIDE, 128)
    assert np.argwhere(case.target).tolist() == [[96, 64]]
    assert small((60, 30), np.ones((60, 30), bool)).pixels.shape == (60, 30)


def test_a_map_that_is_the_same_everywhere_stays_so():
    case = small((20, 20), np.ones((20, 20), bool), np.full((3, 3), 0.25))
    assert not case.heat.any()


def test_cases_are_kept_as_they_were_and_a_broken_file_is_named(tmp_path):
    path = tmp_path / CASES
    case = small((60, 30), np.tri(60, 30, dtype=bool))
    save_cases([case, case], path)
    for kept in load_cases(path):
        assert (kept.finding, kept.rank, kept.of, kept.image) == ("nodule", "best", 1, "x")
        assert (kept.iou, kept.hit) == (case.iou, case.hit)
        for name in ("pixels", "heat", "target"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(case, name), strict=True)
    content = path.read_bytes()
    for broken in (b"", b"broken", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(MedLIPError, match=r"cases\.npz.*Evaluate again"):
            load_cases(path)


def test_the_page_shows_the_cases_of_every_result_and_names_the_one_without(tmp_path: Path):
    folders = [tmp_path / name for name in ("one", "o<b>", "old")]
    for folder in folders:
        evaluate(Drawing(), make_store(), resamples=5, out=folder)
    (folders[2] / CASES).unlink()
    evaluated = [Evaluated.load(folder) for folder in folders]
    html = render_page(compare(evaluated, resamples=5), evaluated)
    assert html.count('<img src="data:image/jpeg;base64,') == 2 * 4 + 1  # and the colours' legend
    assert "No cases were kept of" in html
    assert str(folders[2]) in html.split("No cases were kept of", 1)[1].split("</p>", 1)[0]
    for case in evaluated[0].cases:
        assert html.count(f"{case.rank} of {case.of}: IoU {case.iou:.3f}") == 2
    assert "<b>" not in html
    without = [Evaluated(entry.name, entry.result, entry.predictions) for entry in evaluated]
    assert "worst cases" not in render_page(compare(without, resamples=5), without)
