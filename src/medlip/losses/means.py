"""Means over what there is to learn from."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(terms: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of terms; 0, with gradient 0, where all weights are 0."""
    return (terms * weights).sum() / weights.sum().clamp(min=torch.finfo(terms.dtype).tiny)
