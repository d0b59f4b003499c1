"""Grounding: every case judged by itself, every rule as it reads, every number beside what chance gives."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation.regions import paint_boxes
from medlip.evaluation.tasks.grounding import THRESHOLDS, choose_threshold, grounding_case, grounding_result
from medlip.images.preprocessing import enlarge
from medlip.metrics import peak

SHAPE = (64, 96)


def box(x, y, width, height, finding="effusion"):
    return Box(finding, x, y, width, height)


def case(heat, *boxes, masks=(), patient="p", shape=SHAPE, finding="effusion"):
    return grounding_case(heat, shape, boxes, masks, finding, patient)


def one_hot(row, column, shape=(8, 12)):
    heat = np.zeros(shape)
    heat[row, column] = 1
    return heat


def test_the_maximum_of_the_enlarged_map_hits_where_its_centre_lies_in_a_box():
    assert case(one_hot(4, 6), box(48, 32, 8, 8)).hit  # cell (4, 6) covers x 48..56, y 32..40
    assert not case(one_hot(4, 6), box(0, 0, 40, 64)).hit
    assert case(one_hot(4, 6), box(0, 0, 5, 5), box(50, 30, 10, 10)).hit


def test_the_released_rule_hits_with_any_pixel_of_the_cell():
    corner = box(47, 31, 2, 2)  # touches only the first pixel of the cell
    assert case(one_hot(4, 6), corner).cell_hit
    assert not case(one_hot(4, 6), corner).hit
    assert not case(one_hot(4, 6), box(0, 0, 48, 32)).cell_hit


def test_cells_that_do_not_divide_the_image_share_out_every_pixel_once():
    covered = np.zeros(SHAPE, int)
    for row in range(7):
        for column in range(5):
            own = [
                [case(one_hot(row, column, (7, 5)), box(x + 0.25, y + 0.25, 0.5, 0.5)).cell_hit for x in range(0, 96, 16)]
                for y in range(0, 64, 16)
            ]
            covered[::16, ::16] += np.array(own)
    assert (covered[::16, ::16] == 1).all()


def test_chance_is_the_share_of_the_image_that_boxes_cover():
    assert case(one_hot(0, 0), box(0, 0, 48, 32)).cover == 0.25
    assert case(one_hot(0, 0), box(0, 0, 48, 32), box(24, 0, 48, 32)).cover == 0.375  # the union, not the sum


def test_random_maps_hit_as_often_as_chance():
    rng = np.random.default_rng(0)
    cases = [case(rng.random((8, 12)), box(16, 16, 48, 32), patient=str(i)) for i in range(600)]
    result = grounding_result(cases, threshold=0.5, reported=[True] * 600, rule="fixed")
    low, high = result["pointing_game"].interval
    assert result["pointing_game"].chance == pytest.approx(0.25)
    assert low <= 0.25 <= high + 0.1  # enlarging smooths, and draws the maximum a little towards the middle
    assert result["pointing_game_any_pixel_of_cell"].value >= result["pointing_game"].value - 0.02


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
    flat = case(np.full((8, 12), 0.3), box(0, 0, 96, 64))
    assert not flat.hit
    assert not flat.cell_hit
    assert flat.iou[1:].max() == 0


def test_overlap_is_that_of_the_thresholded_map():
    rng = np.random.default_rng(1)
    heat, region = rng.random((8, 12)), box(10, 10, 50, 30)
    judged, truth = case(heat, region), paint_boxes([region], SHAPE)
    large = enlarge(heat, SHAPE)
    scaled = (large - large.min()) / (large.max() - large.min())
    for k in (0, 1, 37, 50, 99):
        called = scaled >= THRESHOLDS[k]
        assert judged.iou[k] == pytest.approx((called & truth).sum() / (called | truth).sum())
        assert judged.dice[k] == pytest.approx(2 * (called & truth).sum() / (called.sum() + truth.sum()))


def test_scale_and_offset_of_a_map_change_nothing():
    heat, region = np.random.default_rng(2).random((8, 12)), box(10, 10, 50, 30)
    np.testing.assert_allclose(case(heat * 1e-3 + 7, region).iou, case(heat, region).iou, atol=2e-3)


def test_threshold_zero_is_the_all_ones_baseline():
    judged = case(one_hot(4, 6), box(0, 0, 48, 32))
    result = grounding_result([judged], threshold=0.0, reported=[True], rule="zero")
    assert result["iou"].value == result["iou"].chance == 0.25
    assert result["dice"].value == result["dice"].chance == pytest.approx(0.4)


def test_the_threshold_is_the_best_of_those_it_is_chosen_on():
    rng = np.random.default_rng(3)
    cases = [case(rng.random((8, 12)) + one_hot(3, 3), box(16, 16, 24, 24)) for _ in range(5)]
    mean_iou = np.mean([judged.iou for judged in cases], axis=0)
    assert mean_iou[int(choose_threshold(cases) * 100 + 0.5)] == mean_iou.max()
    assert np.isnan(choose_threshold([]))


def test_a_mask_is_what_overlap_is_taken_against_and_boxes_what_is_pointed_at():
    pixels = np.zeros(SHAPE, bool)
    pixels[:10, :10] = True
    both = case(one_hot(4, 6), box(48, 32, 8, 8), masks=[Mask("effusion", pixels)])
    assert (both.pointed_at, both.compared_with, both.hit, both.target) == ("boxes", "masks", True, 100)
    alone = case(one_hot(0, 0), masks=[Mask("effusion", pixels)])
    assert (alone.pointed_at, alone.compared_with, alone.hit) == ("masks", "masks", True)


def test_cases_that_chose_the_threshold_are_not_in_the_overlap():
    cases = [case(one_hot(4, 6), box(0, 0, 48, 32)), case(one_hot(4, 6), box(0, 0, 96, 64), patient="q")]
    result = grounding_result(cases, threshold=0.5, reported=[True, False], rule="half")
    assert (result["pointing_game"].n, result["iou"].n, result["iou"].chance) == (2, 1, 0.25)


def test_without_a_threshold_overlap_is_null_with_a_reason():
    result = grounding_result([case(one_hot(0, 0), box(0, 0, 9, 9))], threshold=np.nan, reported=[True], rule="none")
    assert result["iou"].value is None
    assert result.threshold is None
    assert "threshold" in result["iou"].reason
    assert result["iou"].chance > 0


def test_where_all_cases_chose_the_threshold_overlap_is_null_and_says_so():
    result = grounding_result([case(one_hot(0, 0), box(0, 0, 9, 9))], threshold=0.5, reported=[False], rule="half")
    assert (result["dice"].value, result["dice"].n) == (None, 0)
    assert "choosing the threshold" in result["dice"].reason


def test_contrast_to_noise_is_that_of_a_plain_calculation():
    heat, region = np.random.default_rng(4).random((8, 12)), box(10, 10, 50, 30)
    large, truth = enlarge(heat, SHAPE), paint_boxes([region], SHAPE)
    inside, outside = large[truth], large[~truth]
    expected = (inside.mean() - outside.mean()) / np.sqrt(inside.std() ** 2 + outside.std() ** 2)
    assert case(heat, region).contrast == pytest.approx(expected)
    assert case(7 + 1e-3 * heat, region).contrast == pytest.approx(expected)
    assert case(1 - heat, region).contrast == pytest.approx(-expected)  # a map that avoids the finding is worse than none
    assert case(one_hot(4, 6), box(44, 28, 16, 16)).contrast > 1 > 0 > case(one_hot(4, 6), box(0, 0, 8, 8)).contrast


def test_contrast_is_taken_where_is_pointed_at():
    heat, pixels = np.random.default_rng(5).random((8, 12)), np.zeros(SHAPE, bool)
    pixels[:10, :10] = True
    both = case(heat, box(48, 32, 8, 8), masks=[Mask("effusion", pixels)])
    assert both.contrast == case(heat, box(48, 32, 8, 8)).contrast
    assert case(heat, masks=[Mask("effusion", pixels)]).contrast == case(heat, box(0, 0, 10, 10)).contrast


def test_a_flat_map_has_no_contrast_and_what_has_no_outside_or_no_noise_is_left_out_and_counted():
    flat = case(np.full((8, 12), 0.3), box(0, 0, 48, 32), patient="a")
    whole = case(one_hot(4, 6), box(0, 0, 96, 64), patient="b")
    two_levels = case(paint_boxes([box(0, 0, 48, 32)], SHAPE) * 0.7 + 0.1, box(0, 0, 48, 32), patient="c")
    good = case(one_hot(4, 6), box(44, 28, 16, 16), patient="d")
    assert flat.contrast == 0
    assert np.isnan(whole.contrast)
    assert np.isnan(two_levels.contrast)
    result = grounding_result([flat, whole, two_levels, good], threshold=0.5, reported=[True] * 4, rule="fixed")
    assert (result["pointing_game"].n, result["contrast_to_noise"].n) == (4, 2)
    assert result["contrast_to_noise"] == result.per_class["effusion"]["contrast_to_noise"]
    assert result["contrast_to_noise"].value == good.contrast / 2
    assert result["contrast_to_noise"].interval == (0, good.contrast)
    nothing = grounding_result([whole], threshold=0.5, reported=[True], rule="fixed")
    assert nothing["contrast_to_noise"].value is nothing["contrast_to_noise"].interval is None
    assert "not defined" in nothing["contrast_to_noise"].reason


def test_a_box_outside_the_image_makes_no_case():
    assert case(one_hot(0, 0), box(200, 200, 10, 10)) is None


def test_bad_maps_and_masks_are_said():
    with pytest.raises(MedLIPError, match="effusion"):
        case(np.full((4, 4), np.nan), box(0, 0, 9, 9))
    with pytest.raises(MedLIPError, match="size of"):
        case(one_hot(0, 0), masks=[Mask("effusion", np.ones((2, 2), bool))])
