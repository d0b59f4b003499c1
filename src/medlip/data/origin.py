"""What a study was made from, in a few characters: a table, a map or a file that was corrected since shows by it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np


def origin_of(item: Any) -> str:
    """Return two hashes, "CONTENT:FILES": of what a source's item says, and of the files that it names.

    A file counts with its name, size and time of change, so that a data set may be moved. FILES is "" where one is missing.
    """
    content, files = hashlib.sha256(), hashlib.sha256()
    paths: list[Path] = []
    _add(content, item, paths)
    missing = False
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            missing = True
            break
        files.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns};".encode())
    return f"{content.hexdigest()[:16]}:{'' if missing else files.hexdigest()[:16]}"


def with_reading(origin: str, read: Any) -> str:
    """Return an origin and the hash of what was read from the report: "CONTENT:FILES:READ"."""
    return f"{origin}:{origin_of(read).partition(':')[0]}"


def same_origin(before: str, now: str) -> bool:
    """Whether nothing changed; what was made from files that are gone now is as it was, and so is what is not known."""
    (content, files, read), (content_now, files_now, read_now) = ((*text.split(":"), "")[:3] for text in (before, now))
    return content == content_now and files_now in ("", files) and ("" in (read, read_now) or read == read_now)


def _add(digest: Any, value: Any, paths: list[Path]) -> None:
    """Add a value to a digest, so that equal ones give the same in any process, and gather its paths."""
    if isinstance(value, Path):
        if value.is_dir():
            return
        paths.append(value)
        value = value.name
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        entries = sorted(value.items(), key=lambda entry: str(entry[0]))
        value = [part for entry in entries for part in entry]
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        digest.update(f"list {len(value)};".encode())
        for part in value:
            _add(digest, part, paths)
    elif value is None or isinstance(value, (str, bytes, int, float)):
        digest.update(f"{type(value).__name__} {value!r};".encode())
    else:
        digest.update(pickle.dumps(value))
