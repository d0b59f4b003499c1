"""The data that a command was given: a prepared store, or a source that is prepared first, with every skip said aloud."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from medlip.data.prepare import SHARES, SKIPPED, prepare
from medlip.data.sources import open_source
from medlip.data.store import Store

ALL_TEST = {"test": 1.0}
NAMED = 10  # skips that are named on stderr; the rest is counted


def training_store(source: str, run: Path) -> Store:
    """Open a store, or prepare another source into `run`/store, where `--resume` finds it again."""
    return _open(source, run / "store", SHARES)


@contextmanager
def evaluation_store(source: str, shares: Mapping[str, float] = ALL_TEST) -> Iterator[Store]:
    """Open a store, or prepare another source into a temporary folder; studies without a split of their own are `test`.

    Args:
        source: as the user gave it.
        shares: of such studies by split, instead.
    """
    with TemporaryDirectory(prefix="medlip-") as folder:
        yield _open(source, Path(folder) / "store", shares)


def _open(source: str, folder: Path, shares: Mapping[str, float]) -> Store:
    opened = open_source(source)
    if isinstance(opened, Store):
        return opened
    summary = prepare([opened], folder, shares=shares)
    if summary["skipped"]:
        print(f"note: {source}: {summary['skipped']} images or studies were skipped:", file=sys.stderr)
        with (folder / SKIPPED).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:NAMED]:
            print(f"note:   {row['study']} {row['image']}: {row['reason']}", file=sys.stderr)
        if len(rows) > NAMED:
            print(f"note:   and {len(rows) - NAMED} more", file=sys.stderr)
    return Store.open(folder)
