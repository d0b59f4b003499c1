"""Files that are whole or not there, and the ones that a pattern names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path

from medlip.errors import MedLIPError

STDIN = "-"
"""What stands for stdin where a file is asked for."""


def matches(pattern: str) -> list[Path]:
    """Return the files and folders that a path or pattern names, in order: a path that there is stands for itself."""
    # Path.glob takes no absolute pattern
    return [Path(pattern)] if Path(pattern).exists() else [Path(found) for found in sorted(glob(pattern, recursive=True))]  # noqa: PTH207


def share_with_group(path: Path) -> None:
    """Let the group that a file's folder belongs to read the file, as far as this user may decide that."""
    with suppress(OSError):
        os.chown(path, -1, path.parent.stat().st_gid)
    with suppress(OSError):
        path.chmod(path.stat().st_mode | stat.S_IRGRP)


def write_atomic(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all: at every moment it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file could not be written inside, why, and what to do.

    Raises:
        MedLIPError: the disk is full, the folder may not be written to, or the like.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise MedLIPError(f"{path}: can't be written ({why}). Check the free space and the folder's permissions.") from error
