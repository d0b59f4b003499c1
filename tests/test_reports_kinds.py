"""What goes wrong in reports of other hospitals, by its kind: invented texts with the facts that are right."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.concepts import default_vocabulary
from medlip.reports import extract_facts, resolve, sections, split_sentences
from medlip.reports.extract import extractor
from medlip.reports.rules import Rule, explained, rules

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data"
NEEDS_OPENI = pytest.mark.skipif(not (SHARED / "openi").exists(), reason="Open-i's licence keeps it beside the repository")
SIGNS = {"present": "+", "absent": "-", "uncertain": "?"}
GENERAL = {"process", "disease", "abnormality", "finding", "tip", "lead", "air", "drainage", "low"}
NORMAL = ("normal", "clear")


def _said(text: str) -> set[str]:
    """Return the facts of a text as "pathology@anatomy" and + (present), - (absent) or ? (uncertain)."""
    facts = resolve(extract_facts(text))
    return {f"{f.pathology}@{f.anatomy}{SIGNS[f.presence]}" for f in facts if f.pathology not in GENERAL}


KINDS = [
    (kind, text, facts)
    for kind, cases in yaml.safe_load((DATA / "kinds.yaml").read_text(encoding="utf-8")).items()
    for text, facts in cases.items()
]


@pytest.mark.parametrize(("kind", "text", "facts"), KINDS, ids=[f"{kind}: {text}" for kind, text, _ in KINDS])
def test_each_kind_is_read_as_a_reader_reads_it(kind: str, text: str, facts: str) -> None:
    assert _said(text) == set(facts.split()), kind


# --- the grammar laid open ---


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_the_example_of_a_rule_behaves_as_it_says(rule: Rule) -> None:
    assert _said(rule.example) == set(rule.facts.split())
    if rule.part != "reading":
        traced = extractor(default_vocabulary()).explain(rule.example)
        assert rule.name in {one.presence_rule if rule.part == "presence" else one.place_rule for one in traced}


def test_an_explanation_names_section_sentence_clause_cue_and_rule() -> None:
    shown = explained(
        extractor(default_vocabulary()).explain("IMPRESSION: Clear lungs, but the left effusion has resolved.")
    )
    effusion = shown.split("\n\n")[-1]
    assert effusion.splitlines() == [
        "effusion @ left_pleural: absent",
        "  section   impression",
        "  sentence  Clear lungs, but the left effusion has resolved.",
        "  clause    but the left effusion has resolved",
        "  cue       has resolved",
        "  presence  denied behind: a denial stands behind it",
        "  place     own: its own phrase names the place",
    ]


def test_what_is_explained_are_the_facts_that_are_read() -> None:
    for _, text, _ in KINDS:
        assert tuple(one.fact for one in extractor(default_vocabulary()).explain(text)) == extract_facts(text)


# --- whole reports ---


class Invented(NamedTuple):
    report: str
    facts: set[str]


def _invented(**language: object) -> list[Invented]:
    reports = yaml.safe_load((DATA / "styles.yaml").read_text(encoding="utf-8"))
    return [
        Invented(r["report"], set(r.get("facts", "").split())) for r in reports if bool(r.get("language")) == bool(language)
    ]


def _f1(sign: str, *, side: bool = False) -> float:
    """Return the F1 over the invented reports of the abnormal findings of one presence, with their side or without."""
    hits = found = true = 0
    for report, facts in _invented():
        said, meant = (
            {
                _level(fact, side=side)
                for fact in some
                if fact.endswith(sign) and fact.split("@")[0] not in (*NORMAL, *GENERAL)
            }
            for some in (_said(report), facts)
        )
        hits, found, true = hits + len(said & meant), found + len(said), true + len(meant)
    return 2 * hits / (found + true)


def _level(fact: str, *, side: bool) -> tuple[str, str]:
    pathology, anatomy = fact[:-1].split("@")
    named = next((name for name in ("left", "right") if name in anatomy.split("_")), "")
    return pathology, named if side else ""


def test_reports_of_other_hospitals_are_read_as_people_read_them() -> None:
    assert _f1("+") >= 0.97
    assert _f1("-") >= 0.96
    assert _f1("?") >= 0.95
    assert _f1("+", side=True) >= 0.95


@pytest.mark.parametrize("report", [one.report for one in _invented(language=True)])
def test_a_report_that_is_not_english_is_not_read(report: str) -> None:
    reading = extractor(default_vocabulary()).read(report)
    assert not reading.english
    assert not reading.facts


@pytest.mark.parametrize(
    "report",
    [
        "NAD.",
        "Nl CXR.",
        "ETT ok NGT ok RIJ ok no ptx",
        "CM, b/l eff, atx LLL",
        "s/p CABG, MSW intact. unch.",
        "Situs solitus. Levocardia. Normal.",
        "Cor pulmonale. Pectus carinatum. Azygos lobe.",
        "Mesothelioma, en bloc resection. Dr De La Cruz was told.",
        *(one.report for one in _invented()),
    ],
)
def test_telegraphic_english_is_english(report: str) -> None:
    assert extractor(default_vocabulary()).read(report).english


# --- what must not matter ---


PIECES = (
    "No effusion",
    "Left basal atelectasis",
    "The heart is enlarged",
    "Lungs are clear",
    "Right apical nodule",
    "No pneumothorax",
    "A rib lesion cannot be excluded",
    "Old left rib fracture",
)
BREAKS = (
    ". ",
    ".\n",
    "\n",
    "\r\n",
    "\r",
    "; ",
    " - ",
    " \u2013 ",
    "\\.br\\",
    "\\n",
    "<br/>",
    "</p><p>",
    "\n- ",
    "\n\u2022 ",
    "\u3002",
    "\uff0e",
    ".",
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=2, max_size=6, unique=True), st.sampled_from(BREAKS))
def test_statements_end_alike_whatever_ends_them(pieces: list[str], mark: str) -> None:
    assert _said(mark.join(pieces)) == _said(". ".join(pieces) + ".")


NAMES = ("Pneumothorax", "Pleural effusion", "Consolidation", "Rib fracture", "Pulmonary edema")
SEPARATORS = (": ", " : ", " - ", " \u2013 ", " = ", "=", " | ", "\t", "? ", "?: ", "    ")
NO, YES = ("no", "No", "none", "nil", "N", "neg", "negative", "absent", "not seen"), ("yes", "Y", "present", "positive")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(NAMES), st.sampled_from(SEPARATORS), st.sampled_from((*NO, *YES)), st.sampled_from(("", ".", "\n", ";"))
)
def test_an_answer_is_said_of_its_finding(name: str, separator: str, answer: str, end: str) -> None:
    said = f"No {name.lower()}." if answer in NO else f"{name}."
    assert _said(f"{name}{separator}{answer}{end}") == _said(said)


MASKS = ("___", "XXXX", "[**2011-03-04**]", "[**Name (NI) 12**]", "3/14/2009", "<DATE>", "12 June 2019", "14:32")


def _remasked(text: str, mask: str) -> str:
    return re.sub(r"(?<!\w)X{4}(?!\w)", lambda _: mask, text)


@pytest.mark.parametrize("mask", MASKS)
def test_how_a_text_was_anonymised_does_not_matter(mask: str) -> None:
    text = (
        "Compared to XXXX, the left effusion has resolved. Right base opacity, unchanged since XXXX. Discussed with XXXX. "
        "Blunting of the left costophrenic XXXX. No pneumothorax on XXXX."
    )
    assert _said(_remasked(text, mask)) == _said(text)


@NEEDS_OPENI
def test_two_anonymisations_of_500_reports_give_equal_facts() -> None:
    with (SHARED / "openi" / "studies.csv").open(encoding="utf-8") as rows:
        studies = [row for row, _ in zip(csv.DictReader(rows), range(500), strict=False)]
    for number, row in enumerate(studies):
        text = f"FINDINGS: {row['findings']}\n\nIMPRESSION: {row['impression']}"
        assert _said(_remasked(text, MASKS[number % len(MASKS)])) == _said(text), row["uid"]


@pytest.mark.parametrize("mark", [". ", " ", "\n", "; "])
def test_a_report_of_3000_words_loses_nothing(mark: str) -> None:
    filler = "the bones are intact and the soft tissues are unremarkable there is nothing else"
    last = "there is a nodule in the left upper lobe"
    text = mark.join([*[filler] * 230, last])
    assert len(text.split()) > 3000
    assert "nodule@upper_left_lobe+" in _said(text)
    reading = extractor(default_vocabulary()).read(text)
    assert reading.share > 0.9


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from((*PIECES, *BREAKS, *MASKS, "[x] ", "[ ] ", "&nbsp;", "(-)")), max_size=12).map("".join)
)
def test_places_in_the_text_are_those_of_the_text_as_given(text: str) -> None:
    for sentence in split_sentences(text):
        assert text[sentence.start : sentence.end] == sentence.text
    for section in sections(text):
        assert 0 <= section.start <= section.end <= len(text)
    for fact in extract_facts(text):
        assert 0 <= fact.start < fact.end <= len(text)
        assert text[fact.start : fact.end] in fact.sentence


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("<p>Small&nbsp;left <b>effusion</b></p>", "effusion"),
        ("FINDINGS:\\.br\\No effusion\\.br\\Heart \u2013 enlarged", "enlarged"),
        ("On 3/14/2009 Dr. Smith saw a \u201cnodule\u201d", "nodule"),
        ("[ ] Edema [x] Cardiomegaly", "Cardiomegaly"),
    ],
)
def test_a_finding_is_found_where_it_stands_in_the_text_as_given(text: str, finding: str) -> None:
    assert text.index(finding) in {fact.start for fact in extract_facts(text)}


def test_a_correction_takes_back_what_it_corrects() -> None:
    report = "Small left effusion. No pneumothorax."
    assert _said(f"{report} ADDENDUM: Left should read right: small right effusion.") == {
        "effusion@right_pleural+",
        "pneumothorax@unspecified-",
    }


def test_an_addendum_adds_where_it_contradicts_nothing() -> None:
    assert _said("Left effusion. ADDENDUM: Small right effusion, too.") == {
        "effusion@left_pleural+",
        "effusion@right_pleural+",
    }
