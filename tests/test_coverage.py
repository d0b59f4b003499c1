"""Intervals of 95 % hold the truth in about 95 of 100 cases, with few patients too."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.metrics import auroc_statistic, bootstrap, carriers_of_classes, carriers_of_mean, mean_statistic
from simulate_coverage import Setting, coverage, settings

SETTINGS = list(settings())
QUICK = [each for each in SETTINGS if each.name.startswith(("AUROC of 0.9", "rate of 0.95")) and each.patients in (5, 12)]


@pytest.mark.parametrize("setting", QUICK, ids=lambda each: f"{each.name}, {each.patients}")
def test_few_patients_do_not_make_an_interval_too_narrow(setting: Setting) -> None:
    held, _, percentiles, _ = coverage(setting, 100)
    assert held >= 0.9 > percentiles


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"{each.name}, {each.patients}")
def test_the_coverage_is_that_of_the_docs(setting: Setting) -> None:
    held, width, _, percentile_width = coverage(setting, 300)
    assert held >= (0.85 if "skewed" in setting.name else 0.91)
    assert setting.patients < 50 or width < 1.3 * percentile_width  # with many patients there is little to mend


def test_a_class_is_carried_by_the_patients_of_its_rarer_side() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 0], [1, np.nan], [0, 0], [0, -1]], float)
    patients = ["a", "a", "b", "c", "d", "e"]
    assert carriers_of_classes(labels, patients).tolist() == [2, 1]  # a and c; a
    assert carriers_of_mean(labels, patients) == 2
    assert carriers_of_mean(labels[:, 1:], patients) == 1


def test_one_positive_patient_gives_no_interval_however_many_images() -> None:
    labels, patients = np.array([[1.0]] * 5 + [[0.0]] * 20), [*["a"] * 5, *map(str, range(20))]
    statistic, carriers = auroc_statistic(np.random.default_rng(0).random(labels.shape), labels), 1
    assert carriers_of_classes(labels, patients) == carriers
    assert np.isnan(bootstrap(statistic, patients, 50, shares=True, carriers=carriers)).all()


def test_a_perfect_score_of_few_patients_is_not_certain() -> None:
    low, high = bootstrap(mean_statistic(np.ones(8)), range(8), shares=True)
    assert (low, high) == (pytest.approx(8 / (8 + 1.96**2), abs=1e-3), 1)
    low, high = bootstrap(mean_statistic(np.ones(800)), range(800), shares=True)
    assert (low, high) == (pytest.approx(1, abs=0.01), 1)
