"""How long a training step takes, beside its networks alone, measured side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method, method_names
from medlip.methods.base import HasTimedPasses, method_type
from medlip.nn.device import Precision, autocast, peak_memory, resolve_device, synchronize
from medlip.reports import split_sentences
from medlip.reports.generate import generated_reports


def bench_step(
    method: str = "medslip",
    backbone: str | None = None,
    batch: int | None = None,
    image_size: int = 224,
    *,
    settings: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
    repeats: int = 5,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Time a method's training step (forward, losses, backward, update) and, in turn, its networks alone.

    Which parts stand beside the step is the method's to say (its `timed_passes`). Images are random, with about 12 facts a
    study or reports of 40 words.

    Args:
        method: name of the method.
        backbone: of the image encoder; None for the one usually timed.
        batch: images a step; None likewise.
        image_size: side in pixels.
        settings: of the method, in place of those usually timed.
        precision: of the networks, see `medlip.nn.device`.
        repeats: timed steps of each kind, after one that is not.
        seed: of images, facts and weights.
        device: to time, see `medlip.nn.device.resolve_device`.

    Returns:
        seconds_per_step and PART_seconds (medians), ratio_to_PART (median of the ratios pair by pair) and its range,
        images_per_second, peak_memory_mb of the GPU, else of the process, and the settings.

    Raises:
        MedLIPError: an unknown method, one without parts to be timed, or no such device.
    """
    kind = method_type(method)
    if not issubclass(kind, HasTimedPasses):
        able = ", ".join(method_names(HasTimedPasses))
        raise MedLIPError(f"bench step: method {method!r} has no parts to be timed. Use one of: {able}.")
    backbone, batch = backbone or kind.bench.backbone, batch or kind.bench.batch
    settings = {**kind.bench.settings, **(settings or {})}
    reports = [tuple(sentence.text for sentence in split_sentences(report)) for report in generated_reports(batch, seed)]
    model = build_method(
        {"name": method, "backbone": backbone, "seed": seed, **settings},
        default_vocabulary(),
        Preprocessing(image_size),
        lambda: (" ".join(report) for report in reports),
    )
    where = resolve_device(device)
    model = model.train().to(where).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator)
    images = images.to(where).to(memory_format=torch.channels_last)
    assert isinstance(model, HasTimedPasses)
    losses, parts = model.timed_passes(images, reports, generator)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run(tensors: Callable[[], Sequence[Tensor]], update: bool = False) -> float:
        began = time.perf_counter()
        with autocast(where, precision):
            results = tensors()
        torch.stack([values.float().sum() for values in results]).sum().backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(where)
        return time.perf_counter() - began

    times: dict[str, list[float]] = {"step": [], **{name: [] for name in parts}}
    for repeat in range(repeats + 1):
        timed = {"step": run(losses, update=True)} | {name: run(part) for name, part in parts.items()}
        if repeat:  # the first pass of each warms up
            for name, seconds in timed.items():
                times[name].append(seconds)
    peak = peak_memory(where)
    seconds = statistics.median(times["step"])
    result: dict[str, Any] = {
        "method": method,
        "backbone": backbone,
        "batch": batch,
        "image_size": image_size,
        **settings,
        "precision": precision,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "seconds_per_step": seconds,
    }
    for name in parts:
        ratios = sorted(whole / part for whole, part in zip(times["step"], times[name], strict=True))
        result[f"{name}_seconds"] = statistics.median(times[name])
        result[f"ratio_to_{name}"] = statistics.median(ratios)
        result[f"ratio_to_{name}_range"] = [ratios[0], ratios[-1]]
    result["images_per_second"] = batch / seconds
    result["peak_memory_mb"] = peak / 1024**2
    return result
