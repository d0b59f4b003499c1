"""Segmentation: maps as they are, Dice in both conventions against plain loops, every number beside its baselines."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.errors import MedLIPError
from medlip.evaluation.tasks.segmentation import choose_threshold, segmentation_case, segmentation_result
from medlip.images.preprocessing import enlarge

THRESHOLDS = np.linspace(0.01, 0.99, 99)
SHAPE = (24, 36)


def square(top=4, left=6, side=12):
    mask = np.zeros(SHAPE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def judged(heat, mask, patient="p", finding="pneumothorax", thresholds=THRESHOLDS):
    return segmentation_case(heat, mask, finding, patient, thresholds)


def cases(n=20, seed=0):
    """Random maps; half of the images show the finding, a quarter of the others have a map that is low everywhere."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        mask = square(*rng.integers(0, 12, 2)) if i % 2 else np.zeros(SHAPE, bool)
        heat = rng.random((6, 9)) * (0.1 if i % 8 == 0 else 1)
        yield heat, mask, f"p{i // 3}"


def test_counts_are_those_of_the_thresholded_map():
    heat, mask = np.random.default_rng(1).random((6, 9)), square()
    one, large = judged(heat, mask), enlarge(heat, SHAPE)
    for k in (0, 1, 49, 70, 98):
        called = large >= THRESHOLDS[k]
        assert (one.predicted[k], one.intersection[k]) == (called.sum(), (called & mask).sum())
        assert one.dice[k] == pytest.approx(2 * (called & mask).sum() / (called.sum() + mask.sum()))
        assert one.iou[k] == pytest.approx((called & mask).sum() / (called | mask).sum())


def test_a_value_at_the_threshold_is_called():
    assert judged(np.full((2, 2), 0.5), None, thresholds=[0.25, 0.5, 0.75]).predicted.tolist() == [4, 4, 0]


def test_maps_are_not_scaled_by_themselves():
    low = judged(np.random.default_rng(2).random((6, 9)) * 0.2, np.zeros(SHAPE, bool))
    assert low.dice[19:].tolist() == [1.0] * 80  # nothing reaches 0.2: an image without the finding is left alone
    assert low.dice[0] == 0


def test_an_absent_finding_is_an_empty_mask_or_none():
    heat = np.random.default_rng(3).random(SHAPE)
    np.testing.assert_array_equal(judged(heat, None).dice, judged(heat, np.zeros(SHAPE, bool)).dice)


def test_both_conventions_are_those_of_a_plain_loop():
    at, positives, everything, overlaps = 60, [], [], []
    for heat, mask, _ in cases():
        called = enlarge(heat, SHAPE) >= THRESHOLDS[at]
        if mask.any():
            positives.append(2 * (called & mask).sum() / (called.sum() + mask.sum()))
            overlaps.append((called & mask).sum() / (called | mask).sum())
            everything.append(positives[-1])
        else:
            everything.append(0.0 if called.any() else 1.0)
    result = segmentation_result([judged(*case) for case in cases()], THRESHOLDS[at], rule="fixed", resamples=200)
    assert result["dice_positives"].value == pytest.approx(np.mean(positives))
    assert result["dice_all"].value == pytest.approx(np.mean(everything))
    assert result["iou"].value == pytest.approx(np.mean(overlaps))
    assert 0 < result["dice_all"].value < 1 and 1.0 in everything
    for name in ("dice_positives", "dice_all", "iou"):
        low, high = result[name].interval
        assert low < result[name].value < high
    assert (result.n_positives, result.n_negatives, result.threshold) == (10, 10, THRESHOLDS[at])


def test_baselines_call_everything_or_nothing():
    maps = [judged(np.ones((2, 2)), mask) for _, mask, _ in cases()]
    full = segmentation_result(maps, THRESHOLDS[0], rule="fixed", resamples=5)
    for name in ("dice_positives", "iou"):
        assert full[name].value == pytest.approx(full[name].chance)
    empty = segmentation_result(
        [judged(np.zeros((2, 2)), mask) for _, mask, _ in cases()], THRESHOLDS[0], rule="", resamples=5
    )
    assert empty["dice_all"].value == empty["dice_all"].chance == 0.5
    assert empty["dice_positives"].value == 0


def test_the_threshold_has_the_highest_mean_dice_of_what_it_is_chosen_on():
    everything = [judged(*case) for case in cases()]
    positives = [one for one in everything if one.target]
    for chosen_on in (everything, positives):
        means = [np.mean([one.dice[k] for one in chosen_on]) for k in range(99)]
        assert choose_threshold(chosen_on) == THRESHOLDS[int(np.argmax(means))]
    assert choose_threshold(everything) > choose_threshold(positives)
    assert np.isnan(choose_threshold([]))


def test_findings_have_results_of_their_own():
    both = [judged(heat, mask, patient, "edema" if mask.any() else "mass") for heat, mask, patient in cases()]
    result = segmentation_result(both, THRESHOLDS[50], rule="fixed", resamples=5)
    assert result.per_class["edema"]["dice_all"].value == result["dice_positives"].value
    mass = result.per_class["mass"]
    assert (mass["dice_positives"].value, mass["iou"].value, mass.positives) == (None, None, 0)
    assert mass["iou"].reason == "no image shows it"


def test_without_a_threshold_or_images_numbers_are_null_with_a_reason():
    result = segmentation_result([judged(*case) for case in cases()], np.nan, rule="none")
    assert result["dice_all"].value is result["dice_positives"].value is result.threshold is None
    assert "threshold" in result["dice_all"].reason
    assert result["iou"].chance > 0
    nothing = segmentation_result([], 0.5, rule="none")
    assert nothing["dice_all"].value is nothing["dice_all"].chance is None


def test_bad_maps_masks_and_thresholds_are_said():
    with pytest.raises(MedLIPError, match="map of pneumothorax"):
        judged(np.full((4, 4), np.nan), None)
    with pytest.raises(MedLIPError, match="mask of pneumothorax"):
        judged(np.ones((4, 4)), np.ones(4, bool))
    with pytest.raises(MedLIPError, match="rise"):
        judged(np.ones((4, 4)), None, thresholds=[0.5, 0.1])
    one, other = judged(np.ones((4, 4)), None), judged(np.ones((4, 4)), None, thresholds=[0.5])
    with pytest.raises(MedLIPError, match="different thresholds"):
        choose_threshold([one, other])
    with pytest.raises(MedLIPError, match=r"0\.333"):
        segmentation_result([one], 0.333, rule="")
