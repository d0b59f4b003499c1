"""From features of several depths to a map per class: the decoder of a U-Net (Ronneberger et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class UNetDecoder(nn.Module):
    """Enlarges the deepest features step by step, each joined with the next finer ones.

    Features that are no finer than those before, as of a transformer's blocks, are enlarged with them.

    Args:
        widths: channels of the features, the finest first.
        classes: maps to give.
        width: channels inside, at most; finer steps have fewer.
    """

    def __init__(self, widths: Sequence[int], classes: int, width: int = 128) -> None:
        super().__init__()
        inner = [max(16, width >> step) for step in range(len(widths))]
        self.first = _convolutions(widths[-1], inner[0])
        self.steps = nn.ModuleList(
            _convolutions(inner[step] + skip, inner[step + 1]) for step, skip in enumerate(reversed(widths[:-1]))
        )
        self.last = nn.Conv2d(inner[-1], classes, 1)

    def forward(self, pyramid: Sequence[Tensor], size: int) -> Tensor:
        """Return logits (B, classes, size, size) of features (B, widths[i], h, w)."""
        *finer, features = pyramid
        features = self.first(features)
        for step, skip in zip(self.steps, reversed(finer), strict=True):
            target = [
                min(size, max(2 * side, other)) for side, other in zip(features.shape[2:], skip.shape[2:], strict=True)
            ]
            features = step(torch.cat([_resize(features, target), _resize(skip, target)], 1))
        return _resize(self.last(features), [size, size])


def _convolutions(width_in: int, width_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (width_in, width_out):
        layers += [nn.Conv2d(width, width_out, 3, padding=1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    if list(features.shape[2:]) == list(size):
        return features
    return interpolate(features, list(size), mode="bilinear", align_corners=False)
