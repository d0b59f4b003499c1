"""Data as they were given: a prepared store, or another source that is prepared on the way."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medlip.concepts import Vocabulary
from medlip.data.prepare import BY_RULE, SHARES, prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.writer import SKIPPED
from medlip.errors import MedLIPError


class Given(NamedTuple):
    """Data to work on.

    Attributes:
        store: the data.
        skipped: what could not be used of a source prepared on the way, as "study image: reason".
        notes: what to know of such a source, for people.
        left_out: says how many of its images are no frontal views and were left out, "" for none.
    """

    store: Store
    skipped: Sequence[str] = ()
    notes: Sequence[str] = ()
    left_out: str = ""


def prepared(
    opened: Store | Source,
    folder: Path,
    *,
    shares: Mapping[str, float] = SHARES,
    vocabulary: Vocabulary | None = None,
) -> Given:
    """Return a store, prepared into `folder` unless it is one already, and what was left out of it."""
    if isinstance(opened, Store):
        return Given(opened)
    summary = prepare([opened], folder, shares=shares, vocabulary=vocabulary)
    reasons: list[str] = []
    if summary["skipped"]:
        with (folder / SKIPPED).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if BY_RULE not in row["reason"]]
            reasons = [f"{row['study']} {row['image']}: {row['reason']}" for row in rows]
    left_out = (
        f"{summary['left_out']:,} of {summary['found']:,} images of {opened.name} show no frontal view and are left out. To "
        "read them, too, prepare a store with `medlip prepare --views`, and give that"
    )
    return Given(Store.open(folder), reasons, summary["notes"], left_out if summary["left_out"] else "")


def prepared_to_train_on(
    source: str, folder: Path, processes: int, option: str, vocabulary: Vocabulary | None = None
) -> Given:
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
