"""InfoNCE in both directions: an image's report among all reports, and a report's image among all images.

    L = sum_i w_i l_i / sum_i w_i,  l_i = a CE_i(S) + (1 - a) CE_i(S^T)

S are similarities over a temperature. With w = 1 this is the loss of ConVIRT (arXiv 2010.00747, where a = 0.75) and CLIP
(arXiv 2103.00020, a = 0.5); MLIP (arXiv 2401.01591) weighs each pair by its semantic integrity. What is known to be no
negative, or only in part, counts less in the sums; texts that are known to be wrong of an image can be added to its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlip.errors import MedLIPError

LEAST = 1e-12
"""What a negative counts at least, so that its logarithm is finite."""


def info_nce(
    logits: Tensor,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    *,
    to_reports: float = 0.5,
    negatives: Tensor | None = None,
    further: Tensor | None = None,
) -> Tensor:
    """Return the bidirectional InfoNCE loss; 0 where no pair takes part.

    >>> info_nce(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    tensor(0.1269)

    Args:
        logits: S (B, B), similarities over temperature; pair i matches on the diagonal.
        weights: w (B,), None for 1.
        present: bool (B,), pairs that take part at all, as positives or negatives; None for all.
        to_reports: a, the share of finding an image's report among all; the rest is finding a report's image.
        negatives: (B, B) in [0, 1], what each image and report of two pairs count as a negative; None for 1. The diagonal is
            not looked at.
        further: (B, N) logits of each image and N more texts that it is told from; -inf where there are fewer.

    Raises:
        MedLIPError: the logits are not square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise MedLIPError(f"logits are {tuple(logits.shape)}. Pass (B, B), each image with each report, in one order.")
    weights = torch.ones_like(logits[:, 0]) if weights is None else weights
    rows = columns = logits if negatives is None else attenuated(logits, negatives)
    lowest = torch.finfo(logits.dtype).min  # not -inf, of which a batch without any pair would make NaN
    if present is not None:
        rows, columns = rows.masked_fill(~present, lowest), columns.masked_fill(~present[:, None], lowest)
        weights = weights * present
    if further is not None:
        rows = torch.cat([rows, further.clamp(min=lowest)], 1)
    losses = to_reports * rows.logsumexp(1) + (1 - to_reports) * columns.logsumexp(0) - logits.diagonal()
    if present is not None:
        losses = losses.masked_fill(~present, 0)
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)


def attenuated(logits: Tensor, negatives: Tensor) -> Tensor:
    """Return logits (B, B) whose exponentials count `negatives` (B, B) times off the diagonal, and once on it."""
    counted = negatives.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), 1)
    return logits + counted.clamp(min=LEAST).log()


def learned_scale(log_scale: Tensor) -> Tensor:
    """Return what cosines are multiplied with, from 1 to 100; beyond, the gradient still flows, so that it can come back.

    >>> learned_scale(torch.tensor(9.0))
    tensor(100.)

    Args:
        log_scale: its learned logarithm, ().
    """
    scale = log_scale.exp()
    return scale + (scale.clamp(1, 100) - scale).detach()


def reference_info_nce(logits: Tensor, weights: Tensor, to_reports: float = 0.5) -> Tensor:
    """Plain form of `info_nce`, as the equation reads."""
    total = logits.new_zeros(())
    for i in range(len(logits)):
        report = -torch.log(logits[i, i].exp() / logits[i].exp().sum())
        image = -torch.log(logits[i, i].exp() / logits[:, i].exp().sum())
        total = total + weights[i] * (to_reports * report + (1 - to_reports) * image)
    return total / weights.sum()
