"""Losses that tell matching images and reports from the others of a batch; each beside a plain reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def contrastive_loss(
    logits: Tensor, weights: Tensor | None = None, present: Tensor | None = None, *, to_reports: float = 0.5
) -> Tensor:
    """Return the bidirectional InfoNCE loss, sum_i w_i l_i / sum_i w_i with l_i = a CE_i(L) + (1 - a) CE_i(L^T).

    Args:
        logits: L (B, B), similarities over temperature; pair i matches on the diagonal.
        weights: w (B,), None for 1.
        present: bool (B,), pairs that take part at all, as positives or negatives; None for all. Without any the loss is 0.
        to_reports: a, the share of finding an image's report among all; the rest is finding a report's image.
    """
    if present is not None:
        logits = logits[present][:, present]
        weights = None if weights is None else weights[present]
    if not len(logits):
        return logits.sum()
    matching = logits.diagonal()
    losses = to_reports * logits.logsumexp(1) + (1 - to_reports) * logits.logsumexp(0) - matching
    if weights is None:
        return losses.mean()
    return (weights * losses).sum() / weights.sum()


def contrastive_loss_reference(logits: Tensor, weights: Tensor, share: float = 0.5) -> Tensor:
    """`contrastive_loss` as the equation reads."""
    total = logits.new_zeros(())
    for i in range(len(logits)):
        to_reports = -torch.log(logits[i, i].exp() / logits[i].exp().sum())
        to_images = -torch.log(logits[i, i].exp() / logits[:, i].exp().sum())
        total = total + weights[i] * (share * to_reports + (1 - share) * to_images)
    return total / weights.sum()


def normalised_weights(scores: Tensor, floor: float = 0.1) -> Tensor:
    """Turn non-negative scores (B,) of the global batch into weights with mean 1, none below `floor`.

    The mean is fixed, so a weight can't be learned away; scores that are all 0 weigh alike.
    """
    mean, smallest = scores.mean(), torch.finfo(scores.dtype).tiny
    relative = torch.where(mean > smallest, scores / mean.clamp(min=smallest), torch.ones_like(scores))
    return floor + (1 - floor) * relative


def normalised_weights_reference(scores: Tensor, floor: float) -> Tensor:
    """`normalised_weights` sample by sample."""
    total = sum(float(score) for score in scores)
    count = len(scores)
    return torch.stack([floor + (1 - floor) * score * count / total for score in scores])


def similarity_integrity(masked: Tensor, full: Tensor, temperature: float) -> Tensor:
    """Return scores (B,) by how much of the image-text agreement survives the mask: B * softmax(r / temperature).

    r = <v, t> / <v_full, t>. A ratio says nothing where the full image does not agree with its text (a denominator near or
    below 0): there r is 1, and elsewhere it is cut to [0, 2], so that no sample takes the whole weight by chance.

    Args:
        masked: (B,) cosine of the masked image and its text.
        full: (B,) cosine of the full image and its text.
        temperature: tau_w.
    """
    meaningful = full > 0.05
    ratio = torch.where(meaningful, masked / full.where(meaningful, torch.ones_like(full)), torch.ones_like(full))
    return len(ratio) * (ratio.clamp(0, 2) / temperature).softmax(0)


def attention_integrity(similarities: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """Return scores (B,): the share of the text-to-patch similarity mass of the full image that lies on visible patches.

    Args:
        similarities: (B, N) cosines of the report and every patch of the full image.
        shown: bool (B, N).
        temperature: of the softmax over patches.
    """
    return ((similarities / temperature).softmax(1) * shown).sum(1)


def reconstruction_integrity(errors: Tensor, temperature: float) -> Tensor:
    """Return scores (B,): exp(-error / temperature), measured from the smallest error, which leaves their ratios alone."""
    return (-(errors - errors.min()) / temperature).exp()


def position_integrity(shown: Tensor, importance: Tensor, bias: Tensor) -> Tensor:
    """Return scores (B,): softplus(u . m + b) of the visibility maps `shown`, bool (B, N), and learned u (N,) and b ()."""
    return softplus(shown.to(importance.dtype) @ importance + bias)
