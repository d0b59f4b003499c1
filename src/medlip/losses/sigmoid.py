"""A contrast of single pairs: is this the image's own text? (SigLIP, arXiv 2303.15343).

    L = sum_ij n_ij softplus(-z_ij s_ij) / B,  z_ij = 1 for own texts, else -1

S are similarities times a learned scale, plus a learned bias that starts where nearly all pairs are negative. No pair is
compared with another, so several texts of an image can be its own, and none of them stands in another's way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from medlip.errors import MedLIPError


def sigmoid_contrast(
    logits: Tensor,
    own: Tensor,
    weights: Tensor | None = None,
    *,
    negatives: Tensor | None = None,
    further: Tensor | None = None,
) -> Tensor:
    """Return the loss, a mean over images that have a text of their own; 0 where none has.

    >>> sigmoid_contrast(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.eye(2, dtype=torch.bool))
    tensor(0.8201)

    Args:
        logits: S (B, T), of each image and text.
        own: bool (B, T), which texts are an image's own; a text that is nobody's takes no part.
        weights: (B,) of the images, None for 1.
        negatives: n (B, T) in [0, 1], what a text counts as a negative of each image that it isn't of; None for 1.
        further: (B, N) logits of each image and N more texts that are not its own; -inf where there are fewer.

    Raises:
        MedLIPError: shapes don't fit.
    """
    if logits.ndim != 2 or own.shape != logits.shape:
        raise MedLIPError(f"logits are {tuple(logits.shape)}, own texts {tuple(own.shape)}. Pass (B, T) of both.")
    counted = torch.ones_like(logits) if negatives is None else negatives.to(logits.dtype)
    real = own.any(0)
    losses = torch.where(own, softplus(-logits), counted * softplus(logits)) * real
    sums = losses.sum(1)
    if further is not None:
        sums = sums + softplus(further).sum(1)
    weights = own.any(1).to(logits.dtype) * (1 if weights is None else weights)
    return (weights * sums).sum() / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)


def reference_sigmoid_contrast(logits: Tensor, own: Tensor) -> Tensor:
    """Plain form of `sigmoid_contrast`, pair by pair; every image and text has its other."""
    total = logits.new_zeros(())
    for row, texts in zip(logits, own, strict=True):
        for logit, mine in zip(row, texts, strict=True):
            probability = 1 / (1 + (-logit).exp())
            total = total - (probability if mine else 1 - probability).log()
    return total / len(logits)
