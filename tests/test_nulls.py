"""Nulls: a map or a place that has seen nothing in its own image is not praised for pointing where findings usually are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.concepts import default_vocabulary
from medlip.data.sources import open_source
from medlip.data.study import Box, Study
from medlip.evaluation import evaluate
from medlip.evaluation.nulls import (
    SampledRegion,
    commonest_places,
    other_hits,
    other_region_hits,
    phantom_maps,
    phantom_places,
    relative_peak,
    static_maps,
)
from medlip.evaluation.tasks.places import stated_places
from medlip.reports import extract_facts

pytestmark = pytest.mark.long

SIZE = 32
LEFT, RIGHT = Box("effusion", 0, 0, 16, 32), Box("effusion", 16, 0, 16, 32)


def region(box: Box) -> NDArray[np.bool_]:
    pixels = np.zeros((SIZE, SIZE), bool)
    pixels[:, int(box.x) : int(box.x + box.width)] = True
    return pixels


def test_the_maps_of_other_patients_are_those_of_the_same_finding_alone() -> None:
    regions = [SampledRegion.of(region(box)) for box in (LEFT, LEFT, RIGHT, RIGHT)]
    peaks = [(0.5, 0.1), (0.5, 0.9), None, (0.5, 0.1)]
    hits = other_hits(["effusion"] * 3 + ["mass"], ["a", "b", "c", "d"], peaks, regions)
    assert hits[:3].tolist() == [0, 0.5, 0.5]  # a flat map points nowhere
    assert np.isnan(hits[3])


def test_an_other_image_of_the_same_patient_is_no_other_patient() -> None:
    regions = [SampledRegion.of(region(LEFT))] * 2
    assert np.isnan(other_hits(["effusion"] * 2, ["a", "a"], [(0.5, 0.1)] * 2, regions)).all()


def test_the_mean_of_other_patients_regions_holds_none_of_the_patients_own() -> None:
    findings, views = ["effusion"] * 4, ["frontal"] * 4
    regions = [SampledRegion.of(region(box)) for box in (LEFT, LEFT, LEFT, RIGHT)]
    assert other_region_hits(findings, ["a", "b", "c", "d"], regions, views).tolist() == [1, 1, 1, 0]
    assert other_region_hits(findings, ["a", "a", "a", "d"], regions, views).tolist() == [0, 0, 0, 0]
    apart = other_region_hits(["effusion", "mass", "effusion", "mass"], ["a", "b", "c", "b"], regions, ["x", "x", "y", "x"])
    assert np.isnan(apart).all()  # no other patient has the same finding in the same view


def test_a_large_region_is_sampled_and_still_tells_sides() -> None:
    pixels = np.zeros((1001, 777), bool)
    pixels[:, :388] = True
    assert SampledRegion.of(pixels).holds([(0.5, 0.49), (0.5, 0.51), (1.0, 0.0)]).tolist() == [True, False, True]


class Pointing(FakeMethod):
    """Points to one half: always the left one, or the brighter one."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.looks = looks

    def localise(self, images: Tensor, prompts: list[str]) -> Tensor:
        maps = images.new_zeros(len(images), len(prompts), 1, 2)
        halves = images.mean(1).unflatten(2, (2, -1)).mean((1, 3))
        right = halves[:, 1] > halves[:, 0] if self.looks else halves[:, 1] < -1e9
        maps[..., 0, 0] = (~right).float()[:, None]
        maps[..., 0, 1] = right.float()[:, None]
        return maps


@pytest.fixture(scope="module")
def store() -> FakeStore:
    """Two thirds of the effusions are on the image's left, where they are brighter."""
    store = FakeStore()
    for i in range(48):
        box = RIGHT if i % 3 == 0 else LEFT
        image = np.full((SIZE, SIZE), 50, np.uint8)
        image[region(box)] = 200
        split = "test" if i < 24 else "train"
        store.append(FakeRecord(f"i{i}", f"p{i}", split, image, {"effusion": "present"}, (box,)))
    return store


def test_who_looks_at_nothing_is_no_better_than_others_maps_or_memory(store: FakeStore) -> None:
    found = evaluate(Pointing(looks=False), store, resamples=20)["grounding"]
    assert found["pointing_game"].value == pytest.approx(2 / 3)
    assert found["own_less_other"].value == pytest.approx(0, abs=1e-9)
    assert found["pointing_game_from_memory"].value == pytest.approx(2 / 3)


def test_a_finding_that_only_the_evaluated_patients_have_is_remembered_from_the_others() -> None:
    """Pneumonia is no finding of phantoms; three patients have it on the left, the fourth alone on the right."""
    boxes = [Box("pneumonia", 16 * (i == 3), 0, 16, SIZE) for i in range(4)] + [Box("hernia_of_one", 0, 0, 9, 9)]
    store = FakeStore(
        FakeRecord(f"i{i}", f"p{i}", "test", np.full((SIZE, SIZE), 50, np.uint8), {box.pathology: "present"}, (box,))
        for i, box in enumerate(boxes)
    )
    found = evaluate(Pointing(looks=False), store, classes=["pneumonia", "hernia_of_one"], resamples=20)
    memory = found["grounding"]["pointing_game_from_memory"]
    assert (memory.value, memory.n) == (0.75, 4)
    assert "other evaluated patients' regions for hernia_of_one, pneumonia" in found.protocol.rules["from memory"]
    (note,) = (note for note in found.notes if "from memory" in note)
    assert note.startswith("1 of 5 findings have no pointing game from memory") and note.endswith(": hernia_of_one")


def test_who_looks_is_better_than_others_maps(store: FakeStore) -> None:
    found = evaluate(Pointing(looks=True), store, resamples=20)["grounding"]
    assert found["pointing_game"].value == 1
    low, high = found["own_less_other"].interval
    assert 0.3 < low < found["own_less_other"].value < high


def test_the_commonest_place_is_counted_over_images() -> None:
    stated = [{"nodule": frozenset({"a", "b"})}, {"nodule": frozenset({"b"})}, {"mass": frozenset({"c"})}]
    assert commonest_places(stated) == {"nodule": "b", "mass": "c"}


@pytest.fixture(scope="module")
def phantoms() -> list[Study]:
    return list(open_source("phantom:150@8"))


def test_static_maps_of_phantoms_are_those_that_are_shipped(phantoms: list[Study]) -> None:
    views = ((study.id, view) for study in phantoms for view in study.views)
    some = static_maps(
        FakeRecord(name, name, "train", np.asarray(view.image), {}, view.boxes, view.masks) for name, view in views
    )
    shipped = phantom_maps()
    for finding in ("effusion", "cardiomegaly"):
        assert np.corrcoef(some[finding].ravel(), shipped[finding].ravel())[0, 1] > 0.8


def test_commonest_places_of_phantoms_are_those_that_are_shipped(phantoms: list[Study]) -> None:
    vocabulary = default_vocabulary()
    some = commonest_places(stated_places((extract_facts(study.report, vocabulary) for study in phantoms), vocabulary))
    shipped = phantom_places()
    assert some.keys() == shipped.keys()
    for finding in ("cardiomegaly", "edema", "hernia", "fracture", "calcification", "emphysema"):  # the others are near ties
        assert some[finding] == shipped[finding]


def test_the_peak_of_a_map_is_a_share_of_its_sides() -> None:
    heat = np.zeros((4, 2))
    assert relative_peak(heat) is None
    heat[3, 0] = 1
    assert relative_peak(heat) == (0.875, 0.25)
