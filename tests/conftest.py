"""What several tests need: the command line, a small store of phantoms, and a run that was trained on it for a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RANKS = 2

TINY = (
    "image.size=64",
    "method.layers=1",
    "training.epochs=1",
    "training.batch_size=8",
    "training.warmup=1",
    "training.precision=fp32",  # bf16 is slow where a processor doesn't have it
)


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def last_line(self) -> str:
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def medlip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process, as the script does."""
    from medlip.app.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.delenv("MEDLIP_DEBUG", raising=False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def phantom_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medlip.data.prepare import prepare

    out = tmp_path_factory.mktemp("phantoms") / "store"
    prepare(["phantom:60@3"], out, size=96, workers=0)
    return out


@pytest.fixture(scope="session")
def halved_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of which every other one is to be tested on."""
    from dataclasses import replace

    from medlip.data.prepare import prepare
    from medlip.data.sources import open_source

    out = tmp_path_factory.mktemp("halves") / "store"
    phantoms = open_source("phantom:100@5")
    prepare(
        [replace(phantoms, read=lambda key: replace(phantoms.read(key), split=("train", "test")[int(key) % 2]))],
        out,
        size=64,
        workers=0,
    )
    return out


@pytest.fixture(scope="session")
def tiny_run(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medlip.data.store import Store
    from medlip.training import fit, load_recipe

    out = tmp_path_factory.mktemp("runs") / "run"
    store = Store.open(phantom_store)
    fit(load_recipe("medslip-phantom", TINY), store.select("train"), out, validation=store.select("val"))
    return out


@pytest.fixture(scope="session")
def ranks() -> Callable[..., None]:
    """Run a function of rank and further arguments in two processes, both forked where torch was imported already."""
    import multiprocessing

    import torch.multiprocessing as mp

    from fakes import PRELOADED

    multiprocessing.set_forkserver_preload(list(PRELOADED))

    def run(function: Callable[..., None], *arguments: object) -> None:
        mp.start_processes(function, arguments, nprocs=RANKS, start_method="forkserver")  # type: ignore[no-untyped-call]

    return run


@pytest.fixture(scope="session")
def xray(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom X-ray as a PNG file, wider than high."""
    from PIL import Image

    from medlip.data.store import Store

    pixels = Store.open(phantom_store)[0].image
    file = tmp_path_factory.mktemp("xrays") / "x.png"
    Image.fromarray(pixels).resize((150, 120)).save(file)
    return file


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """Changes that make any recipe train in a second or two."""
    return TINY
