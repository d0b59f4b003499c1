"""Where in an image anatomies lie: smooth functions of the position, learned from what is found in them."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 1e-6
HARMONICS = 4
"""Cosines along each side of an image."""


class PlaceField(nn.Module):
    """How well the evidence for a finding lies where an anatomy does.

    The field of an anatomy is a sum of cosines over the image, whose weights are linear in the anatomy's text: the same for
    all images and on any grid. What is found where an anatomy usually lies then speaks for that anatomy. It starts from
    fields that are zero everywhere.

    Args:
        text_width: of the anatomies' texts.
        harmonics: cosines along each side of the image.
    """

    def __init__(self, text_width: int, harmonics: int = HARMONICS) -> None:
        super().__init__()
        self.harmonics = harmonics
        self.fields = nn.Linear(text_width, harmonics * harmonics, bias=False)
        nn.init.zeros_(self.fields.weight)

    def forward(self, evidence: Tensor, texts: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the mean of each anatomy's field under the evidence, (B, A, C); 0 where nothing speaks for a finding.

        Args:
            evidence: (B, C, N) what each location adds to a finding; what speaks against it doesn't count.
            texts: (A, text width) of the anatomies.
            grid: (h, w), h * w = N.
        """
        basis = waves(grid, self.harmonics, evidence)
        positive = evidence.relu()
        shares = positive / positive.sum(-1, keepdim=True).clamp(min=LEAST)
        return cast("Tensor", self.fields(F.normalize(texts, dim=-1))) @ (shares @ basis).transpose(1, 2)


def waves(grid: tuple[int, int], harmonics: int, like: Tensor) -> Tensor:
    """Return products of cosines along both sides at the centres of the cells of a grid, (N, harmonics squared)."""
    rows, columns = (_waves(size, harmonics, like) for size in grid)
    return torch.einsum("yi,xj->yxij", rows, columns).flatten(2).flatten(0, 1)


def _waves(size: int, harmonics: int, like: Tensor) -> Tensor:
    """Return cosines (size, harmonics) at the centres of the cells of a side."""
    centres = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return torch.cos(math.pi * centres[:, None] * torch.arange(harmonics, device=like.device, dtype=like.dtype))
