"""The gate that gives every stream its own share of the image features."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Gate = Literal["linear", "sigmoid", "normalized", "off"]


class Disentangler(nn.Module):
    """Split features F into m * F and (1 - m) * F with a learned gate m = Linear(F) (MeDSLIP, "disentanglement").

    The two shares always add up to F. The published gate is `linear`, signed and unbounded.

    Args:
        width: of the features.
        gate: `linear`, `sigmoid` (bounded to 0..1), `normalized` (a sigmoid of features brought to one scale by a layer
            norm, so that it isn't shut or open from the start), or `off`: both streams see F itself.
    """

    def __init__(self, width: int, gate: Gate = "linear") -> None:
        super().__init__()
        self.gate = gate
        self.mask = nn.Linear(width, width) if gate != "off" else None
        self.norm = nn.LayerNorm(width) if gate == "normalized" else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Split features (B, N, width) into the shares of the first and the second stream, both of that shape."""
        if self.mask is None:
            return features, features
        mask = self.mask(features if self.norm is None else self.norm(features))
        if self.gate != "linear":
            mask = mask.sigmoid()
        first = mask * features
        return first, features - first
