"""Files of reports, in every layout they ship in: one lazy stream of (study, text), with bad input named and not lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.etree import ElementTree

from medlip.errors import MedLIPError

TEXT_COLUMNS = ("report", "findings", "impression")
ID_COLUMNS = ("study", "uid", "study_id")
_SECTIONS = ("findings", "impression")
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
    """

    study: str
    content: str | Mapping[str, Any] = ""
    problem: str = ""
    note: str = ""


def read_reports(path: str | Path, text: Sequence[str] = (), study: str | None = None) -> Iterator[Report]:
    """Yield the reports of a file or folder, in its order.

    Layouts are told by content and name: CSV, TSV, JSON lines or a JSON array, and Parquet (a row a report); RadGraph JSON,
    of version 1.0 or as the `radgraph` package writes it; text files, alone or in folders (MIMIC-CXR's among them); Open-i
    XML, alone, in folders or as the published archive. All may be gzipped.

    Args:
        path: file or folder.
        text: columns that hold the text; several become sections with their names as headings. By default `report`, or
            `findings` and `impression`.
        study: column that holds the identifier. By default `study`, `uid` or `study_id`, else rows are numbered from 0.

    Raises:
        MedLIPError: nothing is there, no such layout, or no such column. What is wrong with one report becomes its
        `problem`.
    """
    path = Path(path)
    if not path.exists():
        raise MedLIPError(f"{path}: no such file or folder. Give {_LAYOUTS}.")
    if path.is_dir():
        yield from _folder(path)
        return
    reader = _layout(path)
    try:
        yield from reader(path, _Columns(path, tuple(text), study))
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError) as error:
        yield Report(f"(rest of {path.name})", problem=f"the file is cut off or damaged here ({error})")


# --- layouts ---

_Reader = Callable[[Path, "_Columns"], Iterator[Report]]


def _layout(path: Path) -> _Reader:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    last = suffixes[-1] if suffixes else ""
    if last in (".tgz", ".tar"):
        return _archive
    if last in (".json", ".jsonl", ".ndjson"):
        return _json
    known: dict[str, _Reader] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".pq": _parquet,
        ".txt": _text,
        ".xml": _xml,
    }
    if last not in known:
        raise MedLIPError(f"{path}: reports in files like this are not known. Give {_LAYOUTS}.")
    return known[last]


def _open(path: Path) -> IO[bytes]:
    stream = path.open("rb")
    magic = stream.read(2)
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if magic == b"\x1f\x8b" else stream  # type: ignore[return-value]


def _folder(path: Path) -> Iterator[Report]:
    found = False
    for file in _walk(path):
        found = True
        yield _one_file(file.relative_to(path), file.read_bytes)
    if not found:
        raise MedLIPError(f"{path}: a folder without .txt or .xml files. Give {_LAYOUTS}.")


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.suffix.lower() in (".txt", ".xml"):
            yield entry


def _text(path: Path, columns: _Columns) -> Iterator[Report]:
    with _open(path) as stream:
        yield _one_file(Path(path.name.removesuffix(".gz")), stream.read)


_xml = _text


def _archive(path: Path, columns: _Columns) -> Iterator[Report]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if Path(member.name).suffix.lower() in (".txt", ".xml") else None
            if content:
                yield _one_file(Path(member.name), content.read)


_MIMIC = re.compile(r"p\d{2}/p\d{8}/(s\d{8})\.txt$")


def _one_file(name: Path, read: Callable[[], bytes]) -> Report:
    """Read a report that is a file of its own; its study is its name in the folder, in MIMIC-CXR's layout its number."""
    mimic = _MIMIC.search(name.as_posix())
    study = mimic[1] if mimic else name.with_suffix("").as_posix()
    try:
        content = read()
    except OSError as error:
        return Report(study, problem=f"not readable ({error.strerror or error})")
    if name.suffix.lower() == ".xml":
        return _openi(Path(study).name, content)
    text, note = _decode(content)
    return Report(study, text, note=note)


def _openi(study: str, content: bytes) -> Report:
    try:
        abstract = ElementTree.fromstring(content).iter("AbstractText")
    except ElementTree.ParseError as error:
        return Report(study, problem=f"broken XML ({error})")
    parts = {part.get("Label", "").lower(): " ".join("".join(part.itertext()).split()) for part in abstract}
    return Report(study, _compose({name: parts.get(name, "") for name in ("indication", "comparison", *_SECTIONS)}))


def _csv(path: Path, columns: _Columns) -> Iterator[Report]:
    csv.field_size_limit(1 << 30)
    with _open(path) as stream:
        odd: list[str] = []  # the notes on the lines of the current row
        lines = _decoded_lines(stream, odd)
        header = next(lines, "")
        delimiter = max(",\t;|", key=header.count)
        rows = csv.reader(chain([header], lines), delimiter=delimiter)
        names = next(rows, [])
        columns.choose(names)
        number = 0
        while True:
            odd.clear()
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Report(str(number), problem=f"broken row ({error})")
            else:
                if not row:
                    continue
                yield columns.report(dict(zip(names, row, strict=False)), number, odd[0] if odd else "")
            number += 1


def _decoded_lines(stream: IO[bytes], odd: list[str]) -> Iterator[str]:
    for i, line in enumerate(stream):
        text, note = _decode(line.removeprefix(b"\xef\xbb\xbf") if i == 0 else line)
        if note:
            odd.append(note)
        yield text.replace("\0", "")


_NOT_UTF8 = "not UTF-8: read as Windows-1252"


def _decode(content: bytes) -> tuple[str, str]:
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace"), _NOT_UTF8


_STRAY = re.compile("[\ud800-\udfff]")


def _mended(text: str) -> tuple[str, str]:
    """Return text with its undecodable bytes read as Windows-1252, and a note if there were any."""
    if _STRAY.search(text) is None:
        return text, ""
    return _STRAY.sub(_as_windows, text), _NOT_UTF8


def _as_windows(match: re.Match[str]) -> str:
    code = ord(match[0]) - 0xDC00
    return bytes([code]).decode("cp1252", errors="replace") if 0x80 <= code <= 0xFF else "\ufffd"


def _parquet(path: Path, columns: _Columns) -> Iterator[Report]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns.choose(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=columns.used):
                for row in batch.to_pylist():
                    yield columns.report(row, number)
                    number += 1
    except pa.ArrowInvalid as error:
        raise MedLIPError(f"{path}: not a Parquet file that can be read ({error}). Write it again.") from error


def _json(path: Path, columns: _Columns) -> Iterator[Report]:
    with _open(path) as binary:
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape")
        head = stream.read(1 << 20)
        whole = chain([head], iter(lambda: stream.read(1 << 20), ""))
        opening = head.lstrip()[:1]
        if opening == "{" and _GRAPHS.match(head) and '"entities"' in head:
            yield from (_graph(key, value) for key, value in _members(whole, path))
        elif opening == "[":
            yield from _rows((value for _, value in _members(whole, path)), columns)
        else:
            yield from _rows(_json_lines(whole), columns)


_GRAPHS = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')


def _graph(key: str, value: object) -> Report:
    if isinstance(value, MedLIPError):
        return Report(key, problem=str(value))
    key, _ = _mended(key)
    if not isinstance(value, Mapping):
        return Report(key, problem="no RadGraph graph (not an object)")
    text, note = _mended(str(value.get("text", "")))
    return Report(key, {**value, "text": text} if note else value, note=note)


def _rows(values: Iterable[object], columns: _Columns) -> Iterator[Report]:
    chosen = False
    for number, value in enumerate(values):
        if isinstance(value, MedLIPError):
            yield Report(str(number), problem=str(value))
        elif not isinstance(value, Mapping):
            yield Report(str(number), problem="broken row (not a JSON object)")
        elif "entities" in value:
            yield _graph(str(next((value[name] for name in ID_COLUMNS if name in value), number)), value)
        else:
            if not chosen:
                columns.choose(list(value))
                chosen = True
            yield columns.report(value, number)


def _json_lines(chunks: Iterable[str]) -> Iterator[object]:
    """Yield the value of each line, or the error that stands in its place."""
    rest = ""
    for chunk in chain(chunks, ["\n"]):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield MedLIPError(f"broken row (not JSON: {error})")


_SPACE_OR_COMMA = re.compile(r"[\s,]*")
_LONGEST_MEMBER = 1 << 27
_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*')


def _members(chunks: Iterable[str], path: Path) -> Iterator[tuple[str, object]]:
    """Yield the members of one big JSON object or array without loading it whole: (key or number, value)."""
    chunks = iter(chunks)
    decoder = json.JSONDecoder()
    buffer, at, number, step = next(chunks, ""), 0, 0, 1
    at = buffer.index(opening := buffer.lstrip()[:1]) + 1
    while True:
        try:
            at = _end(_SPACE_OR_COMMA.match(buffer, at))
            if buffer[at] in "]}":
                return
            key, value_at = str(number), at
            if opening == "{":
                name = _KEY.match(buffer, at)
                if name is None:
                    raise IndexError
                key, value_at = json.loads(f'"{name[1]}"'), name.end()
            value, at = decoder.raw_decode(buffer, value_at)
            if at == len(buffer) and isinstance(value, (int, float)):  # the number may go on in the next chunk
                raise IndexError
        except (IndexError, ValueError) as error:
            more = "".join(chunk for _, chunk in zip(range(step), chunks, strict=False))
            if not more or len(buffer) - at > _LONGEST_MEMBER:
                yield f"(rest of {path.name})", MedLIPError(f"the file is cut off or damaged here ({error})")
                return
            buffer, at, step = buffer[at:] + more, 0, step * 2  # doubled, so that a huge member is not scanned too often
        else:
            yield key, value
            number, step = number + 1, 1


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


# --- columns ---


class _Columns:
    """Which columns of a table hold the text and the study's identifier."""

    def __init__(self, path: Path, text: tuple[str, ...], study: str | None) -> None:
        self.path, self.text, self.study = path, text, study
        self.used: list[str] = []
        self._last: tuple[str, str] = ("", "")

    def choose(self, names: Sequence[str]) -> None:
        """Find the columns among `names`, whatever their case."""
        by_name = {name.strip().lower(): name for name in reversed(names)}

        def find(wanted: str) -> str:
            if wanted.lower() not in by_name:
                raise MedLIPError(f"{self.path}: no column {wanted!r}. It has: {', '.join(names) or 'none'}.")
            return by_name[wanted.lower()]

        if self.text:
            self.text = tuple(find(name) for name in self.text)
        else:
            self.text = tuple(by_name[name] for name in TEXT_COLUMNS[:1] if name in by_name) or tuple(
                by_name[name] for name in TEXT_COLUMNS[1:] if name in by_name
            )
        if not self.text:
            raise MedLIPError(
                f"{self.path}: no column of reports (report, or findings and impression). "
                f"It has: {', '.join(names) or 'none'}. Name the column with --text."
            )
        self.study = (
            find(self.study) if self.study else next((by_name[name] for name in ID_COLUMNS if name in by_name), None)
        )
        self.used = [*dict.fromkeys([*self.text, *([self.study] if self.study else [])])]

    def report(self, row: Mapping[str, Any], number: int, note: str = "") -> Report:
        study = str(number) if self.study is None else _cell(row.get(self.study))
        if not study:
            study, note = str(number), note or "no identifier: named by its row number"
        cells = {name.strip().lower(): _cell(row.get(name)) for name in self.text}
        named = len(cells) > 1 or next(iter(cells)) in _SECTIONS
        text, stray = _mended(_compose(cells) if named else next(iter(cells.values())))
        study, note = _mended(study)[0], note or stray
        if (study, text) == self._last and self.study:
            return Report(study, problem="the same study and text as in the row before")
        self._last = (study, text)
        return Report(study, text, note=note)


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(value).strip()


def _compose(sections: Mapping[str, str]) -> str:
    return "\n\n".join(f"{name.upper()}: {text}" for name, text in sections.items() if text)
