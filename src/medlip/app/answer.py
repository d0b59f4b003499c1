"""What a command answers, and how it says what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from warnings import warn

from medlip.errors import MedLIPWarning

NAMED = 10  # of what was left out; the rest is counted


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command: one JSON document for machines, or text for people; never both.

    Attributes:
        document: plain data, what `--json` prints.
        text: the same for a person; "" where it was printed already.
        notes: what to know when reading it; one that begins with "WARNING" ends the command with exit code 3.
        failure: why there is no usable result, though there is a document; the exit code is then 1.
    """

    document: object
    text: str
    notes: Sequence[str] = ()
    failure: str = ""


def warn_skipped(what: str, reasons: Sequence[str], total: int | None = None) -> None:
    """Say how many things were skipped and name the first ones with their reasons; the command then ends with exit code 3.

    Args:
        what: they are, such as "nih:DIR: images or studies".
        reasons: "name: reason" of each, or of the first ones.
        total: how many they are, if not all are given.
    """
    warn_named(f"{what} skipped", reasons, total)


def warn_named(what: str, reasons: Sequence[str], total: int | None = None) -> None:
    """Say how many things are so and name the first ones; the command then ends with exit code 3.

    Args:
        what: they are, such as "images are not frontal chest X-rays".
        reasons: "name: reason" of each, or of the first ones.
        total: how many they are, if not all are given.
    """
    total = len(reasons) if total is None else total
    if not total:
        return
    named = [f"  {reason}" for reason in reasons[:NAMED]]
    more = [f"  and {total - len(named):,} more"] if total > len(named) else []
    lines = [f"{total:,} {what}:", *named, *more]
    warn("\n".join(lines), MedLIPWarning, stacklevel=2)
