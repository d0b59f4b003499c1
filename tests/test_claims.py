"""Facts as sentences: what they claim and what not, what is wrong of them, and that sides follow a mirrored image."""

from __future__ import annotations

import torch

from medlip.concepts import default_vocabulary
from medlip.data.mirror import mirror_facts
from medlip.methods.claims import Claims, draw_wrong, wrong_versions
from medlip.reports import Fact, fact_matrix, mirror_sides
from medlip.reports.facts import IGNORED

VOCABULARY = default_vocabulary()
CLAIMS = Claims(VOCABULARY)


def written(*facts: Fact) -> set[str]:
    matrix = torch.from_numpy(fact_matrix(facts, VOCABULARY, "ignore", ignored=IGNORED))
    (sentences,) = CLAIMS.written(CLAIMS.made_by(matrix[None]))
    return set(sentences)


def test_a_finding_is_claimed_with_its_place_and_without() -> None:
    found = written(Fact("opacity", "left_lower_lung", "present"))
    assert found == {"There is lung opacity.", "There is lung opacity in the left lower lung zone."}
    assert written(Fact("opacity", "unspecified", "present")) == {"There is lung opacity."}


def test_absent_is_claimed_only_of_what_is_nowhere_present_or_uncertain() -> None:
    left = Fact("effusion", "left_pleural", "absent")
    assert written(left) == {"There is no pleural effusion."}
    assert "There is no pleural effusion." not in written(left, Fact("effusion", "right_pleural", "present"))
    assert written(left, Fact("effusion", "right_pleural", "uncertain")) == set()
    assert written() == set()


def test_what_is_normal_is_said_of_its_place() -> None:
    assert written(Fact("normal", "heart_size", "present")) == {"Normal heart."}
    assert written(Fact("normal", "unspecified", "present")) == set()


def test_every_claim_has_a_sentence_of_its_own() -> None:
    assert len(CLAIMS.index) == len(CLAIMS.sentences)


def test_claims_of_mirrored_facts_are_the_mirrored_claims() -> None:
    matrix = fact_matrix([Fact("nodule", "left_upper_lung", "present"), Fact("mass", "right_hilar", "present")], VOCABULARY)
    mirrored = torch.from_numpy(mirror_facts(matrix, VOCABULARY))
    both = torch.stack([torch.from_numpy(matrix), mirrored])
    as_is, as_mirrored = CLAIMS.written(CLAIMS.made_by(both))
    assert {mirror_sides(sentence) for sentence in as_is} == set(as_mirrored)


def test_wrong_versions_change_side_zone_or_presence() -> None:
    assert wrong_versions("There is mass in the left upper lung zone.") == [
        "There is mass in the right upper lung zone.",
        "There is mass in the left mid lung zone.",
        "There is mass in the left lower lung zone.",
    ]
    assert wrong_versions("There is no evidence of effusion.") == ["There is effusion."]
    assert wrong_versions("There is a mass.") == ["There is no mass."]
    assert wrong_versions("Left and right effusions, larger on the left.") == []
    assert wrong_versions("The lungs are clear.") == []


def test_no_wrong_version_says_what_the_study_says() -> None:
    report = ("There is effusion in the left pleura.", "There is no mass.")
    (drawn,) = draw_wrong([report], [(*report, "There is effusion in the right pleura.")], 5, (0,))
    assert [text.sentences for text in drawn] == [("There is effusion in the left pleura.", "There is mass.")]
    assert [text.changed for text in drawn] == [1]
    assert draw_wrong([report], [report], 1, (7,)) == draw_wrong([report], [report], 1, (7,))
    assert draw_wrong([()], [()], 3, (0,)) == [[]]
