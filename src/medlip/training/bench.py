"""How long a training step takes and what it holds, beside its networks alone and its plain form, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data.batch import Batch
from medlip.images.preprocessing import Preprocessing
from medlip.memory import MIB
from medlip.methods import build_method
from medlip.methods.base import HasReference, method_type
from medlip.nn.device import (
    Precision,
    autocast,
    compute_dtype,
    peak_allocated,
    peak_memory,
    product_rate,
    resolve_device,
    synchronize,
)
from medlip.reports import split_sentences
from medlip.reports.generate import generated_reports

FACTS = 12


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

    Which parts stand beside the step is the method's to say (its `timed_parts`). Images are random, with about 12 facts a
    study and a report of 40 words. Where the method has a plain form of its losses (`HasReference`), a step of it, always in
    float32, is timed as well.

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
        The settings, and

        - seconds_per_step, PART_seconds and reference_seconds (medians), images_per_second
        - ratio_to_PART (median of the ratios pair by pair) with its range, and speedup: that of the reference to the step
        - flops of a step, best_flops_per_second of a matrix product in the same precision, measured in the same run, and
          fraction_of_peak: the step's share of it
        - step_memory_mb, PART_memory_mb and reference_peak_memory_mb: the most that each holds at once beyond weights and
          moments, in MiB
        - peak_memory_mb of the GPU, else of the process, before the reference ran.

    Raises:
        MedLIPError: an unknown method or setting, or no such device.
    """
    kind = method_type(method)
    backbone, batch = backbone or kind.bench.backbone, batch or kind.bench.batch
    settings = {**kind.bench.settings, **(settings or {})}
    vocabulary, where = default_vocabulary(), resolve_device(device)
    host = made_up_batch(batch, image_size, vocabulary, seed)
    model = build_method(
        {"name": method, "seed": seed, **({"backbone": backbone} if "backbone" in kind.config_type.model_fields else {})}
        | settings,
        vocabulary,
        Preprocessing(image_size),
        lambda: (" ".join(sentences) for sentences in host.sentences),
    )
    model = model.train().to(where).to(memory_format=torch.channels_last)
    learned = host.to(where)
    parts = model.timed_parts(learned)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run(tensors: Callable[[], Sequence[Tensor]], update: bool = False, precision: Precision = precision) -> float:
        began = time.perf_counter()
        with autocast(where, precision):
            results = tensors()
        torch.stack([values.float().sum() for values in results]).sum().backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(where)
        return time.perf_counter() - began

    passes: dict[str, Callable[[], float]] = {"step": lambda: run(lambda: list(model.losses(learned).values()), update=True)}
    passes |= {name: lambda part=part: run(part) for name, part in parts.items()}  # type: ignore[misc]
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
    }
    for work in passes.values():
        work()  # warms up
    result["peak_memory_mb"] = peak_memory(where) / MIB
    if isinstance(model, HasReference) and model.has_reference:
        plain = model.reference_losses
        passes["reference"] = lambda: run(lambda: list(plain(learned).values()), update=True, precision="fp32")
        passes["reference"]()
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, work in passes.items():
            times[name].append(work())
    seconds = {name: statistics.median(values) for name, values in times.items()}
    result["seconds_per_step"] = seconds["step"]
    result["images_per_second"] = batch / seconds["step"]
    for name in parts:
        ratios = sorted(whole / part for whole, part in zip(times["step"], times[name], strict=True))
        result[f"{name}_seconds"] = seconds[name]
        result[f"ratio_to_{name}"] = statistics.median(ratios)
        result[f"ratio_to_{name}_range"] = [ratios[0], ratios[-1]]
    if "reference" in seconds:
        speedups = [plain / step for plain, step in zip(times["reference"], times["step"], strict=True)]
        result |= {"reference_seconds": seconds["reference"], "speedup": statistics.median(speedups)}
    with FlopCounterMode(display=False) as counter:
        passes["step"]()
    result["flops"] = counter.get_total_flops()
    result["best_flops_per_second"] = product_rate(where, compute_dtype(where, precision))
    result["fraction_of_peak"] = result["flops"] / seconds["step"] / result["best_flops_per_second"]
    for name, work in passes.items():
        key = "reference_peak_memory_mb" if name == "reference" else f"{name}_memory_mb"
        result[key] = peak_allocated(work, where) / MIB
    return result


def made_up_batch(images: int, image_size: int, vocabulary: Vocabulary, seed: int = 0) -> Batch:
    """Return a batch of noise, with about 12 random facts and a report of 40 words for each image."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, image_size, image_size, generator=generator).to(memory_format=torch.channels_last)
    shape = (images, len(vocabulary.anatomies), len(vocabulary.pathologies))
    stated = torch.rand(shape, generator=generator) < FACTS / (shape[1] * shape[2])
    facts = torch.where(stated, torch.randint(0, 2, shape, generator=generator), -1).to(torch.int8)
    reports = tuple(generated_reports(images, seed))
    names = tuple(f"image {number}" for number in range(images))
    return Batch(
        images=pixels,
        facts=facts,
        ids=names,
        patients=names,
        reports=reports,
        sentences=tuple(tuple(sentence.text for sentence in split_sentences(report)) for report in reports),
        labels=({},) * images,
        boxes=((),) * images,
        masks=((),) * images,
        mirrored=torch.zeros(images, dtype=torch.bool),
        seeds=torch.arange(images),
    )
