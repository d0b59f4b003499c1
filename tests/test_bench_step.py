"""The bench of a training step: its parts are parts, and it says what it measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medlip.errors import MedLIPError
from medlip.methods import method_names
from medlip.nn.device import peak_allocated
from medlip.training.bench import bench_step

pytestmark = pytest.mark.long

SMALL: dict[str, dict[str, Any]] = {
    "medslip": {"backbone": "resnet18", "settings": {"layers": 1}},
    "mlip": {"backbone": "vit_tiny_patch16_224", "settings": {"depth": 1, "text_width": 32, "decoder_layers": 1}},
    "gloria": {"backbone": "resnet10t", "settings": {"text_width": 32, "text_layers": 1}},
    "convirt": {"backbone": "resnet10t", "settings": {"text_width": 32, "text_layers": 1}},
    "medklip": {"backbone": "resnet10t", "settings": {"layers": 1}},
    "linear": {"backbone": "resnet10t"},
}
PARTS = {"medslip": ["encoder"], "mlip": ["encoder", "networks", "trained_networks"], "linear": ["encoder"]}


@pytest.mark.parametrize("method", method_names())
def test_the_step_is_timed_beside_its_networks(method: str) -> None:
    result = bench_step(method, batch=2, image_size=64, repeats=2, **SMALL.get(method, {}))
    assert result["images_per_second"] == pytest.approx(2 / result["seconds_per_step"])
    for part in PARTS.get(method, ["encoder", "networks"]):
        assert result[f"{part}_seconds"] > 0
        low, high = result[f"ratio_to_{part}_range"]
        assert low <= result[f"ratio_to_{part}"] <= high
        assert result[f"{part}_memory_mb"] > 0
    expected = result["flops"] / result["seconds_per_step"] / result["best_flops_per_second"]
    assert result["fraction_of_peak"] == pytest.approx(expected)
    assert ("speedup" in result) == ("reference_peak_memory_mb" in result) == (method == "medslip")
    if method == "medslip":
        assert result["reference_seconds"] > 0
        assert result["reference_peak_memory_mb"] > result["step_memory_mb"]  # it builds (B, A, P, width)


def test_settings_without_a_plain_form_are_timed_without_it() -> None:
    settings = {"layers": 1, "icl": "tied", "prototype": "off"}
    result = bench_step("medslip", backbone="resnet10t", batch=2, image_size=64, repeats=1, settings=settings)
    assert result["ratio_to_encoder"] > 0 and "speedup" not in result


def test_an_unknown_method_is_answered_with_those_there_are() -> None:
    with pytest.raises(MedLIPError, match=r"convirt, gloria, .*medslip, mlip"):
        bench_step("unknown")


def test_memory_is_what_is_held_at_once() -> None:
    cpu, size = torch.device("cpu"), 1 << 20

    def in_turn() -> None:
        for _ in range(3):
            torch.ones(size)

    assert 4 * size <= peak_allocated(in_turn, cpu) < 5 * size
    assert 12 * size <= peak_allocated(lambda: [torch.ones(size) for _ in range(3)], cpu) < 13 * size
