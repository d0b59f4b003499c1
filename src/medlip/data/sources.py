"""Where studies come from: a data set in its own layout, phantoms, or a prepared store, each named by one text."""

from __future__ import annotations

import csv
import gzip
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict

from medlip.concepts import default_vocabulary
from medlip.data.study import Study
from medlip.errors import MedLIPError
from medlip.reports import Presence

if TYPE_CHECKING:
    from medlip.data.store import Store


class DataSet(BaseModel):
    """What a reader reads: the data set's title, where to get it, its licence, and what its folder must hold.

    `optional` are patterns of files that a reader uses where they are there; "a|b" is either of two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    reader: str
    where: str
    licence: str
    layout: tuple[str, ...]
    optional: tuple[str, ...] = ()


@cache
def data_sets() -> Mapping[str, DataSet]:
    """Return the data sets that `open_source` reads as "NAME:DIR", by name."""
    content = yaml.safe_load((files("medlip.data.readers") / "sets.yaml").read_text())
    return {name: DataSet.model_validate(entry) for name, entry in content.items()}


def _itself(study: Any) -> Study:
    assert isinstance(study, Study)
    return study


@dataclass(frozen=True, slots=True)
class Source:
    """Studies of one data set, made one at a time and, where that is work, in any process.

    Attributes:
        name: the data set's.
        items: what each study is made from, by an id that is unique in the data set.
        read: makes the study of one item; picklable.
    """

    name: str
    items: Mapping[str, Any]
    read: Callable[[Any], Study] = _itself

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Study]:
        return map(self.read, self.items.values())


def open_source(text: str | Path) -> Source | Store:
    """Open "NAME:DIR" (a data set in its own layout), "phantom:N" (or "phantom:N@SEED"), or a prepared store's path or URL.

    Raises:
        MedLIPError: no such source, or its folder is empty, missing or laid out differently; says what was expected.
    """
    text = str(text)
    name, colon, place = text.partition(":")
    if name == "phantom" and colon:
        return _phantoms(place)
    if name in data_sets() and colon:
        module, function = data_sets()[name].reader.split(":")
        source: Source = getattr(import_module(module), function)(_file(place) if name == "csv" else _folder(place, text))
        if not source.items:
            raise MedLIPError(f"{text}: laid out well, but it names no study. Complete the download.")
        return source
    if "://" in text or (Path(text) / "manifest.json").is_file():
        from medlip.data.store import Store

        return Store.open(text)
    known = ", ".join(["phantom:N", *(f"{known}:{'FILE' if known == 'csv' else 'DIR'}" for known in data_sets())])
    if colon and name.isidentifier():
        found = f"there is no data set {name!r}"
    elif Path(text).exists():
        found = "it holds no manifest.json, so it is no prepared store"
    else:
        found = "there is no such folder"
    raise MedLIPError(f"{text}: {found}. Give a prepared store's folder or one of {known}.")


def _folder(place: str, text: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise MedLIPError(f"{text}: there is no folder {place!r}. Give the folder that holds the data set.")
    if next(folder.iterdir(), None) is None:
        raise MedLIPError(f"{text}: the folder is empty. Put the data set's files there.")
    return folder


def _file(place: str) -> Path:
    path = Path(place).expanduser()
    if not path.is_file():
        raise MedLIPError(f"csv:{place}: there is no such file. Give a CSV file, or the YAML file that maps one.")
    return path


def _phantoms(place: str) -> Source:
    count, _, seed = place.partition("@")
    if not count.isdigit() or int(count) < 1 or not (seed or "0").isdigit():
        raise MedLIPError(f"phantom:{place}: give a number of phantoms, such as phantom:2000, or phantom:2000@SEED.")
    phantom = import_module("medlip.phantom").phantom  # a floor above: opened by name

    keys = {f"{seed or 0}-{index}": index for index in range(int(count))}
    return Source("phantom", keys, partial(phantom, seed=int(seed or 0)))


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header (also gzipped): one dict a row, blanks as "".

    Raises:
        MedLIPError: the file is missing, empty, no text, or lacks one of `columns`; names those that it has.
    """
    csv.field_size_limit(sys.maxsize)  # run-length masks are long
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [name for name in columns if name not in header]
            if missing:
                lacking, present = (", ".join(map(repr, names)) for names in (missing, header))
                raise MedLIPError(
                    f"{path}: there is no column {lacking}; it has {present or 'none'}. "
                    "Give the data set's own file, with its header."
                )
            return [{name: (row[name] or "").strip() for name in header} for row in reader]
    except FileNotFoundError as error:
        raise MedLIPError(f"{path}: there is no such file. Complete the download.") from error
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise MedLIPError(f"{path}: not a readable CSV file ({error}). Get the file again.") from error


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return all files under a folder by their name without its suffix: data sets divide their images as they please."""
    return {path.stem: path for path in sorted(folder.rglob("*")) if path.is_file()}


def number(row: Mapping[str, str], column: str, where: Path) -> float:
    """Return a row's number.

    Raises:
        MedLIPError: there is none; names the file, the column and the row.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MedLIPError(f"{where}: {column}={row[column]!r} is no number, in the row {dict(row)}. Correct it.")
    return value


PRESENCE: Mapping[str, Presence] = {"1": "present", "0": "absent", "-1": "uncertain"}


def labelled(row: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Presence]:
    """Read labels from columns of 1, 0, -1 (uncertain) and blank (unknown), as CheXpert writes them.

    Args:
        row: of the table.
        names: the label's name by column, see `canonical_names`.
    """
    values = ((name, row[column].removesuffix(".0")) for column, name in names.items())
    return combine((name, PRESENCE[value]) for name, value in values if value in PRESENCE)


def canonical_names(labels: Iterable[str]) -> dict[str, str]:
    """Return each label's `canonical` name."""
    return {label: canonical(label) for label in labels}


def hold_back(patient: str) -> str:
    """Return "val" for a tenth of the patients of a training list, the same ones always, and "train" for the rest."""
    return "val" if int.from_bytes(sha256(patient.encode()).digest()[:8]) % 10 == 0 else "train"


@cache
def canonical(label: str) -> str:
    """Return the vocabulary's name for a data set's label, or the label in lower case where the vocabulary has none."""
    pathology = default_vocabulary().find_pathology(label)
    return pathology.name if pathology else label.strip().lower()


def combine(labels: Iterable[tuple[str, Presence]]) -> dict[str, Presence]:
    """Gather labels by name; where two labels of a data set share one name, present wins over uncertain over absent."""
    rank: dict[Presence, int] = {"absent": 0, "uncertain": 1, "present": 2}
    combined: dict[str, Presence] = {}
    for name, presence in labels:
        if name not in combined or rank[presence] > rank[combined[name]]:
            combined[name] = presence
    return combined
