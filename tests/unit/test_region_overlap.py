"""Overlap of one map and one region: against plain calculations, with what is empty said by the caller."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.errors import MedLIPError
from medlip.metrics import cell_hit, contrast_to_noise, dice, iou, overlap_counts, pointing_game, scale_to_unit


@pytest.fixture
def drawn():
    """A map (12, 9) with ties, and a region of it."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 6, (12, 9)) / 5, rng.random((12, 9)) < 0.3


def test_counts_are_those_of_the_thresholded_map(drawn):
    heat, region = drawn
    thresholds = np.array([0.9, 0.0, 0.4, 1.5])  # in any order
    predicted, intersection = overlap_counts(heat, region, thresholds)
    assert predicted.tolist() == [(heat >= t).sum() for t in thresholds]
    assert intersection.tolist() == [((heat >= t) & region).sum() for t in thresholds]


def test_iou_and_dice_are_those_of_sets(drawn):
    heat, region = drawn
    called = heat >= 0.6
    counts = (called & region).sum(), called.sum(), region.sum()
    assert iou(*counts, empty=np.nan) == (called & region).sum() / (called | region).sum()
    assert dice(*counts, empty=np.nan) == 2 * (called & region).sum() / (called.sum() + region.sum())


@pytest.mark.parametrize("overlap", [iou, dice])
def test_what_is_empty_counts_as_the_caller_says(overlap):
    assert overlap(0, 0, 0, empty=1) == 1
    assert np.isnan(overlap(0, 0, 0, empty=np.nan))
    assert overlap([0, 0], [3, 0], 0, empty=1).tolist() == [0, 1]  # calling something where nothing is


def test_a_map_is_scaled_to_its_own_range_and_a_flat_one_to_zero():
    assert scale_to_unit(np.array([[2.0, 4.0], [3.0, 2.0]])).tolist() == [[0, 1], [0.5, 0]]
    assert not scale_to_unit(np.full((2, 2), 7.0)).any()


def test_the_pointing_game_is_won_by_the_pixel_and_by_the_cell():
    heat, region = np.zeros((4, 4)), np.zeros((4, 4), bool)
    heat[2, 1], region[2, 1] = 1, True
    assert pointing_game(heat, region)
    assert not pointing_game(heat, ~region)
    assert not pointing_game(np.ones((4, 4)), np.ones((4, 4), bool))  # a flat map points nowhere
    assert cell_hit(np.array([[0.0, 0.0], [1.0, 0.0]]), region)
    assert not cell_hit(np.array([[1.0, 0.0], [0.0, 0.0]]), region)


def test_contrast_has_a_sign_and_is_undefined_without_an_outside():
    region = np.tri(6, 6, dtype=bool)
    heat = region + np.random.default_rng(0).random((6, 6))
    assert contrast_to_noise(heat, region) == pytest.approx(-contrast_to_noise(-heat, region))
    assert contrast_to_noise(heat, region) > 0
    assert np.isnan(contrast_to_noise(heat, np.ones((6, 6), bool)))


def test_a_map_that_is_not_as_large_as_its_region_is_refused():
    for function in (pointing_game, contrast_to_noise, lambda *both: overlap_counts(*both, [0.5])):
        with pytest.raises(MedLIPError, match=r"\(2, 2\) and a region \(4, 4\) .* enlarge the map"):
            function(np.ones((2, 2)), np.ones((4, 4), bool))
