"""How long a training step takes, beside the image encoder's part of it, measured side by side in one run."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.medslip import MeDSLIP


def bench_step(
    method: str = "medslip",
    backbone: str = "resnet50",
    batch: int = 8,
    image_size: int = 224,
    *,
    layers: int = 4,
    precision: Literal["fp32", "bf16"] = "fp32",
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Time a method's training step (forward, losses, backward, update) and, in turn, its encoder alone.

    The encoder's part is the forward and backward pass of the ResNet stages, the mask and the stream projections. Images and
    facts are random: about 12 facts a study, as in reports.

    Args:
        method: name of the method.
        backbone: of the image encoder.
        batch: images a step.
        image_size: side in pixels.
        layers: decoder layers.
        precision: `bf16` for autocast.
        repeats: timed steps of each kind, after one that is not.
        seed: of images, facts and weights.

    Returns:
        seconds_per_step and encoder_seconds (medians), ratio_to_encoder (median of the ratios pair by pair), its spread,
        images_per_second, peak_memory_mb of the process, and the settings.
    """
    model = build_method(
        {"name": method, "backbone": backbone, "layers": layers, "seed": seed},
        default_vocabulary(),
        Preprocessing(image_size),
    )
    if not isinstance(model, MeDSLIP):
        raise MedLIPError(f"bench step: method {method!r} has no bench yet. Use medslip.")
    model = model.train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator).to(memory_format=torch.channels_last)
    shape = (batch, len(model.vocabulary.anatomies), len(model.vocabulary.pathologies))
    mentioned = torch.rand(shape, generator=generator) < 12 / (shape[1] * shape[2])
    facts = torch.where(mentioned, torch.randint(0, 2, shape, generator=generator), -1).to(torch.int8)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def step() -> None:
        with autocast():
            terms: dict[str, Tensor] = model.loss_terms(images, facts)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def encoder() -> None:
        with autocast():
            features, _ = model.encoder(images)
            shares = zip(model.project.values(), model.disentangler(features), strict=True)
            locations = [project(share) for project, share in shares]
        torch.stack([values.float().sum() for values in locations]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.zero_grad(set_to_none=True)

    step()
    encoder()
    pairs = [(_seconds(step), _seconds(encoder)) for _ in range(repeats)]
    ratios = sorted(whole / part for whole, part in pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median(whole for whole, _ in pairs)
    return {
        "method": method,
        "backbone": backbone,
        "batch": batch,
        "image_size": image_size,
        "layers": layers,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "seconds_per_step": seconds,
        "encoder_seconds": statistics.median(part for _, part in pairs),
        "ratio_to_encoder": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "images_per_second": batch / seconds,
        "peak_memory_mb": peak / (1024**2 if sys.platform == "darwin" else 1024),
    }


def _seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
