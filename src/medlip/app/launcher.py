"""The processes of a launcher such as `torchrun`, of which this one may be a part; torch need not be there to ask."""

from __future__ import annotations

import os


def process_count() -> int:
    """Return how many processes run this command together; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this process prints what the command has to say."""
    return process_count() == 1 or _number("RANK", 0) == 0


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
