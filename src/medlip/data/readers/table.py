"""Any data set that fits into one CSV file, with a map of its columns where they are called otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from medlip.data.sources import PRESENCE, Source, canonical, canonical_names, combine, labelled, read_table
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.reports import Presence

COLUMNS = ("image", "study", "patient", "report", "split", "view")
SPLITS = {
    "": "", "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
KEYS = {"table": str, "images": str, "columns": dict, "labels": list, "classes": dict}
_KINDS = {str: "a path", dict: "a map", list: "a list"}


def table(path: str | Path) -> Source:
    """Read a CSV file, or the YAML file of a map: `table` (the CSV file), `images` (their folder), `columns` and labels.

    Columns are image, study, patient, report, split and view; only the image is required. `columns` says what they are
    called; `labels` lists those with 1, 0, -1 (uncertain) or blank; `classes` makes labels of a column of words:
    {pneumonia: {diagnosis: {viral: 1, bacterial: 1, normal: 0}}} is present, absent, and unknown for any other word. Paths
    are relative to the file. Rows of one study are its views; without a patient every study is one of its own.

    Raises:
        MedLIPError: a file is missing or broken, a column that the map names is not there, or a split or word is
            called otherwise.
    """
    path = Path(path)
    layout = _layout(path)
    place = path.parent / layout.get("table", path.name)
    images = path.parent / layout.get("images", ".")
    called = {name: name for name in COLUMNS} | layout.get("columns", {})
    labels, classes = layout.get("labels", []), layout.get("classes", {})
    words = [column for columns in classes.values() for column in columns]
    rows: dict[str, list[Mapping[str, str]]] = {}
    for row in read_table(place, (called["image"], *layout.get("columns", {}).values(), *labels, *words)):
        plain = {name: row[name] for name in (*labels, *words)}
        plain |= {name: row.get(column, "") for name, column in called.items()}
        rows.setdefault(plain["study"] or plain["image"], []).append(plain)
    for column, listed in ((column, listed) for columns in classes.values() for column, listed in columns.items()):
        _require_words(listed, column, {row[column] for found in rows.values() for row in found}, place)
    name, names = path.stem, canonical_names(labels)
    return Source(
        name,
        {
            study: Study(
                id=study,
                patient=f"{name}:{found[0]['patient'] or study}",
                views=tuple(View(images / row["image"], _position(row["view"])) for row in found),
                report=found[0]["report"],
                labels=combine([*labelled(found[0], names).items(), *_worded(found[0], classes)]),
                split=_split(found[0]["split"], place),
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
    for key, value in layout.items():
        if not isinstance(value, KEYS[key]):
            raise MedLIPError(f"{path}: {key} is {value!r}. Give {_KINDS[KEYS[key]]}.")
    for name, words in layout.get("classes", {}).items():
        if not isinstance(words, dict) or not all(
            isinstance(listed, dict) and all(str(value) in PRESENCE for value in listed.values())
            for listed in words.values()
        ):
            raise MedLIPError(
                f"{path}: classes: {name} is {words!r}. Give a column and its words: {{diagnosis: {{viral: 1, normal: 0}}}}."
            )
    unknown = set(layout.get("columns", {})) - set(COLUMNS)
    if unknown:
        raise MedLIPError(f"{path}: columns names {', '.join(sorted(unknown))}; it may name {', '.join(COLUMNS)}.")
    return layout


def _require_words(listed: Iterable[object], column: str, found: set[str], where: Path) -> None:
    """Raise for a word that no row has: a misspelt one would leave its images out."""
    unheard = [str(word) for word in listed if str(word) not in found]
    if unheard:
        lacking, present = (", ".join(map(repr, names)) for names in (unheard, sorted(found)[:20]))
        raise MedLIPError(f"{where}: the column {column!r} has no {lacking}, only {present}. Correct `classes`.")


def _worded(
    row: Mapping[str, str], classes: Mapping[str, Mapping[str, Mapping[object, object]]]
) -> Iterator[tuple[str, Presence]]:
    for name, columns in classes.items():
        for column, words in columns.items():
            values = {str(word): PRESENCE[str(value)] for word, value in words.items()}
            if row[column] in values:
                yield canonical(name), values[row[column]]


def _split(text: str, where: Path) -> str:
    if text.lower() not in SPLITS:
        raise MedLIPError(f"{where}: there is a split {text!r}. Call splits train, val and test, or leave them blank.")
    return SPLITS[text.lower()]


def _position(view: str) -> str:
    """Return PA, AP or lateral; what else a table calls a view is taken for unknown."""
    text = view.strip().upper()
    if text in ("LATERAL", "LAT", "L", "LL"):
        return "lateral"
    return text if text in ("PA", "AP") else ""
