"""What other processes computed, with gradients, so that every report of the global batch is a negative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_LOCAL = ContextVar("_LOCAL", default=False)


@contextmanager
def without_gather() -> Iterator[None]:
    """Keep the rows of processes apart inside: for when all have the same batch, and a copy is no negative."""
    token = _LOCAL.set(True)
    try:
        yield
    finally:
        _LOCAL.reset(token)


def _alone() -> bool:
    return _LOCAL.get() or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def gather(values: Tensor) -> Tensor:
    """Return the rows (n, …) of all processes as (ranks * n, …) by rank; without other processes `values` itself.

    The gradient of a process's own rows is the sum over what all processes made of them. All must gather the same shape.
    """
    if _alone():
        return values
    if not values.requires_grad:
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))  # type: ignore[no-untyped-call]


def gather_padded(values: Tensor) -> Tensor:
    """`gather` for rows (n, m, …) whose m differs between processes: shorter ones are filled with zeros."""
    if _alone():
        return values
    longest = torch.tensor(values.shape[1], device=values.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = values.new_zeros(len(values), int(longest) - values.shape[1], *values.shape[2:])
    return gather(torch.cat([values, missing], 1))
