"""Where networks compute, and in which precision: the one place that knows devices by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, chain
from typing import Literal

import torch
from torch import Tensor, nn

from medlip.errors import MedLIPError
from medlip.memory import peak_resident

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""How networks compute: in full, in mixed precision, or `auto`: bf16 where the device is fast at it, else in full."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name.

    Args:
        name: "auto" (cuda if available, else mps, else cpu), "cpu", "mps", "cuda", or "cuda:N" for one GPU of several.

    Raises:
        MedLIPError: an unknown name, or a device that this machine or this PyTorch does not have; says which there are.
    """
    text = str(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if text == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in there:
        raise MedLIPError(f"device {text!r} is unknown. Choose auto, cpu, cuda, cuda:N or mps.")
    if not there[device.type]:
        why = {
            "cuda": "PyTorch finds no NVIDIA GPU: is the driver installed (nvidia-smi), and PyTorch built with CUDA",
            "mps": "PyTorch finds no Apple GPU: that takes a Mac with Apple silicon",
        }[device.type]
        usable = ", ".join(kind for kind, available in there.items() if available)
        raise MedLIPError(f"device {text!r} can't be used here ({why}). Choose auto or one of: {usable}.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        raise MedLIPError(f"device {text!r}: there is no such device, only {count}, counted from 0. Choose {device.type}:0.")
    return device


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given, so that the clock can be read."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use so far: of a GPU's memory, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


def peak_allocated(work: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes of tensors that a piece of work holds at once, beyond those that there were before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes to stderr that there is no GPU
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    held: Iterable[int] = accumulate((event.nbytes() for event in changes), initial=0)
    return max(held)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many floating-point operations a second a device manages in its best matrix product."""
    best = 0.0
    for side in (512, 1024) if device.type == "cpu" else (4096, 8192):
        first, second = torch.randn(2, side, side, device=device).to(dtype)
        for _ in range(4):
            synchronize(device)
            began = time.perf_counter()
            first @ second
            synchronize(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def device_of(module: nn.Module) -> torch.device:
    """Return the device on which a module computes: that of its first parameter or buffer."""
    return next(chain(module.parameters(), module.buffers()), torch.empty(0)).device


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Return the precision in which a device computes: `auto` is bf16 where that is fast, else fp32.

    A processor without instructions for bfloat16 emulates it, and takes about ten times as long as in float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which networks compute in `precision`."""
    resolved = resolve_precision(precision, device)
    mixed = torch.bfloat16 if resolved == "fp32" else _DTYPES[resolved]
    return torch.autocast(device.type, mixed, enabled=resolved != "fp32")


def compute_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Return the type in which networks compute most in a precision."""
    return _DTYPES[resolve_precision(precision, device)]


def why_not_compiled(device: torch.device) -> str:
    """Return why `torch.compile` can't be used on a device, "" where it can: a small function is compiled to see."""
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever is missing: a C++ compiler, Python's headers, Triton, support of the platform
        return str(error).strip().splitlines()[0][:200] or type(error).__name__
    return ""


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return in which mixed precision a device computes at this moment, None where it doesn't."""
    try:
        return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    except RuntimeError:  # a device that knows none
        return None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the generators that computations on a device draw from: `random`, and `random.TYPE` beside it."""
    states = {"random": torch.get_rng_state()}
    if device.type != "cpu":
        states[f"random.{device.type}"] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Bring the generators to where `random_state` found them; those of other devices, and other tensors, are left out."""
    torch.set_rng_state(states["random"])
    if f"random.{device.type}" in states:
        torch.get_device_module(device).set_rng_state(states[f"random.{device.type}"])
