"""How long a reading takes beside the image encoder alone, measured side by side in one process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from medlip.app.reader import Reader
from medlip.app.reading import SHOWN, Reading
from medlip.errors import MedLIPError
from medlip.methods import Method, build_method, save_method
from medlip.methods.base import HasEncoder
from medlip.nn.device import resolve_device, synchronize
from medlip.training import load_recipe

COLD_START = """
import sys, numpy, medlip
pixels = numpy.random.default_rng(0).integers(0, 255, (256, 256), numpy.uint8)
reading = medlip.load(sys.argv[1], sys.argv[2]).read(pixels)
reading.heat_map(reading.findings[0].pathology)
"""


def bench_predict(
    recipe: str = "medslip-phantom",
    image_size: int = 256,
    batch: int = 16,
    *,
    repeats: int = 20,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Time reading an array, with the maps of the findings that are shown, beside the backbone's forward pass alone.

    The model is untrained, of a recipe's size. Both are timed in turn, so that what else the machine does hits them alike.

    Args:
        recipe: which model.
        image_size: side of the arrays in pixels.
        batch: images a step, of the batched figures.
        repeats: timed readings of each kind, after one that is not.
        device: to compute on, see `medlip.nn.device.resolve_device`.
        seed: of weights and images.

    Returns:
        seconds_per_image and encoder_seconds (medians, one image at a time), ratio (median of the ratios pair by pair),
        batched_seconds_per_image and batched_ratio likewise, and cold_start_seconds: from starting Python to the first
        reading.

    Raises:
        MedLIPError: there is no such recipe or device, or its method has no encoder of images.
    """
    method = untrained(recipe, seed)
    if not isinstance(method, HasEncoder):
        raise MedLIPError(f"{recipe}: its method has no encoder of images to compare with. Choose another recipe.")
    where, encoder = resolve_device(device), method.encoder
    reader = Reader(method.to(where))
    pixels = np.random.default_rng(seed).integers(0, 255, (batch, image_size, image_size), np.uint8)
    images = method.preprocessing(torch.from_numpy(pixels)).to(where)

    def read_one() -> None:
        _look(reader.read(pixels[0]))

    def read_batch() -> None:
        for reading in reader.read_many(list(pixels), batch_size=batch):
            assert isinstance(reading, Reading)
            _look(reading)

    @torch.inference_mode()
    def encode(some: torch.Tensor) -> None:
        encoder(some)
        synchronize(where)

    one, alone = _in_turn(read_one, lambda: encode(images[:1]), repeats)
    many, together = _in_turn(read_batch, lambda: encode(images), max(3, repeats // 4))
    with TemporaryDirectory(prefix="medlip-") as folder:
        save_method(method, Path(folder) / "model.safetensors")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", COLD_START, folder, str(where)], check=True, stdout=sys.stderr)
        cold = time.perf_counter() - began
    return {
        "recipe": recipe,
        "image_size": image_size,
        "input_size": method.preprocessing.size,
        "batch": batch,
        "maps": SHOWN,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "seconds_per_image": statistics.median(one),
        "encoder_seconds": statistics.median(alone),
        "ratio": _ratio(one, alone),
        "batched_seconds_per_image": statistics.median(many) / batch,
        "batched_ratio": _ratio(many, together),
        "cold_start_seconds": cold,
    }


def untrained(recipe: str, seed: int = 0) -> Method:
    """Return a model of a recipe's size with random weights.

    Raises:
        MedLIPError: there is no such recipe.
    """
    settings = load_recipe(recipe, [f"training.seed={seed}"])
    described = {**settings.method, "seed": seed} | ({"weights": None} if "weights" in settings.method else {})
    vocabulary = settings.make_vocabulary()
    texts = [pathology.description for pathology in vocabulary.pathologies]
    return build_method(described, vocabulary, settings.make_preprocessing(), lambda: texts)


def _look(reading: Reading) -> None:
    """Draw the maps of the findings that are shown to a person at once."""
    reading.maps([finding.pathology for finding in reading.findings[:SHOWN]])


def _in_turn(first: Callable[[], None], second: Callable[[], None], repeats: int) -> tuple[list[float], list[float]]:
    """Time two things in turn, after a round that isn't timed."""
    seconds: tuple[list[float], list[float]] = [], []
    for repeat in range(repeats + 1):
        for work, times in zip((first, second), seconds, strict=True):
            began = time.perf_counter()
            work()
            if repeat:
                times.append(time.perf_counter() - began)
    return seconds


def _ratio(first: Sequence[float], second: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
