"""What MedLIP raises when something the user can change is wrong, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class MedLIPError(Exception):
    """Bad input or a bad setting.

    The message says what is wrong, where, and what to do about it; the command line prints it as its last line, without a
    traceback.
    """


class MedLIPWarning(UserWarning):
    """Something was left out, or limits what the result is worth, but the work went on."""


def name_some(names: Sequence[str], most: int = 12) -> str:
    """Return the first of many names, for a message: "a, b, …"."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the closest of the known names, with a space before it; "" where none is close."""
    closest = get_close_matches(name, known, n=1)
    return f" Did you mean {closest[0]!r}?" if closest else ""


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return where the first thing lies that pydantic found wrong, such as "training.lr", and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
