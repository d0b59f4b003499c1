"""What other processes computed, with gradients, so that every report of the global batch is a negative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

_LOCAL = ContextVar("_LOCAL", default=False)
_ROWS: ContextVar[tuple[int, ...] | None] = ContextVar("_ROWS", default=None)


@contextmanager
def without_gather() -> Iterator[None]:
    """Keep the rows of processes apart inside: for when all have the same batch, and a copy is no negative."""
    token = _LOCAL.set(True)
    try:
        yield
    finally:
        _LOCAL.reset(token)


@contextmanager
def uneven(rows: tuple[int, ...] | None) -> Iterator[None]:
    """Gather inside where processes have so many rows each; None: all have as many."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


def alone() -> bool:
    """Whether what is gathered is of this process alone."""
    return _LOCAL.get() or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def gather(values: Tensor) -> Tensor:
    """Return the rows (n, …) of all processes as (ranks * n, …) by rank; without other processes `values` itself.

    The gradient of a process's own rows is the sum over what all processes made of them. All must gather the same shape, but
    for the number of rows inside `uneven`.
    """
    if alone():
        return values
    if (rows := _ROWS.get()) is not None:
        most = max(rows)
        filled = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])])
        parts = torch.split(_gather_alike(filled), most)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])
    return _gather_alike(values)


def _gather_alike(values: Tensor) -> Tensor:
    if not values.requires_grad:
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))  # type: ignore[no-untyped-call]


def total(values: Tensor) -> Tensor:
    """Return the sums (...) of what all processes have, of one shape; without other processes `values` itself.

    The gradient is that of a loss which every process makes of the sums alike, and whose gradients are averaged afterwards,
    as data parallelism does: no exchange is needed in the backward pass.
    """
    if alone():
        return values
    sums, own = values.detach().clone(), values * dist.get_world_size()
    dist.all_reduce(sums)
    return own + (sums - own).detach()


def summed(values: Tensor) -> Tensor:
    """Return the sums (...) of what all processes have, whatever each makes of them; else as `total`.

    The gradient of a process's own values is the sum over what all processes made of the sums.
    """
    if alone():
        return values
    from torch.distributed.nn.functional import all_reduce

    return cast("Tensor", all_reduce(values))  # type: ignore[no-untyped-call]


def gather_padded(values: Tensor) -> Tensor:
    """`gather` for rows (n, m, …) whose m differs between processes: shorter ones are filled with zeros."""
    if alone():
        return values
    longest = torch.tensor(values.shape[1], device=values.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = values.new_zeros(len(values), int(longest) - values.shape[1], *values.shape[2:])
    return gather(torch.cat([values, missing], 1))
