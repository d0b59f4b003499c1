"""L_ProtoCL: what is a present query present with?

Of MeDSLIP (arXiv 2403.10635). For every (image, query) that is present, with projected state z and texts t_k of the other
stream's concepts, its partners:

    L_ProtoCL = mean -log( exp(z . p) / (exp(z . p) + sum_n exp(z . t_n)) ),  p = mean of t_k where it is present

The n are partners with which it is not present. By linearity z . mean(t) = mean(z . t): no prototype is built. With one
partner drawn at random in the prototype's place this is the position contrast of MedKLIP (arXiv 2301.02228).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.losses.means import weighted_mean


@dataclass(frozen=True, slots=True)
class ContrastScale:
    """How states are compared with partners: as they are, as published, or by cosine, over a temperature.

    Texts of length 28 without a temperature make initial losses of 19 to 28, where one that knows nothing has 2.1: the
    contrast then takes over what the encoder learns.
    """

    normalize: bool = False
    temperature: float = 1.0

    def similarity(self, states: Tensor, partners: Tensor) -> Tensor:
        """Return similarities (..., k) of states (..., d) and partners (k, d)."""
        if self.normalize:
            states, partners = F.normalize(states, dim=-1), F.normalize(partners, dim=-1)
        return states @ partners.T / self.temperature


AS_PUBLISHED = ContrastScale()


def protocl_loss(
    states: Tensor,
    partners: Tensor,
    present: Tensor,
    negatives: Tensor,
    positive: Tensor | None = None,
    scale: ContrastScale = AS_PUBLISHED,
) -> Tensor:
    """Return the prototypical contrastive loss of one stream, mean over queries that are present; 0 without any.

    >>> partners = torch.eye(3)
    >>> present = torch.tensor([[True, True, False]])
    >>> protocl_loss(torch.tensor([[2.0, 0.0, 0.0]]), partners, present, negatives=torch.tensor([[2]]))
    tensor(0.3133)

    Args:
        states: (R, d) projected query states, one row for each (image, query) that is present.
        partners: (k, d) the other stream's texts.
        present: bool (R, k), True where the row is present with that partner; at least one in a row.
        negatives: (R, n) indices of partners to tell the prototype from; -1 for none.
        positive: (R,) index of one partner in place of the mean of all (MedKLIP's form).
        scale: how states and partners are compared.

    Raises:
        MedLIPError: the shapes don't fit.
    """
    if present.shape != (len(states), len(partners)) or len(negatives) != len(states):
        raise MedLIPError(
            f"states {tuple(states.shape)}, partners {tuple(partners.shape)}, present {tuple(present.shape)} and negatives "
            f"{tuple(negatives.shape)} don't fit. Pass (R, d), (k, d), (R, k) and (R, n)."
        )
    similarity = scale.similarity(states, partners)
    if positive is None:
        logit = (similarity * present).sum(1) / present.sum(1)
    else:
        logit = similarity.gather(1, positive[:, None]).squeeze(1)
    others = similarity.gather(1, negatives.clamp(min=0)).masked_fill(negatives < 0, float("-inf"))
    costs = torch.cat([logit[:, None], others], 1).logsumexp(1) - logit
    return weighted_mean(costs, torch.ones_like(costs))


def reference_protocl_loss(states: Tensor, partners: Tensor, present: Tensor, negatives: Tensor) -> Tensor:
    """Plain form of `protocl_loss`: build each prototype, compare by dot product, cross-entropy with it as the target."""
    terms = []
    for z, positives, others in zip(states, present, negatives, strict=True):
        prototype = partners[positives].mean(0)
        candidates = torch.stack([prototype, *(partners[i] for i in others if i >= 0)])
        terms.append(-(candidates @ z).log_softmax(0)[0])
    return torch.stack(terms).mean()


def draw_negatives(present: Tensor, unfit: Tensor, count: int, keys: Tensor) -> Tensor:
    """Draw partners to tell a prototype from, without replacement.

    Args:
        present: bool (R, k), True where the row is present with that partner.
        unfit: bool (k, k), True where a partner (column) says nearly the same as another (row), so that it is no fair
            negative for rows present there.
        count: how many to draw.
        keys: (R, k) in [0, 1), drawn at random: the partners with the highest are taken.

    Returns:
        (R, count) partner indices, -1 where a row has fewer fit partners than that.
    """
    barred = present | ((present.float() @ unfit.float()) > 0)
    drawn = keys.masked_fill(barred, -1).topk(min(count, keys.shape[1]), dim=1)
    return drawn.indices.masked_fill(drawn.values < 0, -1)


def draw_positive(present: Tensor, keys: Tensor) -> Tensor:
    """Draw one of the partners with which each row is present: bool (R, k), keys (R, k) in [0, 1) -> (R,) indices."""
    return keys.masked_fill(~present, -1).argmax(1)
