"""Maps on their own scale: dark where nothing is, and comparable between images and findings."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.data.study import Box
from medlip.evaluation import evaluate
from medlip.evaluation.tasks.maps import MapCase, map_case, pixel_auroc_statistic

SIZE = 64
BOX = Box("effusion", 0, 0, 32, 64)


class Bright(FakeMethod):
    """Maps that are bright in the left half, in images that show something or in all."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows = knows

    def localise(self, images: Tensor, prompts: list[str]) -> Tensor:
        shows = images.flatten(1).amax(1) > images.flatten(1).amin(1) if self.knows else images.flatten(1).amax(1) > -1e9
        maps = images.new_full((len(images), len(prompts), 1, 2), 0.1)
        maps[..., 0, 0] = maps[..., 0, 0] + 0.8 * shows.float()[:, None]
        return maps


@pytest.fixture(scope="module")
def store() -> FakeStore:
    store = FakeStore()
    for i in range(24):
        image = np.full((SIZE, SIZE), 50, np.uint8)
        if i % 2:
            image[:, :32] = 200
        label = "present" if i % 2 else "absent"
        store.append(FakeRecord(f"i{i}", f"p{i}", "test", image, {"effusion": label}, (BOX,) if i % 2 else ()))
    return store


def test_a_map_that_is_bright_where_nothing_is_costs(store: FakeStore) -> None:
    knowing, ignorant = (evaluate(Bright(knows), store, resamples=30)["maps"] for knows in (True, False))
    assert knowing["pixel_auroc"].value == pytest.approx(0.99, abs=0.011)  # but for the edge, which is blurred
    assert ignorant["pixel_auroc"].value == pytest.approx(5 / 6, abs=0.02)  # as bright in half of the negatives' pixels
    assert knowing["mass_inside"].value == ignorant["mass_inside"].value > 0.8
    assert knowing["mass_inside"].chance == pytest.approx(0.5)
    row = knowing.per_class["effusion"]
    assert (row.n, row.positives) == (24, 12)
    assert row["pixel_auroc"].interval is not None


def test_the_binned_auroc_is_that_of_all_pixels() -> None:
    generator = np.random.default_rng(0)
    cases, values, inside = [], [], []
    for i in range(20):
        heat = generator.normal(size=64).astype(np.float32)
        within = generator.random(64) < 0.3 if i % 3 else None
        if within is not None:
            heat[within] += 0.8
        cases.append(MapCase("nodule", f"p{i}", heat, within))
        values.append(heat)
        inside.append(np.zeros(64, bool) if within is None else within)
    found = pixel_auroc_statistic(cases)(np.ones((1, 20)))[0]
    assert found == pytest.approx(roc_auc_score(np.concatenate(inside), np.concatenate(values)), abs=1e-3)
    twice = np.ones((1, 20)) + (np.arange(20) < 10)
    weights = np.repeat(twice[0], 64)
    expected = roc_auc_score(np.concatenate(inside), np.concatenate(values), sample_weight=weights)
    assert pixel_auroc_statistic(cases)(twice)[0] == pytest.approx(expected, abs=1e-3)


def test_an_image_of_which_it_is_not_known_is_left_out_and_a_dark_map_has_nothing_inside() -> None:
    image = np.zeros((SIZE, SIZE), np.uint8)
    heat = np.ones((2, 2))
    assert map_case(heat, FakeRecord("a", "p", "test", image, {"effusion": "uncertain"}, (BOX,)), "effusion") is None
    assert map_case(heat, FakeRecord("a", "p", "test", image, {}, ()), "effusion") is None
    dark = map_case(0 * heat, FakeRecord("a", "p", "test", image, {"effusion": "present"}, (BOX,)), "effusion")
    assert dark is not None
    assert dark.mass_inside == 0
