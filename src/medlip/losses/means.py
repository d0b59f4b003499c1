"""Means over what there is to learn from, in all processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor

from medlip.nn.gather import total


def weighted_mean(terms: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of terms over the global batch; 0, with gradient 0, where all weights are 0."""
    weighted, weight = total(torch.stack([(terms * weights).sum(), weights.sum()])).unbind()
    return weighted / weight.clamp(min=torch.finfo(terms.dtype).tiny)
