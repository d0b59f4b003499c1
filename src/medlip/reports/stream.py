"""From a file of reports to a file of facts: streamed, on all cores, in the order of the input."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from medlip.concepts import Vocabulary, default_vocabulary, load_vocabulary
from medlip.errors import MedLIPError
from medlip.parallel import Outcome, process
from medlip.reports.extract import Outside, extractor, outside_of
from medlip.reports.facts import Fact, resolve
from medlip.reports.files import Report, read_reports, require_apart
from medlip.reports.implied import implied_absent
from medlip.reports.radgraph import read_graph
from medlip.reports.text import sections

LITTLE = 0.25  # a report of which a smaller share is read is named
NOT_ENGLISH, LITTLE_READ = "not English", "little of it was read"
FIELDS = ("study", "pathology", "anatomy", "presence", "sentence", "start", "end")
NAMED_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """What is asked of every report.

    Attributes:
        mentions: all mentions, not one fact a (pathology, anatomy).
        implied: add what normal statements entail (`implied_absent`).
        vocabulary: path of a vocabulary file, None for the default one.
    """

    mentions: bool = False
    implied: bool = False
    vocabulary: str | None = None


class Read(NamedTuple):
    """What was read from one report.

    Attributes:
        facts: resolved facts, or all mentions.
        implied: how many of the last ones are entailed and not stated.
        silent: the sentences that no fact was read from.
        notes: what is odd about it.
        unknown_words: words of a graph whose lemma is not known.
        outside: what it states and the vocabulary does not have, once a mention.
    """

    facts: tuple[Fact, ...]
    implied: int = 0
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    outside: tuple[Outside, ...] = ()


@dataclass(slots=True)
class Summary:
    """What became of a file: counts, and the first problems by name."""

    reports: int = 0
    facts: int = 0
    without_facts: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)
    not_english: list[str] = field(default_factory=list)
    little_read: list[str] = field(default_factory=list)
    unknown_words: Counter[str] = field(default_factory=Counter)
    outside: Counter[Outside] = field(default_factory=Counter)

    def name(self, study: str, problem: str, counter: Counter[str]) -> None:
        """Count a problem under what it is, without its details, and keep it by name."""
        kind = problem.split(" (")[0]
        counter[kind] += 1
        if len(self.problems) < NAMED_PROBLEMS:
            self.problems.append({"study": study, "problem": problem})
        studies = {NOT_ENGLISH: self.not_english, LITTLE_READ: self.little_read}.get(kind)
        if studies is not None and len(studies) < NAMED_PROBLEMS:
            studies.append(study)

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "reports": self.reports, "facts": self.facts, "without_facts": self.without_facts,
            "skipped": dict(self.skipped), "notes": dict(self.notes), "problems": self.problems,
            "not_english": self.not_english, "little_read": self.little_read,
            "unknown_words": dict(self.unknown_words.most_common()),
            "outside": [{part: name, "mentions": count} for (part, name), count in self.outside.most_common()],
        }  # fmt: skip


class Observer(Protocol):
    """Looks on while reports are read, for instance to review them."""

    def add(self, report: Report, read: Read) -> None:
        """Take notice of one report."""


def extract_file(
    source: str | Path | Sequence[str | Path],
    out: str | Path | None,
    *,
    text: Sequence[str] = (),
    study: str | None = None,
    options: ExtractionOptions | None = None,
    annotator: str = "built-in",
    workers: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Read the facts of all reports of files or folders into a Parquet, CSV or JSON lines file.

    One row a (study, pathology, anatomy) with its presence, deciding sentence and character span; rows are in the order of
    the reports. Spans count characters of the text as `medlip.reports.files` composes it. Facts of RadGraph files follow
    the published rule: a pair that is absent and uncertain keeps both.

    Args:
        source: any layout of `read_reports`, one file or several.
        out: .parquet, .csv or .jsonl, which appears when it is complete; None to write nothing (an observer looks on).
        text: columns of the text, see `read_reports`.
        study: column of the identifier, see `read_reports`.
        options: what is asked of every report.
        annotator: "built-in", or "radgraph" to run the `radgraph` package over the texts.
        workers: processes, None for one a core, 0 for this process alone.
        observer: sees every report that was read.

    Raises:
        MedLIPError: the source can't be read at all, the kind of `out` is unknown, or `out` is among what is read.
    """
    options = options or ExtractionOptions()
    if out is not None:
        require_apart(out, source)
    _vocabulary(options.vocabulary)  # a broken vocabulary is one error, not one a report
    summary = Summary()
    with ExitStack() as stack:
        writer = (
            stack.enter_context(_writer(Path(out), (*FIELDS, "implied") if options.implied else FIELDS)) if out else None
        )
        for outcome in _outcomes(read_reports(source, text, study), options, annotator, workers):
            report, read = outcome.item, outcome.value
            if report.aside:
                summary.name(report.study, report.problem, summary.notes)
                continue
            summary.reports += 1
            if read is None:
                summary.name(report.study, outcome.skipped, summary.skipped)
                continue
            for note in read.notes:
                summary.name(report.study, note, summary.notes)
            summary.unknown_words.update(read.unknown_words)
            summary.outside.update(read.outside)
            summary.facts += len(read.facts)
            summary.without_facts += not read.facts
            if writer is not None:
                writer.write(report.study, read)
            if observer is not None:
                observer.add(report, read)
        if writer is not None:
            writer.finish()
    return summary


def _outcomes(
    reports: Iterator[Report], options: ExtractionOptions, annotator: str, workers: int | None
) -> Iterator[Outcome[Report, Read]]:
    if annotator == "built-in":
        yield from process(partial(read_report, options=options), reports, "reading reports", workers=workers)
    elif annotator == "radgraph":
        yield from process(partial(_annotated, _radgraph_model(), options), reports, "reading reports", workers=0)
    else:
        raise MedLIPError(f"extractor {annotator!r}: no such extractor. Choose built-in or radgraph.")


def read_report(report: Report, options: ExtractionOptions) -> Read:
    """Read the facts of one report.

    Raises:
        MedLIPError: the report has a problem, no text, or a broken graph.
    """
    if report.problem:
        raise MedLIPError(report.problem)
    vocabulary = _vocabulary(options.vocabulary)
    notes = [report.note] if report.note else []
    if isinstance(report.content, str):
        if not report.content.strip():
            raise MedLIPError("no text")
        reading = extractor(vocabulary).read(report.content)
        if not reading.english:
            raise MedLIPError(NOT_ENGLISH)
        if reading.share < LITTLE:
            notes.append(f"{LITTLE_READ} ({reading.share:.0%})")
        if "impression" in reading.sections and "findings" not in reading.sections:
            notes.append("no findings, all impression")
        if not {"findings", "impression"} & set(reading.sections):
            notes.append("neither findings nor impression")
        mentions, silent, outside = reading.facts, reading.silent, reading.outside
        facts = mentions if options.mentions else resolve(mentions)
        unknown: tuple[str, ...] = ()
    else:
        graph = read_graph(report.content)
        lacking = [outside_of(vocabulary, fact.pathology, fact.anatomy) for fact in graph.facts]
        mentions = tuple(fact for fact, lack in zip(graph.facts, lacking, strict=True) if lack is None)
        outside = tuple(lack for lack in lacking if lack)
        facts = mentions if options.mentions else resolve(mentions, uncertain_hides_absent=False)
        unknown, silent = graph.unknown_words, ()
        if graph.dangling:
            notes.append(f"relations to entities that don't exist ({', '.join(graph.dangling[:3])})")
    implied = implied_absent(mentions, vocabulary) if options.implied else ()
    return Read((*facts, *implied), len(implied), silent, tuple(notes), unknown, outside)


@lru_cache(maxsize=4)
def _vocabulary(path: str | None) -> Vocabulary:
    return load_vocabulary(path) if path else default_vocabulary()


# --- the radgraph package ---


def _radgraph_model() -> Any:
    try:
        package = import_module("radgraph")
    except ImportError as error:
        raise MedLIPError(
            "the extractor radgraph needs the package of that name, which downloads its weights on first use: "
            "pip install radgraph."
        ) from error
    return package.RadGraph(model_type="radgraph-xl")


def _annotated(model: Any, options: ExtractionOptions, report: Report) -> Read:
    """Read a report by the graph that the `radgraph` package makes of its findings and impression."""
    if report.problem or not isinstance(report.content, str) or not report.content.strip():
        return read_report(report, options)
    text = report.content
    described = " ".join(text[section.start : section.end] for section in sections(text) if section.read)
    graph: Mapping[str, Any] = model([described])["0"]
    return read_report(report._replace(content=graph), options)


# --- files of facts ---


def _writer(out: Path, fields: Sequence[str]) -> _Writer:
    kinds: dict[str, type[_Writer]] = {
        ".parquet": _ParquetWriter,
        ".csv": _CsvWriter,
        ".jsonl": _JsonWriter,
        ".ndjson": _JsonWriter,
    }
    kind = kinds.get(out.suffix.lower())
    if kind is None:
        raise MedLIPError(f"{out}: facts can't be written to such a file. Give a name that ends in {', '.join(kinds)}.")
    if not out.parent.is_dir():
        raise MedLIPError(f"{out}: the folder {out.parent} does not exist. Make it, or give another name.")
    return kind(out, fields)


class _Writer:
    """Writes rows beside the file's final name, and renames them when they are complete."""

    def __init__(self, out: Path, fields: Sequence[str]) -> None:
        self.out, self.fields = out, fields
        self.part = out.with_name(f".{out.name}.part")
        self.open()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.part.unlink(missing_ok=True)

    def finish(self) -> None:
        self.close()
        self.part.replace(self.out)

    def write(self, study: str, read: Read) -> None:
        stated = len(read.facts) - read.implied
        for i, fact in enumerate(read.facts):
            row = (study, fact.pathology, fact.anatomy, fact.presence, fact.sentence, fact.start, fact.end, i >= stated)
            self.row(row[: len(self.fields)])

    def open(self) -> None: ...
    def row(self, row: tuple[Any, ...]) -> None: ...
    def close(self) -> None: ...


class _TextWriter(_Writer):
    def open(self) -> None:
        self.stream = self.part.open("w", encoding="utf-8", errors="replace", newline="")

    def close(self) -> None:
        self.stream.close()


class _CsvWriter(_TextWriter):
    def open(self) -> None:
        super().open()
        self.csv = csv.writer(self.stream)
        self.csv.writerow(self.fields)

    def row(self, row: tuple[Any, ...]) -> None:
        self.csv.writerow(row)


class _JsonWriter(_TextWriter):
    def row(self, row: tuple[Any, ...]) -> None:
        self.stream.write(json.dumps(dict(zip(self.fields, row, strict=True)), ensure_ascii=False) + "\n")


class _ParquetWriter(_Writer):
    ROWS = 65_536

    def open(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"start": pa.int32(), "end": pa.int32(), "implied": pa.bool_()}
        self.schema = pa.schema([(name, kinds.get(name, pa.string())) for name in self.fields])
        self.parquet = pq.ParquetWriter(self.part, self.schema)
        self.rows: list[tuple[Any, ...]] = []

    def row(self, row: tuple[Any, ...]) -> None:
        self.rows.append(row)
        if len(self.rows) >= self.ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.fields)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, self.schema.types, strict=True)]
        self.parquet.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.parquet.is_open:
            if self.rows:
                self._flush()
            self.parquet.close()
