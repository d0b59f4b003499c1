"""From report text to facts: what is stated, where, and how surely."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports import Fact, extract_facts, implied_absent, mirror_sides, resolve
from medlip.reports.extract import forget_sentences


def _said(text: str, *, general: bool = False) -> set[str]:
    """Return the resolved facts of a text as "pathology@anatomy=presence", general words ("abnormality") left out."""
    words = set() if general else {"process", "disease", "abnormality", "finding", "tip"}
    return {f"{f.pathology}@{f.anatomy}={f.presence}" for f in resolve(extract_facts(text)) if f.pathology not in words}


CASES = {
    # negation
    "No focal consolidation, effusion, or pneumothorax.": (
        "consolidation@unspecified=absent effusion@pleural_unspec=absent pneumothorax@unspecified=absent"
    ),
    "No effusion but a left apical pneumothorax.": "effusion@pleural_unspec=absent pneumothorax@left_apical_lung=present",
    "No pneumothorax, mild cardiomegaly.": "pneumothorax@unspecified=absent cardiomegaly@heart_size=present",
    "Right pleural effusion is not seen.": "effusion@right_pleural=absent",
    "The left effusion has resolved.": "effusion@left_pleural=absent",
    "The heart is not enlarged.": "cardiomegaly@heart_size=absent",
    "The heart is not significantly enlarged.": "cardiomegaly@heart_size=absent",
    "No pneumothorax is seen and there is a small left effusion.": (
        "pneumothorax@unspecified=absent effusion@left_pleural=present"
    ),
    "No change in the right effusion.": "effusion@right_pleural=present",
    "Previously seen left base opacity has cleared.": "opacity@left_lower_lung=absent",
    "No opacity to suggest pneumonia.": "opacity@unspecified=absent pneumonia@unspecified=absent",
    "Neither effusion nor pneumothorax.": "effusion@pleural_unspec=absent pneumothorax@unspecified=absent",
    "No acute, displaced rib fracture.": "fracture@rib=absent",
    # hedging
    "Left base opacity may represent atelectasis or pneumonia.": (
        "opacity@left_lower_lung=present atelectasis@left_lower_lung=uncertain pneumonia@left_lower_lung=uncertain"
    ),
    "Possible right lower lobe pneumonia.": "pneumonia@lower_right_lobe=uncertain",
    "A small effusion cannot be excluded.": "effusion@pleural_unspec=uncertain",
    "Cannot exclude a small effusion.": "effusion@pleural_unspec=uncertain",
    "Right hilar mass versus infiltrate.": "mass@right_hilar=uncertain infiltrate@right_hilar=uncertain",
    "The heart is borderline enlarged.": "cardiomegaly@heart_size=uncertain",
    "Right base opacity, likely atelectasis.": "opacity@right_lower_lung=present atelectasis@right_lower_lung=present",
    "Opacity concerning for pneumonia.": "opacity@unspecified=present pneumonia@unspecified=uncertain",
    # places
    "Opacity in the left base and right apex.": "opacity@left_lower_lung=present opacity@right_apical_lung=present",
    "Left and right upper lobe opacities.": "opacity@upper_left_lobe=present opacity@upper_right_lobe=present",
    "Opacities in the right middle and lower lobes.": "opacity@middle_right_lobe=present opacity@lower_right_lobe=present",
    "Nodules in both upper lobes.": "nodule@upper_left_lobe=present nodule@upper_right_lobe=present",
    "Bibasilar atelectasis.": "atelectasis@lung_bases=present",
    "Basilar atelectasis on the right.": "atelectasis@right_lower_lung=present",
    "In the left midlung zone, there is a small lung nodule.": "nodule@left_mid_lung=present",
    "Lingular scarring.": "scar@upper_left_lobe=present",
    "RLL pneumonia.": "pneumonia@lower_right_lobe=present",
    "Small bilateral pleural effusions, right greater than left.": "effusion@pleural_unspec=present",
    "Calcified granuloma left upper lobe.": "calcification@upper_left_lobe=present",
    "Healed right lateral 7th rib fracture.": "fracture@rib=present",
    "Left basilar atelectasis and scarring.": "atelectasis@left_lower_lung=present scar@left_lower_lung=present",
    "Right hilar and mediastinal calcifications.": "calcification@right_hilar=present calcification@mediastinal=present",
    "Heart: Enlarged.": "cardiomegaly@heart_size=present",
    "Tortuous and calcified aorta.": "tortuous@aorta=present calcification@aorta=present",
    "Blunting of the left costophrenic XXXX.": "blunt@left_costophrenic=present",
    "Stable sternotomy XXXX and mediastinal clips.": "wire@other=present clip@mediastinal=present",
    "Pacemaker with its tip in the right ventricle.": "pacemaker@right_ventricle=present",
    "Endotracheal tube above the carina.": "tube@trachea=present",
    # normal statements
    "The lungs are clear, without infiltrate.": "clear@lung_volumes=present infiltrate@lung_volumes=absent",
    "Heart size normal and lungs clear.": "normal@heart_size=present clear@lung_volumes=present",
    "Cardiac and mediastinal contours are within normal limits.": "normal@heart_border=present normal@mediastinal=present",
    "The heart is normal in size and contour.": "normal@heart_size=present normal@heart_border=present",
    "Bony structures are intact.": "normal@other=present",
    "Normal chest.": "",
    # not about the image
    "Recommend CT to exclude a nodule.": "",
    "If there is concern for fracture, obtain rib views.": "",
    "Compared to prior with effusion, lungs are clear.": "clear@lung_volumes=present",
    "INDICATION: pneumonia. FINDINGS: Clear lungs.": "clear@lung_volumes=present",
    # spelling
    "Cardiomegally with a right plueral effusion.": "cardiomegaly@heart_size=present effusion@right_pleural=present",
    "Medication injection.": "",
}


@pytest.mark.parametrize(("text", "facts"), CASES.items(), ids=CASES)
def test_a_sentence_gives_its_facts(text: str, facts: str) -> None:
    assert _said(text) == set(facts.split())


def test_each_fact_carries_the_words_that_say_it() -> None:
    text = "FINDINGS: Heart size is normal.\nA small left pleural effusion is present."
    effusion = next(fact for fact in extract_facts(text) if fact.pathology == "effusion")
    assert effusion.sentence == "A small left pleural effusion is present."
    assert text[effusion.start : effusion.end] == "pleural effusion"


def test_a_mention_without_a_place_takes_the_place_given_elsewhere() -> None:
    text = "FINDINGS: Opacity in the right base, consistent with atelectasis. IMPRESSION: Atelectasis."
    assert _said(text) == {"opacity@right_lower_lung=present", "atelectasis@right_lower_lung=present"}


def test_a_sentence_that_goes_on_takes_the_place_of_the_one_before() -> None:
    assert "pneumonia@upper_left_lobe=uncertain" in _said(
        "There is a left upper lobe opacity. This may represent pneumonia."
    )


def test_what_is_stated_twice_is_present() -> None:
    assert _said("FINDINGS: No effusion. IMPRESSION: Small pleural effusion.") == {"effusion@pleural_unspec=present"}


def test_mirroring_the_report_mirrors_its_facts() -> None:
    vocabulary = default_vocabulary()
    mirror = {anatomy.name: anatomy.mirror for anatomy in vocabulary.anatomies}
    text = (
        "Left lower lobe opacity. Right middle lobe nodule. Lingular scarring. Elevated left hemidiaphragm. "
        "Right pleural effusion. Left apical pneumothorax. Bibasilar atelectasis. Right hilar mass. No left rib fracture."
    )
    mirrored = {(fact.pathology, mirror[fact.anatomy], fact.presence) for fact in extract_facts(text)}
    assert {(fact.pathology, fact.anatomy, fact.presence) for fact in extract_facts(mirror_sides(text))} == mirrored


def test_general_statements_are_facts_of_their_own() -> None:
    assert _said("No acute cardiopulmonary abnormality.", general=True) == {"abnormality@cardiopulmonary=absent"}
    assert _said("No typical findings of pulmonary edema.", general=True) == {"edema@pulmonary=absent"}


def test_a_users_synonyms_are_read() -> None:
    content = default_vocabulary().model_dump(mode="json")
    for pathology in content["pathologies"]:
        if pathology["name"] == "nodule":
            pathology["synonyms"] = [*pathology["synonyms"], "coin shadow"]
    for anatomy in content["anatomies"]:
        if anatomy["name"] == "left_upper_lung":
            anatomy["synonyms"] = [*anatomy["synonyms"], "sinister summit"]
    vocabulary = Vocabulary.model_validate(content)
    text = "Coin shadow in the sinister summit."
    assert [(fact.pathology, fact.anatomy) for fact in extract_facts(text, vocabulary)] == [("nodule", "left_upper_lung")]
    assert extract_facts(text) == ()


def test_a_small_vocabulary_gets_only_its_own_facts() -> None:
    content = default_vocabulary().model_dump(mode="json")
    effusion = [pathology for pathology in content["pathologies"] if pathology["name"] == "effusion"]
    small = Vocabulary.model_validate({"pathologies": effusion, "anatomies": content["anatomies"]})
    assert {fact.pathology for fact in extract_facts("Effusion, nodule and clear lungs.", small)} == {"effusion"}


def _implied(text: str) -> set[str]:
    return {f"{fact.pathology}@{fact.anatomy}" for fact in implied_absent(extract_facts(text))}


def test_clear_lungs_imply_the_absence_of_what_would_be_seen() -> None:
    assert {"consolidation@lung_volumes", "nodule@lung_volumes", "edema@pulmonary"} <= _implied("The lungs are clear.")
    assert "cardiomegaly@heart_size" in _implied("Heart size is normal.")


def test_what_a_report_finds_is_not_implied_to_be_absent() -> None:
    text = "Nodule in the left base. The lungs are otherwise clear. Possible pneumonia."
    assert not {"nodule@lung_volumes", "pneumonia@lung_volumes"} & _implied(text)


def test_implied_facts_carry_the_statement_that_implies_them() -> None:
    (fact, *_) = implied_absent(extract_facts("Effusion. Heart size is normal."))
    assert fact.presence == "absent"
    assert fact.sentence == "Heart size is normal."


WORDS = (
    "no not left right and or , . ; : lung lungs effusion opacity is may base lobe XXXX ___ 1.9 of in with but clear normal"
)


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(WORDS.split(" ")), max_size=60).map(" ".join)))
def test_any_text_gives_facts_or_none(text: str) -> None:
    vocabulary = default_vocabulary()
    for fact in extract_facts(text):
        assert isinstance(fact, Fact)
        assert 0 <= fact.start < fact.end <= len(text)
        assert text[fact.start : fact.end] in fact.sentence
        assert fact.pathology in vocabulary.pathology_index
        assert fact.anatomy in vocabulary.anatomy_index


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=300))
def test_mirroring_any_text_keeps_it_text(text: str) -> None:
    assert isinstance(mirror_sides(text), str)


@pytest.mark.parametrize(
    "piece",
    [
        "effusion ",
        "no ",
        "left and right ",
        ", ",
        "lung opacity may represent ",
        "a",
        "\n \t",
        ". ",
        ": ",
        "A:\n",
        "İ̇ß ",
        "1. ",
    ],
)
def test_time_grows_with_the_length_of_the_text(piece: str) -> None:
    def once(text: str) -> float:
        forget_sentences()
        start = time.process_time()
        extract_facts(text)
        return time.process_time() - start

    def seconds(length: int) -> float:
        return min(once(piece * (length // len(piece))) for _ in range(3))  # the least is what other jobs disturbed least

    seconds(1000)
    short, long = max(seconds(10_000), 1e-3), seconds(80_000)
    assert long < 8 * short * 4 + 0.05  # eight times the text; a quadratic reader takes 64 times as long
