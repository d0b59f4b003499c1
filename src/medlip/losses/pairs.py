"""L_ICL: which pathology is at which anatomy of an image?

Of MeDSLIP (arXiv 2403.10635):

    L_ICL = mean over mentioned (a, p) of BCE(sigmoid(h_a . h_p), M[a, p])

h_a and h_p are states of the two streams' queries for one image, M its report's facts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.losses.means import weighted_mean
from medlip.nn.gather import total
from medlip.reports.facts import NOT_MENTIONED


def icl_loss(anatomies: Tensor, pathologies: Tensor, adjacency: Tensor, unmentioned: float = 0.0) -> Tensor:
    """Return the intra-image contrastive loss, mean over mentioned pairs; 0 without any.

    >>> anatomies, pathologies = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[2.0]]])
    >>> icl_loss(anatomies, pathologies, torch.tensor([[[1], [-1]]]))
    tensor(0.1269)

    Args:
        anatomies: (B, A, d) states of the anatomy stream.
        pathologies: (B, P, d) states of the pathology stream.
        adjacency: (B, A, P) facts: 1 present, 0 absent, -1 not mentioned, below: ignored.
        unmentioned: weight at which unmentioned pairs count as absent; 0 as published, 1 for the authors' earlier variant.

    Raises:
        MedLIPError: the shapes don't fit.
    """
    if adjacency.shape != (*anatomies.shape[:2], pathologies.shape[1]):
        raise MedLIPError(
            f"anatomies {tuple(anatomies.shape)}, pathologies {tuple(pathologies.shape)} and adjacency "
            f"{tuple(adjacency.shape)} don't fit. Pass (B, A, d), (B, P, d) and (B, A, P)."
        )
    similarity = anatomies @ pathologies.transpose(1, 2)
    weights = (adjacency >= 0).to(similarity.dtype)
    if unmentioned:
        weights = weights + unmentioned * (adjacency == NOT_MENTIONED)
    targets = adjacency.clamp(min=0).to(similarity.dtype)
    return weighted_mean(F.binary_cross_entropy_with_logits(similarity, targets, reduction="none"), weights)


def pair_loss(logits: Tensor, adjacency: Tensor, unmentioned: float | Tensor = 1.0) -> Tensor:
    """Return what all pairs together cost for each pair that a report states; 0 where nothing is stated.

    What reports don't mention is mostly absent: counted so, and not averaged away among thousands of pairs, it teaches where
    a finding isn't, so that places can be ranked by it.

    >>> pair_loss(torch.tensor([[[2.0], [-4.0]]]), torch.tensor([[[1], [-1]]]))
    tensor(0.1451)

    Args:
        logits: (B, A, P) of each pathology in each anatomy.
        adjacency: (B, A, P) facts: 1 present, 0 absent, -1 not mentioned, below: ignored.
        unmentioned: weight at which unmentioned pairs count as absent; one, or one of each (B, A, P).

    Raises:
        MedLIPError: the shapes don't fit.
    """
    if adjacency.shape != logits.shape:
        raise MedLIPError(f"logits {tuple(logits.shape)} and adjacency {tuple(adjacency.shape)} don't fit. Pass (B, A, P).")
    stated = (adjacency >= 0).to(logits.dtype)
    weights = stated + unmentioned * (adjacency == NOT_MENTIONED)
    targets = adjacency.clamp(min=0).to(logits.dtype)
    costs = weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    cost, pairs = total(torch.stack([costs.sum(), stated.sum()])).unbind()
    return cost / pairs.clamp(min=1) * (pairs > 0)


def reference_icl_loss(anatomies: Tensor, pathologies: Tensor, adjacency: Tensor) -> Tensor:
    """Plain form of `icl_loss` as published: one mentioned pair at a time; there is at least one."""
    terms = []
    for b, a, p in (adjacency >= 0).nonzero().tolist():
        probability = (anatomies[b, a] @ pathologies[b, p]).sigmoid()
        terms.append(-(probability if adjacency[b, a, p] == 1 else 1 - probability).log())
    return torch.stack(terms).mean()
