"""A batch encoded in parts, each anew for its gradients: the memory of one part, and every gradient of the whole batch.

This is what lets a contrast over a large batch fit: its negatives are those of the whole batch, for the loss is computed
from the vectors of all parts, and only the vectors are kept (Gao et al., arXiv 2101.06983).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Tensors = tuple[Tensor, ...]
Context = Callable[[], AbstractContextManager[object]]


def in_parts(
    function: Callable[..., Tensors],
    count: int,
    *inputs: Tensor | None,
    second: Context = nullcontext,
) -> Tensors:
    """Return what a function makes of inputs, row by row the same, computed in parts where gradients are wanted.

    Args:
        function: of tensors (B, ...) or None; gives tensors (B, ...). What it draws at random is drawn again alike.
        count: parts; 1 calls the function once, as it is.
        inputs: of the function.
        second: a context for computing a part again, for what may happen only once.
    """
    if count == 1 or not torch.is_grad_enabled():
        return function(*inputs)
    rows = next(len(values) for values in inputs if values is not None)
    size = -(-rows // count)
    found = [
        checkpoint(
            function,
            *(None if values is None else values[start : start + size] for values in inputs),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), second()),
        )
        for start in range(0, rows, size)
    ]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class Recomputing(ABC):
    """A network that can compute activations again in the backward pass instead of keeping them."""

    @abstractmethod
    def recompute(self) -> None:
        """Do so from now on: gradients stay the same, for a second forward pass."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network is a stack of: what lies in its lists and sequences and has parts of its own."""
    stacks = [part for part in network.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    blocks = [part for stack in stacks for part in stack if not isinstance(part, nn.Sequential) and any(part.children())]
    inner = {part for block in blocks for part in block.modules() if part is not block}
    return [block for block in blocks if block not in inner]


def recompute_blocks(blocks: Iterable[nn.Module], second: Context = nullcontext) -> None:
    """Keep nothing of blocks but what they are given, where gradients are wanted.

    Args:
        blocks: of a network.
        second: a context for computing a block again, for what may happen only once.
    """
    for block in blocks:
        block.forward = _recomputed(block.forward, second)


def _recomputed(forward: Callable[..., Any], second: Context) -> Callable[..., Any]:
    def run(*inputs: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **settings)
        contexts = lambda: (nullcontext(), second())  # noqa: E731
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **settings)

    return run
