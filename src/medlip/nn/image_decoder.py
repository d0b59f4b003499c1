"""Masked image prediction: from the visible patches to the pixels of the hidden ones (He et al., 2022)."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medlip.nn.patch_encoder import sine_cosine_positions, visible_map


class ImageDecoder(nn.Module):
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


def patch_pixels(images: Tensor, patch: int) -> Tensor:
    """Return images (B, 3, S, S) as grey patches (B, N, patch * patch), row by row."""
    grey = images.mean(1)
    batch, side = len(grey), grey.shape[1] // patch
    return grey.view(batch, side, patch, side, patch).transpose(2, 3).reshape(batch, side * side, patch * patch)


def join_patches(patches: Tensor, patch: int) -> Tensor:
    """Return patches (B, N, patch * patch), row by row, as images (B, S, S)."""
    side = round(patches.shape[1] ** 0.5)
    joined = patches.reshape(len(patches), side, side, patch, patch).transpose(2, 3)
    return joined.reshape(len(patches), side * patch, side * patch)


def prediction_errors(predicted: Tensor, images: Tensor, visible: Tensor, patch: int, normalise: bool = False) -> Tensor:
    """Return the mean squared error of each image's hidden patches, (B,); 0 where none is hidden.

    Args:
        predicted: (B, N, patch * patch).
        images: (B, 3, S, S).
        visible: (B, n) indices of the patches that are not predicted.
        patch: side in pixels.
        normalise: compare with each patch at mean 0 and variance 1.
    """
    target = patch_pixels(images, patch)
    if normalise:
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    hidden = ~visible_map(visible, target.shape[1])
    errors = (predicted - target).square().mean(2)
    return (errors * hidden).sum(1) / hidden.sum(1).clamp(min=1)
