"""Batch normalization over the batches of all processes that train together, on any device."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from medlip.nn.gather import summed
from medlip.nn.pairs import at_least_float32
from medlip.nn.zoo import BatchNormAct2d

Module = TypeVar("Module", bound=nn.Module)


def synchronize_statistics(module: Module) -> Module:
    """Let batch normalization take its statistics over all processes, in place; names and values of tensors stay."""
    for part in module.modules():
        if type(part) in _SYNCHRONIZED:
            part.__class__ = _SYNCHRONIZED[type(part)]
    return module


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` of the global batch: one process alone gets the same, but for rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        return _normalize(self, input) if self.training else super().forward(input)


class SynchronizedBatchNormAct2d(BatchNormAct2d):  # type: ignore[misc]
    """timm's batch normalization with an activation behind it, of the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate (B, C, H, W)."""
        if not self.training:
            return cast("Tensor", super().forward(x))
        return cast("Tensor", self.act(self.drop(_normalize(self, x))))


_SYNCHRONIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SynchronizedBatchNorm2d,
    BatchNormAct2d: SynchronizedBatchNormAct2d,
}


def _normalize(layer: Any, images: Tensor) -> Tensor:
    """Normalize (B, C, H, W), and move the running statistics."""
    values = images.to(at_least_float32(images.dtype))
    own = values.new_full((1,), float(values.numel() // values.shape[1]))
    sums = summed(torch.cat([values.sum((0, 2, 3)), own]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean[:, None, None]
    variance = summed(centred.square().sum((0, 2, 3))) / count
    with torch.no_grad():
        if layer.track_running_stats:
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance * count / (count - 1).clamp(min=1), layer.momentum)
    normalized = centred * (variance + layer.eps).rsqrt()[:, None, None]
    if layer.affine:
        normalized = normalized * layer.weight[:, None, None] + layer.bias[:, None, None]
    return cast("Tensor", normalized.to(images.dtype))
