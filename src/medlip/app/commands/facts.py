"""`medlip facts`: from reports to facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medlip.about import DISCLAIMER
from medlip.app.answer import Answer, warn_skipped
from medlip.app.options import Address, Engine, Vocabulary, Workers
from medlip.errors import MedLIPError
from medlip.tables import aligned

SHOWN_PROBLEMS = 10


def facts(
    reports: Annotated[
        list[str],
        typer.Argument(
            help="CSV, JSON lines, Parquet, RadGraph JSON, Open-i XML, .txt, folders or patterns of them, or - for stdin; "
            "with --show or --explain also a text.",
            metavar="REPORTS",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .parquet, .csv or .jsonl.", metavar="FILE")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Column with the report; repeat it for one column per section.", metavar="COLUMN"),
    ] = None,
    study: Annotated[str | None, typer.Option("--id", help="Column with the study's identifier.", metavar="COLUMN")] = None,
    mentions: Annotated[
        bool, typer.Option("--mentions", help="Write every mention, not one fact per pathology and anatomy.")
    ] = False,
    implied: Annotated[
        bool, typer.Option("--implied", help="Add what normal statements imply (clear lungs: no consolidation).")
    ] = False,
    extractor: Annotated[
        Literal["built-in", "radgraph"], typer.Option("--extractor", help="What extracts them; radgraph runs that package.")
    ] = "built-in",
    vocabulary: Vocabulary = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page to review the extraction.", metavar="FILE")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the first report with its facts marked.")] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print how each fact of the first report was read: section, sentence, clause, cue, rule."
        ),
    ] = False,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
) -> Answer:
    """Extract facts from radiology reports.

    A fact says which pathology is present, absent or uncertain, in which anatomy, and which words say so.
    """
    from medlip.parallel import using
    from medlip.reports.stream import ExtractionOptions

    options = ExtractionOptions(mentions, implied, str(vocabulary) if vocabulary else None)
    if show or explain:
        report = _one_report(reports, tuple(text or ()), study)
        return _explain(report, options) if explain else _show(report, options)
    if out is None and html is None:
        raise MedLIPError(
            "nothing to write: give --out facts.parquet (or .csv, .jsonl), --html review.html, --show or --explain."
        )
    with using(engine, address):
        return _convert(reports, out, html, options, tuple(text or ()), study, extractor, workers)


def _convert(
    reports: list[str],
    out: Path | None,
    html: Path | None,
    options: Any,
    text: tuple[str, ...],
    study: str | None,
    extractor: str,
    workers: int | None,
) -> Answer:
    from medlip.concepts import load_vocabulary
    from medlip.reports.files import require_apart
    from medlip.reports.review import Review
    from medlip.reports.stream import extract_file

    if html:
        require_apart(html, reports)
    review = Review(load_vocabulary(options.vocabulary) if options.vocabulary else None) if html else None
    summary = extract_file(
        reports, out, text=text, study=study, options=options, annotator=extractor, workers=workers, observer=review
    )
    skipped, odd = (
        [f"{entry['study']}: {entry['problem']}" for entry in summary.problems if entry["problem"] in kind]
        for kind in (summary.skipped, summary.notes)
    )
    written = {name: path for name, path in (("out", out), ("html", html)) if path}
    if review and html:
        html.write_text(review.html(", ".join(Path(path).name for path in reports), summary), encoding="utf-8")
    rows: list[list[object]] = [
        ["reports", summary.reports],
        ["facts", summary.facts],
        ["reports without facts", summary.without_facts],
    ]
    rows += [[f"skipped: {reason}", count] for reason, count in summary.skipped.most_common()]
    rows += [[f"note: {reason}", count] for reason, count in summary.notes.most_common()]
    if summary.unknown_words:
        words = ", ".join(word for word, _ in summary.unknown_words.most_common(8))
        rows.append([f"words without a known lemma ({words})", sum(summary.unknown_words.values())])
    if summary.outside:
        names = ", ".join(f"{name} {count}" for (_, name), count in summary.outside.most_common(8))
        rows.append([f"mentions outside the vocabulary ({names})", sum(summary.outside.values())])
    rows += [[name, str(path)] for name, path in written.items()]
    nothing = summary.reports > 0 and sum(summary.skipped.values()) == summary.reports
    failure = (
        f"no report of {', '.join(reports)} could be read; the first: {summary.problems[0]['problem']}" if nothing else ""
    )
    if not failure:
        warn_skipped("reports were", skipped, sum(summary.skipped.values()))
    return Answer({**summary.to_dict(), **written}, f"{aligned(rows)}\n{DISCLAIMER}", odd[:SHOWN_PROBLEMS], failure)


def _one_report(reports: list[str], text: tuple[str, ...], study: str | None) -> Any:
    """Return the report that is given as text, or the first of the files."""
    from medlip.reports.files import Report, read_reports

    (first, *_) = reports
    if " " in first.strip() and not _is_path(first):
        return Report("text", first)
    found = next((one for one in read_reports(reports, text, study) if not one.aside), None)
    if found is None:
        raise MedLIPError(f"{first}: holds no report.")
    return found


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # a text that is too long for a name
        return False


def _show(report: Any, options: Any) -> Answer:
    from rich.console import Console

    from medlip.reports.review import marked
    from medlip.reports.stream import read_report

    read = read_report(report, options)
    content = report.content if isinstance(report.content, str) else str(report.content["text"])
    console = Console()
    with console.capture() as capture:
        console.print(marked(content, read.facts), soft_wrap=True)
    document = {"study": report.study, "report": content, "facts": [_plain(fact) for fact in read.facts]}
    return Answer(document, f"{capture.get().rstrip()}\n\n{DISCLAIMER}")


def _explain(report: Any, options: Any) -> Answer:
    from medlip.concepts import default_vocabulary, load_vocabulary
    from medlip.reports.extract import extractor
    from medlip.reports.rules import explained
    from medlip.reports.stream import read_report

    if not isinstance(report.content, str):
        raise MedLIPError(
            f"{report.study}: holds a RadGraph graph, whose facts follow the published rules. Give a text to explain."
        )
    read_report(report, options)  # what can't be read is an error here, too
    vocabulary = load_vocabulary(options.vocabulary) if options.vocabulary else default_vocabulary()
    traced = extractor(vocabulary).explain(report.content)
    facts = [
        {**_plain(one.fact), "section": one.section, "clause": one.clause, "cue": one.cue}
        | {"presence_rule": one.presence_rule, "place_rule": one.place_rule}
        for one in traced
    ]
    return Answer({"study": report.study, "report": report.content, "facts": facts}, f"{explained(traced)}\n\n{DISCLAIMER}")


def _plain(fact: Any) -> dict[str, object]:
    return {name: getattr(fact, name) for name in ("pathology", "anatomy", "presence", "sentence", "start", "end")}
