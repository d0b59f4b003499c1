"""The losses of MeDSLIP as pure functions, each beside the plain reference that tests hold it equal to.

Shapes: B images, A anatomies, P pathologies, q queries of a stream, k partners (the other stream's concepts), d the text
width. `adjacency` (B, A, P) holds 1 present, 0 absent, -1 not mentioned, -2 mentioned but not to be learned from. None of
the functions changes its arguments; a term without anything to learn from is zero, with zero gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NOT_MENTIONED = -1


def existence_labels(adjacency: Tensor, dim: int) -> Tensor:
    """Return the strongest statement along `dim` (1: per pathology, 2: per anatomy): 1 > 0 > -1; -2 where that is all.

    A query that is only mentioned in ways not to be learned from stays so: it was mentioned, so it is no candidate for
    "not mentioned".
    """
    labels = adjacency.amax(dim)
    silent = (labels == NOT_MENTIONED) & (adjacency < NOT_MENTIONED).any(dim)
    return labels.masked_fill(silent, NOT_MENTIONED - 1)


def existence_loss(logits: Tensor, labels: Tensor, unmentioned: float = 0.0) -> Tensor:
    """Cross-entropy of existence (L_exist of one stream), mean over mentioned queries.

    Args:
        logits: (B, q, 2), index 1 = present.
        labels: (B, q): 1, 0, -1 not mentioned, below: ignored.
        unmentioned: weight at which "not mentioned" counts as absent; 0 as published.
    """
    weights = (labels >= 0).to(logits.dtype)
    if unmentioned:
        weights = weights + unmentioned * (labels == NOT_MENTIONED)
    terms = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten().long(), reduction="none")
    return _mean(terms, weights.flatten())


def reference_existence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain form of `existence_loss` as published: one query at a time."""
    terms = [
        -logits[b, q].log_softmax(0)[int(labels[b, q])]
        for b in range(labels.shape[0])
        for q in range(labels.shape[1])
        if labels[b, q] >= 0
    ]
    return torch.stack(terms).mean()


def protocl_loss(
    states: Tensor, partners: Tensor, present: Tensor, negatives: Tensor, positive: Tensor | None = None
) -> Tensor:
    """Prototypical contrastive loss (L_ProtoCL of one stream), mean over queries that are present.

    The prototype is the mean of the texts of the partners with which the query is present; z . mean(t) = mean(z . t), so the
    positive logit is a mean of dot products and no prototype is built.

    Args:
        states: (R, d) projected query states, one row per (image, query) that is present.
        partners: (k, d) the other stream's texts.
        present: (R, k) True where the row is present with that partner; at least one a row.
        negatives: (R, n) partner indices to tell the prototype from; -1 for none.
        positive: (R,) one partner index instead of the mean of all (MedKLIP's form).
    """
    if not len(states):
        return states.sum() * 0
    similarity = states @ partners.T
    if positive is None:
        logit = (similarity * present).sum(1) / present.sum(1)
    else:
        logit = similarity.gather(1, positive[:, None]).squeeze(1)
    others = similarity.gather(1, negatives.clamp(min=0)).masked_fill(negatives < 0, float("-inf"))
    return (torch.cat([logit[:, None], others], 1).logsumexp(1) - logit).mean()


def reference_protocl_loss(states: Tensor, partners: Tensor, present: Tensor, negatives: Tensor) -> Tensor:
    """Plain form of `protocl_loss`: build each prototype, compare by dot product, cross-entropy with it as the target."""
    terms = []
    for z, positives, others in zip(states, present, negatives, strict=True):
        prototype = partners[positives].mean(0)
        candidates = torch.stack([prototype, *(partners[i] for i in others if i >= 0)])
        terms.append(-(candidates @ z).log_softmax(0)[0])
    return torch.stack(terms).mean()


def icl_loss(anatomies: Tensor, pathologies: Tensor, adjacency: Tensor, unmentioned: float = 0.0) -> Tensor:
    """Intra-image contrastive loss (L_ICL): which pathology is at which anatomy, mean over mentioned pairs.

    Args:
        anatomies: (B, A, d) states of the anatomy stream.
        pathologies: (B, P, d) states of the pathology stream.
        adjacency: (B, A, P).
        unmentioned: weight at which unmentioned pairs count as absent; 0 as published, 1 for the authors' earlier variant.
    """
    similarity = anatomies @ pathologies.transpose(1, 2)
    weights = (adjacency >= 0).to(similarity.dtype)
    if unmentioned:
        weights = weights + unmentioned * (adjacency == NOT_MENTIONED)
    targets = adjacency.clamp(min=0).to(similarity.dtype)
    return _mean(F.binary_cross_entropy_with_logits(similarity, targets, reduction="none"), weights)


def reference_icl_loss(anatomies: Tensor, pathologies: Tensor, adjacency: Tensor) -> Tensor:
    """Plain form of `icl_loss` as published: one mentioned pair at a time."""
    terms = []
    for b, a, p in (adjacency >= 0).nonzero().tolist():
        probability = (anatomies[b, a] @ pathologies[b, p]).sigmoid()
        terms.append(-(probability if adjacency[b, a, p] == 1 else 1 - probability).log())
    return torch.stack(terms).mean()


def draw_negatives(present: Tensor, unfit: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw partners to tell a prototype from, without replacement.

    Args:
        present: (R, k) True where the row is present with that partner.
        unfit: (k, k) True where a partner (column) says nearly the same as another (row), so that it is no fair negative for
            rows present there.
        count: how many to draw.
        generator: makes the draw repeatable.

    Returns:
        (R, count) partner indices, -1 where a row has fewer fit partners than that.
    """
    barred = present | ((present.float() @ unfit.float()) > 0)
    keys = torch.rand(present.shape, generator=generator).to(present.device).masked_fill(barred, -1)
    drawn = keys.topk(min(count, keys.shape[1]), dim=1)
    return drawn.indices.masked_fill(drawn.values < 0, -1)


def draw_positive(present: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one of the partners with which each row is present: (R, k) boolean -> (R,) indices."""
    return torch.rand(present.shape, generator=generator).to(present.device).masked_fill(~present, -1).argmax(1)


def _mean(terms: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; zero where no weight is."""
    return (terms * weights).sum() / weights.sum().clamp(min=torch.finfo(terms.dtype).tiny)
