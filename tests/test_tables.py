"""Tables walk over the declared measures: a measure that is added elsewhere shows up in every one of them."""

from __future__ import annotations

import csv
import io

import pytest

from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import Result
from medlip.evaluation.tables import result_tables
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.evaluation.tasks import measures
from medlip.metrics import Estimate
from medlip.tables import Form, Table, as_csv, as_latex, as_markdown, as_text, number, write_tables

RECORD = EvaluationRecord(
    name="n", data="d", split="test", images="i", tuning="t", classes={}, findings={}, rules={}, resamples=10, seed=0
)


@pytest.fixture
def result() -> Result:
    """A result in which every declared measure has a value of its own."""
    tasks: dict[str, dict[str, Estimate]] = {}
    for place, (task, measure) in enumerate(measures()):
        tasks.setdefault(task, {})[measure.name] = Estimate.of(place + 0.123, place, place + 1, n=7)
    parts = {task: TaskResult.model_validate(estimates).model_dump() for task, estimates in tasks.items()}
    mass = ClassResult(n=5, positives=2, auroc=Estimate.of(0.777, 0.7, 0.8))
    parts["zero_shot"] |= {
        "classes_in_macro": [], "left_out_of_macro": {}, "undefined_in_macro": {}, "n_tuning": 1, "n_at_threshold": 1,
        "subgroups": {}, "per_class": {"mass": mass.model_dump()},
    }  # fmt: skip
    plain = {name: parts[name] for name in ("zero_shot", "places")}
    return Result.model_validate({"split": "test", "n_images": 9, "n_patients": 8, "protocol": RECORD, **plain})


def test_every_measure_of_a_task_is_in_its_table(result: Result) -> None:
    text = write_tables(result_tables(result))
    for place, (task, measure) in enumerate(measures()):
        if task in result.tasks:
            assert measure.title in text
            assert f"{place + 0.123:.3f}" in text
    assert "0.777" in text
    assert "0.700 to 0.800" in text
    assert "Not a medical device" in text


def test_a_column_that_is_empty_is_left_out(result: Result) -> None:
    (places,) = (table for table in result_tables(result) if table.header[0].startswith("where"))
    assert list(places.header[1:]) == ["value", "95 % interval", "n"]


@pytest.mark.parametrize("form", list(Form))
def test_every_form_holds_the_same_cells(form: Form) -> None:
    table = Table("Title", ["measure", "a"], [["IoU", "0.500"], ["Dice", "-"]], "a note")
    text = write_tables([table], form)
    assert all(cell in text for row in table.rows for cell in row)


def test_forms_escape_what_would_break_them() -> None:
    table = Table("50 % & more", ["measure", "a|b"], [["mass_1", "1,5"]])
    assert r"a\|b" in as_markdown(table)
    assert r"mass\_1" in as_latex(table)
    assert r"50 \% \& more" in as_latex(table)
    assert list(csv.reader(io.StringIO(as_csv(table)))) == [["measure", "a|b"], ["mass_1", "1,5"]]


def test_columns_of_text_line_up() -> None:
    first, second = as_text(Table("", ["measure", "value"], [["IoU", "0.5"]])).splitlines()
    assert len(first) == len(second)


def test_numbers_are_written_alike_everywhere() -> None:
    assert [number(value) for value in (0.12345, 3, None, float("nan"), (0.1, 0.2))] == [
        "0.123",
        "3",
        "-",
        "-",
        "0.100 to 0.200",
    ]
