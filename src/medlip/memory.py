"""How memory is told: in mebibytes and gibibytes, and the most that this process has held."""

from __future__ import annotations

import resource
import sys

MIB = 1 << 20
"""Bytes in a mebibyte."""
GIB = 1 << 30
"""Bytes in a gibibyte."""


def peak_resident() -> int:
    """Return the most bytes of memory that this process has held at once so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
