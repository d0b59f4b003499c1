"""The data that a command was given: a prepared store, or a source to prepare first, with a note of all that is skipped."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from medlip.app.answer import warn_skipped
from medlip.app.launcher import process_count
from medlip.data.prepare import SHARES, SKIPPED, prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.errors import MedLIPError

ALL_TEST = {"test": 1.0}


def training_store(source: str, run: Path) -> Store:
    """Open a store, or prepare another source into `run`/store, where `--resume` finds it again.

    Raises:
        MedLIPError: another source, and several processes that would each prepare it.
    """
    opened = open_source(source)
    if process_count() > 1 and not isinstance(opened, Store):
        raise MedLIPError(
            f"--data {source}: this is one of {process_count()} processes, and they share a store. Prepare it before: "
            f"medlip prepare {source} --out STORE, then --data STORE."
        )
    return _prepared(opened, source, run / "store", SHARES)


@contextmanager
def evaluation_store(source: str, shares: Mapping[str, float] = ALL_TEST) -> Iterator[Store]:
    """Open a store, or prepare another source into a temporary folder; studies without a split of their own are `test`.

    Args:
        source: as the user gave it.
        shares: of such studies by split, instead.
    """
    with TemporaryDirectory(prefix="medlip-") as folder:
        yield _prepared(open_source(source), source, Path(folder) / "store", shares)


def _prepared(opened: Store | Source, source: str, folder: Path, shares: Mapping[str, float]) -> Store:
    if isinstance(opened, Store):
        return opened
    summary = prepare([opened], folder, shares=shares)
    if summary["skipped"]:
        with (folder / SKIPPED).open(encoding="utf-8", newline="") as file:
            reasons = [f"{row['study']} {row['image']}: {row['reason']}" for row in csv.DictReader(file)]
        warn_skipped(f"images or studies of {source} were", reasons)
    return Store.open(folder)
