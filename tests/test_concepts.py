"""The vocabulary: 75 pathologies and 51 anatomies, matched by name, with sides that mirror."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from medlip.concepts import Vocabulary, default_vocabulary, load_vocabulary
from medlip.errors import MedLIPError

NORMAL = ["normal", "clear", "sharp", "sharply", "unremarkable", "intact", "stable", "free"]
ABNORMAL_NAMES = """
    effusion opacity pneumothorax edema atelectasis tube consolidation process abnormality enlarge tip low pneumonia
    line congestion catheter cardiomegaly fracture air tortuous lead disease calcification prominence device engorgement
    picc clip elevation expand nodule wire fluid degenerative pacemaker thicken marking scar hyperinflate blunt loss
    widen collapse density emphysema aerate mass crowd infiltrate obscure deformity hernia drainage distention shift
    stent pressure lesion finding borderline hardware dilation chf redistribution aspiration
"""
CATCH_ALL = ["tail_abnorm_obs", "excluded_obs"]
ANATOMY_NAMES = """
    trachea left_hilar right_hilar hilar_unspec left_pleural right_pleural pleural_unspec heart_size heart_border
    left_diaphragm right_diaphragm diaphragm_unspec retrocardiac lower_left_lobe upper_left_lobe lower_right_lobe
    middle_right_lobe upper_right_lobe left_lower_lung left_mid_lung left_upper_lung left_apical_lung left_lung_unspec
    right_lower_lung right_mid_lung right_upper_lung right_apical_lung right_lung_unspec lung_apices lung_bases
    left_costophrenic right_costophrenic costophrenic_unspec cardiophrenic_sulcus mediastinal spine clavicle rib stomach
    right_atrium right_ventricle aorta svc interstitium parenchymal cavoatrial_junction cardiopulmonary pulmonary
    lung_volumes unspecified other
"""
ABNORMAL, ANATOMIES = ABNORMAL_NAMES.split(), ANATOMY_NAMES.split()
WITHOUT_TWIN = {"middle_right_lobe": "left_mid_lung", "right_atrium": "other", "right_ventricle": "other"}
OTHER_SIDE = {"left": "right", "right": "left"}

VOCABULARY = default_vocabulary()
SIDES = {anatomy.name: anatomy.side for anatomy in VOCABULARY.anatomies}
MIRROR = {anatomy.name: anatomy.mirror for anatomy in VOCABULARY.anatomies}


def test_pathologies_stand_in_the_published_order() -> None:
    assert [pathology.name for pathology in VOCABULARY.pathologies] == NORMAL + ABNORMAL + CATCH_ALL
    assert len(VOCABULARY.pathologies) == 75


def test_anatomies_stand_in_the_published_order() -> None:
    assert [anatomy.name for anatomy in VOCABULARY.anatomies] == ANATOMIES
    assert len(VOCABULARY.anatomies) == 51


def test_kinds_tell_normal_statements_findings_and_catch_alls_apart() -> None:
    kinds = {pathology.name: pathology.kind for pathology in VOCABULARY.pathologies}
    assert kinds == {
        **dict.fromkeys(NORMAL, "normal"), **dict.fromkeys(ABNORMAL, "abnormal"), **dict.fromkeys(CATCH_ALL, "other")
    }  # fmt: skip


def test_25_anatomies_have_the_side_that_their_name_says() -> None:
    assert sum(side is not None for side in SIDES.values()) == 25
    for name, side in SIDES.items():
        assert side == next((word for word in name.split("_") if word in OTHER_SIDE), None), name


def test_mirroring_swaps_sides() -> None:
    for name, side in SIDES.items():
        if side and name not in WITHOUT_TWIN:
            assert MIRROR[name] == name.replace(side, OTHER_SIDE[side])


def test_unsided_anatomies_mirror_to_themselves() -> None:
    assert all(MIRROR[name] == name for name, side in SIDES.items() if side is None)


def test_places_without_a_twin_mirror_to_the_row_that_contains_them() -> None:
    assert {name: MIRROR[name] for name in WITHOUT_TWIN} == WITHOUT_TWIN


def test_mirroring_twice_gives_back_every_place_that_has_a_twin() -> None:
    once = VOCABULARY.mirror_index
    moved = {ANATOMIES[row] for row in range(51) if once[once[row]] != row}
    assert moved == set(WITHOUT_TWIN)


def test_no_word_names_two_concepts() -> None:
    for concepts in (VOCABULARY.pathologies, VOCABULARY.anatomies):
        owners = Counter(
            word for concept in concepts for word in {word.lower().replace("_", " ") for word in concept.words}
        )  # fmt: skip
        assert [word for word, count in owners.items() if count > 1] == []


def test_synonyms_are_plain_lower_case_words_each_given_once() -> None:
    for concept in (*VOCABULARY.pathologies, *VOCABULARY.anatomies):
        assert len(set(concept.synonyms)) == len(concept.synonyms), concept.name
        assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", word) for word in concept.synonyms), concept.name


def test_every_pathology_is_described_in_one_to_three_sentences_of_its_own() -> None:
    descriptions = [pathology.description for pathology in VOCABULARY.pathologies]
    assert len(set(descriptions)) == 75
    for description in descriptions:
        assert description[0].isupper() and description.endswith(".")
        assert 1 <= len(re.findall(r"\.(?= [A-Z]|$)", description)) <= 3, description
        assert 15 <= len(description.split()) <= 70, description  # enough to embed, and within any encoder's 128 tokens


def test_anatomy_texts_have_the_published_short_form_and_a_readable_long_one() -> None:
    for anatomy in VOCABULARY.anatomies:
        assert anatomy.text == f"It is located at {anatomy.name}. "
        assert re.fullmatch(r"It is located [^_]{15,}\.", anatomy.long_text)
    assert len({anatomy.long_text for anatomy in VOCABULARY.anatomies}) == 51


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("pneumonia", "pneumonia"),
        ("tail_abnorm_obs", "tail_abnorm_obs"),
        ("Pleural_Thickening", "thicken"),
        ("Infiltration", "infiltrate"),
        ("Fibrosis", "scar"),
        ("COPD", "emphysema"),
        ("ground-glass opacity", "opacity"),
        ("Enlarged  heart", "cardiomegaly"),
        ("sternotomy wires", "wire"),
        ("Lung Masses", "mass"),
        ("opacities", "opacity"),
        ("atelectasis", "atelectasis"),
    ],
)
def test_a_pathology_is_found_by_any_of_its_words(asked: str, found: str) -> None:
    pathology = VOCABULARY.find_pathology(asked)
    assert pathology is not None and pathology.name == found


@pytest.mark.parametrize("asked", ["", "glioblastoma", "no pneumonia", "effusion and edema"])
def test_an_unknown_text_finds_no_pathology(asked: str) -> None:
    assert VOCABULARY.find_pathology(asked) is None


def _own() -> dict[str, Any]:
    texts = {"text": "It is located at x. ", "long_text": "It is located in the knee."}
    return {
        "pathologies": [
            {"name": "effusion", "display": "Joint effusion", "description": "Fluid in the joint.", "synonyms": ["fluid"]},
            {"name": "fracture", "display": "Fracture", "description": "A broken bone."},
        ],
        "anatomies": [
            {"name": "left_knee", "display": "Left knee", "side": "left", "mirror": "right_knee", **texts},
            {"name": "right_knee", "display": "Right knee", "side": "right", "mirror": "left_knee", **texts},
        ],
    }


def _write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_users_own_vocabulary_loads(tmp_path: Path) -> None:
    own = load_vocabulary(_write(tmp_path / "knee.yaml", _own()))
    assert list(own.pathology_index) == ["effusion", "fracture"]
    assert own.mirror_index == (1, 0)
    fluid = own.find_pathology("Fluid")
    assert fluid is not None and fluid.name == "effusion" and fluid.kind == "abnormal"


def _twice(content: dict[str, Any]) -> None:
    content["anatomies"].append(content["anatomies"][0])


def _shared_word(content: dict[str, Any]) -> None:
    content["pathologies"][1]["synonyms"] = ["Fluids"]


def _lost_twin(content: dict[str, Any]) -> None:
    content["anatomies"][0]["mirror"] = "right_elbow"


def _own_twin(content: dict[str, Any]) -> None:
    content["anatomies"][0]["mirror"] = "left_knee"


def _lost_way(content: dict[str, Any]) -> None:
    third = content["anatomies"][0] | {
        "name": "third_knee",
        "display": "third knee",
        "synonyms": [],
        "side": None,
        "mirror": "left_knee",
    }
    content["anatomies"].append(third)
    content["anatomies"][1]["mirror"] = "third_knee"


def _undescribed(content: dict[str, Any]) -> None:
    del content["pathologies"][1]["description"]


def _misspelt(content: dict[str, Any]) -> None:
    content["pathologies"][0]["synonym"] = ["fluid"]


def _empty(content: dict[str, Any]) -> None:
    content["pathologies"] = []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_twice, "'left_knee' is named twice"),
        (_shared_word, "'Fluids' is a word for both 'effusion' and 'fracture'"),
        (_lost_twin, "its mirror 'right_elbow' is no anatomy"),
        (_own_twin, "name its twin"),
        (_lost_way, "twice doesn't lead back"),
        (_undescribed, "pathologies.1.description"),
        (_misspelt, "pathologies.0.synonym"),
        (_empty, "pathologies"),
    ],
)
def test_a_bad_vocabulary_is_refused_with_file_place_and_advice(tmp_path: Path, spoil: Any, told: str) -> None:
    content = _own()
    spoil(content)
    path = _write(tmp_path / "knee.yaml", content)
    with pytest.raises(MedLIPError) as raised:
        load_vocabulary(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "for the form" in str(raised.value)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"", b"pathologies: [", b"\xff\xfe\x00", b"\x89PNG"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes(content)
    with pytest.raises(MedLIPError, match=re.escape(str(path))):
        load_vocabulary(path)


def test_a_missing_vocabulary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"none\.yaml.*Give the path"):
        load_vocabulary(tmp_path / "none.yaml")


def test_another_vocabulary_is_refused_by_the_names_that_differ(tmp_path: Path) -> None:
    own = load_vocabulary(_write(tmp_path / "knee.yaml", _own()))
    with pytest.raises(MedLIPError, match=r"run: its pathologies differ.*missing \['normal'.*Use the vocabulary"):
        VOCABULARY.require_same(own, "run")
    with pytest.raises(MedLIPError, match=r"unknown \['normal'"):
        own.require_same(VOCABULARY, "run")


def test_order_is_part_of_a_vocabulary() -> None:
    turned = Vocabulary(pathologies=VOCABULARY.pathologies, anatomies=VOCABULARY.anatomies[::-1])
    with pytest.raises(MedLIPError, match=r"its anatomies differ.*the same names in another order"):
        VOCABULARY.require_same(turned, "run")


def test_a_vocabulary_read_again_is_the_same(tmp_path: Path) -> None:
    again = load_vocabulary(_write(tmp_path / "same.yaml", VOCABULARY.model_dump(mode="json")))
    again.require_same(VOCABULARY, "file")
    assert again == VOCABULARY
    assert again.fingerprint == VOCABULARY.fingerprint
