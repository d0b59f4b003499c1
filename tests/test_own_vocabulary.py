"""A vocabulary of one's own: its words win, have their concept's sense, and know the sides of their body part."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.concepts import Vocabulary, default_vocabulary, load_vocabulary
from medlip.concepts.vocabulary import Cue, Heading
from medlip.errors import MedLIPError
from medlip.reports import extract_facts, mirror_sides, resolve
from medlip.reports.extract import Extractor
from medlip.reports.lexicon import words
from medlip.reports.rules import rules

EXAMPLES = Path(__file__).parents[1] / "examples" / "own_vocabulary"
DATA = Path(__file__).parent / "data"


@cache
def _example(name: str) -> Extractor:
    return Extractor(load_vocabulary(EXAMPLES / f"{name}.yaml"))


@cache
def _extending(text: str) -> Extractor:
    """Reads by a vocabulary that extends the default by what the text of its file says."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "own.yaml")
        path.write_text(f"extends: default\n{text}", encoding="utf-8")
        return Extractor(load_vocabulary(path))


def _read(text: str, own: str) -> list[str]:
    return [f"{fact.pathology}@{fact.anatomy} {fact.presence}" for fact in resolve(_extending(own)(text))]


# --- the worked examples ---


def _reports(name: str) -> list[Any]:
    return [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("report", [*_reports("mammogram"), *_reports("knee")], ids=lambda report: report["study"])
def test_reports_of_the_examples_have_the_facts_that_stand_beside_them(report: Any) -> None:
    reading = _example("knee" if report["study"].startswith("k") else "mammogram").read(report["report"])
    found = {f"{fact.pathology}@{fact.anatomy} {fact.presence}" for fact in resolve(reading.facts)}
    assert found == set(report["facts"])
    assert sorted(one.name for one in reading.outside) == report.get("outside", [])


def test_the_command_reads_the_knee_and_counts_what_the_vocabulary_lacks(medlip: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "facts.csv"
    asked = "facts", EXAMPLES / "knee.jsonl", "--vocabulary", EXAMPLES / "knee.yaml", "--out", out, "--workers", 0
    answer = medlip(*asked, "--json").document
    with out.open(newline="") as file:
        rows = {(row["study"], f"{row['pathology']}@{row['anatomy']} {row['presence']}") for row in csv.DictReader(file)}
    assert rows == {(report["study"], fact) for report in _reports("knee") for fact in report["facts"]}
    assert answer["outside"] == [{"pathology": "degenerative", "mentions": 1}, {"pathology": "clear", "mentions": 1}]
    assert re.search(r"mentions outside the vocabulary \(degenerative 1, clear 1\) +2", medlip(*asked).out)


@pytest.mark.parametrize("name", ["knee", "mammogram"])
def test_mirroring_swaps_the_sides_of_the_body_part(name: str) -> None:
    for anatomy in _example(name).vocabulary.anatomies:
        assert anatomy.side == next((word for word in anatomy.name.split("_") if word in ("left", "right")), None)
        assert anatomy.mirror == mirror_sides(anatomy.name.replace("_", " ")).replace(" ", "_")


# --- sides and zones ---


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Effusion on the left.", ["left_knee"]),
        ("Effusion of the right knee joint.", ["right_knee"]),
        ("Effusions of the left and right knees.", ["left_knee", "right_knee"]),
        ("Effusions, right greater than left.", ["left_knee", "right_knee"]),
        ("Fracture of the patella of the left knee.", ["patella"]),
        ("Fracture of the lateral tibial plateau.", ["lateral_compartment"]),
        ("Fractures of the medial and lateral tibial plateaus.", ["medial_compartment", "lateral_compartment"]),
        ("Medially there is a fracture.", ["medial_compartment"]),  # the one place that is medial
        ("Lateral joint space narrowing.", ["lateral_compartment"]),
    ],
)
def test_sides_and_zones_are_those_of_the_body_part(text: str, places: list[str]) -> None:
    assert sorted(fact.anatomy for fact in _example("knee")(text)) == sorted(places)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("said", ["{} kidney", "{}-sided kidney", "kidney on the {}", "{} KIDNEY"])
def test_an_organ_beside_the_chest_has_its_sides(side: str, said: str) -> None:
    own = "anatomies: [{name: left_kidney}, {name: right_kidney}]"
    text = f"Calcification in the {said.format(side)}."
    assert _read(text, own) == [f"calcification@{side}_kidney present"]
    assert _read("Calcifications in both kidneys.", own) == [
        "calcification@left_kidney present", "calcification@right_kidney present"
    ]  # fmt: skip


def test_a_side_that_the_vocabulary_does_not_have_is_counted() -> None:
    reading = _extending("anatomies: [{name: left_kidney, mirror: other}]").read("Calcification in the right kidney.")
    assert not reading.facts
    assert reading.outside == (("anatomy", "right kidney"),)


# --- words of one's own win ---


@pytest.mark.parametrize(
    ("text", "before", "own", "after"),
    [
        (
            "Collapse of the left lower lobe.", "collapse@lower_left_lobe present",
            "pathologies: [{name: atelectasis, synonyms: [collapse of]}]", "atelectasis@lower_left_lobe present",
        ),
        (
            "Haze at the right base.", "opacity@right_lower_lung present",
            "pathologies: [{name: edema, synonyms: [haze]}]", "edema@right_lower_lung present",
        ),
        (
            "Nodule in the breast.", "nodule@other present",
            "anatomies: [{name: breast}]", "nodule@breast present",
        ),
        (
            "Left effusion, gone dry.", "effusion@left_pleural present",
            "wording: {cues: {absent_behind: [gone dry]}}", "effusion@left_pleural absent",
        ),
        (
            "Suggesting effusion.", "effusion@pleural_unspec present",
            "wording: {cues: {uncertain: [suggesting]}}", "effusion@pleural_unspec uncertain",
        ),
        (
            "HT is normal.", "normal@heart_size present",
            "wording: {spelling: {ht: hilum}}", "normal@hilar_unspec present",
        ),
        (
            "CM on the left.", "cardiomegaly@heart_size present",
            "pathologies: [{name: mass, synonyms: [cm]}]", "mass@left_lung_unspec present",
        ),
        (
            "No effusion.\nOPINION: Nodule.", "effusion@pleural_unspec absent, nodule@unspecified present",
            "wording: {sections: {history: [opinion]}}", "effusion@pleural_unspec absent",
        ),
        (
            "No effusion.\nPACS: Nodule.", "effusion@pleural_unspec absent, nodule@unspecified present",
            "wording: {sections: {technique: [PACS]}}", "effusion@pleural_unspec absent",
        ),
        (
            "No effusion is seen Zonal opacity.", "effusion@pleural_unspec absent, opacity@unspecified absent",
            "wording: {openers: [Zonal]}", "effusion@pleural_unspec absent, opacity@unspecified present",
        ),
        ("HISTORY: Cough. Zonal opacity.", "", "wording: {openers: [zonal]}", "opacity@unspecified present"),
    ],
)  # fmt: skip
def test_own_words_win_over_built_in_ones(text: str, before: str, own: str, after: str) -> None:
    assert ", ".join(_read(text, "")) == before
    assert ", ".join(_read(text, own)) == after


# --- a synonym has its concept's sense ---


@cache
def _texts() -> tuple[str, ...]:
    """Texts of the other tests: examples of the grammar, kinds of statements, whole reports."""
    kinds = yaml.safe_load((DATA / "kinds.yaml").read_text(encoding="utf-8"))
    styles = yaml.safe_load((DATA / "styles.yaml").read_text(encoding="utf-8"))
    reports = (style["report"] for style in styles if "report" in style)
    return (*(rule.example for rule in rules()), *(text for kind in kinds.values() for text in kind), *reports)


NOUNS = ("effusion", "pneumothorax", "opacity", "atelectasis", "nodule", "fracture", "cardiomegaly", "pneumonia", "tube")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_synonym_reads_as_its_concepts_own_word(data: st.DataObject) -> None:
    noun = data.draw(st.sampled_from(NOUNS))
    word = re.compile(rf"\b{noun}(s?)\b", re.IGNORECASE)
    text = data.draw(st.sampled_from([text for text in _texts() if word.search(text)]))

    def like(match: re.Match[str]) -> str:
        said = f"zorbling{match[1].lower()}"
        return said.upper() if match[0].isupper() else said.capitalize() if match[0][0].isupper() else said

    own = _extending(f"pathologies: [{{name: {noun}, synonyms: [zorbling]}}]")
    said, meant = own(word.sub(like, text)), extract_facts(text)
    assert [(f.pathology, f.anatomy, f.presence) for f in said] == [(f.pathology, f.anatomy, f.presence) for f in meant]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(_texts()))
def test_a_vocabulary_that_adds_nothing_reads_as_the_default(text: str) -> None:
    assert _extending("")(text) == extract_facts(text)


@pytest.mark.parametrize(
    ("text", "own", "read"),
    [
        ("Fluid rim on the left.", "{name: effusion, synonyms: [fluid rim]}", "effusion@left_pleural present"),  # its organ
        ("Big heart sign.", "{name: cardiomegaly, synonyms: [big heart sign]}", "cardiomegaly@heart_size present"),  # fixed
        (
            "Fluffy zone in the left base, likely air disease.",
            "{name: consolidation, synonyms: [air disease, fluffy zone]}",
            "consolidation@left_lower_lung present",
        ),  # shares the place of what it explains
        ("Xyline with its tip in the SVC.", "{name: catheter, synonyms: [xyline]}", "catheter@svc present, tip@svc present"),
        ("The aorta is snaky.", "{name: tortuous, adjectives: [snaky]}", "tortuous@aorta present"),
        (
            "Impella with its tip in the SVC.", "{name: pump, like: catheter, synonyms: [impella], description: A pump.}",
            "pump@svc present, tip@svc present",
        ),
    ],
)  # fmt: skip
def test_own_words_behave_like_their_concept(text: str, own: str, read: str) -> None:
    assert ", ".join(_read(text, f"pathologies: [{own}]")) == read


def test_a_synonym_of_a_place_combines_as_the_place_does() -> None:
    own = "anatomies: [{name: hilar_unspec, synonyms: [lung pedicle]}]"
    assert _read("Mass in the left lung pedicle.", own) == ["mass@left_hilar present"]


def test_what_a_small_vocabulary_lacks_is_counted() -> None:
    content = default_vocabulary().model_dump(mode="json")
    content["pathologies"] = [one for one in content["pathologies"] if one["name"] == "effusion"]
    content["anatomies"] = [one for one in content["anatomies"] if one["name"] in ("left_pleural", "right_pleural")]
    small = Extractor(Vocabulary.parse({key: content[key] for key in ("pathologies", "anatomies")}, "small"))
    reading = small.read("Left effusion. No nodule. Pleural effusion, nodule.")
    assert [fact.anatomy for fact in reading.facts] == ["left_pleural", "left_pleural"]
    assert reading.outside == (("pathology", "nodule"), ("pathology", "nodule"))
    assert small.read("Pleural effusion.").outside == (("anatomy", "pleural_unspec"),)


# --- the file ---


def test_an_extending_file_adds_concepts_behind_those_that_are_there() -> None:
    own = _extending("pathologies: [{name: kyphosis, description: A bent spine.}]\nanatomies: [{name: neck}]").vocabulary
    assert list(own.pathology_index)[:-1] == list(default_vocabulary().pathology_index)
    assert (own.pathologies[-1].display, own.anatomies[-1].long_text) == ("Kyphosis", "It is located at the neck.")


def test_an_extending_file_takes_its_words_from_other_concepts() -> None:
    own = _extending("pathologies: [{name: bronchiectasis, description: Wide bronchi.}]").vocabulary
    found = own.find_pathology("bronchiectasis")
    assert found is not None and found.name == "bronchiectasis"
    assert "bronchiectasis" not in own.pathologies[own.pathology_index["dilation"]].synonyms


def test_files_extend_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"extends": "default", "wording": {"spelling": {"qq": "nodule"}}}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"extends": "a.yaml", "wording": {"cues": {"absent": ["hardly any"]}}}))
    facts = extract_facts("Hardly any qq.", load_vocabulary(tmp_path / "b.yaml"))
    assert [(fact.pathology, fact.presence) for fact in facts] == [("nodule", "absent")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: defualt", "extends 'defualt', which is neither default nor a vocabulary file beside it"),
        ("extends: own.yaml", "own.yaml extends own.yaml, a circle"),
        ("extends: 3", "extends 3, which is neither"),
        ("extends: default\npathologies: [{name: mass}, {name: mass}]", "'mass' is named twice"),
        ("extends: default\npathologies: [{name: mass, synonyms: [nodule]}]", "'nodule' is a word for both"),
        ("extends: default\npathologies: [{name: kyphosis}]", "(of 'kyphosis')"),
        ("extends: default\npathologies: [{name: mass, colour: red}]", "choose one of name, display, synonyms"),
        ("extends: default\npathologies: [{name: x, like: foo, description: y}]", "read like 'foo'"),
        ("extends: default\nanatomies: [{name: left_kidney}]", "its mirror 'right_kidney' is no anatomy"),
        ("extends: default\nanatomies: [{name: left_hilar, synonyms: [right root]}]", "its word 'right root' says right"),
        ("extends: default\nwording: {cue: {}}", "choose one of body_part, zones, cues, spelling, sections"),
        ("extends: default\nwording: {cues: {denied: [naught]}}", "wording.cues.denied.[key]: Input should be 'absent'"),
        ("extends: default\nwording: {cues: {absent: [no]}}", 'need quotation marks: "no"'),
        ("extends: default\nwording: {cues: {absent: [hardly], uncertain: [hardly]}}", "'cues.absent' and 'cues.uncertain'"),
        (
            "extends: default\nwording: {sections: {body: [bones]}}",
            "wording.sections.body.[key]: Input should be 'findings'",
        ),
        ("extends: default\nwording: {spelling: {oa: old age}}", "'old age' is not one word"),
        ("extends: default\nwording: {openers: [joint space]}", "'joint space' is not one word"),
        ("extends: default\nwording: {zones: [medial]}", "wording.zones"),
        ("extends: default\nwording: 3", "wording"),
        ("extends: default\npathologies: mass", "pathologies"),
    ],
)
def test_a_bad_file_is_refused_by_its_key_with_what_is_allowed(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MedLIPError, match=re.escape(told)) as raised:
        load_vocabulary(path)
    assert str(path) in str(raised.value)


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"extends": "b.yaml"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"extends": "a.yaml"}))
    with pytest.raises(MedLIPError, match=r"a\.yaml extends b\.yaml extends a\.yaml, a circle"):
        load_vocabulary(tmp_path / "a.yaml")


def test_own_cues_and_headings_are_of_the_built_in_kinds() -> None:
    assert set(get_args(Cue)) == set(words("cues"))
    assert set(get_args(Heading)) == set(words("sections")["headings"])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["knee", "mammogram"]))
def test_any_text_is_read_by_any_vocabulary(text: str, name: str) -> None:
    own = _example(name)
    for fact in own(text):
        assert fact.pathology in own.vocabulary.pathology_index
        assert fact.anatomy in own.vocabulary.anatomy_index
