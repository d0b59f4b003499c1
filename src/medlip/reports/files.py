"""Files of reports, in every layout they ship in: one lazy stream of (study, text), with bad input named and not lost."""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from medlip.delimited import TableReader, decode, open_bytes, text_encoding
from medlip.errors import MedLIPError
from medlip.files import STDIN, matches
from medlip.reports.compose import ID_COLUMNS, TEXT_COLUMNS, ReportColumns, parse_openi
from medlip.reports.json_files import json_lines, members, mended

_LAYOUTS = (
    "CSV, TSV, JSON lines, Parquet, RadGraph JSON, .txt, Open-i .xml, a .tgz of them, or a folder of .txt or .xml files"
)


class Report(NamedTuple):
    """One report of a file.

    Attributes:
        study: its identifier, as the file gives it.
        content: the text, or the graph of a RadGraph file.
        problem: why it can't be read, "" if it can.
        note: what is odd about it though it can be read.
        aside: it is no report but stands for files that were passed over; `problem` says why.
    """

    study: str
    content: str | Mapping[str, Any] = ""
    problem: str = ""
    note: str = ""
    aside: bool = False


def read_reports(
    paths: str | Path | Sequence[str | Path], text: Sequence[str] = (), study: str | None = None
) -> Iterator[Report]:
    """Yield the reports of files and folders, in their order.

    Layouts are told by content and name: CSV, TSV, JSON lines or a JSON array, and Parquet (a row a report); RadGraph JSON,
    of version 1.0 or as the `radgraph` package writes it; text files, alone or in folders (MIMIC-CXR's among them); Open-i
    XML, alone, in folders or as the published archive. All may be gzipped, and in any encoding.

    Args:
        paths: files, folders or patterns ("reports/*.csv"), one or several; "-" for stdin.
        text: columns that hold the text; several become sections with their names as headings. By default `report`, or
            `findings` and `impression`.
        study: column that holds the identifier. By default one of `ID_COLUMNS`, else rows are numbered from 0; of several
            files each number stands behind its file's name.

    Raises:
        MedLIPError: nothing is there, no such layout, or no such column. What is wrong with one report becomes its
            `problem`, what is odd about it its `note`; a study that comes again with another text is noted.
    """
    files = input_files(paths)
    repeats = _Repeats()
    for path in files:
        for report in _read_input(path, text, study, f"{path.name}:" if len(files) > 1 else ""):
            yield repeats.check(report)


def input_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files and folders that paths and patterns name.

    Raises:
        MedLIPError: one names nothing.
    """
    found: list[Path] = []
    for path in map(str, [paths] if isinstance(paths, (str, Path)) else paths):
        named = [Path(STDIN)] if path == STDIN else matches(path)
        if not named:
            raise MedLIPError(f"{path}: no such file or folder. Give {_LAYOUTS}.")
        found += named
    return found


def require_apart(out: str | Path, paths: str | Path | Sequence[str | Path]) -> None:
    """Raise a `MedLIPError` where a file to be written is one of those that are read, or lies in a folder that is."""
    place = Path(out).resolve()
    for path in (path.resolve() for path in input_files(paths) if str(path) != STDIN):
        if place == path or (path in place.parents and _is_text(place)):
            raise MedLIPError(f"{out}: would overwrite the reports that are read. Give another name.")


def _read_input(path: Path, text: Sequence[str], study: str | None, prefix: str) -> Iterator[Report]:
    if path.is_dir():
        yield from _folder(path)
        return
    name = Path("stdin") if str(path) == STDIN else path
    source = _Source(name, tuple(text), study, prefix)
    try:
        with _open(path) as stream:
            yield from _layout(name, stream)(stream, source)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError) as error:
        yield Report(f"(rest of {name.name})", problem=f"the file is cut off or damaged here ({error})")


class _Repeats:
    """Names reports whose study came before."""

    def __init__(self) -> None:
        self._texts: dict[int, int] = {}  # hashes, so that millions of reports fit

    def check(self, report: Report) -> Report:
        if report.problem or report.aside:
            return report
        text = hash(report.content if isinstance(report.content, str) else str(report.content.get("text")))
        known = len(self._texts)
        before = self._texts.setdefault(hash(report.study), text)
        if len(self._texts) > known:
            return report
        if before == text:
            return report._replace(problem="the same study and text as before")
        return report._replace(note=report.note or "its study came before, with another text")


# --- layouts ---


@dataclass(frozen=True, slots=True)
class _Source:
    """A file and what is asked of it: columns of the text and the identifier, and what row numbers stand behind."""

    path: Path
    text: tuple[str, ...]
    study: str | None
    prefix: str


_Reader = Callable[[IO[bytes], _Source], Iterator[Report]]


def _layout(path: Path, stream: IO[bytes]) -> _Reader:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    last = suffixes[-1] if suffixes else ""
    known: dict[str, _Reader] = {
        ".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _json, ".ndjson": _json, ".parquet": _parquet, ".pq": _parquet,
        ".tgz": _archive, ".tar": _archive, ".txt": _text, ".xml": _text,
    }  # fmt: skip
    if last in known:
        return known[last]
    if last:
        raise MedLIPError(f"{path}: reports in files like this are not known. Give {_LAYOUTS}.")
    return _sniff(stream)


def _sniff(stream: IO[bytes]) -> _Reader:
    """Tell the layout of a file without a suffix, or of what was piped in."""
    head = stream.read(4096)
    stream.seek(0)
    if head.startswith(b"PAR1"):
        return _parquet
    start = decode(head)[0].lstrip()
    if start[:1] in ("{", "["):
        return _json
    cells = {cell.strip('" ').lower() for cell in re.split(r"[,\t;|]", start.partition("\n")[0].strip())}
    return _csv if cells & {*TEXT_COLUMNS} and len(cells) > 1 else _text


def _open(path: Path) -> IO[bytes]:
    if str(path) != STDIN:
        return open_bytes(path)
    content = sys.stdin.buffer.read()
    return io.BytesIO(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)


def _folder(path: Path) -> Iterator[Report]:
    found = False
    others: dict[str, list[str]] = defaultdict(list)
    for file in _walk(path):
        name = file.relative_to(path)
        if _is_text(name):
            found = True
            yield _one_file(name, partial(_content, file))
        else:
            others["hidden" if name.name.startswith(".") else name.suffix].append(name.as_posix())
    if not found:
        raise MedLIPError(f"{path}: a folder without .txt or .xml files. Give {_LAYOUTS}.")
    for kind, names in others.items():
        what = "hidden files" if kind == "hidden" else f"files of another kind ({kind or 'no suffix'})"
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield Report(f"{names[0]}{more}", problem=f"{what} are not read", aside=True)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _is_text(name: Path) -> bool:
    plain = Path(name.name.lower().removesuffix(".gz"))
    return plain.suffix in (".txt", ".xml") and not plain.name.startswith(".")


def _content(file: Path) -> bytes:
    with open_bytes(file) as stream:
        return stream.read()


def _text(stream: IO[bytes], source: _Source) -> Iterator[Report]:
    yield _one_file(Path(source.path.name), stream.read)


def _archive(stream: IO[bytes], source: _Source) -> Iterator[Report]:
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if _is_text(Path(member.name)) else None
            if content:
                yield _one_file(Path(member.name), content.read)


_MIMIC = re.compile(r"p\d{2}/p\d{8}/(s\d{8})\.txt$")


def _one_file(name: Path, read: Callable[[], bytes]) -> Report:
    """Read a report that is a file of its own; its study is its name in the folder, in MIMIC-CXR's layout its number."""
    name = name.with_name(name.name.removesuffix(".gz"))
    mimic = _MIMIC.search(name.as_posix())
    study = mimic[1] if mimic else name.with_suffix("").as_posix()
    try:
        content = read()
    except OSError as error:
        return Report(study, problem=f"not readable ({error.strerror or error})")
    if name.suffix.lower() != ".xml" and not content.lstrip().startswith(b"<?xml"):
        text, note = decode(content)
        return Report(study, text, note=note)
    try:
        return Report(Path(study).name, parse_openi(content).text)
    except MedLIPError as error:
        return Report(Path(study).name, problem=str(error))


def read_text_report(path: Path) -> str:
    """Return a report that is a text file of its own, in any encoding."""
    return decode(_content(path))[0]


def _csv(stream: IO[bytes], source: _Source) -> Iterator[Report]:
    table = TableReader(stream, str(source.path))
    columns = _Columns(source, table.header)
    for number, row in enumerate(table):
        yield columns.report(row.cells, number, row.problem, row.note)


def _parquet(stream: IO[bytes], source: _Source) -> Iterator[Report]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(stream) as file:
            columns = _Columns(source, file.schema_arrow.names)
            rows = (row for batch in file.iter_batches(4096, columns=columns.used) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                yield columns.report(row, number)
    except pa.ArrowInvalid as error:
        raise MedLIPError(f"{source.path}: not a Parquet file that can be read ({error}). Write it again.") from error


def _json(binary: IO[bytes], source: _Source) -> Iterator[Report]:
    stream = io.TextIOWrapper(binary, encoding=text_encoding(binary), errors="surrogateescape")
    head = stream.read(1 << 20)
    whole = chain([head], iter(lambda: stream.read(1 << 20), ""))
    opening = head.lstrip()[:1]
    if opening == "{" and _GRAPHS.match(head) and '"entities"' in head:
        yield from (_graph(key, value) for key, value in members(whole, source.path.name))
    elif opening == "[":
        yield from _rows((value for _, value in members(whole, source.path.name)), source)
    else:
        yield from _rows(json_lines(whole), source)


_GRAPHS = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')


def _graph(key: str, value: object) -> Report:
    if isinstance(value, MedLIPError):
        return Report(key, problem=str(value))
    key, _ = mended(key)
    if not isinstance(value, Mapping):
        return Report(key, problem="no RadGraph graph (not an object)")
    text, note = mended(str(value.get("text", "")))
    return Report(key, {**value, "text": text} if note else value, note=note)


def _rows(values: Iterable[object], source: _Source) -> Iterator[Report]:
    columns: _Columns | None = None
    for number, value in enumerate(values):
        if isinstance(value, MedLIPError):
            yield Report(f"{source.prefix}{number}", problem=str(value))
        elif not isinstance(value, Mapping):
            yield Report(f"{source.prefix}{number}", problem="broken row (not a JSON object)")
        elif "entities" in value:
            yield _graph(str(next((value[name] for name in ID_COLUMNS if name in value), number)), value)
        else:
            columns = columns or _Columns(source, list(value))
            yield columns.report(value, number)


class _Columns:
    """Makes reports of the rows of one file."""

    def __init__(self, source: _Source, names: Sequence[str]) -> None:
        self.columns = ReportColumns.choose(names, str(source.path), source.text, source.study)
        self.used = [*dict.fromkeys([*self.columns.text, *([self.columns.study] if self.columns.study else [])])]
        self.names, self.prefix = names, source.prefix

    def report(self, row: Mapping[str, object], number: int, problem: str = "", note: str = "") -> Report:
        cells: dict[str, str] = {}
        for name in self.used:
            cell, stray = mended(_cell(row.get(name)))
            cells[name], note = cell, note or stray
            if name in self.columns.text and not isinstance(row.get(name), (str, type(None))) and cell:
                problem = problem or f"its text is none ({type(row[name]).__name__}: {cell[:40]})"
        study = self.columns.identify(cells)
        if not study:
            if self.columns.study:
                study, note = f"{self.prefix}row {number}", note or "no identifier: named by its row number"
            else:
                study, note = f"{self.prefix}{number}", note or self._unnamed(number)
        return Report(study, "" if problem else self.columns.compose(cells), problem, note)

    def _unnamed(self, number: int) -> str:
        """Note once, where a file may well have identifiers, that none was taken."""
        others = ", ".join(name for name in self.names if name and name not in self.used)
        if number or not others:
            return ""
        return f"no column is called study, uid or study_id: rows are numbered ({others})"


def _cell(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()
