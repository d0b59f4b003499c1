"""Numbers of a ranking, exact with ties: where the first right answer stands, and how many of the first are right.

Tied answers count by the expectation over all their orders, so that whoever says the same of everything gets chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlip.metrics.bootstrap import Array, Statistic

Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the first right answer of each of Q queries stands, the order of ties left open.

    Attributes:
        above: (Q,) answers that fit better than the best right one.
        tied: (Q,) answers that fit as well as it does, itself among them.
        right: (Q,) right ones among those tied.
    """

    above: Integers
    tied: Integers
    right: Integers

    def found(self, k: int) -> Array:
        """Return how likely a right answer is among the first k, (Q,), over all orders of ties."""
        missed = np.ones(len(self.above))
        for place in range(k):
            earlier = place - self.above  # of those tied
            wrong = np.maximum(self.tied - self.right - earlier, 0) / np.maximum(self.tied - earlier, 1)
            missed *= np.where((earlier >= 0) & (earlier < self.tied), wrong, 1)
        return 1 - missed

    @property
    def expected(self) -> Array:
        """The rank of the first right answer, (Q,), from 1 on, on average over all orders of ties."""
        rank: Array = self.above + (self.tied + 1) / (self.right + 1)
        return rank


def rank_first(
    queries: Vectors,
    query_groups: Integers,
    answers: Vectors,
    answer_groups: Integers,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    at_once: int = 4_000_000,
) -> Ranks:
    """Rank M answers for each of Q queries by dot product, and return where the first right one stands.

    Args:
        queries: (Q, d).
        query_groups: (Q,) the group that each belongs to, such as a report's text.
        answers: (M, d).
        answer_groups: (M,) likewise; an answer of the query's group is right. Every query has one.
        progress: wraps the loop over blocks of queries, to show how far it is.
        at_once: products held at a time.
    """
    above, tied, right = (np.empty(len(queries), np.int64) for _ in range(3))
    across = answers.astype(np.float64).T
    step = max(1, at_once // len(answers))
    for start in progress(range(0, len(queries), step)):
        rows = slice(start, start + step)
        # A product's last bits depend on where in the matrix it stands; equal vectors must tie all the same.
        fits = (queries[rows].astype(np.float64) @ across).astype(np.float32)
        own = query_groups[rows, None] == answer_groups
        best = np.where(own, fits, -np.inf).max(axis=1, keepdims=True)
        same = fits == best
        above[rows], tied[rows], right[rows] = ((fits > best).sum(1), same.sum(1), (same & own).sum(1))
    return Ranks(above, tied, right)


def precision_statistic(scores: Array, labels: Array, firsts: Sequence[int]) -> Statistic:
    """Return the precision among the first k as a function of weights, (R, N) -> (R, K, C), for `bootstrap`.

    The places that tied images share count by their share of positives.

    Args:
        scores: (N, C).
        labels: (N, C): 1, 0, or NaN for unknown; such an image is not ranked for the class.
        firsts: K values of k. The precision is NaN where fewer images have a known label; with fewer positives than k it
            can't reach 1.
    """
    ranked = []
    for c in range(scores.shape[1]):
        known = np.flatnonzero(~np.isnan(labels[:, c]))
        order = known[np.argsort(-scores[known, c], kind="stable")]
        first_of_ties = np.flatnonzero(np.append(True, np.diff(scores[order, c]) != 0)[: len(order)])
        ranked.append((order, labels[order, c], first_of_ties))

    def statistic(weights: Array) -> Array:
        values = np.full((len(weights), len(firsts), len(ranked)), np.nan)
        for c, (order, present, first_of_ties) in enumerate(ranked):
            if not len(order):
                continue
            sorted_weights = weights[:, order]
            tied = np.add.reduceat(sorted_weights, first_of_ties, axis=1)
            shares = np.add.reduceat(sorted_weights * present, first_of_ties, axis=1) / np.maximum(tied, 1)
            before = tied.cumsum(axis=1) - tied
            for row, k in enumerate(firsts):
                precision = (np.clip(k - before, 0, tied) * shares).sum(axis=1) / k
                values[:, row, c] = np.where(sorted_weights.sum(axis=1) >= k, precision, np.nan)
        return values

    return statistic
