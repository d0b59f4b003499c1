"""The bench of a training step: its parts are parts, and it says what it measured."""

from __future__ import annotations

from typing import Any

import pytest

from medlip.errors import MedLIPError
from medlip.training.bench import bench_step

SMALL: dict[str, dict[str, Any]] = {
    "medslip": {"backbone": "resnet18", "settings": {"layers": 1}},
    "mlip": {"backbone": "vit_tiny_patch16_224", "settings": {"depth": 1, "text_width": 32, "decoder_layers": 1}},
    "gloria": {"backbone": "resnet10t", "settings": {"text_width": 32, "text_layers": 1}},
    "convirt": {"backbone": "resnet10t", "settings": {"text_width": 32, "text_layers": 1}},
    "medklip": {"backbone": "resnet10t", "settings": {"layers": 1}},
}
RATIOS = {"medslip": ["ratio_to_encoder"], "mlip": ["ratio_to_networks", "ratio_to_trained_networks"]}


@pytest.mark.parametrize("method", SMALL)
def test_the_step_is_timed_beside_its_networks(method: str) -> None:
    result = bench_step(method, batch=2, image_size=64, repeats=2, **SMALL[method])
    assert result["images_per_second"] == pytest.approx(2 / result["seconds_per_step"])
    for ratio in RATIOS.get(method, ["ratio_to_networks"]):
        seconds = result[ratio.removeprefix("ratio_to_") + "_seconds"]
        low, high = result[f"{ratio}_range"]
        assert seconds > 0
        assert low <= result[ratio] <= high


def test_a_method_without_a_bench_says_which_have_one() -> None:
    with pytest.raises(MedLIPError, match=r"convirt, gloria, .*medslip, mlip"):
        bench_step("unknown")
