"""`medlip facts`: what it writes, prints and says when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def _reports(folder: Path) -> Path:
    path = folder / "reports.csv"
    path.write_text('study,report\na,"Small left effusion, no pneumothorax."\nb,\n')
    return path


def test_one_json_document_tells_what_was_done(medlip: Run, tmp_path: Path) -> None:
    out = tmp_path / "facts.jsonl"
    outcome = medlip("facts", _reports(tmp_path), "--out", out, "--workers", 0, "--json")
    assert outcome.code == 3
    answer = outcome.document
    assert (answer["reports"], answer["facts"], answer["skipped"]) == (2, 2, {"no text": 1})
    assert answer["problems"] == [{"study": "b", "problem": "no text"}]
    assert len(out.read_text().splitlines()) == 2
    assert "b: no text" in outcome.err


def test_reports_that_are_not_english_or_hardly_read_are_named(medlip: Run, tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    cough = "HISTORY: Cough, fever, sputum and chest pain for two weeks in a smoker.\n\nIMPRESSION: Normal."
    path.write_text(f'study,report\na,"Kein Pleuraerguss, keine Infiltrate."\nb,"{cough}"\nc,Left effusion.\n')
    outcome = medlip("facts", path, "--out", tmp_path / "facts.csv", "--workers", 0, "--json")
    assert outcome.document["not_english"] == ["a"]
    assert outcome.document["skipped"] == {"not English": 1}
    assert outcome.document["little_read"] == ["b"]


@pytest.mark.parametrize("given", ["text", "file"])
def test_an_explanation_tells_how_each_fact_was_read(medlip: Run, tmp_path: Path, given: str) -> None:
    text = "FINDINGS: Right base opacity, ?pneumonia."
    path = tmp_path / "report.txt"
    path.write_text(text)
    asked = "facts", "--explain", text if given == "text" else path
    shown = medlip(*asked)
    assert shown.code == 0, shown.err
    for said in (
        "pneumonia @ right_lower_lung: uncertain",
        "section   findings",
        "cue       ?",
        "presence  hedged",
        "place     shared",
    ):
        assert said in shown.out
    facts = medlip(*asked, "--json").document["facts"]
    assert [(fact["pathology"], fact["presence_rule"]) for fact in facts] == [("opacity", "stated"), ("pneumonia", "hedged")]


def test_a_report_is_shown_with_its_facts(medlip: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("FINDINGS: Right base opacity.")
    assert "opacity [opacity @ right_lower_lung: present]" in medlip("facts", "--show", path).out
    assert "opacity [opacity @ unspecified: absent]" in medlip("facts", "--show", "No opacity seen.").out


def test_a_review_page_is_written(medlip: Run, tmp_path: Path) -> None:
    page = tmp_path / "review.html"
    medlip("facts", _reports(tmp_path), "--html", page, "--workers", 0)
    assert "left_pleural" in page.read_text()


def test_nothing_readable_is_a_failure(medlip: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("report\n''\n".replace("''", '" "'))
    outcome = medlip("facts", path, "--out", tmp_path / "f.csv", "--workers", 0)
    assert outcome.code == 1
    assert "no report" in outcome.last_line


def test_no_output_asked_for_says_what_to_give(medlip: Run, tmp_path: Path) -> None:
    outcome = medlip("facts", _reports(tmp_path))
    assert outcome.code == 1
    assert "--out" in outcome.last_line


@pytest.mark.parametrize("flag", ["--mentions", "--implied"])
def test_options_reach_the_extractor(medlip: Run, tmp_path: Path, flag: str) -> None:
    path = tmp_path / "r.txt"
    path.write_text("Lungs are clear. Lungs are clear.")
    out = tmp_path / "f.jsonl"
    assert medlip("facts", path, "--out", out, "--workers", 0, flag).code == 0
    assert len(out.read_text().splitlines()) > 1
