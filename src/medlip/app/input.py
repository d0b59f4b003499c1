"""The data that a command was given: a prepared store, or a source to prepare first, with a note of all that is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from warnings import warn

from medlip.app.answer import warn_skipped
from medlip.app.launcher import process_count
from medlip.data.given import Given, prepared, prepared_to_train_on
from medlip.data.sources import open_source
from medlip.data.store import Store
from medlip.errors import MedLIPWarning

ALL_TEST = {"test": 1.0}


def training_store(source: str, run: Path) -> Store:
    """Open a store, or prepare another source into `run`/store, where `--resume` finds it again.

    Raises:
        MedLIPError: another source, and several processes that would each prepare it.
    """
    return _told(source, prepared_to_train_on(source, run / "store", process_count(), "--data "))


@contextmanager
def evaluation_store(source: str, shares: Mapping[str, float] = ALL_TEST) -> Iterator[Store]:
    """Open a store, or prepare another source into a temporary folder; studies without a split of their own are `test`.

    Args:
        source: as the user gave it.
        shares: of such studies by split, instead.
    """
    with TemporaryDirectory(prefix="medlip-") as folder:
        yield _told(source, prepared(open_source(source), Path(folder) / "store", shares=shares))


def _told(source: str, given: Given) -> Store:
    """Return a store, once it is said what was left out of it."""
    if given.left_out:
        print(f"note: {given.left_out}", file=sys.stderr)
    for note in given.notes:
        warn(note, MedLIPWarning, stacklevel=2)
    warn_skipped(f"images or studies of {source} were", given.skipped)
    return given.store
