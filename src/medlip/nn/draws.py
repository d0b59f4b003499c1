"""Random numbers that follow from an image alone: the same in every batch, part and process, and on every device.

What a loss draws for an image must not depend on who else is in the batch, or several processes would learn something else
than one; and it must not be drawn by the host, or an accelerator would wait. So it comes from a hash of the image's seed and
a counter (splitmix64; Steele et al., 2014), worked out where it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
_FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_BITS = 24  # of a float32's fraction


def image_seeds(seed: int, count: int) -> Tensor:
    """Return seeds int64 (count,) of images that have none of their own."""
    return branch(torch.full((count,), seed), torch.arange(count))


def branch(seeds: Tensor, number: Tensor | int) -> Tensor:
    """Return seeds int64 (...) of something that belongs to an image, such as a query, told from its like by a number."""
    return _mixed(_mixed(seeds + _GOLDEN) + number * _GOLDEN)


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Return numbers in [0, 1), float32 (..., count), of seeds int64 (...)."""
    counters = torch.arange(1, count + 1, device=seeds.device) * _GOLDEN
    return (_mixed(seeds[..., None] + counters) & ((1 << _BITS) - 1)).to(torch.float32) * 2.0**-_BITS


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
