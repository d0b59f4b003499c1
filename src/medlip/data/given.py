"""Data as they were given: a prepared store, or another source that is prepared on the way."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from medlip.concepts import Vocabulary
from medlip.data.prepare import SHARES, prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.writer import SKIPPED
from medlip.errors import MedLIPError


def prepared(
    opened: Store | Source,
    folder: Path,
    *,
    shares: Mapping[str, float] = SHARES,
    vocabulary: Vocabulary | None = None,
) -> tuple[Store, list[str]]:
    """Return a store, prepared into `folder` unless it is one already, and what was skipped: "study image: reason"."""
    if isinstance(opened, Store):
        return opened, []
    reasons: list[str] = []
    if prepare([opened], folder, shares=shares, vocabulary=vocabulary)["skipped"]:
        with (folder / SKIPPED).open(encoding="utf-8", newline="") as file:
            reasons = [f"{row['study']} {row['image']}: {row['reason']}" for row in csv.DictReader(file)]
    return Store.open(folder), reasons


def prepared_to_train_on(
    source: str, folder: Path, processes: int, option: str, vocabulary: Vocabulary | None = None
) -> tuple[Store, list[str]]:
    """Return a store to train on, as `prepared` does.

    Args:
        source: as the user gave it.
        folder: where another source is prepared.
        processes: that train together.
        option: by which it was given, such as "--data ".
        vocabulary: of the facts; None for the default.

    Raises:
        MedLIPError: another source, and several processes that would each prepare it.
    """
    opened = open_source(source)
    if processes > 1 and not isinstance(opened, Store):
        raise MedLIPError(
            f"{option}{source}: this is one of {processes} processes, and they share a store. Prepare it before: "
            f"medlip prepare {source} --out STORE, then {option}STORE."
        )
    return prepared(opened, folder, vocabulary=vocabulary)
