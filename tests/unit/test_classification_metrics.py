"""Metrics: equal to scikit-learn's, silent about nothing, with intervals over patients."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)
from sklearn.metrics import roc_curve as sklearn_roc_curve

from medlip.errors import MedLIPError
from medlip.metrics import (
    accuracy,
    auprc,
    auroc,
    auroc_statistic,
    best_threshold,
    bootstrap,
    brier,
    calibration_error,
    f1,
    mean_statistic,
    paired_difference,
    ranking_statistic,
    reliability,
    roc_curve,
    sensitivity_at_specificity,
)


@pytest.fixture(params=["continuous", "tied"])
def scored(request):
    """Scores and labels (200, 3), a fifth of the labels unknown."""
    rng = np.random.default_rng(3)
    labels = (rng.random((200, 3)) < (0.05, 0.3, 0.7)).astype(float)
    scores = labels * 0.3 + rng.random((200, 3))
    if request.param == "tied":
        scores = scores.round(1)
    labels[rng.random((200, 3)) < 0.2] = np.nan
    return scores, labels


def each_class(scores, labels):
    for column, truth in zip(scores.T, labels.T, strict=True):
        known = ~np.isnan(truth)
        yield column[known], truth[known]


def test_auroc_and_auprc_are_those_of_scikit_learn(scored):
    assert auroc(*scored) == pytest.approx([roc_auc_score(y, s) for s, y in each_class(*scored)], abs=1e-12)
    assert auprc(*scored) == pytest.approx([average_precision_score(y, s) for s, y in each_class(*scored)], abs=1e-12)


def test_weighted_auroc_and_auprc_are_those_of_scikit_learn(scored):
    weights = np.random.default_rng(0).integers(0, 4, (21, 200)).astype(float)
    weights[:, scored[1][:, 0] == 1] += 1  # of few positives one is drawn each time
    known = ~np.isnan(scored[1])
    for values, reference in zip(
        np.moveaxis(ranking_statistic(*scored)(weights), 1, 0), (roc_auc_score, average_precision_score), strict=True
    ):
        expected = [
            [reference(y, s, sample_weight=w[known[:, c]]) for c, (s, y) in enumerate(each_class(*scored))] for w in weights
        ]
        np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_resample_without_a_positive_or_negative_is_nan():
    statistic = ranking_statistic([[0.1], [0.9], [0.5]], [[0], [1], [0]])
    values = statistic(np.array([[1.0, 0, 1], [0, 2, 0], [1, 1, 1]]))
    np.testing.assert_array_equal(values[:, :, 0], [[np.nan] * 2, [np.nan] * 2, [1, 1]])


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 1.0])
def test_sensitivity_at_specificity_is_read_from_the_roc_curve_of_scikit_learn(scored, specificity):
    expected = []
    for s, y in each_class(*scored):
        wrong, right, _ = sklearn_roc_curve(y, s, drop_intermediate=False)
        expected.append(max(right[wrong <= 1 - specificity + 1e-9]))
    assert sensitivity_at_specificity(*scored, specificity) == pytest.approx(expected)


def test_the_roc_curve_is_that_of_scikit_learn(scored):
    for s, y in each_class(*scored):
        wrong, right, _ = sklearn_roc_curve(y, s, drop_intermediate=False)
        np.testing.assert_allclose(roc_curve(s, y), (wrong, right), atol=1e-12)


def test_brier_and_calibration_are_those_of_scikit_learn(scored):
    probabilities, labels = scored[0] / scored[0].max(), scored[1]
    assert brier(probabilities, labels) == pytest.approx(
        [brier_score_loss(y, s) for s, y in each_class(probabilities, labels)]
    )
    errors = calibration_error(probabilities, labels, bins=10)
    for error, (s, y) in zip(errors, each_class(probabilities, labels), strict=True):
        share, mean = calibration_curve(y, s, n_bins=10)
        means, shares, counts = reliability(s, y, 10)
        np.testing.assert_allclose((means, shares), (mean, share))
        assert counts.sum() == len(y)
        assert error == pytest.approx(np.sum(counts * np.abs(mean - share)) / len(y))


def test_a_score_that_is_no_probability_has_no_calibration_and_the_other_classes_have():
    scores, labels = [[1.5, 0.0], [0.5, 1.0]], [[1, 0], [0, 1]]
    for metric in (brier, calibration_error):
        np.testing.assert_array_equal(metric(scores, labels), [np.nan, 0.0])
        assert np.isnan(metric([[0.5]], [[np.nan]]))[0]


def test_best_threshold_has_the_highest_f1_of_all(scored):
    thresholds = best_threshold(*scored)
    for value, threshold, (s, y) in zip(f1(*scored, thresholds), thresholds, each_class(*scored), strict=True):
        assert value == pytest.approx(max(f1_score(y, s >= t) for t in np.unique(s)))
        assert value == pytest.approx(f1_score(y, s >= threshold))


def test_accuracy_is_that_of_scikit_learn(scored):
    expected = [accuracy_score(y, s >= 0.6) for s, y in each_class(*scored)]
    assert accuracy(*scored, [0.6] * 3) == pytest.approx(expected)


def test_minus_one_is_unknown(scored):
    scores, labels = scored
    np.testing.assert_array_equal(auroc(scores, labels), auroc(scores, np.nan_to_num(labels, nan=-1)))


def test_a_class_without_a_positive_or_a_negative_is_nan_and_the_others_are_not():
    scores = np.random.default_rng(0).random((6, 4))
    labels = np.array([[0, 1, 1, np.nan]] * 3 + [[0, 1, 0, np.nan]] * 3)
    for metric in (auroc, auprc, best_threshold, sensitivity_at_specificity):
        np.testing.assert_array_equal(np.isnan(metric(scores, labels)), [True, True, False, True])
    thresholds = best_threshold(scores, labels)
    np.testing.assert_array_equal(np.isnan(f1(scores, labels, thresholds)), [True, True, False, True])
    np.testing.assert_array_equal(np.isnan(accuracy(scores, labels, thresholds)), [True, True, False, True])


def test_f1_is_zero_when_every_positive_is_missed():
    assert f1([[0.1], [0.2]], [[1], [0]], [0.5]) == pytest.approx([0.0])


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.1], [np.nan]], [[1], [0]], "not finite"),
        ([[0.1], [0.2]], [[1], [2]], "labels must be"),
        ([[0.1], [0.2]], [[1]], "images, classes"),
    ],
)
def test_bad_input_is_said(scores, labels, words):
    with pytest.raises(MedLIPError, match=words):
        auroc(scores, labels)


def test_a_score_that_no_label_asks_for_may_be_nan():
    assert auroc([[0.1], [np.nan], [0.9]], [[0], [np.nan], [1]]) == pytest.approx([1.0])


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = bootstrap(mean_statistic(values), range(2000))
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) / np.sqrt(2000), abs=0.004)


def test_images_of_one_patient_are_drawn_together():
    """Repeating every image of a patient adds no knowledge: the interval stays as wide."""
    values = np.random.default_rng(1).normal(size=300)
    once = bootstrap(mean_statistic(values), range(300))
    thrice = bootstrap(mean_statistic(values.repeat(3)), np.arange(300).repeat(3))
    assert thrice == pytest.approx(once)


def test_the_interval_depends_on_the_seed_alone(scored):
    ends = [bootstrap(auroc_statistic(*scored), range(200), resamples=50, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_the_interval_holds_the_value_and_skips_resamples_without_a_positive():
    scores, labels = np.random.default_rng(0).random((40, 2)), np.zeros((40, 2))
    labels[:2, 0] = 1
    low, high = bootstrap(auroc_statistic(scores, labels), range(40), resamples=200)
    assert low[0] <= auroc(scores, labels)[0] <= high[0]
    assert np.isnan([low[1], high[1]]).all()


def test_one_patient_gives_no_interval():
    assert np.isnan(bootstrap(mean_statistic([1.0, 0.0]), ["a", "a"])).all()


def test_a_difference_of_paired_methods_is_sharper_than_that_of_unpaired_ones():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 1)) < 0.5).astype(float)
    shared = labels + 1.5 * rng.normal(size=(400, 1))
    worse, better = (auroc_statistic(shared + noise * rng.normal(size=(400, 1)), labels) for noise in (2.0, 0.2))
    found = paired_difference(worse, better, range(400), resamples=400)
    assert found.low[0] < found.value[0] < found.high[0]
    assert found.value[0] == pytest.approx((better(np.ones((1, 400))) - worse(np.ones((1, 400))))[0, 0])
    widths = [np.diff(bootstrap(statistic, range(400), 400), axis=0)[0, 0] for statistic in (worse, better)]
    assert found.high[0] - found.low[0] < 0.8 * np.hypot(*widths)
    assert 2 / 401 <= found.p[0] < 0.05


def test_equal_methods_do_not_differ_and_undefined_ones_have_no_p_value():
    statistic = auroc_statistic([[0.1, 0.1], [0.2, 0.3]] * 5, [[0, 0], [1, 0]] * 5)
    found = paired_difference(statistic, statistic, range(10), resamples=50)
    np.testing.assert_array_equal([found.value, found.low, found.high, found.p], [[0, np.nan]] * 3 + [[1, np.nan]])


def test_p_values_of_equally_good_methods_are_even():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(60):
        labels = (rng.random((150, 1)) < 0.4).astype(float)
        pair = [auroc_statistic(labels + 2 * rng.normal(size=(150, 1)), labels) for _ in range(2)]
        values.append(paired_difference(*pair, range(150), resamples=100).p[0])
    assert 0.3 < np.mean(values) < 0.7
    assert np.mean(np.array(values) < 0.05) < 0.15


def test_a_resample_costs_a_part_of_what_sorting_anew_does():
    """In CPU time, since others may use the machine."""
    rng = np.random.default_rng(0)
    scores, labels = rng.random((20_000, 2)), rng.random((20_000, 2)) < 0.05

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    statistic = ranking_statistic(scores, labels)
    resampled = seconds(lambda: bootstrap(statistic, np.arange(20_000), resamples=25))
    anew = seconds(lambda: [ranking_statistic(scores, labels)(np.ones((1, 20_000))) for _ in range(25)])
    assert resampled < anew / 2
