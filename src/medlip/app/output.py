"""Results as text for people, and plain data as JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from medlip.about import DISCLAIMER
from medlip.tables import aligned

if TYPE_CHECKING:
    from medlip.evaluation.results import Result

SHOWN = 8


def to_json(document: Any) -> str:
    """Write plain data as JSON that any parser takes: NaN and infinity become null, paths become text."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def describe_results(result: Result) -> str:
    """Return the result of an evaluation as text for a person."""
    from medlip.evaluation.tables import result_tables
    from medlip.tables import write_tables

    parts = [note for note in result.notes if note.startswith("WARNING")]
    parts.append(f"{result.n_images:,} images of the split {result.split}, {result.n_patients:,} patients")
    return "\n\n".join([*parts, write_tables(result_tables(result))])


def describe_reading(entry: Mapping[str, Any]) -> str:
    """Return what was read from one image, as `medlip predict` has it, as text for a person."""
    if "error" in entry:
        return f"{entry['image']}\n  not read: {entry['error']}"
    rows = [
        [finding["pathology"], finding["probability"], ", ".join(place["anatomy"] for place in finding["anatomies"][:2])]
        for finding in entry["findings"][:SHOWN]
    ] + [[question["text"], question["probability"], "(asked)"] for question in entry["asked"]]
    return f"{entry['image']}\n{aligned(rows)}\n{DISCLAIMER}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
