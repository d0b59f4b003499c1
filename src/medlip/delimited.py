"""Tables of text (CSV, TSV …) and their encodings, read strictly: a row that doesn't fit is named, alone.

The `csv` module's strict mode parses the rows, since it alone refuses a quote that ends inside a cell: with pandas and
pyarrow an unbalanced quote swallows the rows up to the next one. What is not Unicode is told by `charset-normalizer`.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from medlip.errors import MedLIPError

DELIMITERS = ",\t;|"
LONGEST_ROW = 4000  # lines: a quote that is still open behind as many was never closed
NO_VALUE = frozenset({"", "nan", "NaN", "NAN", "None", "NULL", "<NA>", "#N/A", "NaT"})  # written by programs
NOTHING = frozenset({*map(str.lower, NO_VALUE), "na", "n/a"})  # in lower case: what no text consists of
CUT = "its text seems to go on in the next line: put quotes around texts of several lines"


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        line: where it starts in the file, from 1.
        cells: by column, without surrounding blanks.
        problem: why it can't be used, "" if it can; the cells are then those that are certain.
        note: what is odd about it though it can be used.
    """

    line: int
    cells: Mapping[str, str]
    problem: str = ""
    note: str = ""


class TableReader:
    """A table with a header, whose rows are read one at a time."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        """Read the header.

        Args:
            stream: the file's content, decompressed; it can seek.
            name: of the file, for messages.

        Raises:
            MedLIPError: two columns share a name.
        """
        csv.field_size_limit(sys.maxsize)  # run-length masks are long
        self.name = name
        self._lines = _Lines(decoded_lines(stream))
        first = next((line for line, _ in self._lines if line.strip()), "")
        self.delimiter = max(DELIMITERS, key=first.count)
        cells = _parse([first], self.delimiter).cells or first.split(self.delimiter)
        self.header = [cell.strip() for cell in cells]
        repeated = [column for column in self.header if column and self.header.count(column) > 1]
        if repeated:
            raise MedLIPError(f"{name}: two columns are called {repeated[0]!r}. Rename one.")

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows; one that the next line seems to go on with is named, since its text may be cut."""
        held: Row | None = None
        for row, count in self._rows():
            short = count < len(self.header) and not row.problem
            goes_on = short and held is not None and not self._begins_row([*row.cells.values()], held)
            if held is not None:
                yield held._replace(problem=held.problem or CUT) if goes_on else held
            if short:
                few = f"fewer cells than columns ({count} instead of {len(self.header)})"
                row = row._replace(problem=few) if goes_on else row._replace(note=row.note or few)
            held = row
        if held is not None:
            yield held

    def _rows(self) -> Iterator[tuple[Row, int]]:
        """Yield each row with its number of cells."""
        previous: Row | None = None
        for line, note in self._lines:
            if not line.strip():
                continue
            number, problem = self._lines.number, ""
            cells, note = self._cells(line, note, previous)
            if cells is None:
                problem = 'its quotes don\'t match: write " inside a text as ""'
                cells = line.split('"')[0].split(self.delimiter)[:-1]  # what stands before the first quote
            elif any(cell.strip() for cell in cells[len(self.header) :]):
                problem = (
                    f"more cells than columns ({len(cells)} instead of {len(self.header)}): "
                    f"put quotes around texts that hold {self.delimiter!r}"
                )
            stripped = {name: cell.strip() for name, cell in zip(self.header, cells, strict=False)}
            row = Row(number, stripped, problem, note)
            previous = previous if problem else row
            yield row, len(cells)

    def _cells(self, line: str, note: str, previous: Row | None) -> tuple[list[str] | None, str]:
        """Return the cells of the row that begins with a line (None where its quotes don't match), and what is odd about it.

        A quoted cell may go on over lines, which are then taken; lines that are rows of their own are put back.
        """
        if '"' not in line:
            return line.rstrip("\r\n").split(self.delimiter), note
        lines = [line]
        parsed = _parse(lines, self.delimiter)
        if parsed.is_open:
            quotes = line.count('"')
            for more, odd in self._lines:
                lines.append(more)
                note = note or odd
                quotes += more.count('"')
                if quotes % 2 == 0 or len(lines) > LONGEST_ROW:
                    break
            parsed = _parse(lines, self.delimiter)
        like = previous or Row(0, dict(zip(self.header, parsed.cells or [], strict=False)))
        if parsed.cells is not None and not any(self._is_row(other, like) for other in lines[1:]):
            return parsed.cells, note
        self._lines.put_back(lines[1:])
        return None, note

    def _is_row(self, line: str, like: Row) -> bool:
        cells = _parse([line], self.delimiter).cells
        return cells is not None and len(cells) == len(self.header) and self._begins_row(cells, like)

    def _begins_row(self, cells: Sequence[str], like: Row) -> bool:
        """Whether a cell has the form of another row's identifier, as s12 has that of s7."""
        forms = (_form(like.cells.get(column, "")) for column in self.header)
        return any(form and form == _form(cell) for form, cell in zip(forms, cells, strict=False))


@contextmanager
def open_table(path: Path) -> Iterator[TableReader]:
    """Open a table file, which may be gzipped.

    Raises:
        MedLIPError: the file is missing or can't be read, on opening or later.
    """
    try:
        with open_bytes(path) as stream:
            yield TableReader(stream, str(path))
    except FileNotFoundError as error:
        raise MedLIPError(f"{path}: there is no such file. Complete the download.") from error
    except (OSError, csv.Error, EOFError, zlib.error) as error:
        raise MedLIPError(f"{path}: not a readable CSV file ({error}). Get the file again.") from error


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a published table whole: one dict a row, blanks as "".

    Raises:
        MedLIPError: the file is missing or can't be read, lacks one of `columns`, or has a row that doesn't fit its header.
    """
    with open_table(path) as table:
        require_columns(table, columns, "Give the data set's own file, with its header.")
        rows = []
        for row in table:
            if row.problem:
                raise MedLIPError(f"{path}: line {row.line}: {row.problem}. Correct it, or get the file again.")
            rows.append({name: row.cells.get(name, "") for name in table.header})
        return rows


def require_columns(table: TableReader, columns: Iterable[str], hint: str) -> None:
    """Raise a `MedLIPError` that names the columns there are, unless a table has all of `columns`."""
    missing = [name for name in dict.fromkeys(columns) if name not in table.header]
    if missing:
        lacking, present = (", ".join(map(repr, names)) for names in (missing, [name for name in table.header if name]))
        raise MedLIPError(f"{table.name}: there is no column {lacking}; it has {present or 'none'}. {hint}")


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


def plain_id(text: str) -> str:
    """Return an identifier without what programs made of it: "12.0" is 12, and "nan" is none at all."""
    text = text.strip()
    number = _FLOAT.fullmatch(text)
    return number[1] if number else "" if text in NO_VALUE else text


def says_nothing(text: str) -> bool:
    """Whether a cell is blank, or holds what programs write there instead ("nan", "None", "NULL" …)."""
    return text.strip().lower() in NOTHING


_FLOAT = re.compile(r"(\d+)\.0+")


class _Lines:
    """Lines with their notes; some can be put back to be read again."""

    def __init__(self, lines: Iterator[tuple[str, str]]) -> None:
        self.number = 0
        self._lines, self._back = lines, deque[tuple[str, str]]()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self

    def __next__(self) -> tuple[str, str]:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        self._back.extendleft((line, "") for line in reversed(lines))
        self.number -= len(lines)


class _Parsed(NamedTuple):
    cells: list[str] | None
    is_open: bool = False


def _parse(lines: Sequence[str], delimiter: str) -> _Parsed:
    """Return the cells of one row; None where its quotes don't match, or where the last one is still open."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if any('\\"' in line for line in lines):  # some programs write \" for a quote in a text
            with suppress(csv.Error):
                rows = list(csv.reader(lines, delimiter=delimiter, strict=True, doublequote=False, escapechar="\\"))
                return _Parsed(rows[0] if len(rows) == 1 else None)
        return _Parsed(None, "unexpected end" in str(error))
    return _Parsed(rows[0] if len(rows) == 1 else None)


def _form(cell: str) -> str:
    """Return the form of an identifier, "s9" for s12; "" for what is none (blanks, no digit)."""
    cell = cell.strip()
    if len(cell) > 80 or " " in cell or not any(character.isdigit() for character in cell):
        return ""
    return "hexadecimal" if _HEXADECIMAL.fullmatch(cell) else _DIGITS.sub("9", cell)


_DIGITS = re.compile(r"\d+")
_HEXADECIMAL = re.compile(r"[0-9a-f-]{16,}")


# --- files and their encodings ---


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, decompressed if it is gzipped, whatever it is called."""
    stream = path.open("rb")
    magic = stream.read(2)
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if magic == b"\x1f\x8b" else stream  # type: ignore[return-value]


def decode(content: bytes) -> tuple[str, str]:
    """Return a text, and a note unless it was UTF-8 or said its encoding itself.

    UTF-16 and UTF-32 are known by their byte order mark, UTF-16 also by its zeros; the rest by `charset-normalizer`.
    """
    if encoding := _wide(content[:_SAMPLE]):
        return content.decode(encoding, errors="replace").removeprefix("\ufeff"), ""
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        encoding = _legacy(content[:_SAMPLE])
        return content.decode(encoding, errors="replace"), _note(encoding)


def decoded_lines(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a stream that can seek, their ends kept, each with a note unless it was UTF-8.

    Files that were written together by several programs hold several encodings: every line that can be is read as UTF-8.
    """
    sample = _sample(stream)
    if encoding := _wide(sample):
        text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
        yield from ((line.removeprefix("\ufeff"), "") for line in text)
        return
    encoding = ""
    mark = b"\xef\xbb\xbf"
    for raw in stream:
        raw, mark = raw.removeprefix(mark), b""
        for line in raw.splitlines(keepends=True) if b"\r" in raw else (raw,):
            try:
                text_line, note = line.decode("utf-8"), ""
            except UnicodeDecodeError:
                encoding = encoding or _legacy(sample or line)
                text_line, note = line.decode(encoding, errors="replace"), _note(encoding)
            yield text_line.replace("\0", ""), note


def text_encoding(stream: IO[bytes]) -> str:
    """Return the encoding of a stream that can seek and that says its encoding itself, else "utf-8-sig"."""
    return _wide(_sample(stream)) or "utf-8-sig"


_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_LEGACY = {
    "cp1252": "Windows-1252", "mac_roman": "Mac Roman", "cp1251": "Windows-1251", "gb18030": "GB 18030",
    "shift_jis": "Shift JIS", "euc_kr": "EUC-KR",
}  # fmt: skip
_ENOUGH = 8  # bytes beyond ASCII; from fewer a guess is a lottery, and Windows-1252 is what English reports are written in
_ZEROS = 0.2  # share of every other byte that is zero in UTF-16, where some text is in English
_SAMPLE = 1 << 16


def _sample(stream: IO[bytes]) -> bytes:
    try:
        sample = stream.read(_SAMPLE)
    except (EOFError, zlib.error):  # cut off: what comes before is read all the same
        sample = b""
    stream.seek(0)
    return sample


def _wide(sample: bytes) -> str:
    """Return the encoding of two or four bytes a character that a text begins with, "" for none."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    low, high = sample[0::2].count(0), sample[1::2].count(0)
    if max(low, high) > _ZEROS * len(sample) / 2 and min(low, high) < max(low, high) / 10:
        return "utf-16-le" if high > low else "utf-16-be"
    return ""


def _legacy(sample: bytes) -> str:
    telling = b"\n".join(line for line in sample.splitlines() if not line.isascii())
    beyond = sum(byte >= 0x80 for byte in telling)
    if beyond < _ENOUGH:
        return "cp1252"
    from charset_normalizer import from_bytes

    candidates = list(_LEGACY) if beyond > len(telling) / 4 else ["cp1252", "mac_roman"]  # Latin letters are mostly ASCII
    best = from_bytes(telling, cp_isolation=candidates).best()
    return best.encoding if best and best.encoding in _LEGACY else "cp1252"


def _note(encoding: str) -> str:
    return f"not UTF-8: read as {_LEGACY[encoding]}"
