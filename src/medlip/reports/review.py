"""Looking at facts: a report with its facts marked, and a page to review the extraction over a whole file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports.facts import Fact, Presence

if TYPE_CHECKING:
    from rich.text import Text

    from medlip.reports.files import Report
    from medlip.reports.stream import Read, Summary

COLOURS: Mapping[Presence, str] = {"present": "red", "absent": "green", "uncertain": "yellow"}
SAMPLES = 3  # a cell and presence
SILENT_KEPT = 20_000
SILENT_SHOWN = 300


def marked(text: str, facts: Sequence[Fact]) -> Text:
    """Return a report for the terminal, each finding coloured by its presence and followed by its pathology and anatomy."""
    from rich.text import Text

    shown = Text()
    at = 0
    for start, end, here in spans(facts):
        colour = COLOURS[here[0].presence]
        names = ", ".join(f"{fact.pathology} @ {fact.anatomy}" for fact in here)
        shown.append(text[at:start])
        shown.append(text[start:end], style=f"bold {colour}")
        shown.append(f" [{names}: {here[0].presence}]", style=colour)
        at = end
    shown.append(text[at:])
    return shown


def spans(facts: Sequence[Fact]) -> list[tuple[int, int, list[Fact]]]:
    """Group facts by their span, in the order of the text; of spans that overlap the first stays."""
    by_span: dict[tuple[int, int], list[Fact]] = {}
    for fact in facts:
        if fact.start >= 0:
            by_span.setdefault((fact.start, fact.end), []).append(fact)
    found: list[tuple[int, int, list[Fact]]] = []
    for (start, end), here in sorted(by_span.items(), key=lambda item: item[0]):
        if not found or start >= found[-1][1]:
            found.append((start, end, here))
    return found


class Sample(NamedTuple):
    """A sentence that says a fact, with the finding's own characters in it."""

    study: str
    before: str
    finding: str
    after: str


class Review:
    """Collects counts and samples while a file is read (an `Observer` of `extract_file`), and writes them as a page."""

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary or default_vocabulary()
        self.counts: Counter[tuple[str, str, Presence]] = Counter()
        self.samples: dict[tuple[str, str, Presence], list[Sample]] = {}
        self.silent: Counter[str] = Counter()

    def add(self, report: Report, read: Read) -> None:
        """Take notice of one report's facts and of its sentences without any."""
        for fact in read.facts:
            cell = (fact.pathology, fact.anatomy, fact.presence)
            self.counts[cell] += 1
            samples = self.samples.setdefault(cell, [])
            if len(samples) < SAMPLES and isinstance(report.content, str):
                samples.append(_sample(report.study, report.content, fact))
        self.silent.update(" ".join(sentence.lower().split()) for sentence in read.silent)
        if len(self.silent) > 2 * SILENT_KEPT:  # the frequent ones are what a reviewer looks for
            self.silent = Counter(dict(self.silent.most_common(SILENT_KEPT)))

    def html(self, title: str, summary: Summary) -> str:
        """Return the page: counts a pathology and anatomy, the matrix of counts, samples, and sentences without any fact."""
        from jinja2 import Environment

        template = (files("medlip.reports") / "review.html").read_text(encoding="utf-8")
        context = {"title": title, "summary": summary.to_dict(), **self._matrix(), "cells": self._cells()}
        context["silent"] = self.silent.most_common(SILENT_SHOWN)
        return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(**context)

    def _matrix(self) -> dict[str, object]:
        by_pathology, by_anatomy, totals = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
        by_presence: dict[str, Counter[Presence]] = {}
        for (pathology, anatomy, presence), count in self.counts.items():
            by_pathology[pathology] += count
            by_anatomy[anatomy] += count
            totals[pathology, anatomy] += count
            by_presence.setdefault(pathology, Counter())[presence] += count
        return {
            "columns": [p.name for p in self.vocabulary.pathologies if by_pathology[p.name]],
            "rows": [a.name for a in self.vocabulary.anatomies if by_anatomy[a.name]],
            "never": [p.name for p in self.vocabulary.pathologies if not by_pathology[p.name]],
            "totals": totals, "by_pathology": by_pathology.most_common(), "by_anatomy": by_anatomy.most_common(),
            "by_presence": by_presence, "largest": max(totals.values(), default=1),
        }  # fmt: skip

    def _cells(self) -> list[tuple[tuple[str, str, Presence], int, list[Sample]]]:
        return [(cell, count, self.samples[cell]) for cell, count in sorted(self.counts.items(), key=lambda item: -item[1])]


def _sample(study: str, text: str, fact: Fact) -> Sample:
    begin = text.find(fact.sentence, max(0, fact.start - len(fact.sentence)))
    start, end = max(0, fact.start - begin), max(0, fact.end - begin)
    return Sample(study, fact.sentence[:start], fact.sentence[start:end], fact.sentence[end:])
