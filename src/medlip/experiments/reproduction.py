"""The papers' tables for one model: on the data sets that are at hand, by their named protocols, beside the quoted figures.

`reproduction.yaml` lists them. Each protocol has a folder of its own, with what `medlip evaluate` or `medlip transfer`
writes, so that an interrupted reproduction goes on where it was, and `medlip compare` can be asked about any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from medlip.about import DISCLAIMER
from medlip.data.prepare import SHARES, prepare
from medlip.data.sources import Source, data_sets, open_source
from medlip.data.store import MANIFEST, Store
from medlip.errors import MedLIPError, did_you_mean
from medlip.evaluation.driver import evaluate
from medlip.evaluation.protocols import load_protocol
from medlip.evaluation.published import published_table
from medlip.evaluation.results import RESULT, Result
from medlip.experiments.transfer import transfer
from medlip.experiments.transfer_protocols import TransferProtocol, load_transfer_protocol
from medlip.files import write_atomic
from medlip.methods import Method
from medlip.metrics import Estimate
from medlip.tables import UNDEFINED, Table

TableKind = Literal["zero-shot", "grounding", "few-shot", "linear", "fine-tuned", "segmentation"]
KINDS: Mapping[TableKind, str] = {
    "zero-shot": "Zero-shot classification",
    "grounding": "Zero-shot grounding",
    "few-shot": "Few-shot classification",
    "linear": "Linear probe",
    "fine-tuned": "Fine-tuned classification",
    "segmentation": "Fine-tuned segmentation",
}
COLUMNS: Mapping[str, tuple[str, str]] = {
    "auroc": ("zero_shot", "macro_auroc"),
    "f1": ("zero_shot", "macro_f1"),
    "accuracy": ("zero_shot", "macro_accuracy"),
    "pointing_game": ("grounding", "pointing_game"),
    "iou": ("grounding", "iou"),
    "dice": ("grounding", "dice"),
    "contrast_to_noise": ("grounding", "contrast_to_noise"),
}
"""Columns of tables, as published ones call them, by task and measure."""
SHOWN: Mapping[str, tuple[str, ...]] = {
    "zero-shot": ("auroc", "f1", "accuracy"),
    "grounding": ("pointing_game", "iou", "dice", "contrast_to_noise"),
}
PERCENT = {name for name in COLUMNS if name != "contrast_to_noise"}
ABOUT = "reproduction.json"


class PaperTable(BaseModel):
    """One table of the papers.

    Attributes:
        set: the data set, as `medlip data list` names it.
        kind: of experiment.
        protocol: a named one, of `medlip evaluate` or of `medlip transfer`.
        quoted: published tables to stand beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    kind: TableKind
    protocol: str
    quoted: tuple[str, ...] = ()


class ReproducedTable(BaseModel):
    """A table of the papers with a row that was measured here, or why there is none.

    Attributes:
        name: of the table.
        title: for people.
        measured: columns and their numbers, as shares; empty where nothing was measured.
        quoted: published tables that stand beside it.
        folder: of the results; "" where nothing was measured.
        missing: why nothing was measured, and what to do; "" where it was.
        notes: what a reader of its numbers must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    measured: dict[str, Estimate] = {}
    quoted: tuple[str, ...] = ()
    folder: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()


class Reproduction(BaseModel):
    """The papers' tables for one model.

    Attributes:
        model: its name, and the hash of its weights.
        sets: folders or stores by data set.
        tables: measured ones, and those that are missing.
        disclaimer: not a medical device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: tuple[str, str]
    sets: dict[str, str]
    tables: tuple[ReproducedTable, ...]
    disclaimer: str = DISCLAIMER


@cache
def paper_tables() -> Mapping[str, PaperTable]:
    """Return the papers' tables by name."""
    content = yaml.safe_load((files("medlip.experiments") / "reproduction.yaml").read_text(encoding="utf-8"))
    return {name: PaperTable.model_validate(entry) for name, entry in content.items()}


def find_sets(folders: Iterable[str]) -> dict[str, str]:
    """Return what holds each data set that there is a table of, by its name.

    Args:
        folders: data sets in their own layout, folders of such folders, prepared stores, or "NAME:DIR".

    Raises:
        MedLIPError: one of them holds none.
    """
    wanted = sorted({table.set for table in paper_tables().values()})
    found: dict[str, str] = {}
    for folder in folders:
        named = folder.partition(":")[0]
        here = {named: folder} if named in data_sets() else dict(_look_into(Path(folder), wanted))
        if not here:
            raise MedLIPError(
                f"{folder}: holds none of the data sets {', '.join(wanted)}, each in its own layout. "
                "`medlip data list` says what their folders hold; a single one can be given as NAME:DIR."
            )
        for name, source in here.items():
            found.setdefault(name, source)
    return found


def _look_into(folder: Path, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the data sets of a folder, or of the folders in it."""
    if not folder.is_dir():
        raise MedLIPError(f"{folder}: there is no such folder. Give the folders of data sets.")
    # First what lies in it: some readers find their tables anywhere below, and would take the whole for their own.
    inner = [found for path in sorted(folder.iterdir()) if path.is_dir() for found in _sets_of(path, wanted)]
    yield from inner or _sets_of(folder, wanted)


def _sets_of(folder: Path, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    if (folder / MANIFEST).is_file():
        for source in json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("sources", {}):
            if source in wanted:
                yield source, str(folder)
        return
    for name in wanted:
        try:
            opened = open_source(f"{name}:{folder}")
        except (MedLIPError, OSError, ValueError, KeyError):
            continue
        if isinstance(opened, Source) and opened.items:
            yield name, f"{name}:{folder}"


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What makes a reproduction quicker than the protocols have it, for a trial: its tables say so.

    Attributes:
        epochs: of trainings; None for those of the protocol.
        shares: of the split of data without one.
        workers: processes that prepare data; None for one a core.
    """

    epochs: int | None = None
    shares: Mapping[str, float] | None = None
    workers: int | None = None


def reproduce(
    method: Method,
    sets: Mapping[str, str],
    out: Path,
    *,
    kinds: Sequence[TableKind] = (),
    seed: int = 0,
    resamples: int = 1000,
    shortcuts: Shortcuts | None = None,
) -> Reproduction:
    """Fill the papers' tables with what a model does on the data sets at hand.

    Args:
        method: the model, where it is to compute.
        sets: sources by data set, as `find_sets` gives them.
        out: folder of the results and of prepared data; what is there already isn't done again.
        kinds: which kinds of experiments; none for all.
        seed: of everything that is drawn.
        resamples: of the bootstrap.
        shortcuts: what makes it quicker, for a trial.

    Raises:
        MedLIPError: there is no such kind, or `out` holds a reproduction of another model.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise MedLIPError(
                f"there is no kind {kind!r} of tables.{did_you_mean(kind, KINDS)} There are: {', '.join(KINDS)}."
            )
    shortcuts, model = shortcuts or Shortcuts(), (method.origin.name if method.origin else method.name, method.fingerprint)
    _claim(out, model[1])
    stores: dict[str, Store] = {}
    tables = []
    for name, table in paper_tables().items():
        if kinds and table.kind not in kinds:
            continue
        title = f"{KINDS[table.kind]}, {data_sets()[table.set].title.partition(' (')[0]}; protocol {table.protocol}"
        entry = ReproducedTable(name=name, title=title, quoted=table.quoted)
        if table.set not in sets:
            about = data_sets()[table.set]
            missing = f"{about.title} is not among the folders. Get it from {about.where} ({about.licence})"
            tables.append(entry.model_copy(update={"missing": missing}))
            continue
        try:
            if table.set not in stores:
                stores[table.set] = _store(sets[table.set], out / "stores" / table.set, method, shortcuts)
            folder = out / (table.protocol if table.kind in SHOWN else f"{table.set}-{table.protocol}")
            measured, notes = _measure(method, stores[table.set], table, folder, seed, resamples, shortcuts)
        except MedLIPError as error:
            tables.append(entry.model_copy(update={"missing": str(error)}))
            continue
        tables.append(entry.model_copy(update={"measured": measured, "folder": str(folder), "notes": tuple(notes)}))
    found = Reproduction(model=model, sets=dict(sets), tables=tuple(tables))
    write_atomic(out / ABOUT, found.model_dump_json(indent=1).encode())
    return found


def _claim(out: Path, model: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "model.txt"
    if file.exists() and file.read_text(encoding="utf-8").strip() != model:
        raise MedLIPError(f"{out}: holds a reproduction of another model. Give another folder.")
    write_atomic(file, f"{model}\n".encode())


def _store(source: str, folder: Path, method: Method, shortcuts: Shortcuts) -> Store:
    opened = open_source(source)
    if isinstance(opened, Store):
        return opened
    size = max(256, method.preprocessing.size)
    prepare([opened], folder, size=size, shares=shortcuts.shares or SHARES, workers=shortcuts.workers)
    return Store.open(folder)


def _measure(
    method: Method, store: Store, table: PaperTable, folder: Path, seed: int, resamples: int, shortcuts: Shortcuts
) -> tuple[dict[str, Estimate], list[str]]:
    """Return the numbers of a table by column, and notes."""
    if table.kind in SHOWN:
        file = folder / RESULT
        result = (
            Result.load(file)
            if file.exists()
            else evaluate(method, store, protocol=load_protocol(table.protocol), seed=seed, resamples=resamples, out=folder)
        )
        columns = {name: COLUMNS[name] for name in SHOWN[table.kind]}
        estimates = {
            name: result.tasks[task].estimates[measure]
            for name, (task, measure) in columns.items()
            if task in result.tasks and measure in result.tasks[task].estimates
        }
        if not estimates:
            raise MedLIPError(
                f"{store.root}: there is nothing to measure by {table.protocol} on its split {result.split!r}."
            )
        return estimates, result.notes
    protocol = _shortened(load_transfer_protocol(table.protocol), shortcuts)
    learned = transfer(method, store, protocol, seed=seed, resamples=resamples, out=folder)
    levels = {
        level.level: Estimate(value=level.value, interval=level.interval or _range(level.lowest, level.highest))
        for level in learned.levels
    }
    shortened = [f"trained for {shortcuts.epochs} epochs, not as long as the protocol has it"] if shortcuts.epochs else []
    return levels, [*shortened, *learned.notes]


def _range(lowest: float | None, highest: float | None) -> tuple[float, float] | None:
    return None if lowest is None or highest is None else (lowest, highest)


def _shortened(protocol: TransferProtocol, shortcuts: Shortcuts) -> TransferProtocol:
    if shortcuts.epochs is None or protocol.training is None:
        return protocol
    training = protocol.training.model_copy(update={"epochs": shortcuts.epochs, "minimum_steps": 1})
    return protocol.model_copy(update={"training": training})


def reproduction_tables(found: Reproduction) -> Iterator[Table]:
    """Yield the papers' tables: the model's row, measured here, above the quoted ones; then what is missing."""
    for table in found.tables:
        if table.missing:
            continue
        quotes = [published_table(name) for name in table.quoted]
        columns = list(dict.fromkeys([*table.measured, *(measure for quote in quotes for measure in quote.measures)]))
        rows = [[f"{found.model[0]} (measured here)", *(_cell(name, table.measured.get(name)) for name in columns), ""]]
        for quote in quotes:
            for row in quote.rows:
                values = dict(zip(quote.measures, row.values, strict=True))
                cells = (UNDEFINED if values.get(name) is None else f"{values[name]:.1f}" for name in columns)
                rows.append([f"{row.method} (quoted)", *cells, row.source])
        header = ["method", *(f"{name}, %" if name in PERCENT or "%" in name else name for name in columns), "source"]
        notes = [*table.notes, *(f"Quoted: {quote.title}. {quote.protocol}. {quote.note}".strip() for quote in quotes)]
        yield Table(table.title, header, rows, "; ".join(notes))
    missing = [[table.title, table.missing] for table in found.tables if table.missing]
    if missing:
        yield Table("Not measured", ["table", "why"], missing)


def _cell(name: str, one: Estimate | None) -> str:
    if one is None or one.value is None:
        return UNDEFINED
    factor = 1 if name == "contrast_to_noise" else 100
    digits = 2 if factor == 1 else 1
    value = f"{factor * one.value:.{digits}f}"
    if one.interval is None:
        return value
    return f"{value} ({factor * one.interval[0]:.{digits}f} to {factor * one.interval[1]:.{digits}f})"
