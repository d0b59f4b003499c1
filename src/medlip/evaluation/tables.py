"""The tables of results and comparisons: built by walking over the declared measures, none of which is named here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from medlip.evaluation.compare import Comparison, PairedDifference, measure_titles
from medlip.evaluation.results import Result
from medlip.evaluation.seeds import SeedEstimate
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks import find_task, task_measures
from medlip.metrics import Estimate, Measure
from medlip.tables import UNDEFINED, Form, Table, count, ends, number, write_tables

N = TypeVar("N")


def result_tables(result: Result) -> Iterator[Table]:
    """Yield the tables of one result: for each task its measures, and its classes where it has any."""
    for found in result_tables_by_task(result).values():
        yield from found


def result_tables_by_task(result: Result) -> dict[str, list[Table]]:
    """Return the tables of one result by task."""
    found: dict[str, list[Table]] = {}
    for name, part in result.tasks.items():
        title, measures = find_task(name).title, task_measures(name)
        found[name] = [_measure_table(title, measures, part)]
        if part.per_class:
            found[name].append(_class_table(title, measures, part.per_class))
    return found


def _measure_table(title: str, measures: Sequence[Measure], found: TaskResult) -> Table:
    rows = [
        [_titled(measure), number(one.value), ends(one.interval), number(one.chance), count(one.n), one.reason or ""]
        for measure in measures
        if (one := found.estimates.get(measure.name))
    ]
    kept = [column for column in range(6) if column < 2 or any(row[column] not in ("", UNDEFINED) for row in rows)]
    header = (title, "value", "95 % interval", "chance", "n", "undefined because")
    note = f"Thresholds: {found.threshold_rule}." if found.threshold_rule else ""
    return Table("", [header[column] for column in kept], [[row[column] for column in kept] for row in rows], note)


def _class_table(title: str, measures: Sequence[Measure], classes: Mapping[str, ClassResult]) -> Table:
    """Return the table by class: the task's first measure with its interval, the values of the others."""
    shown = [each for each in measures if any(each.class_name in one.estimates for one in classes.values())]
    rows = []
    for name, one in classes.items():
        values = [one.estimates.get(measure.class_name) for measure in shown]
        first = values[0] if values else None
        rows.append(
            [name, count(one.n), count(one.positives)]
            + [ends(first.interval) if first else UNDEFINED]
            + [number(value.value) if value else UNDEFINED for value in values]
        )
    kept = [column for column in range(len(rows[0])) if column == 0 or any(row[column] != UNDEFINED for row in rows)]
    header = [f"{title}, by class", "n", "positives", f"{shown[0].title if shown else ''}, 95 % interval"]
    header += [_titled(measure) for measure in shown]
    return Table("", [header[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _titled(measure: Measure) -> str:
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Yield what a comparison holds: results, differences to the first, and quoted numbers, each a table of its own."""
    titles = measure_titles()
    results, differences, notes = comparison.results, comparison.differences, "; ".join(comparison.notes)
    shown = [key for key in titles if any(key in row.measures and row.measures[key].value is not None for row in results)]
    tested = [key for key in titles if any(key in row.measures for row in differences)]
    by_class = {key: list(dict.fromkeys(c for row in differences for c in row.per_class.get(key, ()))) for key in titles}
    rows = [
        *([titles[key], *_differing([row.measures.get(key) for row in differences])] for key in tested),
        *(
            [f"{titles[key]}: {name}", *_differing([row.per_class.get(key, {}).get(name) for row in differences])]
            for key, names in by_class.items()
            for name in names
        ),
    ]
    yield Table(
        f"Protocol {comparison.protocol.hash}: {comparison.protocol.name}",
        ["measure", *(row.name for row in results)],
        [[titles[key], *(estimate(row.measures.get(key)) for row in results)] for key in shown],
        "" if rows else notes,
    )
    if rows:
        yield Table(
            f"Difference to {differences[0].to}",
            ["measure", *(f"{row.name}{column}" for row in differences for column in ("", ", p"))],
            rows,
            notes,
        )
    for quote in comparison.quoted.values():
        yield Table(
            f"Quoted, not measured here: {quote.title}. {quote.protocol}",
            ["method (quoted)", *(f"{name}, %" for name in quote.measures), "source"],
            [
                [row.method, *(UNDEFINED if value is None else f"{value:.1f}" for value in row.values), row.source]
                for row in quote.rows
            ],
            quote.note,
        )


def comparison_csv(comparison: Comparison) -> str:
    """Write every number of a comparison as a row, with the same columns for all; `ends` says what low and high are."""
    titles = measure_titles()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["kind", "name", "class", "measure", "value", "low", "high", "ends", "p", "source"])
    for row in comparison.results:
        for name, key, one in _numbers(row.measures, row.per_class):
            writer.writerow(["result", row.name, name, titles[key], one.value, *_ends(one), "", ""])
    for change in comparison.differences:
        for name, key, value in _numbers(change.measures, change.per_class):
            low, high = value.interval or ("", "")
            kind = "95 % interval" if value.interval else ""
            writer.writerow(["difference", change.name, name, titles[key], value.value, low, high, kind, value.p, change.to])
    for quote in comparison.quoted.values():
        for entry in quote.rows:
            for measure, percent in zip(quote.measures, entry.values, strict=True):
                what, source = f"{quote.title}: {measure}, %", f"{entry.source}; {quote.protocol}"
                writer.writerow(["quoted", entry.method, "", what, percent, "", "", "", "", source])
    return file.getvalue().rstrip("\n")


def _numbers(measures: Mapping[str, N], per_class: Mapping[str, Mapping[str, N]]) -> Iterator[tuple[str, str, N]]:
    """Yield class ("" for the whole), measure and number."""
    yield from (("", key, value) for key, value in measures.items())
    yield from ((name, key, value) for key, classes in per_class.items() for name, value in classes.items())


def write_comparison(comparison: Comparison, form: Form) -> str:
    """Write a comparison's tables in one form, the disclaimer below."""
    if form is Form.csv:
        return comparison_csv(comparison)
    return write_tables(comparison_tables(comparison), form)


def estimate(one: Estimate | None, sign: str = "") -> str:
    """Write an estimate with its interval, or with its range over seeds; with a `sign` of "+" for a difference."""
    if one is None or one.value is None:
        return UNDEFINED
    low, high, kind = _ends(one)
    return f"{one.value:{sign}.3f}" + (f" ({low:{sign}.3f} to {high:{sign}.3f})" if kind else "")


def _ends(one: Estimate) -> tuple[float | str, float | str, str]:
    """Return the ends of an estimate's interval, or of its range over seeds, and which of them they are."""
    if one.interval:
        return *one.interval, "95 % interval"
    if isinstance(one, SeedEstimate) and one.range:
        return *one.range, "range over seeds"
    return "", "", ""


def _differing(changes: Sequence[PairedDifference | None]) -> Iterator[str]:
    for change in changes:
        if change is None or change.value is None:
            yield from (UNDEFINED, UNDEFINED)
            continue
        yield f"{change.value:+.3f}" + (f" ({ends(change.interval, '+')})" if change.interval else "")
        yield number(change.p)
