"""Rankings: ties are fair, equal vectors tie, and resamples are those of the repeated sample."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from medlip.metrics import Ranks, median_statistic, precision_statistic, rank_first
from plain_loops import plain_precision


def test_recall_with_ties_is_the_mean_over_all_orders() -> None:
    rng = np.random.default_rng(1)
    orders = list(permutations(range(6)))
    for _ in range(20):
        fits, right = rng.integers(0, 3, 6), rng.random(6) < 0.4
        right[rng.integers(6)] = True
        firsts = [
            next(place for place, i in enumerate(sorted(order, key=lambda i: -fits[i])) if right[i]) for order in orders
        ]
        best = fits[right].max()
        counts = (fits > best).sum(), (fits == best).sum(), (right & (fits == best)).sum()
        ranks = Ranks(*(np.array([count]) for count in counts))
        assert ranks.expected[0] == pytest.approx(np.mean(firsts) + 1)
        for k in (1, 2, 3, 5, 8):
            assert ranks.found(k)[0] == pytest.approx(np.mean(np.array(firsts) < k))


def test_equal_vectors_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    queries, query_texts = rng.normal(size=(101, 513)).astype(np.float32), rng.integers(0, 13, 101)
    answers = np.tile(rng.normal(size=513).astype(np.float32), (13, 1))
    for cells in (10**6, 40, 1):
        ranks = rank_first(queries, query_texts, answers, np.arange(13), at_once=cells)
        assert not ranks.above.any()
        assert (ranks.tied == 13).all()
        assert (ranks.right == 1).all()


def test_resampled_statistics_are_those_of_the_repeated_sample() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.integers(1, 9, 41) / 2, rng.integers(0, 4, (7, 41)).astype(float)
    repeated = [np.repeat(np.arange(41), row.astype(int)) for row in weights]
    assert median_statistic(values)(weights) == pytest.approx([np.median(values[rows]) for rows in repeated])
    scores, labels = rng.integers(0, 5, (41, 2)) / 5, rng.choice([0, 1, np.nan], (41, 2))
    ours = precision_statistic(scores, labels, (5, 10, 100))(weights)
    for row, rows in enumerate(repeated):
        expected = [[plain_precision(scores[rows, c], labels[rows, c], k) for c in range(2)] for k in (5, 10, 100)]
        np.testing.assert_allclose(ours[row], expected)
    assert np.isnan(ours).any()
    assert not np.isnan(ours).all()
