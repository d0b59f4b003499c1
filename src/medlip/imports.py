"""Imports of others' packages, without what they bring along and nobody needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import inside torchvision or timm, but not torch's compiler, which takes as long as torch itself.

    They take two functions of it, for what is hardly ever used: torchvision for detectors, timm for one model. Inside,
    stand-ins lie in the compiler's place, and what was taken of them imports the compiler once it is called.
    """
    if not any(name in sys.modules for name in _COMPILER):
        sys.modules.update({name: _StandIn(name) for name in _COMPILER})
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module of the compiler that isn't there yet: it is imported for whatever can't wait."""

    def is_compile_supported(self, device_type: Any) -> Any:
        return self._real().is_compile_supported(device_type)

    def disable(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Callable[..., Any]:
        @wraps(function)
        def not_compiled(*inputs: Any, **named: Any) -> Any:
            return self._real().disable(function, *arguments, **settings)(*inputs, **named)

        return not_compiled

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks for, such as __path__
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        _remove_stand_ins()
        return importlib.import_module(self.__name__)


def _remove_stand_ins() -> None:
    for name in _COMPILER:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
