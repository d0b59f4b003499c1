"""`medlip facts`: from reports to facts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medlip.app.output import NOT_A_DEVICE, Answer, Json, answers, table
from medlip.errors import MedLIPError

SHOWN_PROBLEMS = 10


@answers
def facts(
    reports: Annotated[
        str,
        typer.Argument(
            help="CSV, JSON lines, Parquet, RadGraph JSON, Open-i XML, .txt, or a folder; with --show also the text itself.",
            metavar="REPORTS",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File of facts: .parquet, .csv or .jsonl.", metavar="FILE")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Column of the report; several are its sections.", metavar="COLUMN")
    ] = None,
    study: Annotated[str | None, typer.Option("--id", help="Column of the study's identifier.", metavar="COLUMN")] = None,
    mentions: Annotated[bool, typer.Option("--mentions", help="All mentions, not one row a pathology and anatomy.")] = False,
    implied: Annotated[
        bool, typer.Option("--implied", help="Add what normal statements entail (clear lungs: no consolidation).")
    ] = False,
    extractor: Annotated[str, typer.Option(help="built-in, or radgraph: run that package.", metavar="NAME")] = "built-in",
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="YAML file with your own concepts and synonyms.", metavar="FILE")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page to review the extraction.", metavar="FILE")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print a report with its facts marked.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.", min=0)] = None,
    as_json: Json = False,
) -> Answer:
    """Read the facts of reports: what is present, absent or uncertain, where, and the words that say so."""
    from medlip.reports.stream import Options

    options = Options(mentions, implied, str(vocabulary) if vocabulary else None)
    if show:
        return _show(reports, options, tuple(text or ()), study)
    if out is None and html is None:
        raise MedLIPError("nothing to write: give --out facts.parquet (or .csv, .jsonl), --html review.html, or --show.")
    return _convert(reports, out, html, options, tuple(text or ()), study, extractor, workers)


def _convert(
    reports: str,
    out: Path | None,
    html: Path | None,
    options: Any,
    text: tuple[str, ...],
    study: str | None,
    extractor: str,
    workers: int | None,
) -> Answer:
    from medlip.concepts import load_vocabulary
    from medlip.reports.review import Review
    from medlip.reports.stream import extract_file

    review = Review(load_vocabulary(options.vocabulary) if options.vocabulary else None) if html else None
    summary = extract_file(
        reports, out, text=text, study=study, options=options, annotator=extractor, workers=workers, observer=review
    )
    for problem in summary.problems[:SHOWN_PROBLEMS]:
        print(f"note: {problem['study']}: {problem['problem']}", file=sys.stderr)
    if (more := sum(summary.skipped.values()) + sum(summary.notes.values()) - SHOWN_PROBLEMS) > 0:
        print(f"note: and {more:,} more of that kind; --json names the first ones.", file=sys.stderr)
    written = {name: path for name, path in (("out", out), ("html", html)) if path}
    if review and html:
        html.write_text(review.html(Path(reports).name, summary), encoding="utf-8")
    rows: list[list[object]] = [
        ["reports", summary.reports],
        ["facts", summary.facts],
        ["without any", summary.without_facts],
    ]
    rows += [[f"skipped: {reason}", count] for reason, count in summary.skipped.most_common()]
    rows += [[f"note: {reason}", count] for reason, count in summary.notes.most_common()]
    if summary.unknown_words:
        words = ", ".join(word for word, _ in summary.unknown_words.most_common(8))
        rows.append([f"words without a known lemma ({words})", sum(summary.unknown_words.values())])
    rows += [[name, str(path)] for name, path in written.items()]
    nothing = summary.reports > 0 and sum(summary.skipped.values()) == summary.reports
    failure = f"no report of {reports} could be read; the first: {summary.problems[0]['problem']}" if nothing else ""
    return Answer({**summary.to_dict(), **written}, f"{table(rows)}\n{NOT_A_DEVICE}", failure)


def _show(reports: str, options: Any, text: tuple[str, ...], study: str | None) -> Answer:
    from rich.console import Console

    from medlip.reports.files import Report, read_reports
    from medlip.reports.review import marked
    from medlip.reports.stream import read_report

    if reports == "-":
        report = Report("stdin", sys.stdin.read())
    elif not Path(reports).exists() and " " in reports.strip():
        report = Report("text", reports)
    else:
        first = next(read_reports(reports, text, study), None)
        if first is None:
            raise MedLIPError(f"{reports}: holds no report.")
        report = first
    read = read_report(report, options)
    content = report.content if isinstance(report.content, str) else str(report.content["text"])
    console = Console()
    with console.capture() as capture:
        console.print(marked(content, read.facts), soft_wrap=True)
    document = {"study": report.study, "report": content, "facts": [_plain(fact) for fact in read.facts]}
    return Answer(document, f"{capture.get().rstrip()}\n\n{NOT_A_DEVICE}")


def _plain(fact: Any) -> dict[str, object]:
    return {name: getattr(fact, name) for name in ("pathology", "anatomy", "presence", "sentence", "start", "end")}
