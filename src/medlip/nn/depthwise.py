"""Depthwise convolutions whose gradients don't crawl on a CPU in bfloat16."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that takes its gradients in float32 where torch's bfloat16 kernels have no fast path.

    For strides above 1 (gradient of the input) and kernels above 3 (gradient of the weights) these are 5 to 30 times slower
    on a CPU than float32. Outputs are the same to the bit.
    """

    padded_as_needed = False

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        padding = cast("tuple[int, int]", self.padding)
        if self.padded_as_needed:
            input, padding = pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation)), (0, 0)
        if input.device.type == "cpu" and input.dtype == torch.bfloat16 and self.bias is None:
            convolved: Tensor = _GradientsInFloat32.apply(
                input, self.weight, self.stride, padding, self.dilation, self.groups
            )
            return convolved
        return nn.functional.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def speed_up_depthwise(network: nn.Module) -> None:
    """Make the slow depthwise convolutions of a network such that are not; names and values of its tensors stay."""
    for module in network.modules():
        if not isinstance(module, nn.Conv2d) or type(module) not in (nn.Conv2d, Conv2dSame):
            continue
        depthwise = module.groups == module.in_channels > 1
        if depthwise and (max(module.stride) > 1 or max(module.kernel_size) > 3):
            padded_as_needed = isinstance(module, Conv2dSame)
            fast = cast("DepthwiseConv2d", module)
            fast.__class__ = DepthwiseConv2d
            fast.padded_as_needed = padded_as_needed


class _GradientsInFloat32(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, *options: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        stride, padding, dilation, groups = options
        return nn.functional.conv2d(input, weight.to(input.dtype), None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        exact = [tensor.float() for tensor in (gradients[0], input, weight)]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            *exact, None, stride, padding, dilation, False, [0, 0], groups, wanted
        )
        return (
            of_input.to(input.dtype) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            *[None] * len(ctx.options),
        )
