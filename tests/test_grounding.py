"""Grounding: every pair judged by itself, every rule as it reads, every number beside what chance gives."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation.grounding import THRESHOLDS, choose_threshold, enlarge, grounding_result, judge, paint_boxes, peak

SHAPE = (64, 96)


def box(x, y, width, height, pathology="effusion"):
    return Box(pathology, x, y, width, height)


def pair(heat, *boxes, masks=(), patient="p", shape=SHAPE, pathology="effusion"):
    return judge(heat, shape, boxes, masks, pathology, patient)


def one_hot(row, column, shape=(8, 12)):
    heat = np.zeros(shape)
    heat[row, column] = 1
    return heat


def test_the_maximum_of_the_enlarged_map_hits_where_its_centre_lies_in_a_box():
    assert pair(one_hot(4, 6), box(48, 32, 8, 8)).hit  # cell (4, 6) covers x 48..56, y 32..40
    assert not pair(one_hot(4, 6), box(0, 0, 40, 64)).hit
    assert pair(one_hot(4, 6), box(0, 0, 5, 5), box(50, 30, 10, 10)).hit


def test_the_released_rule_hits_with_any_pixel_of_the_cell():
    corner = box(47, 31, 2, 2)  # touches only the first pixel of the cell
    assert pair(one_hot(4, 6), corner).cell_hit
    assert not pair(one_hot(4, 6), corner).hit
    assert not pair(one_hot(4, 6), box(0, 0, 48, 32)).cell_hit


def test_cells_that_do_not_divide_the_image_share_out_every_pixel_once():
    covered = np.zeros(SHAPE, int)
    for row in range(7):
        for column in range(5):
            own = [
                [pair(one_hot(row, column, (7, 5)), box(x + 0.25, y + 0.25, 0.5, 0.5)).cell_hit for x in range(0, 96, 16)]
                for y in range(0, 64, 16)
            ]
            covered[::16, ::16] += np.array(own)
    assert (covered[::16, ::16] == 1).all()


def test_chance_is_the_share_of_the_image_that_boxes_cover():
    assert pair(one_hot(0, 0), box(0, 0, 48, 32)).cover == 0.25
    assert pair(one_hot(0, 0), box(0, 0, 48, 32), box(24, 0, 48, 32)).cover == 0.375  # the union, not the sum


def test_random_maps_hit_as_often_as_chance():
    rng = np.random.default_rng(0)
    pairs = [pair(rng.random((8, 12)), box(16, 16, 48, 32), patient=str(i)) for i in range(600)]
    result = grounding_result(pairs, threshold=0.5, reported=[True] * 600, rule="fixed")
    low, high = result["interval"]
    assert result["chance"] == pytest.approx(0.25)
    assert low <= 0.25 <= high + 0.1  # enlarging smooths, and draws the maximum a little towards the middle
    assert result["pointing_game_any_pixel_of_cell"] >= result["pointing_game"] - 0.02


def test_a_pixel_is_in_a_box_when_its_centre_is():
    painted = paint_boxes([box(0.6, 1.0, 1.0, 1.4)], (4, 4))
    assert painted.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_enlarging_keeps_the_centres_of_cells_in_place():
    large = enlarge(one_hot(1, 2, (3, 5)), (9, 15))
    assert np.unravel_index(large.argmax(), large.shape) == (4, 7)
    assert large[4, 7] == 1
    assert large[4, 4] == 0


def test_a_flat_maximum_is_taken_at_its_middle():
    large = enlarge(one_hot(0, 0, (4, 4)), (32, 32))
    assert peak(large) == (1, 1)  # rows 0..3 and columns 0..3 are equal; (1, 1) is the first of the four in their middle


def test_equal_maxima_give_the_first_in_reading_order():
    heat = one_hot(1, 1, (5, 5)) + one_hot(3, 3, (5, 5))
    assert peak(heat) == (1, 1)
    assert peak(heat[:, ::-1]) == (1, 3)


def test_a_flat_map_points_nowhere():
    flat = pair(np.full((8, 12), 0.3), box(0, 0, 96, 64))
    assert not flat.hit
    assert not flat.cell_hit
    assert flat.iou[1:].max() == 0


def test_overlap_is_that_of_the_thresholded_map():
    rng = np.random.default_rng(1)
    heat, region = rng.random((8, 12)), box(10, 10, 50, 30)
    judged, truth = pair(heat, region), paint_boxes([region], SHAPE)
    large = enlarge(heat, SHAPE)
    scaled = (large - large.min()) / (large.max() - large.min())
    for k in (0, 1, 37, 50, 99):
        called = scaled >= THRESHOLDS[k]
        assert judged.iou[k] == pytest.approx((called & truth).sum() / (called | truth).sum())
        assert judged.dice[k] == pytest.approx(2 * (called & truth).sum() / (called.sum() + truth.sum()))


def test_scale_and_offset_of_a_map_change_nothing():
    heat, region = np.random.default_rng(2).random((8, 12)), box(10, 10, 50, 30)
    np.testing.assert_allclose(pair(heat * 1e-3 + 7, region).iou, pair(heat, region).iou, atol=2e-3)


def test_threshold_zero_is_the_all_ones_baseline():
    judged = pair(one_hot(4, 6), box(0, 0, 48, 32))
    result = grounding_result([judged], threshold=0.0, reported=[True], rule="zero")
    assert result["iou"] == result["all_ones_iou"] == 0.25
    assert result["dice"] == result["all_ones_dice"] == pytest.approx(0.4)


def test_the_threshold_is_the_best_of_those_it_is_chosen_on():
    rng = np.random.default_rng(3)
    pairs = [pair(rng.random((8, 12)) + one_hot(3, 3), box(16, 16, 24, 24)) for _ in range(5)]
    mean_iou = np.mean([judged.iou for judged in pairs], axis=0)
    assert mean_iou[int(choose_threshold(pairs) * 100 + 0.5)] == mean_iou.max()
    assert np.isnan(choose_threshold([]))


def test_a_mask_is_what_overlap_is_taken_against_and_boxes_what_is_pointed_at():
    pixels = np.zeros(SHAPE, bool)
    pixels[:10, :10] = True
    both = pair(one_hot(4, 6), box(48, 32, 8, 8), masks=[Mask("effusion", pixels)])
    assert (both.pointed_at, both.compared_with, both.hit, both.target) == ("boxes", "masks", True, 100)
    alone = pair(one_hot(0, 0), masks=[Mask("effusion", pixels)])
    assert (alone.pointed_at, alone.compared_with, alone.hit) == ("masks", "masks", True)


def test_pairs_that_chose_the_threshold_are_not_in_the_overlap():
    pairs = [pair(one_hot(4, 6), box(0, 0, 48, 32)), pair(one_hot(4, 6), box(0, 0, 96, 64), patient="q")]
    result = grounding_result(pairs, threshold=0.5, reported=[True, False], rule="half")
    assert (result["n"], result["n_overlap"], result["all_ones_iou"]) == (2, 1, 0.25)


def test_without_a_threshold_overlap_is_null_with_a_reason():
    result = grounding_result([pair(one_hot(0, 0), box(0, 0, 9, 9))], threshold=np.nan, reported=[True], rule="none")
    assert result["iou"] is None
    assert result["threshold"] is None
    assert "threshold" in result["overlap_reason"]
    assert result["all_ones_iou"] > 0


def test_contrast_to_noise_is_that_of_a_plain_calculation():
    heat, region = np.random.default_rng(4).random((8, 12)), box(10, 10, 50, 30)
    large, truth = enlarge(heat, SHAPE), paint_boxes([region], SHAPE)
    inside, outside = large[truth], large[~truth]
    expected = (inside.mean() - outside.mean()) / np.sqrt(inside.std() ** 2 + outside.std() ** 2)
    assert pair(heat, region).contrast == pytest.approx(expected)
    assert pair(7 + 1e-3 * heat, region).contrast == pytest.approx(expected)
    assert pair(1 - heat, region).contrast == pytest.approx(-expected)  # a map that avoids the finding is worse than none
    assert pair(one_hot(4, 6), box(44, 28, 16, 16)).contrast > 1 > 0 > pair(one_hot(4, 6), box(0, 0, 8, 8)).contrast


def test_contrast_is_taken_where_is_pointed_at():
    heat, pixels = np.random.default_rng(5).random((8, 12)), np.zeros(SHAPE, bool)
    pixels[:10, :10] = True
    both = pair(heat, box(48, 32, 8, 8), masks=[Mask("effusion", pixels)])
    assert both.contrast == pair(heat, box(48, 32, 8, 8)).contrast
    assert pair(heat, masks=[Mask("effusion", pixels)]).contrast == pair(heat, box(0, 0, 10, 10)).contrast


def test_a_flat_map_has_no_contrast_and_what_has_no_outside_or_no_noise_is_left_out_and_counted():
    flat = pair(np.full((8, 12), 0.3), box(0, 0, 48, 32), patient="a")
    whole = pair(one_hot(4, 6), box(0, 0, 96, 64), patient="b")
    two_levels = pair(paint_boxes([box(0, 0, 48, 32)], SHAPE) * 0.7 + 0.1, box(0, 0, 48, 32), patient="c")
    good = pair(one_hot(4, 6), box(44, 28, 16, 16), patient="d")
    assert flat.contrast == 0
    assert np.isnan(whole.contrast)
    assert np.isnan(two_levels.contrast)
    result = grounding_result([flat, whole, two_levels, good], threshold=0.5, reported=[True] * 4, rule="fixed")
    assert (result["n"], result["contrast_left_out"]) == (4, 2)
    assert result["contrast_to_noise"] == result["per_class"]["effusion"]["contrast_to_noise"] == good.contrast / 2
    assert result["contrast_interval"] == [0, good.contrast]
    nothing = grounding_result([whole], threshold=0.5, reported=[True], rule="fixed")
    assert nothing["contrast_to_noise"] is nothing["contrast_interval"] is None


def test_a_box_outside_the_image_makes_no_pair():
    assert pair(one_hot(0, 0), box(200, 200, 10, 10)) is None


def test_bad_maps_and_masks_are_said():
    with pytest.raises(MedLIPError, match="effusion"):
        pair(np.full((4, 4), np.nan), box(0, 0, 9, 9))
    with pytest.raises(MedLIPError, match="size of"):
        pair(one_hot(0, 0), masks=[Mask("effusion", np.ones((2, 2), bool))])
