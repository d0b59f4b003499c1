"""Semantic integrity: how much of what the report says a masked image still shows (MLIP, arXiv 2401.01591).

Masking may hide what a report describes, which makes a false pair. Each estimator gives a sample a score; normalized over
the global batch, the scores weigh the samples in the contrast. The paper doesn't publish its estimator: these are four that
fit its words, and the truth that they estimate, which synthetic X-rays know.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from medlip.errors import MedLIPError

LEAST_AGREEMENT = 0.05
"""Cosine of a full image and its text, below which a ratio to it says nothing."""


def normalized_weights(scores: Tensor, floor: float = 0.1) -> Tensor:
    """Turn scores of the global batch into weights with mean 1, none below `floor`: floor + (1 - floor) s_i / mean(s).

    The mean is fixed, so a weight can't be learned away; scores that are all 0 weigh alike.

    >>> normalized_weights(torch.tensor([1.0, 3.0]), floor=0.2)
    tensor([0.6000, 1.4000])

    Args:
        scores: (B,), non-negative.
        floor: smallest weight, from 0 to 1.

    Raises:
        MedLIPError: the floor is out of range.
    """
    if not 0 <= floor <= 1:
        raise MedLIPError(f"floor is {floor}. Give the smallest weight, from 0 to 1.")
    mean, smallest = scores.mean(), torch.finfo(scores.dtype).tiny
    relative = torch.where(mean > smallest, scores / mean.clamp(min=smallest), torch.ones_like(scores))
    return floor + (1 - floor) * relative


def reference_normalized_weights(scores: Tensor, floor: float = 0.1) -> Tensor:
    """Plain form of `normalized_weights`, sample by sample; some score is above 0."""
    total, count = sum(float(score) for score in scores), len(scores)
    return torch.stack([floor + (1 - floor) * score * count / total for score in scores])


def similarity_integrity(masked: Tensor, full: Tensor, temperature: float) -> Tensor:
    """Return scores (B,) by how much of the image-text agreement survives the mask: B softmax(r / temperature).

    r_i = <v_i, t_i> / <v_i_full, t_i>. A ratio says nothing where the full image does not agree with its text (a denominator
    near or below 0): there r is 1, and elsewhere it is cut to [0, 2], so that no sample takes the whole weight by chance.

    >>> similarity_integrity(torch.tensor([0.4, 0.2]), torch.tensor([0.4, 0.4]), temperature=0.5)
    tensor([1.4621, 0.5379])

    Args:
        masked: (B,) cosine of the masked image and its text.
        full: (B,) cosine of the full image and its text.
        temperature: tau_w.
    """
    meaningful = full > LEAST_AGREEMENT
    ratio = torch.where(meaningful, masked / full.where(meaningful, torch.ones_like(full)), torch.ones_like(full))
    return len(ratio) * (ratio.clamp(0, 2) / temperature).softmax(0)


def reference_similarity_integrity(masked: Tensor, full: Tensor, temperature: float) -> Tensor:
    """Plain form of `similarity_integrity`, sample by sample."""
    ratios = [
        min(max(float(part) / float(whole), 0), 2) if whole > LEAST_AGREEMENT else 1.0
        for part, whole in zip(masked, full, strict=True)
    ]
    raised = [math.exp(ratio / temperature) for ratio in ratios]
    return masked.new_tensor([len(raised) * value / sum(raised) for value in raised])


def attention_integrity(similarities: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """Return scores (B,): the share of the text-to-patch similarity mass of the full image that lies on visible patches.

    >>> attention_integrity(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]), temperature=1.0)
    tensor([0.7311])

    Args:
        similarities: (B, N) cosines of the report and every patch of the full image.
        shown: bool (B, N), visible patches.
        temperature: of the softmax over patches.
    """
    return ((similarities / temperature).softmax(1) * shown).sum(1)


def reference_attention_integrity(similarities: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """Plain form of `attention_integrity`, patch by patch."""
    shares = []
    for image, visible in zip(similarities, shown, strict=True):
        mass = [math.exp(float(value) / temperature) for value in image]
        shares.append(sum(m for m, seen in zip(mass, visible, strict=True) if seen) / sum(mass))
    return similarities.new_tensor(shares)


def reconstruction_integrity(errors: Tensor, temperature: float) -> Tensor:
    """Return scores (B,): exp(-error / temperature), measured from the smallest error, which leaves their ratios alone.

    >>> reconstruction_integrity(torch.tensor([3.0, 4.0]), temperature=1.0)
    tensor([1.0000, 0.3679])

    Args:
        errors: (B,) of the predicted hidden patches.
        temperature: tau_w.
    """
    return (-(errors - errors.min()) / temperature).exp()


def reference_reconstruction_integrity(errors: Tensor, temperature: float) -> Tensor:
    """Plain form of `reconstruction_integrity`, sample by sample."""
    return errors.new_tensor([math.exp(-(float(error) - float(min(errors))) / temperature) for error in errors])


def true_integrity(regions: Tensor, shown: Tensor) -> Tensor:
    """Return scores (B,): the share of what there is to see that lies on visible patches; 1 where there is nothing.

    >>> true_integrity(torch.tensor([[0.25, 0.75], [0.0, 0.0]]), torch.tensor([[True, False], [True, False]]))
    tensor([0.2500, 1.0000])

    Args:
        regions: (B, N), the share of each patch in the findings of its image; sums to 1, or to 0 without any.
        shown: bool (B, N), visible patches.
    """
    return 1 - (regions * ~shown).sum(1)


def reference_true_integrity(regions: Tensor, shown: Tensor) -> Tensor:
    """Plain form of `true_integrity`, patch by patch."""
    hidden = [
        sum(float(share) for share, seen in zip(image, visible, strict=True) if not seen)
        for image, visible in zip(regions, shown, strict=True)
    ]
    return regions.new_tensor([1 - share for share in hidden])


def position_integrity(shown: Tensor, importance: Tensor, bias: Tensor) -> Tensor:
    """Return scores (B,): softplus(u . m + b) of the visibility maps m, with learned u and b.

    >>> position_integrity(torch.tensor([[True, False]]), importance=torch.tensor([1.0, 9.0]), bias=torch.tensor(0.0))
    tensor([1.3133])

    Args:
        shown: bool (B, N), visible patches.
        importance: u (N,).
        bias: b ().
    """
    return softplus(shown.to(importance.dtype) @ importance + bias)


def reference_position_integrity(shown: Tensor, importance: Tensor, bias: Tensor) -> Tensor:
    """Plain form of `position_integrity`, patch by patch."""
    sums = [sum(float(u) for u, seen in zip(importance, visible, strict=True) if seen) + float(bias) for visible in shown]
    return importance.new_tensor([math.log1p(math.exp(value)) for value in sums])
