"""Where studies come from: a data set in its own layout, phantoms, or a prepared store, each named by one text.

Readers of data sets stand in `medlip.data.readers` and its `sets.yaml`; other packages add theirs by the entry point group
`medlip.sources`, or by `register_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from medlip.data.study import Study
from medlip.errors import MedLIPError
from medlip.plugins import offers

if TYPE_CHECKING:
    from medlip.data.store import Store

ENTRY_POINTS = "medlip.sources"
PHANTOM = "medlip.phantom.source:phantom_source"  # a floor above: opened by name


class DataSet(BaseModel):
    """What a reader reads: the data set's title, where to get it, its licence, and what its folder must hold.

    `reader` is "module:function", which takes the place (a folder, or a file where `place` says so) and returns a `Source`.
    `optional` are patterns of files that a reader uses where they are there; "a|b" is either of two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    reader: str
    where: str = "your own"
    licence: str = "your own"
    layout: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    place: Literal["folder", "file"] = "folder"


def _itself(study: Any) -> Study:
    assert isinstance(study, Study)
    return study


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a reader found but can't use.

    Attributes:
        study: its id, or the row where that is unknown.
        image: its file, "" for the whole study.
        reason: what is wrong and what to do.
    """

    study: str
    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """Studies of one data set, made one at a time and, where that is work, in any process.

    Attributes:
        name: the data set's.
        items: what each study is made from, by an id that is unique in the data set.
        read: makes the study of one item; picklable.
        left_out: what the reader found but can't use.
        notes: what is odd about the data set though it can be used.
        stand_ins: how many studies have no known patient, each of which stands for a patient of its own; see
            `stand_ins_note`.
    """

    name: str
    items: Mapping[str, Any]
    read: Callable[[Any], Study] = _itself
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    stand_ins: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Study]:
        return map(self.read, self.items.values())


def stand_ins_note(source: str, stand_ins: int) -> str:
    """Return what a person must know of numbers over patients where the data don't tell them apart."""
    return (
        f"{source}: the data don't say whose {stand_ins:,} of the studies are, so each stands for a patient of its own: one "
        "person may be in several splits, and intervals over patients may be too narrow"
    )


_REGISTERED: dict[str, DataSet] = {}


def register_source(name: str, data_set: DataSet) -> None:
    """Make "NAME:PLACE" known to `open_source`, for as long as the process runs.

    Args:
        name: an identifier that no other data set has.
        data_set: names the reader as "module:function".

    Raises:
        MedLIPError: the name is taken, or can't stand before a colon.
    """
    if not name.isidentifier() or name == "phantom":
        raise MedLIPError(f"the data set name {name!r} can't be used. Give a name of letters, digits and underscores.")
    if data_sets().get(name, data_set).reader != data_set.reader:
        raise MedLIPError(f"there is a data set {name!r} already: {data_sets()[name].title}. Give another name.")
    _REGISTERED[name] = data_set


def data_sets() -> Mapping[str, DataSet]:
    """Return the data sets that `open_source` reads as "NAME:PLACE", by name."""
    return {**_installed(), **_REGISTERED}


@cache
def _installed() -> Mapping[str, DataSet]:
    content = yaml.safe_load((files("medlip.data.readers") / "sets.yaml").read_text(encoding="utf-8"))
    own = {name: DataSet.model_validate(entry) for name, entry in content.items()}
    others = {
        point.name: DataSet(title=f"{point.name}, read by {point.value.partition(':')[0]}", reader=point.value)
        for point in offers(ENTRY_POINTS)
    }
    return {**others, **own}


def open_source(text: str | Path) -> Source | Store:
    """Open "NAME:PLACE" (a data set in its own layout), "phantom:N", or a store's path or URL.

    "phantom:N@SEED" names other phantoms, "phantom:N?SETTING" and "phantom:N@SEED?SETTING" those of another kind.

    Raises:
        MedLIPError: no such source, or its folder is empty, missing or laid out differently; says what was expected.
    """
    text = str(text)
    name, colon, place = text.partition(":")
    if name == "phantom" and colon:
        phantoms: Source = _load(PHANTOM)(place)
        return phantoms
    if name in data_sets() and colon:
        data_set = data_sets()[name]
        source: Source = _load(data_set.reader)(_file(place, text) if data_set.place == "file" else _folder(place, text))
        if not source.items and not source.left_out:
            raise MedLIPError(f"{text}: laid out well, but it names no study. Complete the download.")
        return source
    if "://" in text or (Path(text) / "manifest.json").is_file():
        from medlip.data.store import Store

        return Store.open(text)
    if colon and name.isidentifier():
        found = f"there is no data set {name!r}"
    elif Path(text).exists():
        found = "it holds no manifest.json, so it is no prepared store"
    else:
        found = "there is no such folder"
    raise MedLIPError(f"{text}: {found}. Give a prepared store's folder or one of {', '.join(_forms())}.")


def _forms() -> Iterator[str]:
    yield "phantom:N"
    for name, data_set in data_sets().items():
        yield f"{name}:{'FILE' if data_set.place == 'file' else 'DIR'}"


def _load(reader: str) -> Callable[..., Source]:
    module, _, function = reader.partition(":")
    try:
        found: Callable[..., Source] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise MedLIPError(f"the reader {reader} can't be loaded ({error}). Install or mend its package.") from error
    return found


def _folder(place: str, text: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise MedLIPError(f"{text}: there is no folder {place!r}. Give the folder that holds the data set.")
    if next(folder.iterdir(), None) is None:
        raise MedLIPError(f"{text}: the folder is empty. Put the data set's files there.")
    return folder


def _file(place: str, text: str) -> Path:
    path = Path(place).expanduser()
    if not path.is_file():
        raise MedLIPError(f"{text}: there is no such file. Give a CSV file, or the YAML file that maps one.")
    return path
