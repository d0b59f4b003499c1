"""Masked image prediction: from the visible patches to the pixels of the hidden ones (He et al., 2022)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from medlip.nn.parts import Recomputing, recompute_blocks
from medlip.nn.patches import sine_cosine_positions
from medlip.nn.zoo import Block


class ImageDecoder(nn.Module, Recomputing):
    """A small transformer that fills in a mask token wherever a patch is hidden.

    Args:
        encoded: width of the visible tokens.
        side: patches along a side of the image.
        patch: side of a patch in pixels.
        width: of the decoder.
        layers: its blocks.
        heads: attention heads.
    """

    def __init__(self, encoded: int, side: int, patch: int, width: int = 512, layers: int = 4, heads: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(encoded, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sine_cosine_positions(side, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, patch * patch)
        nn.init.normal_(self.mask_token, std=0.02)

    def recompute(self) -> None:
        """Compute the activations of each block again in the backward pass."""
        recompute_blocks(self.blocks)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predict every patch from the visible ones.

        Args:
            tokens: (B, n, encoded).
            visible: (B, n) their places among the N patches.

        Returns:
            (B, N, patch * patch) grey values, row by row.
        """
        positions = self.get_buffer("positions")
        embedded = self.embed(tokens)
        patches = self.mask_token.to(embedded.dtype).expand(len(tokens), len(positions), -1)
        patches = patches.scatter(1, visible[..., None].expand(-1, -1, embedded.shape[2]), embedded)
        return cast("Tensor", self.pixels(self.norm(self.blocks(patches + positions.to(embedded.dtype)))))
