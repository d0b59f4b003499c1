"""Extraction against reports that people annotated, and against studies whose truth is known."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medlip.phantom import PATHOLOGIES, phantom, truth
from medlip.phantom.cases import PhantomCase, anatomies_of
from medlip.phantom.findings import PhantomFinding, side_of
from medlip.phantom.reporting import write_report
from medlip.reports import extract_facts, resolve

SHARED = Path(__file__).parents[2] / "shared"
GOLD = SHARED / "data" / "facts-gold"
OPENI = SHARED / "data" / "openi"
NEEDS_GOLD = pytest.mark.skipif(not GOLD.exists(), reason="the annotated reports are beside the repository, not in it")
NEEDS_OPENI = pytest.mark.skipif(not OPENI.exists(), reason="the Open-i reports are beside the repository, not in it")


def _scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", GOLD / "score.py")
    assert spec is not None
    assert spec.loader is not None
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    return scorer


@NEEDS_GOLD
def test_annotated_reports_are_read_as_people_read_them(tmp_path: Path) -> None:
    predicted = tmp_path / "facts.jsonl"
    with predicted.open("w") as out, (GOLD / "reports.jsonl").open() as lines:
        for report in map(json.loads, lines):
            text = f"FINDINGS: {report['findings']}\n\nIMPRESSION: {report['impression']}"
            facts = [
                {name: getattr(fact, name) for name in ("pathology", "anatomy", "presence")}
                for fact in resolve(extract_facts(text))
            ]
            out.write(json.dumps({"uid": report["uid"], "facts": facts}) + "\n")
    scorer = _scorer()
    result = scorer.score(scorer.read(str(predicted)), scorer.read(str(GOLD / "gold.jsonl")))
    f1 = {name: scores["f1"] for name, scores in result.items()}
    assert f1["abnormal.present.pathology"] >= 0.95
    assert f1["abnormal.present.side"] >= 0.94
    assert f1["abnormal.present.anatomy"] >= 0.92
    assert f1["abnormal.absent.pathology"] >= 0.98
    assert f1["normal.present.pathology"] >= 0.97


CODES = {"effusion": "pleural effusion", "cardiomegaly": "cardiomegaly", "calcification": "calci", "tortuous": "tortuous"}


@NEEDS_OPENI
@pytest.mark.parametrize(("pathology", "code"), CODES.items())
def test_codes_written_by_people_agree_with_the_text(pathology: str, code: str) -> None:
    """A weak check: codes are given for what the text hedges, too (left out here), and some are forgotten."""
    with (OPENI / "studies.csv").open() as rows:
        studies = {row["uid"]: row for row in csv.DictReader(rows) if row["split"] == "val" and row["mesh"]}
    both = either = 0
    for row in studies.values():
        facts = resolve(extract_facts(f"FINDINGS: {row['findings']}\n\nIMPRESSION: {row['impression']}"))
        presences = {fact.presence for fact in facts if fact.pathology == pathology}
        coded = code in row["mesh"].lower()
        if "uncertain" not in presences:
            both += coded and "present" in presences
            either += coded or "present" in presences
    assert either >= 10
    assert both / either >= 0.7


@pytest.mark.parametrize("independent", [False, True])
def test_reports_of_phantoms_tell_their_truth(independent: bool) -> None:
    hits = found = there = denied = 0
    for index in range(40):
        study = phantom(index, size=64, independent=independent)
        facts = resolve(extract_facts(study.report))
        true = {(fact.pathology, fact.anatomy) for fact in truth(study)}
        abnormal = {name for name, label in study.labels.items() if label == "present"} | set(study.labels)
        present = {(f.pathology, f.anatomy) for f in facts if f.presence == "present" and f.pathology in abnormal}
        said = present | {(f.pathology, f.anatomy) for f in facts if f.presence == "uncertain"}
        hits, found, there = hits + len(present & true), found + len(present), there + len(true)
        denied += len(
            {f.pathology for f in facts if f.presence == "absent"} & {name for name, _ in true} - {p for p, _ in said}
        )
    assert hits / found >= 0.97
    assert hits / there >= 0.8  # reports leave out and hedge some of what is there
    assert denied == 0


@pytest.mark.parametrize("independent", [False, True])
def test_what_a_phantoms_report_says_of_a_finding_is_read_in_its_place(independent: bool) -> None:
    for pathology in PATHOLOGIES:
        for anatomy in anatomies_of(pathology, independent):
            case = PhantomCase("M", 60, "PA", (PhantomFinding(pathology, anatomy, 0.8, side_of(anatomy) or 1),))
            reports = [write_report(case, np.random.default_rng(seed), independent) for seed in range(3)]
            read = {
                (fact.pathology, fact.anatomy)
                for report in reports
                for fact in resolve(extract_facts(report))
                if fact.presence == "present" and fact.pathology in PATHOLOGIES
            }
            assert read == {(pathology, anatomy)}
