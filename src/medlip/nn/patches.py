"""Patches of an image: which are visible, where they lie, and what their pixels are. They are numbered row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_visible(keys: Tensor, ratio: float) -> Tensor:
    """Draw which of the N patches of each of B images stay visible.

    Args:
        keys: (B, N), drawn at random: the patches with the lowest stay.
        ratio: share that is hidden.

    Returns:
        (B, n), rising, n = N * (1 - ratio) but at least 1.
    """
    keep = max(1, int(keys.shape[1] * (1 - ratio) + 1e-6))
    return keys.argsort(1)[:, :keep].sort(1).values


def visible_map(visible: Tensor, patches: int) -> Tensor:
    """Return bool (B, patches): True for the patches listed in `visible` (B, n)."""
    shown = torch.zeros(len(visible), patches, dtype=torch.bool, device=visible.device)
    return shown.scatter_(1, visible, True)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens (B, n, W) at `indices` (B, n) of (B, N, W)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[2]))


def sine_cosine_positions(side: int, width: int) -> Tensor:
    """Return fixed positions (side * side, width) of a square grid: half the channels for the column, half for the row.

    They are those of the masked autoencoder (He et al., 2022), so that its weights fit.
    """
    quarter = width // 4
    rates = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, 2 * quarter)
    positions = torch.zeros(side, side, width, dtype=torch.float64)
    positions[..., : 2 * quarter] = waves[None]
    positions[..., 2 * quarter : 4 * quarter] = waves[:, None]
    return positions.flatten(0, 1).float()


def patch_pixels(images: Tensor, patch: int) -> Tensor:
    """Return images (B, 3, S, S) as grey patches (B, N, patch * patch)."""
    grey = images.mean(1)
    batch, side = len(grey), grey.shape[1] // patch
    return grey.view(batch, side, patch, side, patch).transpose(2, 3).reshape(batch, side * side, patch * patch)


def join_patches(patches: Tensor, patch: int) -> Tensor:
    """Return patches (B, N, patch * patch) as images (B, S, S)."""
    side = round(patches.shape[1] ** 0.5)
    joined = patches.reshape(len(patches), side, side, patch, patch).transpose(2, 3)
    return joined.reshape(len(patches), side * patch, side * patch)
