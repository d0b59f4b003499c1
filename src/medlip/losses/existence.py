"""L_exist: is what a query asks for in the image?

Of MedKLIP (arXiv 2301.02228) and MeDSLIP (arXiv 2403.10635):

    L_exist = mean over mentioned (image, query) of CE(logits, label)

Labels are read off the facts: -1 is a query that the report doesn't mention, which is not the same as absent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.losses.means import weighted_mean
from medlip.reports.facts import IGNORED, NOT_MENTIONED


def existence_labels(adjacency: Tensor, dim: int) -> Tensor:
    """Return what is stated along `dim`: 1 present > -2 to be ignored > 0 absent > -1 not mentioned.

    What may be there on one side and is not on the other may be there: it is not to be learned from, like what is mentioned
    in no other way.

    Args:
        adjacency: (B, A, P) facts of B reports: 1, 0, -1 or -2.
        dim: 1 for labels of pathologies (B, P), 2 for those of anatomies (B, A).
    """
    labels = adjacency.amax(dim)
    uncertain = (labels < 1) & (adjacency == IGNORED).any(dim)
    return labels.masked_fill(uncertain, IGNORED)


def existence_loss(logits: Tensor, labels: Tensor, unmentioned: float = 0.0) -> Tensor:
    """Return the cross-entropy of existence, mean over mentioned queries; 0 without any.

    >>> logits = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [0.0, 9.0]]])
    >>> existence_loss(logits, torch.tensor([[1, 0, -1]]))
    tensor(0.2201)

    Args:
        logits: (B, q, 2), index 1 = present.
        labels: (B, q): 1 present, 0 absent, -1 not mentioned, below: ignored.
        unmentioned: weight at which "not mentioned" counts as absent; 0 as published.

    Raises:
        MedLIPError: the shapes don't fit.
    """
    if logits.shape != (*labels.shape, 2):
        raise MedLIPError(
            f"logits {tuple(logits.shape)} don't fit labels {tuple(labels.shape)}. "
            "Pass (B, q, 2) and (B, q), index 1 = present."
        )
    weights = (labels >= 0).to(logits.dtype)
    if unmentioned:
        weights = weights + unmentioned * (labels == NOT_MENTIONED)
    terms = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten().long(), reduction="none")
    return weighted_mean(terms, weights.flatten())


def reference_existence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain form of `existence_loss` as published: one query at a time; at least one is mentioned."""
    terms = [
        -logits[b, q].log_softmax(0)[int(labels[b, q])]
        for b in range(labels.shape[0])
        for q in range(labels.shape[1])
        if labels[b, q] >= 0
    ]
    return torch.stack(terms).mean()
