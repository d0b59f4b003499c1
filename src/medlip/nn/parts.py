"""A batch encoded in parts, each anew for its gradients: the memory of one part, and every gradient of the whole batch.

This is what lets a contrast over a large batch fit: its negatives are those of the whole batch, for the loss is computed
from the vectors of all parts, and only the vectors are kept (Gao et al., arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Tensors = tuple[Tensor, ...]


def in_parts(
    function: Callable[..., Tensors],
    count: int,
    *inputs: Tensor | None,
    second: Callable[[], AbstractContextManager[object]] = nullcontext,
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
