"""The methods: one file each, all with the same verbs. Each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medlip.methods.base import BUILT_IN, Method, build_method, load_method, method_names, register, save_method
from medlip.methods.exported import export_method, load_exported
from medlip.methods.released import load_released

if TYPE_CHECKING:
    from medlip.methods.convirt import ConVIRT
    from medlip.methods.gloria import GLoRIA
    from medlip.methods.medklip import MedKLIP
    from medlip.methods.medslip import MeDSLIP
    from medlip.methods.mlip import MLIP

__all__ = [
    "MLIP",
    "ConVIRT",
    "GLoRIA",
    "MeDSLIP",
    "MedKLIP",
    "Method",
    "build_method",
    "export_method",
    "load_exported",
    "load_method",
    "load_released",
    "method_names",
    "register",
    "save_method",
]


def __getattr__(name: str) -> Any:
    module = BUILT_IN.get(name.lower())
    if name in __all__ and module is not None:
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
