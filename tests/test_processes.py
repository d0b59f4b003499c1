"""A run of two processes: stopped as one, written by the main one alone, validated as one process would, with dropout of its
own in each."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fakes import become_rank, free_port
from medlip.data.batch import evaluation_batches
from medlip.data.prepare import prepare
from medlip.data.store import Store
from medlip.training import fit, load_recipe, load_run
from medlip.training.loop import Callback, Training

pytestmark = pytest.mark.processes

RANKS, BATCH = 2, 4
SETTINGS = (
    "image.size=64",
    "method.backbone=resnet10t",
    "method.weights=null",
    f"training.batch_size={BATCH}",
    "training.epochs=2",
    "training.precision=fp32",
    "training.seed=5",
)


class Interrupt(Callback):
    """Ctrl-C that reaches a process after its first step."""

    def after_step(self, training: Training) -> None:
        if training.step == 1:
            signal.raise_signal(signal.SIGINT)


def work(rank: int, store: str, out: str, port: int) -> None:
    become_rank(rank, RANKS, port)
    recipe, studies = load_recipe("convirt-phantom", SETTINGS), Store.open(store)
    try:
        for round in ("interrupted", "resumed", "finished"):
            try:
                summary = fit(
                    recipe,
                    studies.select("train"),
                    Path(out),
                    validation=studies.select("val"),
                    resume=round != "interrupted",
                    callbacks=[Interrupt()] if round == "interrupted" and rank else (),
                )
            except KeyboardInterrupt:
                kept = (Path(out) / "checkpoint.safetensors").exists()
                torch.save({"round": round, "kept": kept, "seed": torch.initial_seed()}, Path(out) / f"{rank}-stopped.pt")
            if round == "resumed":
                torch.save(summary, Path(out) / f"{rank}.pt")
            dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in several shards, since processes share a store by whole groups of a shard's rows."""
    out = tmp_path_factory.mktemp("shards") / "store"
    prepare(["phantom:30@3"], out, size=64, workers=0, shard_size=8, shares={"train": 0.8, "val": 0.2})
    return out


@pytest.fixture(scope="module")
def run(ranks: Callable[..., None], store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes: interrupted in one, resumed, and resumed again when there was nothing left to do."""
    out = tmp_path_factory.mktemp("processes") / "run"
    ranks(work, str(store), str(out), free_port())
    return out


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_interruption_of_one_process_stops_both_once_the_checkpoint_is_there(run: Path) -> None:
    for rank in range(RANKS):
        stopped = torch.load(run / f"{rank}-stopped.pt")
        assert (stopped["round"], stopped["kept"]) == ("interrupted", True)


def test_every_step_is_written_once(run: Path) -> None:
    steps = torch.load(run / "0.pt")["steps"]
    assert [(line["step"], "validation" in line) for line in lines(run)] == [
        (step, validated) for step in (steps // 2, steps) for validated in (False, True)
    ]


def test_validation_is_that_of_one_process(run: Path, store: Path) -> None:
    method = load_run(run)
    batches = list(evaluation_batches(Store.open(store).select("val"), method.preprocessing, BATCH))
    with torch.no_grad():
        terms = [(method.losses(batch), len(batch)) for batch in batches]
    expected = sum(losses["contrast"].item() * count for losses, count in terms) / sum(count for _, count in terms)
    for rank in range(RANKS):
        assert torch.load(run / f"{rank}.pt")["validation"]["contrast"] == pytest.approx(expected, rel=1e-4)
    assert lines(run)[-1]["validation"]["contrast"] == pytest.approx(expected, rel=1e-4)


def test_every_process_draws_its_own_dropout(run: Path) -> None:
    assert [torch.load(run / f"{rank}-stopped.pt")["seed"] for rank in range(RANKS)] == [5, 6]
