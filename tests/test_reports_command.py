"""`medlip facts`: what it writes, prints and says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medlip.app.commands.facts import facts
from medlip.errors import MedLIPError

app = typer.Typer()
app.command()(facts)


def _reports(folder: Path) -> Path:
    path = folder / "reports.csv"
    path.write_text('study,report\na,"Small left effusion, no pneumothorax."\nb,\n')
    return path


def test_one_json_document_tells_what_was_done(tmp_path: Path) -> None:
    out = tmp_path / "facts.jsonl"
    result = CliRunner().invoke(app, [str(_reports(tmp_path)), "--out", str(out), "--workers", "0", "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["reports"], answer["facts"], answer["skipped"]) == (2, 2, {"no text": 1})
    assert answer["problems"] == [{"study": "b", "problem": "no text"}]
    assert len(out.read_text().splitlines()) == 2
    assert "b: no text" in result.stderr


def test_a_report_is_shown_with_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("FINDINGS: Right base opacity.")
    result = CliRunner().invoke(app, ["--show", str(path)])
    assert "opacity [opacity @ right_lower_lung: present]" in result.stdout
    assert "opacity [opacity @ unspecified: absent]" in CliRunner().invoke(app, ["--show", "No opacity seen."]).stdout


def test_a_review_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "review.html"
    result = CliRunner().invoke(app, [str(_reports(tmp_path)), "--html", str(page), "--workers", "0"])
    assert result.exit_code == 0, result.stderr
    assert "left_pleural" in page.read_text()


def test_nothing_readable_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("report\n''\n".replace("''", '" "'))
    result = CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "f.csv"), "--workers", "0"])
    assert result.exit_code == 1
    assert "no report" in result.stderr


def test_no_output_asked_for_says_what_to_give(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(_reports(tmp_path))])
    assert isinstance(result.exception, MedLIPError)
    assert "--out" in str(result.exception)


@pytest.mark.parametrize("flag", ["--mentions", "--implied"])
def test_options_reach_the_extractor(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "r.txt"
    path.write_text("Lungs are clear. Lungs are clear.")
    out = tmp_path / "f.jsonl"
    assert CliRunner().invoke(app, [str(path), "--out", str(out), "--workers", "0", flag]).exit_code == 0
    assert len(out.read_text().splitlines()) > 1
