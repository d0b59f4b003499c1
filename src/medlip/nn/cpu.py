"""What makes training on a CPU faster without changing what is computed; nothing here matters on other devices."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medlip.nn.zoo import Conv2dSame, pad_same

Module = TypeVar("Module", bound=nn.Module)


def optimize_for_cpu(module: Module) -> Module:
    """Replace, in place, what is slow on a CPU: some depthwise convolutions, and dropout. Return the module.

    Names and values of its tensors stay. Outputs are the same to the bit but for dropout, which draws other masks of the
    same probability.
    """
    for part in module.modules():
        if type(part) is nn.Dropout:
            part.__class__ = FastDropout
        elif type(part) in (nn.Conv2d, Conv2dSame) and _is_slow(cast("nn.Conv2d", part)):
            padded_as_needed = isinstance(part, Conv2dSame)
            part.__class__ = DepthwiseConv2d
            cast("DepthwiseConv2d", part).padded_as_needed = padded_as_needed
    return module


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc; nothing is computed otherwise.

    glibc gives every large block back to the kernel, which clears each of its pages again at the next allocation: 12,000
    faults a training step of an EfficientNet at 128 px, taken one at a time by all threads.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    mmap_threshold, trim_threshold = -3, -1  # as malloc.h has them
    if not library.mallopt(mmap_threshold, 1 << 30):
        library.mallopt(mmap_threshold, 32 << 20)  # the most that older versions take
    library.mallopt(trim_threshold, (1 << 31) - 1)


def _is_slow(layer: nn.Conv2d) -> bool:
    depthwise = layer.groups == layer.in_channels > 1
    return depthwise and (max(layer.stride) > 1 or max(layer.kernel_size) > 3)


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout`, with the mask of a CPU tensor drawn 16 bits an element.

    PyTorch draws a CPU mask one element at a time on one core, which takes up to a third of a small model's training step.
    The bits here come from numpy, seeded by one draw from torch's own generator: `torch.manual_seed` and a saved generator
    state repeat them exactly. The probability is met to 1 / 65,536.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` with a share p of the elements set to 0 and the others scaled by 1 / (1 - p)."""
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return F.dropout(values, self.p, self.training)
        seed = int(torch.randint(2**62, ()))
        bits = np.random.SFC64(seed).random_raw(-(-values.numel() // 4)).view(np.int16)[: values.numel()]
        dropped = round(self.p * 2**16)
        keep = torch.from_numpy(bits).view(values.shape) >= dropped - 2**15
        return values * keep.to(values.dtype).mul_(2**16 / (2**16 - dropped))


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
        in_full = [tensor.float() for tensor in (gradients[0], input, weight)]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            *in_full, None, stride, padding, dilation, False, [0, 0], groups, wanted
        )
        return (
            of_input.to(input.dtype) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            *[None] * len(ctx.options),
        )
