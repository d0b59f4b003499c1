"""Results as text for people, and plain data as JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from medlip.about import DISCLAIMER
from medlip.tables import aligned, number

if TYPE_CHECKING:
    from medlip.evaluation.results import Result

SHOWN = 8


def to_json(document: Any, indent: int | None = 2) -> str:
    """Write plain data as JSON that any parser takes: NaN and infinity become null, paths become text."""
    return json.dumps(_plain(document), indent=indent, ensure_ascii=False, allow_nan=False)


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
    above = entry["places_above"]
    rows = [
        [finding["pathology"], *_judged(finding, entry), _places(finding["anatomies"], above)]
        for finding in entry["findings"][:SHOWN]
    ] + [[question["text"], *_judged(question, entry), "(asked)"] for question in entry["asked"]]
    warned = [f"WARNING: {describe_doubts(entry['doubts'])}"] if entry["doubts"] else []
    notes = [f"note: {note}" for note in entry["notes"]]
    files = [f"overlay of {text}: {file}" for text, file in entry.get("overlays", {}).items()]
    files += [f"maps: {entry['maps']}"] if "maps" in entry else []
    model = "read by " + " ".join(filter(None, (entry["model"][key] for key in ("name", "version", "hash"))))
    basis = describe_basis(entry["calibrated"])
    view = "" if entry["read_as"] == "frontal" else f" (view: {entry['read_as']})"
    return "\n".join([entry["image"] + view, *warned, *notes, aligned(rows), *files, basis, model, DISCLAIMER])


def describe_doubts(doubts: Sequence[str]) -> str:
    """Say why an image is not to be relied on."""
    return f"what is read here may mean little: {'; '.join(doubts)}"


def describe_basis(calibrated: Mapping[str, Any] | None) -> str:
    """Say what the probabilities and thresholds of a reading rest on; `calibrated` as in its plain data."""
    if calibrated is None:
        return "not calibrated: probabilities are the model's scores, and every threshold is 0.5 (see `medlip calibrate`)"
    images, data, truth, at = (calibrated[key] for key in ("images", "data", "truth", "at"))
    return f"calibrated on {images:,} images of {data} by their {truth}, thresholds for {at}"


def beside(probability: float, threshold: float) -> str:
    """Write on which side of its threshold a probability lies."""
    return f"{'>=' if probability >= threshold else '<'} {threshold:.3f}"


def _judged(found: Mapping[str, Any], entry: Mapping[str, Any]) -> list[object]:
    doubt = " (not calibrated)" if entry["calibrated"] and not found["calibrated"] else ""
    return [found["probability"], beside(found["probability"], found["threshold"]) + doubt]


def _places(anatomies: Sequence[Mapping[str, Any]], above: float | None) -> str:
    """Return a finding's anatomies with their probabilities; "" from a method that doesn't tell them (`above` is None)."""
    if above is None:
        return ""
    places = ", ".join(f"{place['anatomy']} {number(place['probability'])}" for place in anatomies)
    return places or f"no place at {above:g} or above"


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
