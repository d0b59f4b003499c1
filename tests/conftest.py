"""What several tests need: a small store of phantoms, and a run that was trained on it for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

RANKS = 2

TINY = ("image.size=64", "method.layers=1", "training.epochs=1", "training.batch_size=8", "training.warmup=1")


@pytest.fixture(scope="session")
def phantom_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medlip.data.prepare import prepare

    out = tmp_path_factory.mktemp("phantoms") / "store"
    prepare(["phantom:60@3"], out, size=96, workers=0)
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

    multiprocessing.set_forkserver_preload(["medlip.training", "transformers.models.bert.modeling_bert"])

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
