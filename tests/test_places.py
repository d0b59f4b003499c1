"""Where a finding is said to lie: the first place that is named, and the side, against answers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fakes import FakeRecord, FakeStore
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.places import name_places, places_outcomes, places_result, stated_places
from medlip.reports import Fact

VOCABULARY = default_vocabulary()
LEFT, RIGHT, HEART = "left_lower_lung", "right_lower_lung", "heart_size"
IMAGE = np.zeros((8, 8), np.uint8)


class Naming:
    """Gives each place the probability that it was made with, whatever the image."""

    vocabulary = VOCABULARY
    preprocessing = SimpleNamespace(size=8)

    def __init__(self, **likely):
        self.likely = torch.zeros(len(VOCABULARY.anatomies))
        for name, value in likely.items():
            self.likely[VOCABULARY.anatomy_index[name]] = value

    def score(self, images, prompts):
        return torch.zeros(len(images), len(prompts))

    def score_anatomies(self, images, prompts):
        return self.likely.expand(len(images), len(prompts), -1)


@pytest.fixture(autouse=True)
def raw(monkeypatch):
    monkeypatch.setattr("medlip.evaluation.places.preprocessed", lambda records, _: torch.zeros(len(records), 3, 8, 8))


def record(number, *facts):
    return FakeRecord(f"image{number}", f"patient{number // 2}", "test", IMAGE, facts=tuple(Fact(*fact) for fact in facts))


def ask(method, *records):
    store = FakeStore(records)
    return name_places(method, store, stated_places(store, VOCABULARY), batch_size=2)


RECORDS = (
    record(0, ("effusion", LEFT, "present"), ("effusion", RIGHT, "absent"), ("edema", HEART, "uncertain")),
    record(1),
    record(2, ("effusion", LEFT, "present"), ("effusion", RIGHT, "present"), ("normal", HEART, "present")),
    record(3, ("effusion", RIGHT, "present"), ("mass", HEART, "present"), ("mass", "unspecified", "present")),
)


def test_only_what_is_present_abnormal_and_somewhere_counts():
    stated = stated_places(FakeStore(RECORDS), VOCABULARY)
    assert stated == [
        {"effusion": {LEFT}},
        {},
        {"effusion": {LEFT, RIGHT}},
        {"effusion": {RIGHT}, "mass": {HEART}},
    ]


def test_first_place_and_side_are_those_worked_out_by_hand():
    placed = ask(Naming(left_lower_lung=0.8, right_lower_lung=0.3, heart_size=0.1, trachea=0.9), *RECORDS)
    assert [(one.pathology, one.first, one.chance, one.side) for one in placed] == [
        ("effusion", 1.0, pytest.approx(1 / 3), 1.0),  # the trachea has no finding in any report
        ("effusion", 1.0, pytest.approx(2 / 3), pytest.approx(np.nan, nan_ok=True)),  # stated on both sides
        ("effusion", 0.0, pytest.approx(1 / 3), 0.0),
        ("mass", 0.0, pytest.approx(1 / 3), pytest.approx(np.nan, nan_ok=True)),
    ]
    result = places_result(placed, resamples=50)
    assert result["first_place"] | {"interval": None} == {
        "value": 0.5, "interval": None, "chance": pytest.approx(5 / 12), "n": 4
    }  # fmt: skip
    assert (result["side"]["value"], result["side"]["chance"], result["side"]["n"]) == (0.5, 0.5, 2)
    kept = {one.measure: one for one in places_outcomes(placed)}
    assert np.nanmean(kept["places/side/value"].values) == result["side"]["value"]
    assert not any("patient" in name for name in kept["places/side/value"].patients)


def test_a_method_that_says_the_same_of_both_sides_gets_chance():
    placed = ask(Naming(left_lower_lung=0.5, right_lower_lung=0.5), *RECORDS)
    result = places_result(placed, resamples=50)
    assert result["side"]["value"] == 0.5
    assert [one.first for one in placed] == [0.5, 1.0, 0.5, 0.0]


def test_where_nothing_is_placed_or_told_nothing_is_measured():
    silent = SimpleNamespace(vocabulary=VOCABULARY, preprocessing=None)
    assert ask(silent, *RECORDS) == []
    assert ask(Naming(), record(0), record(1)) == []
    assert places_result(ask(Naming(), record(0, ("mass", HEART, "present"))), resamples=5)["side"] is None


def test_places_that_are_not_finite_are_refused_by_image():
    with pytest.raises(MedLIPError, match="'image2': the places of its findings are not finite"):
        ask(Naming(heart_size=float("nan")), *RECORDS[1:])
