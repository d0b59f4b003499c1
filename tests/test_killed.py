"""A training that is killed goes on bit by bit: at any moment, in the middle of writing, alone and in two processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import PRELOADED, become_rank, free_port, method_changes, shrunk
from medlip.data.prepare import prepare
from medlip.data.store import Store
from medlip.errors import MedLIPError, MedLIPWarning
from medlip.methods import method_names
from medlip.methods.base import read_safetensors
from medlip.training import Recipe, fit, load_recipe

SETTINGS = (
    "image.size=32",
    "method.weights=null",
    "training.batch_size=4",
    "training.precision=fp32",
    "training.epochs=3",
    "training.checkpoint_minutes=0.000001",  # after every step
    "training.keep=2",
    "training.rest=keep",
    "training.ema=0.9",
    "training.validation_images=4",
)


def recipe_of(name: str) -> Recipe:
    """A method's recipe for phantoms, in small."""
    recipe = f"{name}-phantom"
    return load_recipe(recipe, [*method_changes(recipe, shrunk(load_recipe(recipe).method)), *SETTINGS])


def work(rank: int, ranks: int, port: int, name: str, store: str, out: str, writes: int) -> None:
    """Train, or go on; with `writes`, die in the middle of writing that checkpoint."""
    torch.set_num_threads(1)
    become_rank(rank, ranks, port)
    if writes:
        left = iter(range(writes - 1, -1, -1))
        os.fsync = lambda file: None if next(left) else os.kill(os.getpid(), signal.SIGKILL)
    studies = Store.open(store)
    try:
        fit(recipe_of(name), studies.select("train"), Path(out), validation=studies.select("val"), resume=True, device="cpu")
    except MedLIPError as error:
        Path(f"{out}.{rank}.txt").write_text(str(error))
        raise SystemExit(1) from None


def start(ranks: int, *arguments: Any, writes: int = 0) -> list[Any]:
    """Start the processes of a training, forked where torch was imported already."""
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    started = [context.Process(target=work, args=(rank, ranks, port, *arguments, writes)) for rank in range(ranks)]
    for process in started:
        process.start()
    return started


def end(processes: Sequence[Any]) -> list[int]:
    """Wait for processes; where one was killed, the others get to know, as from a launcher."""
    processes[0].join(0.01)
    deadline = time.monotonic() + 120
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            for process in processes:
                process.join(20)
                process.kill()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "store"
    prepare(["phantom:22@3"], out, size=48, workers=0, shares={"train": 0.8, "val": 0.2})
    return out


def assert_same(ours: Path, theirs: Path) -> None:
    first, second = (read_safetensors(run / "model.safetensors")[0] for run in (ours, theirs))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key in ("step", "losses", "lr", "validation")}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (ours, theirs)
    ]
    assert lines[0] == lines[1]


def campaign(name: str, ranks: int, kills: int, store: Path, tmp_path: Path, seed: int = 0) -> None:
    """Kill a training at random moments, and twice while it writes a checkpoint; hold it against one that was left alone."""
    for whole in (tmp_path / "first", tmp_path / "whole"):  # the first one waits for the server that forks, too
        began = time.monotonic()
        assert end(start(ranks, name, str(store), str(whole))) == [0] * ranks
        duration = time.monotonic() - began
    moments, runs, done = random.Random(seed), count(), 0
    killed = tmp_path / f"killed {next(runs)}"
    while done < kills:
        processes = start(ranks, name, str(store), str(killed))
        time.sleep(moments.uniform(0, 0.7 * duration))
        processes[moments.randrange(ranks)].kill()
        done += -signal.SIGKILL in end(processes)  # else it was over before
        if (killed / "model.safetensors").exists():  # the next one starts anew
            assert_same(whole, killed)
            killed = tmp_path / f"killed {next(runs)}"
    written = tmp_path / "written"
    for writes in (2, 3):
        assert -signal.SIGKILL in end(start(ranks, name, str(store), str(written), writes=writes))
        assert list(written.glob("*.partial"))
    for left in (killed, written):
        assert end(start(ranks, name, str(store), str(left))) == [0] * ranks
        assert_same(whole, left)
        assert not list(left.glob("*.partial"))


@pytest.mark.processes
@pytest.mark.parametrize(("name", "ranks"), [("mlip", 1), ("medslip", 2)])
def test_a_killed_training_goes_on_bit_by_bit(name: str, ranks: int, store: Path, tmp_path: Path) -> None:
    campaign(name, ranks, 2, store, tmp_path)


@pytest.mark.processes
def test_a_training_goes_on_with_another_number_of_processes_and_says_so(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert -signal.SIGKILL in end(start(2, "medslip", str(store), str(out), writes=2))
    assert "another process of this training ended" in (tmp_path / "run.1.txt").read_text()
    recipe = recipe_of("medslip")
    with pytest.warns(MedLIPWarning, match=r"saved by 2 processes after 1 steps, and 1 go on, at step 2"):
        summary = fit(recipe, Store.open(store).select("train"), out, resume=True, device="cpu")
    assert summary["steps"] == 3 * -(-len(Store.open(store).select("train")) // 4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", method_names())
def test_every_method_survives_twenty_kills(name: str, ranks: int, store: Path, tmp_path: Path) -> None:
    campaign(name, ranks, 20, store, tmp_path, seed=ranks)
