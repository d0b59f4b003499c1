"""A plan's arithmetic: what is counted grows with the batch as it does, and what follows from it adds up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medlip.errors import MedLIPError
from medlip.methods import build_method
from medlip.training import Recipe, load_recipe
from medlip.training.bench import made_up_batch
from medlip.training.plan import MACHINES, Counted, Machine, Operation, count, plan

SMALL = ("image.size=64", "method.backbone=resnet10t", "method.weights=null", "method.stride=16", "method.layers=1")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("medklip-phantom", [*SMALL, "method.deepest=null", "training.batch_size=8"])


def test_what_a_batch_takes_follows_from_two_smaller_ones(recipe: Recipe) -> None:
    counted, vocabulary = count(recipe), recipe.make_vocabulary()
    batch = made_up_batch(8, recipe.image.size, vocabulary)
    method = build_method(recipe.method, vocabulary, recipe.make_preprocessing()).train()
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(method.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert counted.flops(8) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert counted.parameters == sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    assert counted.tokens == 16
    assert counted.bytes(8) > 1.5 * counted.bytes(4)


def test_an_operation_takes_as_long_as_the_slower_of_arithmetic_and_memory() -> None:
    machine = Machine("m", products=1e12, convolutions=5e11, memory_rate=1e11, overhead=1e-6)
    operations = [
        Operation("product", (2e9, 4e9), (1e6, 2e6)),  # bound by arithmetic: 8 images take 8e9 / 1e12 s
        Operation("convolution", (2e9, 4e9), (1e6, 2e6)),  # 8e9 / 5e11
        Operation("other", (0, 0), (1e9, 2e9)),  # bound by memory: 4e9 / 1e11
        Operation("other", (0, 0), (8, 8)),  # bound by being one at all
    ]
    counted = Counted(operations, (0, 0), parameters=0, tokens=1, text_tokens=0)
    assert counted.seconds(machine, 8, half=False) == pytest.approx(8e-3 + 16e-3 + 40e-3 + 1e-6)
    assert counted.seconds(machine, 8, half=True) == pytest.approx(8e-3 + 16e-3 + 20e-3 + 1e-6)


def test_a_plan_adds_up(medlip: Callable[..., Any], recipe: Recipe) -> None:
    changes = [word for change in (*SMALL, "method.deepest=null", "training.batch_size=8") for word in ("--set", change)]
    found = medlip("plan", "medklip-phantom", *changes, "--gpus", 4, "--gpu", "a100", "--pairs", 1000, "--json").document
    assert (found["batch"], found["steps"]) == (32, 31 * recipe.training.epochs)
    assert found["images"] == 32 * found["steps"]
    assert found["image_tokens"] == 16 * found["images"]
    assert found["hours"] == pytest.approx(found["steps"] * found["step_seconds"] / 3600)
    assert found["images_per_second"] == pytest.approx(32 / found["step_seconds"])
    assert found["cost"] == pytest.approx(found["hours"] * 4 * MACHINES["a100"].price)
    assert 0 < found["exchange_seconds"] < found["step_seconds"]
    assert 16 * found["parameters"] / 2**30 < found["memory_gib"] < found["memory_there_gib"] == 80
    assert any("data sheet" in line for line in found["assumptions"])


def test_what_can_not_be_planned_says_why(recipe: Recipe) -> None:
    with pytest.raises(MedLIPError, match=r"'h10' is unknown.*h100"):
        plan(recipe, "mine", gpu="h10")
    with pytest.raises(MedLIPError, match=r"7 pairs are fewer than a batch of 8"):
        plan(recipe, "mine", pairs=7)
