"""Where a finding is said to lie: the first place that is named, and the side, against answers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.outcomes import OUTCOMES, load_outcomes
from medlip.evaluation.tasks.places import stated_places
from medlip.methods.base import TellsPlaces
from medlip.reports import Fact

VOCABULARY = default_vocabulary()
LEFT, RIGHT, HEART = "left_lower_lung", "right_lower_lung", "heart_size"
IMAGE = np.zeros((8, 8), np.uint8)


class Naming(FakeMethod, TellsPlaces):
    """Gives each place the probability that it was made with, whatever the image."""

    def __init__(self, **likely):
        super().__init__(8)
        self.likely = torch.zeros(len(VOCABULARY.anatomies))
        for name, value in likely.items():
            self.likely[VOCABULARY.anatomy_index[name]] = value

    def score_anatomies(self, images, prompts):
        return self.likely.expand(len(images), len(prompts), -1)


def record(number, *facts):
    return FakeRecord(f"image{number}", f"patient{number // 2}", "test", IMAGE, facts=tuple(Fact(*fact) for fact in facts))


def ask(method, *records, **settings):
    return evaluate(method, FakeStore(records), batch_size=2, resamples=50, **settings)


RECORDS = (
    record(0, ("effusion", LEFT, "present"), ("effusion", RIGHT, "absent"), ("edema", HEART, "uncertain")),
    record(1),
    record(2, ("effusion", LEFT, "present"), ("effusion", RIGHT, "present"), ("normal", HEART, "present")),
    record(3, ("effusion", RIGHT, "present"), ("mass", HEART, "present"), ("mass", "unspecified", "present")),
)


def test_only_what_is_present_abnormal_and_somewhere_counts():
    stated = stated_places((each.facts for each in RECORDS), VOCABULARY)
    assert stated == [
        {"effusion": {LEFT}},
        {},
        {"effusion": {LEFT, RIGHT}},
        {"effusion": {RIGHT}, "mass": {HEART}},
    ]


def test_first_place_and_side_are_those_worked_out_by_hand(tmp_path):
    method = Naming(left_lower_lung=0.8, right_lower_lung=0.3, heart_size=0.1, trachea=0.9)
    places = ask(method, *RECORDS, out=tmp_path)["places"]
    kept = load_outcomes(tmp_path / OUTCOMES)
    first, side = kept["places/first_place"], kept["places/side"]
    assert first.findings == side.findings == ["effusion", "effusion", "effusion", "mass"]
    assert first.values.tolist() == [1.0, 1.0, 0.0, 0.0]  # the trachea has no finding in any report
    np.testing.assert_equal(side.values, [1.0, np.nan, 0.0, np.nan])  # the second is stated on both sides
    found = places["first_place"]
    assert (found.value, found.chance, found.n) == (0.5, pytest.approx((1 + 2 + 1 + 1) / 3 / 4), 4)
    assert (places["side"].value, places["side"].chance, places["side"].n) == (0.5, 0.5, 2)
    assert not any("patient" in name for name in first.patients)


def test_a_method_that_says_the_same_of_both_sides_gets_chance(tmp_path):
    result = ask(Naming(left_lower_lung=0.5, right_lower_lung=0.5), *RECORDS, out=tmp_path)
    assert result["places"]["side"].value == 0.5
    assert load_outcomes(tmp_path / OUTCOMES)["places/first_place"].values.tolist() == [0.5, 1.0, 0.5, 0.0]


def test_without_a_training_split_phantoms_tell_the_commonest_place(tmp_path):
    told = (record(0, ("effusion", "right_pleural", "present")), record(2, ("effusion", LEFT, "present")))
    unknown = record(4, ("pneumonia", LEFT, "present"))  # phantoms have none
    result = ask(Naming(left_lower_lung=0.5), *told, unknown, out=tmp_path)
    np.testing.assert_equal(load_outcomes(tmp_path / OUTCOMES)["places/first_place_from_memory"].values, [1, 0, np.nan])
    conditional = result["places"]["conditional_place"]
    assert (conditional.value, conditional.n) == (1, 1)
    assert result.protocol.rules["commonest places"] == "those of the training split, of phantoms for effusion"
    assert ask(Naming(), unknown)["places"]["first_place_from_memory"].reason.startswith("neither a training split nor")


def test_the_training_split_tells_the_commonest_place_before_phantoms():
    usual = replace(record(6, ("effusion", LEFT, "present")), split="train")
    result = ask(Naming(), record(0, ("effusion", "right_pleural", "present")), usual)
    assert result["places"]["first_place_from_memory"].value == 0
    assert "commonest places" not in result.protocol.rules


def test_where_nothing_is_placed_or_told_nothing_is_measured():
    silent = ask(FakeMethod(8), *RECORDS)
    assert "places" not in silent.tasks
    assert "side" in silent.protocol.rules  # the same protocol as of a method that tells
    assert "places" not in ask(Naming(), record(0), record(1)).tasks
    side = ask(Naming(), record(0, ("mass", HEART, "present")))["places"]["side"]
    assert (side.value, side.n, side.reason) == (None, 0, "no finding has one side")


def test_places_that_are_not_finite_are_refused_by_image():
    with pytest.raises(MedLIPError, match="'image2': the places of its findings are not finite"):
        ask(Naming(heart_size=float("nan")), *RECORDS[1:])
