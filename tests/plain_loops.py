"""Measures of rankings by plain loops over one query or class, to hold the package's own against."""

from __future__ import annotations

from math import comb

import numpy as np


def plain_recall(fits: np.ndarray, right: np.ndarray, k: int) -> float:
    """Recall@k of one query, by counting the ways to fill the places that its ties share."""
    best = fits[right].max()
    above, tied, among = (fits > best).sum(), (fits == best).sum(), (right & (fits == best)).sum()
    places = min(k - above, tied)
    return 0.0 if places <= 0 else 1 - comb(int(tied - among), int(places)) / comb(int(tied), int(places))


def plain_precision(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Precision@k with tied images sharing their places."""
    known = ~np.isnan(labels)
    scores, labels = scores[known], labels[known]
    places, hits = k, 0.0
    for score in sorted(set(scores), reverse=True):
        tied = labels[scores == score]
        taken = min(places, len(tied))
        hits += taken * tied.mean()
        places -= taken
    return hits / k if len(scores) >= k else np.nan
