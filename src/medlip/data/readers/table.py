"""Any data set that fits into one table, with a map of its columns where they are called otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import yaml

from medlip.concepts import default_vocabulary
from medlip.data.image_files import SUFFIXES, ImageFile, ImageFiles
from medlip.data.labels import PRESENCE, canonical, combine, read_presence
from medlip.data.sources import LeftOut, Source
from medlip.data.study import Study, View
from medlip.data.views import view_of
from medlip.delimited import Row, TableReader, open_table, plain_id, require_columns
from medlip.errors import MedLIPError
from medlip.reports import Presence
from medlip.reports.compose import DESCRIBING, ReportColumns

COLUMNS = ("image", "study", "patient", "report", "split", "view")
SPLITS = {
    "": "", "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_DICT, _LIST, _PATH = (dict,), (list, dict), (str,)
KEYS = {"table": _PATH, "images": _PATH, "columns": _DICT, "labels": _LIST, "classes": _DICT, "values": _DICT}
_KINDS = {_PATH: "a path", _DICT: "a map", _LIST: "a list"}
HOW_TO_MAP = (
    "If yours are called otherwise, write a YAML file and give that: {table: TABLE.csv, images: FOLDER, "
    "columns: {image: YOURS, study: YOURS, patient: YOURS, report: YOURS, split: YOURS, view: YOURS}, labels: [YOURS]}; "
    "leave out what there is not."
)


def table(path: str | Path) -> Source:
    """Read a table (CSV, TSV …), or the YAML file of a map: `table` (its file), `images` (their folder), `columns`, labels.

    Columns are image, study, patient, report, split and view; only the image is required. `columns` says what they are
    called, of the report one or several ([findings, impression]). `labels` lists columns of 1, 0, -1 (uncertain) or blank,
    or of words such as yes and no; `values` explains other words ({ja: 1, nein: 0}). `classes` makes labels of a column of
    words: {pneumonia: {diagnosis: {viral: 1, bacterial: 1, normal: 0}}} is present, absent, and unknown for any other word.
    Paths are relative to the file. Rows of one patient's study are its views; without a patient every study is one of its
    own.

    What rows of a study leave blank, others fill in. Labels that differ are those of each image. A study whose rows
    contradict each other (two reports, two splits) is left out and named, like a row that doesn't fit the header.

    Raises:
        MedLIPError: a file is missing or broken, a column that the map names is not there, or a split or word is
            called otherwise.
    """
    path = Path(path)
    layout = _read_layout(path)
    with open_table(path.parent / layout.table) as opened:
        columns = _Columns.find(layout, opened)
        rows = list(opened)
    return _Reader(path.stem, path.parent / layout.images, layout, columns, opened.name).read(rows)


# --- the map ---


@dataclass(frozen=True, slots=True)
class _Layout:
    table: str
    images: str = "."
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)  # the label's name by column
    classes: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The columns that `classes` reads."""
        return [column for columns in self.classes.values() for column in columns]


def _read_layout(path: Path) -> _Layout:
    if path.suffix not in (".yaml", ".yml"):
        return _Layout(path.name)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # all is text: "no" is a word here
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"{path}: not a readable YAML file ({error}). Correct it.") from error
    if not isinstance(content, dict) or "table" not in content or set(content) - set(KEYS):
        raise MedLIPError(f"{path}: give a map of {', '.join(KEYS)}; table is required.")
    for key, value in content.items():
        if not isinstance(value, KEYS[key]):
            raise MedLIPError(f"{path}: {key} is {value!r}. Give {_KINDS[KEYS[key]]}.")
    for name, words in content.get("classes", {}).items():
        if not isinstance(words, dict) or not all(
            isinstance(listed, dict) and all(value in PRESENCE for value in listed.values()) for listed in words.values()
        ):
            raise MedLIPError(
                f"{path}: classes: {name} is {words!r}. Give a column and its words: {{diagnosis: {{viral: 1, normal: 0}}}}."
            )
    wrong = [value for value in content.get("values", {}).values() if value not in PRESENCE]
    if wrong:
        raise MedLIPError(f"{path}: values: {wrong[0]!r} is neither 1, 0 nor -1. Give one of them for each word.")
    unknown = set(content.get("columns", {})) - set(COLUMNS)
    if unknown:
        raise MedLIPError(f"{path}: columns names {', '.join(sorted(unknown))}; it may name {', '.join(COLUMNS)}.")
    labels = content.get("labels", {})
    return _Layout(**content | {"labels": labels if isinstance(labels, dict) else {label: label for label in labels}})


@dataclass(frozen=True, slots=True)
class _Columns:
    """The table's columns, by what they hold."""

    names: Mapping[str, str]
    report: ReportColumns | None

    @classmethod
    def find(cls, layout: _Layout, opened: TableReader) -> _Columns:
        mapped = {key: column for key, column in layout.columns.items() if isinstance(column, str)}
        listed = [column for columns in layout.columns.values() if not isinstance(columns, str) for column in columns]
        names = {name: name for name in COLUMNS} | mapped
        require_columns(opened, (names["image"], *mapped.values(), *listed, *layout.labels, *layout.words), HOW_TO_MAP)
        report = layout.columns.get("report", ())
        text = [report] if isinstance(report, str) else list(report)
        reads = text or {"report", *DESCRIBING} & set(map(str.lower, opened.header))
        return cls(names, ReportColumns.choose(opened.header, opened.name, text) if reads else None)


# --- rows to studies ---


class _Image(NamedTuple):
    """What one row says."""

    line: int
    file: str
    study: str
    patient: str
    report: str
    split: str
    view: str
    labels: Mapping[str, Presence]


class _ContradictionError(MedLIPError):
    """Rows of one study can't all be true."""


class _Reader:
    """Makes studies of the rows of one table, and keeps what is left out and what is odd."""

    def __init__(self, name: str, images: Path, layout: _Layout, columns: _Columns, where: str) -> None:
        self.name, self.images, self.layout, self.columns, self.where = name, images, layout, columns, where
        self.left_out: list[LeftOut] = []
        self.odd: Counter[str] = Counter()
        self._index: ImageFiles | None = None

    def read(self, rows: Sequence[Row]) -> Source:
        """Return the studies."""
        self._require_words(rows)
        images = [image for row in rows if (image := self._image(row))]
        groups = self._grouped(images)
        people = self._people(images)
        shared = {study for study, count in Counter(study for _, study in groups).items() if count > 1}
        studies: dict[str, Study] = {}
        stand_ins = 0
        for (patient, study), found in groups.items():
            key = f"{patient}/{study}" if shared and patient else study
            try:
                studies[key] = self._study(key, people.get(patient, patient) or study, found)
            except _ContradictionError as error:
                self.left_out += [LeftOut(key, image.file, str(error)) for image in found]
                continue
            stand_ins += not patient
        notes = [f"{what} ({count} rows)" for what, count in self.odd.items()] + self._unheard_labels()
        return Source(
            self.name,
            studies,
            left_out=tuple(self.left_out),
            notes=tuple(f"{self.where}: {note}" for note in notes),
            stand_ins=stand_ins,
        )

    def _image(self, row: Row) -> _Image | None:
        cells = {name: row.cells.get(column, "") for name, column in self.columns.names.items()}
        study = plain_id(cells["study"]) or cells["image"] or f"line {row.line}"
        problem = row.problem if row.problem else "" if cells["image"] else "names no image"
        if problem:
            self.left_out.append(LeftOut(study, cells["image"], f"line {row.line} of {self.where}: {problem}"))
            return None
        if row.note:
            self.odd[row.note] += 1
        report = self.columns.report.compose(row.cells) if self.columns.report else ""
        return _Image(
            row.line, cells["image"], study, plain_id(cells["patient"]), report, self._split(cells["split"]),
            view_of(cells["view"]), self._labels(row),
        )  # fmt: skip

    def _labels(self, row: Row) -> Mapping[str, Presence]:
        found: list[tuple[str, Presence]] = []
        for column, label in self.layout.labels.items():
            cell = row.cells.get(column, "")
            try:
                presence = read_presence(self.layout.values.get(cell, cell))
            except MedLIPError as error:
                self.odd[f"{column}: {error}; taken for unknown. Say what it means: values: {{{cell}: 1}}"] += 1
                continue
            if presence:
                found.append((canonical(label), presence))
        for name, columns in self.layout.classes.items():
            for column, words in columns.items():
                value = words.get(row.cells.get(column, ""))
                if value is not None:
                    found.append((canonical(name), PRESENCE[value]))
        return combine(found)

    def _split(self, text: str) -> str:
        if text.lower() not in SPLITS:
            raise MedLIPError(
                f"{self.where}: there is a split {text!r}. Call splits train, val and test, or leave them blank."
            )
        return SPLITS[text.lower()]

    def _grouped(self, images: Iterable[_Image]) -> dict[tuple[str, str], list[_Image]]:
        """Return the rows of each (patient, study); a row that names no patient belongs to the only one of its study."""
        images = list(images)
        patients: dict[str, set[str]] = {}
        for image in images:
            if image.patient:
                patients.setdefault(image.study, set()).add(image.patient)
        groups: dict[tuple[str, str], list[_Image]] = {}
        for image in images:
            only = patients.get(image.study, set())
            patient = image.patient or (next(iter(only)) if len(only) == 1 else "")
            groups.setdefault((patient, image.study), []).append(image)
        return groups

    def _people(self, images: Iterable[_Image]) -> dict[str, str]:
        """Return one spelling for patients who differ by leading zeros alone: apart, one person could be in two splits."""
        spellings: dict[str, dict[str, int]] = {}
        for image in images:
            if image.patient.isdigit():
                spellings.setdefault(image.patient.lstrip("0"), {}).setdefault(image.patient, image.line)
        several = [list(spelled) for spelled in spellings.values() if len(spelled) > 1]
        for spelled in several:
            what = (
                f"patients {' and '.join(map(repr, spelled))} are taken for one person: they differ by leading zeros alone"
            )
            self.odd[what] += sum(image.patient in spelled for image in images)
        return {spelling: spelled[0] for spelled in several for spelling in spelled}

    def _study(self, key: str, patient: str, rows: Sequence[_Image]) -> Study:
        report = _agreed([(row.report, row.line) for row in rows], "reports")
        split = _agreed([(row.split, row.line) for row in rows], "splits")
        by_file: dict[str, list[_Image]] = {}
        for row in rows:
            by_file.setdefault(row.file, []).append(row)
        if len(by_file) < len(rows):
            self.odd["an image is listed more than once for its study, and taken once"] += len(rows) - len(by_file)
        labels = {file: _agreed_labels(found) for file, found in by_file.items()}
        shared = _shared_labels(labels.values())
        views = []
        for file, found in by_file.items():
            view = _agreed([(row.view, row.line) for row in found], "views")
            image = self._file(file)
            own = labels[file] if shared is None else None
            views.append(View(image.path, view, labels=own, problem=image.problem))
        return Study(key, f"{self.name}:{patient}", tuple(views), report, labels=shared or {}, split=split)

    def _file(self, name: str) -> ImageFile:
        name = name.replace("\\", "/")
        path = self.images / name
        if path.suffix.lower() in SUFFIXES or path.is_file():
            return ImageFile(path)
        self._index = self._index or ImageFiles(self.images)  # an identifier, not a file
        return self._index.find(Path(name).name, path)

    def _require_words(self, rows: Sequence[Row]) -> None:
        """Raise for a word of `classes` that no row has: a misspelt one would leave its images out."""
        for columns in self.layout.classes.values():
            for column, words in columns.items():
                found = {row.cells.get(column, "") for row in rows}
                unheard = [word for word in words if word not in found]
                if unheard:
                    lacking, present = (", ".join(map(repr, names)) for names in (unheard, sorted(found)[:20]))
                    raise MedLIPError(
                        f"{self.where}: the column {column!r} has no {lacking}, only {present}. Correct `classes`."
                    )

    def _unheard_labels(self) -> list[str]:
        vocabulary = default_vocabulary()
        notes = []
        for label in {*self.layout.labels.values(), *self.layout.classes}:
            if vocabulary.find_pathology(label) is None:
                near = get_close_matches(label.lower(), [pathology.name for pathology in vocabulary.pathologies], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                notes.append(f"the label {label!r} is not in the vocabulary and keeps its own name{hint}")
        return sorted(notes)


def _agreed(values: Iterable[tuple[str, int]], what: str) -> str:
    """Return the one value that rows give, "" for none."""
    said: dict[str, int] = {}
    for value, line in values:
        if value:
            said.setdefault(" ".join(value.split()), line)
    if len(said) > 1:
        lines = " and ".join(map(str, list(said.values())[:2]))
        raise _ContradictionError(
            f"the rows of its study give different {what} (lines {lines}). Correct them, or give studies of their own."
        )
    return next((value for value, _ in values if value), "")


def _shared_labels(images: Iterable[Mapping[str, Presence]]) -> Mapping[str, Presence] | None:
    """Return the labels of a study whose images state the same ones, or only one of which states any; else None."""
    images = list(images)
    stated = [labels for labels in images if labels]
    if len(stated) < 2 or all(labels == stated[0] for labels in images):
        return stated[0] if stated else {}
    return None


def _agreed_labels(rows: Sequence[_Image]) -> Mapping[str, Presence]:
    agreed: dict[str, Presence] = {}
    for row in rows:
        for name, presence in row.labels.items():
            if agreed.setdefault(name, presence) != presence:
                raise _ContradictionError(f"the rows of its image say {name} is {agreed[name]} and {presence}. Correct one.")
    return agreed
