"""Any data set that fits into one CSV file, with a map of its columns where they are called otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medlip.data.sources import Source, canonical_names, labelled, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError

COLUMNS = ("image", "study", "patient", "report", "split", "view")
KEYS = ("table", "images", "columns", "labels")


def table(path: str | Path) -> Source:
    """Read a CSV file, or the YAML file of a map: `table` (the CSV file), `images` (their folder), `columns`, `labels`.

    Columns are image, study, patient, report, split and view; only the image is required. `columns` says what they are
    called; `labels` lists those with 1, 0, -1 (uncertain) or blank. Paths are relative to the file. Rows of one study are
    its views; without a patient every study is one of its own.

    Raises:
        MedLIPError: a file is missing or broken, or a column that the map names is not there.
    """
    path = Path(path)
    layout = _layout(path)
    place = path.parent / layout.get("table", path.name)
    images = path.parent / layout.get("images", ".")
    called = {name: name for name in COLUMNS} | layout.get("columns", {})
    labels = layout.get("labels", [])
    rows: dict[str, list[Mapping[str, str]]] = {}
    for row in read_table(place, (called["image"], *layout.get("columns", {}).values(), *labels)):
        plain = {name: row.get(column, "") for name, column in called.items()} | {name: row[name] for name in labels}
        rows.setdefault(plain["study"] or plain["image"], []).append(plain)
    name, names = path.stem, canonical_names(labels)
    return Source(
        name,
        {
            study: Study(
                id=study,
                patient=f"{name}:{found[0]['patient'] or study}",
                views=tuple(View(images / row["image"], _position(row["view"])) for row in found),
                report=found[0]["report"],
                labels=labelled(found[0], names),
                split=found[0]["split"],
            )
            for study, found in rows.items()
        },
    )


def _layout(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".yaml", ".yml"):
        return {}
    try:
        layout = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"{path}: not a readable YAML file ({error}). Correct it.") from error
    if not isinstance(layout, dict) or "table" not in layout or set(layout) - set(KEYS):
        raise MedLIPError(f"{path}: give a map of {', '.join(KEYS)}; table is required.")
    unknown = set(layout.get("columns", {})) - set(COLUMNS)
    if unknown:
        raise MedLIPError(f"{path}: columns names {', '.join(sorted(unknown))}; it may name {', '.join(COLUMNS)}.")
    return layout


def _position(view: str) -> str:
    """Return PA, AP or lateral; what else a table calls a view is taken for unknown."""
    text = view.strip().upper()
    if text in ("LATERAL", "LAT", "L", "LL"):
        return "lateral"
    return text if text in ("PA", "AP") else ""
