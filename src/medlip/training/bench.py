"""How long a training step takes, beside its networks alone, measured side by side in one run."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import Method, build_method
from medlip.methods.image_text import ImageTextMethod
from medlip.methods.medklip import MedKLIP
from medlip.methods.medslip import MeDSLIP
from medlip.methods.mlip import MLIP
from medlip.methods.texts import draw_sentences
from medlip.nn.patch_encoder import draw_visible
from medlip.reports import split_sentences
from medlip.reports.generate import generated_reports


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is timed of a method.

    Attributes:
        backbone: unless another one is asked for.
        batch: likewise.
        settings: of the method, beside backbone and seed.
        parts: names of the passes that `_passes` gives, each with the name of the ratio to it.
    """

    backbone: str
    batch: int
    settings: Mapping[str, Any]
    parts: Mapping[str, str]


_BASELINE = _Kind("resnet50", 8, {}, {"networks": "ratio_to_networks"})
_KINDS = {
    "medslip": _Kind("resnet50", 8, {"layers": 4}, {"encoder": "ratio_to_encoder"}),
    "mlip": _Kind(
        "vit_small_patch16_224",
        12,
        {"text_width": 384, "text_layers": 6},
        {"networks": "ratio_to_networks", "trained_networks": "ratio_to_trained_networks"},
    ),
    "gloria": _BASELINE,
    "convirt": _BASELINE,
    "medklip": _BASELINE,
}


def bench_step(
    method: str = "medslip",
    backbone: str | None = None,
    batch: int | None = None,
    image_size: int = 224,
    *,
    settings: Mapping[str, Any] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Time a method's training step (forward, losses, backward, update) and, in turn, its networks alone.

    MeDSLIP: `encoder`, forward and backward of the backbone, the mask and the stream projections. MLIP: `trained_networks`,
    forward and backward of image encoder (on visible patches), text encoder and image decoder; `networks`, these and the
    pass of the full image that the estimator of semantic integrity takes. GLoRIA and ConVIRT: `networks`, forward and
    backward of image and text encoder. MedKLIP: `networks`, of backbone and query decoder. Images are random, with about 12
    facts a study or reports of 40 words.

    Args:
        method: name of the method.
        backbone: of the image encoder; None for the one usually timed.
        batch: images a step; None likewise.
        image_size: side in pixels.
        settings: of the method, in place of those usually timed.
        precision: `bf16` for autocast.
        repeats: timed steps of each kind, after one that is not.
        seed: of images, facts and weights.

    Returns:
        seconds_per_step and PART_seconds (medians), ratio_to_PART (median of the ratios pair by pair) and its range,
        images_per_second, peak_memory_mb of the process, and the settings.

    Raises:
        MedLIPError: a method without a bench.
    """
    if method not in _KINDS:
        raise MedLIPError(f"bench step: method {method!r} has no bench. Use one of: {', '.join(_KINDS)}.")
    kind = _KINDS[method]
    backbone, batch = backbone or kind.backbone, batch or kind.batch
    settings = {**kind.settings, **(settings or {})}
    reports = [tuple(sentence.text for sentence in split_sentences(report)) for report in generated_reports(batch, seed)]
    model = build_method(
        {"name": method, "backbone": backbone, "seed": seed, **settings},
        default_vocabulary(),
        Preprocessing(image_size),
        lambda: (" ".join(report) for report in reports),
    )
    model = model.train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator).to(memory_format=torch.channels_last)
    losses, parts = _passes(model, images, reports, generator)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run(tensors: Callable[[], Sequence[Tensor]], update: bool = False) -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            results = tensors()
        torch.stack([values.float().sum() for values in results]).sum().backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    times: dict[str, list[float]] = {"step": [], **{name: [] for name in parts}}
    for repeat in range(repeats + 1):
        timed = {"step": run(losses, update=True)} | {name: run(part) for name, part in parts.items()}
        if repeat:  # the first pass of each warms up
            for name, seconds in timed.items():
                times[name].append(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median(times["step"])
    result: dict[str, Any] = {
        "method": method,
        "backbone": backbone,
        "batch": batch,
        "image_size": image_size,
        **settings,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "seconds_per_step": seconds,
    }
    for name in parts:
        ratios = sorted(whole / part for whole, part in zip(times["step"], times[name], strict=True))
        result[f"{name}_seconds"] = statistics.median(times[name])
        result[kind.parts[name]] = statistics.median(ratios)
        result[f"{kind.parts[name]}_range"] = [ratios[0], ratios[-1]]
    result["images_per_second"] = batch / seconds
    result["peak_memory_mb"] = peak / (1024**2 if sys.platform == "darwin" else 1024)
    return result


Passes = Mapping[str, Callable[[], Sequence[Tensor]]]


def _passes(
    model: Method, images: Tensor, reports: Sequence[Sequence[str]], generator: torch.Generator
) -> tuple[Callable[[], Sequence[Tensor]], Passes]:
    """Return the loss terms of a step, and what its networks alone compute."""
    if isinstance(model, MLIP):
        return _mlip_passes(model, images, reports, generator)
    if isinstance(model, ImageTextMethod):
        drawn = draw_sentences(reports, model.config.max_sentences, False, generator)
        return lambda: list(model.loss_terms(images, drawn).values()), {
            "networks": lambda: [model.encoder(images), model.text(drawn).tokens]
        }
    assert isinstance(model, MeDSLIP | MedKLIP)
    shape = (len(images), len(model.vocabulary.anatomies), len(model.vocabulary.pathologies))
    mentioned = torch.rand(shape, generator=generator) < 12 / (shape[1] * shape[2])
    facts = torch.where(mentioned, torch.randint(0, 2, shape, generator=generator), -1).to(torch.int8)

    def encoder() -> list[Tensor]:
        assert isinstance(model, MeDSLIP)
        features, _ = model.encoder(images)
        shares = zip(model.project.values(), model.disentangler(features), strict=True)
        return [project(share) for project, share in shares]

    def networks() -> list[Tensor]:
        return [model(images, need_attention=False).states]

    return lambda: list(model.loss_terms(images, facts).values()), (
        {"encoder": encoder} if isinstance(model, MeDSLIP) else {"networks": networks}
    )


def _mlip_passes(
    model: MLIP, images: Tensor, reports: Sequence[Sequence[str]], generator: torch.Generator
) -> tuple[Callable[[], Sequence[Tensor]], Passes]:
    ratio = model.config.mask_ratio
    visible = draw_visible(len(images), model.encoder.patches, ratio, generator) if ratio else None

    def trained_networks() -> list[Tensor]:
        tokens = model.encoder(images, visible)
        encoded = model.text(reports)
        predicted = [] if model.decoder is None or visible is None else [model.decoder(tokens, visible)]
        return [tokens, encoded.sentences, encoded.reports, *predicted]

    def networks() -> list[Tensor]:
        if model.config.compares:
            with torch.no_grad():
                model.encoder(images)
        return trained_networks()

    return lambda: list(model.loss_terms(images, reports, visible).values()), {
        "networks": networks,
        "trained_networks": trained_networks,
    }
