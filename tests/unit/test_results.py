"""The documents of results are those of the code, and a file that is read back is the result that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from medlip.evaluation import EvaluationRecord, Result, measures
from medlip.evaluation.results import json_schema, measures_table
from medlip.evaluation.task_result import ClassResult, TaskResult
from medlip.metrics import Estimate

DOCS = Path(__file__).parents[2] / "docs"
RECORD = EvaluationRecord(
    name="x", data="d", split="test", images="i", tuning="t", classes={}, findings={}, rules={}, resamples=5, seed=0
)


def test_the_documented_schema_and_measures_are_those_of_the_code():
    """`json.dumps(json_schema(), indent=1)` and `measures_table()` give them anew."""
    assert json.loads((DOCS / "result.schema.json").read_text()) == json_schema()
    assert measures_table() in (DOCS / "results.md").read_text()


def test_no_two_measures_of_a_task_share_a_name_nor_do_those_of_a_class():
    for names in ([(task, each.name) for task, each in measures()], [(task, each.class_name) for task, each in measures()]):
        assert len(set(names)) == len(names)


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    places = TaskResult(
        first_place=Estimate.of(0.5, 0.4, 0.6, chance=0.1, n=9), per_class={"mass": ClassResult(n=3, side=Estimate.of(1))}
    )
    result = Result(split="test", n_images=9, n_patients=8, protocol=RECORD, places=places, grounding=None)
    result.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")
    assert again == result
    assert again["places"]["first_place"].interval == (0.4, 0.6)
    assert again["places"].per_class["mass"]["side"].value == 1
    assert list(again.tasks) == ["places"]


def test_what_is_no_estimate_is_no_part_of_a_result():
    with pytest.raises(ValidationError, match="first_place"):
        TaskResult(first_place="high")


def test_the_record_hashes_all_but_its_name():
    assert RECORD.hash == EvaluationRecord(**{**RECORD.model_dump(exclude={"hash"}), "name": "y"}).hash
    assert RECORD.hash != EvaluationRecord(**{**RECORD.model_dump(exclude={"hash"}), "seed": 1}).hash
