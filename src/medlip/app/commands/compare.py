"""`medlip compare`: results side by side, as a table in the form that is asked for, and as a page with plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medlip.app.output import NOT_A_DEVICE, Answer, Json, answers, table


class Form(StrEnum):
    """How tables are written."""

    text = "text"
    markdown = "markdown"
    csv = "csv"
    latex = "latex"


@answers
def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="What evaluate, transfer (a level) or retrieve wrote with --out; the first is the reference.",
            metavar="DIR...",
        ),
    ],
    form: Annotated[Form, typer.Option("--format", help="text, markdown, csv or latex.")] = Form.text,
    html: Annotated[Path | None, typer.Option(help="Also write a page with plots.", metavar="PAGE")] = None,
    quoted: Annotated[
        list[str] | None,
        typer.Option("--quoted", help="A table of published numbers, such as nih-zero-shot.", metavar="NAME"),
    ] = None,
    by_seed: Annotated[
        bool, typer.Option("--over-seeds", help="Average over the seeds of each recipe, and pair differences by seed.")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Put results of one protocol side by side. Tests what each differs by from the first, on the same images."""
    from medlip.app.pages.compare_page import render_page
    from medlip.evaluation.compare import Evaluated
    from medlip.evaluation.compare import compare as compare_results
    from medlip.evaluation.seeds import compare_seeds

    evaluated = [Evaluated.load(folder) for folder in folders]
    document = (compare_seeds if by_seed else compare_results)(evaluated, quoted=quoted or ())
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render_page(document, evaluated), encoding="utf-8")
    text = render(document, form)
    return Answer(document, f"{text}\nThe page: {html}" if html and form is Form.text else text)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: its title, the names of its columns, rows of cells, and a note below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Yield what a comparison holds: results, differences to the first, and quoted numbers, each a table of its own."""
    results, differences, notes = document["results"], document["differences"], "; ".join(document["notes"])
    measures = [
        name for name in results[0]["measures"] if any(row["measures"][name]["value"] is not None for row in results)
    ]
    kept = {
        kind: list(dict.fromkeys(name for row in differences for name in row[kind])) for kind in ("measures", "per_class")
    }
    yield Table(
        f"Protocol {document['protocol']['hash']}: {document['protocol']['name']}",
        ["measure", *(row["name"] for row in results)],
        [[name, *(_value(row["measures"][name]) for row in results)] for name in measures],
        "" if any(kept.values()) else notes,
    )
    if any(kept.values()):
        titles = {"measures": "{}", "per_class": "AUROC of {}"}
        yield Table(
            f"Difference to {differences[0]['to']}",
            ["measure", *(f"{row['name']}{column}" for row in differences for column in ("", ", p"))],
            [
                [titles[kind].format(name), *(cell for row in differences for cell in _differing(row[kind].get(name)))]
                for kind, names in kept.items()
                for name in names
            ],
            notes,
        )
    for quote in document["quoted"].values():
        yield Table(
            f"Quoted, not measured here: {quote['title']}. {quote['protocol']}",
            ["method (quoted)", *(f"{name}, %" for name in quote["measures"]), "source"],
            [
                [row["method"], *("-" if v is None else f"{v:.1f}" for v in row["values"]), row["source"]]
                for row in quote["rows"]
            ],
            quote["note"],
        )


def render(document: Mapping[str, Any], form: Form) -> str:
    """Write a comparison's tables in one form; CSV has a row for every number, so that its columns are always the same."""
    if form is Form.csv:
        return as_csv(document)
    write: Callable[[Table], str] = {Form.text: as_text, Form.markdown: as_markdown, Form.latex: as_latex}[form]
    parts = [write(each) for each in tables(document)]
    return "\n\n".join(parts if form is Form.latex else [*parts, NOT_A_DEVICE])


def as_text(content: Table) -> str:
    """Write a table for the terminal."""
    return "\n".join(filter(None, [content.title, table([content.header, *content.rows]), content.note]))


def as_markdown(content: Table) -> str:
    """Write a table in Markdown."""
    lines = [content.header, ["---", *["---:"] * (len(content.header) - 1)], *content.rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return "\n\n".join(filter(None, [f"**{content.title}**", body, content.note]))


def as_latex(content: Table) -> str:
    """Write a table in LaTeX (needs the package booktabs)."""
    header, *rows = (" & ".join(map(_latex, line)) + r" \\" for line in (content.header, *content.rows))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex('. '.join(filter(None, [content.title.rstrip('.'), content.note])))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(content.header) - 1)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def as_csv(document: Mapping[str, Any]) -> str:
    """Write every number of a comparison as a row; `ends` says what low and high are."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["kind", "name", "class", "measure", "value", "low", "high", "ends", "p", "source"])
    for row in document["results"]:
        for measure, entry in row["measures"].items():
            writer.writerow(["result", row["name"], "", measure, entry["value"], *_ends(entry), "", ""])
        for name, entry in row["per_class"].items():
            writer.writerow(["result", row["name"], name, "AUROC", entry["value"], *_ends(entry), "", ""])
    for row in document["differences"]:
        entries = [("", measure, entry) for measure, entry in row["measures"].items()]
        entries += [(name, "AUROC", entry) for name, entry in row["per_class"].items()]
        for name, measure, entry in entries:
            own = ["difference", row["name"], name, measure, entry["difference"], *_ends(entry), entry["p"], row["to"]]
            writer.writerow(own)
    for quote in document["quoted"].values():
        for row in quote["rows"]:
            for measure, value in zip(quote["measures"], row["values"], strict=True):
                what = f"{quote['title']}: {measure}, %"
                writer.writerow(
                    ["quoted", row["method"], "", what, value, "", "", "", "", f"{row['source']}; {quote['protocol']}"]
                )
    return file.getvalue().rstrip("\n")


def _ends(entry: Mapping[str, Any]) -> tuple[float | str, float | str, str]:
    """Return the ends of a number's interval, or of its range over seeds, and which of them they are."""
    for kind, title in (("interval", "95 % interval"), ("range", "range over seeds")):
        if ends := entry.get(kind):
            return ends[0], ends[1], title
    return "", "", ""


def _value(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "-"
    low, high, kind = _ends(entry)
    return f"{entry['value']:.3f}" + (f" ({low:.3f} to {high:.3f})" if kind else "")


def _differing(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    if entry is None or entry["difference"] is None:
        return "-", "-"
    ends = entry["interval"]
    text = f"{entry['difference']:+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")
    return text, "-" if entry["p"] is None else f"{entry['p']:.3f}"


def _latex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text
