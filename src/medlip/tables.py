"""Tables of text, and the one way in which numbers are written: for the terminal, in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medlip.about import DISCLAIMER

UNDEFINED = "-"


class Form(StrEnum):
    """How tables are written."""

    text = "text"
    markdown = "markdown"
    csv = "csv"
    latex = "latex"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: its title, the names of its columns, rows of cells, and a note below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write_tables(tables: Iterable[Table], form: Form = Form.text) -> str:
    """Write tables one below the other, with the disclaimer at their end where it can stand."""
    write: Mapping[Form, Callable[[Table], str]] = {
        Form.text: as_text,
        Form.markdown: as_markdown,
        Form.csv: as_csv,
        Form.latex: as_latex,
    }
    parts = [write[form](table) for table in tables]
    return "\n\n".join([*parts, DISCLAIMER] if form in (Form.text, Form.markdown) else parts)


def as_text(table: Table) -> str:
    """Write a table for the terminal."""
    return "\n".join(filter(None, [table.title, aligned([table.header, *table.rows]), table.note]))


def as_markdown(table: Table) -> str:
    """Write a table in Markdown."""
    lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return "\n\n".join(filter(None, [f"**{table.title}**" if table.title else "", body, table.note]))


def as_csv(table: Table) -> str:
    """Write a table as CSV, without title and note."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])
    return file.getvalue().rstrip("\n")


def as_latex(table: Table) -> str:
    """Write a table in LaTeX (needs the package booktabs)."""
    header, *rows = (" & ".join(map(_latex, line)) + r" \\" for line in (table.header, *table.rows))
    caption = _latex(". ".join(filter(None, [table.title.rstrip("."), table.note])))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """Align rows in columns, the first to the left and the rest to the right; floats get three decimals."""
    cells = [[value if isinstance(value, str) else number(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def number(value: object) -> str:
    """Write a number: floats with three decimals, whole numbers whole, None and NaN as undefined."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < float("inf") else UNDEFINED
    if isinstance(value, (list, tuple)):
        return " to ".join(map(number, value))
    return UNDEFINED if value is None else str(value)


def count(value: int | None) -> str:
    """Write how many there are."""
    return UNDEFINED if value is None else f"{value:,}"


def ends(interval: Sequence[float] | None, sign: str = "") -> str:
    """Write the ends of an interval."""
    return UNDEFINED if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def _latex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text
