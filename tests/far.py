"""A device for tests: tensors on `FAR` are computed on the CPU, but are as strictly apart from it as those on a GPU.

Inside `far_device()`, an operation that mixes tensors of both fails, as on a GPU; numbers (0-d tensors) may be mixed. Inside
`waits()`, it is noted where the host would have to wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_stack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import medlip


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("far", _Module())
FAR = torch.device("far:0")
CPU = torch.device("cpu")
PACKAGE = Path(medlip.__file__).parent
ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount", "is_nonzero"}
_noted: list[list[str]] = []


class _Far(Tensor):
    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> _Far:
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        made = Tensor._make_wrapper_subclass(cls, near.shape, **layout, device=FAR)
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        return _compute(function, arguments, settings or {})


class _Tensors(TorchFunctionMode):
    """Makes tensors of Python numbers near first: `torch.tensor` and lists as indices ask no dispatch mode."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        settings = dict(settings or {})
        if function is Tensor.__getitem__ and isinstance(arguments[0], _Far):
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            index = tuple(torch.tensor(part).to(FAR) if isinstance(part, list) else part for part in index)
            return function(arguments[0], index)
        if function not in (torch.tensor, torch.as_tensor) or "device" not in settings:
            return function(*arguments, **settings)
        device = settings.pop("device")
        made = function(*arguments, **settings)
        return made if device is None else made.to(device)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        return _compute(function, arguments, settings or {})


@torch.inference_mode(False)  # a tensor that wraps another can't be one of inference
@torch.no_grad()
def _compute(function: Any, arguments: Any, settings: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((arguments, settings)) if isinstance(leaf, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, _Far)]
    near = [tensor for tensor in tensors if not isinstance(tensor, _Far) and tensor.dim()]
    into = function is torch.ops.aten.copy_.default
    if far and near and not into and function is not torch.ops.aten._to_copy.default:
        raise RuntimeError(f"{function}: tensors on {FAR} and on the CPU, of shapes {[tuple(t.shape) for t in tensors]}")
    if far and _noted and (why := _why_waited(function, arguments, settings)):
        _noted[-1].append(f"{why} at {_caller()}")
    wanted = settings.get("device")
    goes_far = bool(far)
    if wanted is not None:
        goes_far = torch.device(wanted).type == FAR.type
        settings = settings | {"device": CPU}
    elif into:
        goes_far = isinstance(arguments[0], _Far)
    arguments, settings = tree_map(lambda leaf: leaf.near if isinstance(leaf, _Far) else leaf, (arguments, settings))
    found = function(*arguments, **settings)
    if not goes_far:
        return found
    known = {id(tensor.near): tensor for tensor in far}  # an operation in place gives back the tensor itself
    return tree_map(lambda leaf: known.get(id(leaf), _Far(leaf)) if isinstance(leaf, Tensor) else leaf, found)


def _why_waited(function: Any, arguments: Any, settings: dict[str, Any]) -> str:
    """Say why the host would wait for a GPU in an operation on tensors that are there, "" where it wouldn't."""
    name = function.overloadpacket.__name__
    if name in ASKS:
        return name
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return "boolean index" if any(index is not None and index.dtype == torch.bool for index in arguments[1]) else ""
    leaves = isinstance(arguments[0], _Far) and torch.device(settings.get("device") or FAR).type != FAR.type
    if name == "_to_copy" and leaves:
        return "copy to the host"
    return "copy to the host" if name == "copy_" and not isinstance(arguments[0], _Far) else ""


def _caller() -> str:
    frames = [frame for frame in extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
    return f"{Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno}" if frames else "a test"


@contextmanager
def waits() -> Iterator[list[str]]:
    """List what a GPU would be waited for inside: numbers that are read, boolean indices, copies to the host."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


@contextmanager
def far_device() -> Iterator[torch.device]:
    """Make tensors on the far device possible."""
    with _Tensors(), _Mode():
        yield FAR
