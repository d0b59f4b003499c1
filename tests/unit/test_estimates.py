"""Estimates: what is undefined has no value but a reason, and a mean says over how many cases it is."""

from __future__ import annotations

import numpy as np
import pytest

from medlip.metrics import Estimate, mean_estimate, over_seeds

PATIENTS = [f"p{i // 2}" for i in range(40)]


def test_a_mean_has_its_interval_over_patients_and_leaves_out_what_is_not_defined():
    values = np.random.default_rng(0).random(40)
    values[::10] = np.nan
    found = mean_estimate(values, PATIENTS, chance=np.arange(40.0), resamples=200)
    assert (found.value, found.n) == (pytest.approx(np.nanmean(values)), 36)
    assert found.chance == pytest.approx(np.arange(40.0)[~np.isnan(values)].mean())  # of the same cases
    assert found.interval[0] < found.value < found.interval[1]


def test_without_a_case_there_is_a_reason_instead_of_a_value():
    found = mean_estimate([np.nan, np.nan], ["a", "b"], reason="nothing was there")
    assert found == Estimate(value=None, n=0, reason="nothing was there")


def test_one_patient_gives_no_interval():
    assert mean_estimate([0.2, 0.4], ["a", "a"]).interval is None


def test_nan_is_none():
    assert Estimate.of(float("nan"), chance=float("nan"), reason="why") == Estimate(value=None, reason="why")


def test_a_spread_over_seeds_has_the_interval_of_its_mean():
    spread = over_seeds([0.7, 0.8, 0.9])
    assert (spread.mean, spread.low, spread.high) == (pytest.approx(0.8), 0.7, 0.9)
    assert spread.interval == pytest.approx((0.8 - 4.3027 * 0.1 / 3**0.5, 0.8 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert over_seeds([0.7]).interval is None
    assert over_seeds([]) is None
