"""Shipped recipes, started by torchrun: two processes train together, and one of them speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import method_changes, recipe_settings, save_text_encoder
from medlip.training.recipe import recipe_files

pytestmark = pytest.mark.processes

FIRST = "medslip-phantom"
RECIPES = [pytest.param(name, marks=[pytest.mark.slow] if name != FIRST else []) for name in recipe_files()]
SETTINGS = {
    "image.size": 64,
    "training.batch_size": 8,
    "training.epochs": 1,
    "training.precision": "fp32",
    "training.validation_images": 4,
    "first": "null",
}


def torchrun(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Pre-train in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "medlip"]
    command = [*launcher, "pretrain", name, *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", RECIPES)
def test_torchrun_trains_a_shipped_recipe(name: str, phantom_store: Path, tmp_path: Path) -> None:
    save_text_encoder(tmp_path / "text")
    small = method_changes(name, recipe_settings(name, str(tmp_path / "text")))
    changes = [*(f"{key}={value}" for key, value in SETTINGS.items()), *small]
    settings = [word for change in changes for word in ("--set", change)]
    done = torchrun(name, "--data", phantom_store, "--out", tmp_path / "run", *settings, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3  # of 16 images each
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_several_processes_share_a_store_that_is_prepared_before(tmp_path: Path) -> None:
    done = torchrun(FIRST, "--data", "phantom:30", "--out", tmp_path / "run")
    assert done.returncode != 0
    assert "medlip prepare phantom:30 --out STORE" in done.stderr
    assert not (tmp_path / "run").exists()


def test_several_processes_share_a_store_of_what_comes_first_too(phantom_store: Path, tmp_path: Path) -> None:
    small = ("--set", "training.batch_size=8", "--set", "image.size=64")
    done = torchrun("medslip-openi-cpu", "--data", phantom_store, "--out", tmp_path / "run", *small)
    assert done.returncode != 0
    assert "medlip prepare phantom:4000@1 --out STORE, then --set first.data=STORE" in done.stderr
