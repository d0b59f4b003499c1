"""Sections, sentences, and the mirrored report."""

from __future__ import annotations

import pytest

from medlip.reports import mirror_sides, sections, split_sentences

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with ?pneumonia

 COMPARISON:  None.

 The lungs are clear.

 IMPRESSION:

 1. No effusion.
 2. Stable nodule in the
 right upper lobe, 1.9 x 2.0 cm vs. artefact per Dr. ___."""


def _named(text: str) -> list[tuple[str, str]]:
    return [(section.name, text[section.start : section.end].strip()) for section in sections(text)]


def test_a_report_is_divided_by_its_headings() -> None:
    named = dict(_named(MIMIC))
    assert named["indication"] == "___ year old woman with ?pneumonia"
    assert named["findings"] == "The lungs are clear."
    assert named["impression"].startswith("1. No effusion.")


def test_headings_on_one_line_divide_it_too() -> None:
    text = "INDICATION: Cough. FINDINGS: Clear lungs. Impression: Normal chest."
    assert _named(text) == [("indication", "Cough."), ("findings", "Clear lungs."), ("impression", "Normal chest.")]


def test_text_without_headings_is_findings() -> None:
    assert _named("Heart size is normal: no cardiomegaly.") == [("findings", "Heart size is normal: no cardiomegaly.")]


def test_findings_and_impression_are_read_and_the_rest_is_not() -> None:
    read = {section.name: section.read for section in sections(MIMIC)}
    assert {name for name, is_read in read.items() if is_read} == {"findings", "impression"}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A 1.9 cm nodule. No effusion.", ["A 1.9 cm nodule.", "No effusion."]),
        ("Opacity vs. atelectasis per Dr. Smith. Clear.", ["Opacity vs. atelectasis per Dr. Smith.", "Clear."]),
        ("Clear right lung XXXX.In the left lobe", ["Clear right lung XXXX.", "In the left lobe"]),
        ("1. Effusion. 2. Right base opacity", ["Effusion.", "Right base opacity"]),
        ("Effusions, right larger than left 2. Opacities", ["Effusions, right larger than left", "Opacities"]),
        ("No effusion\nHeart is enlarged", ["No effusion", "Heart is enlarged"]),
        ("seen ___ . stable", ["seen ___ .", "stable"]),
        ("- clear lungs\n- no effusion", ["clear lungs", "no effusion"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_end_where_they_end(text: str, sentences: list[str]) -> None:
    assert [sentence.text for sentence in split_sentences(text)] == sentences


def test_a_wrapped_line_does_not_end_a_sentence() -> None:
    text = "There is a large opacity in the right lower lobe, which is seen on the\nPA view and on the lateral view."
    assert len(split_sentences(text)) == 1


def test_sentences_know_where_they_stand() -> None:
    for sentence in split_sentences(MIMIC):
        assert MIMIC[sentence.start : sentence.end] == sentence.text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left lower lobe, right-sided, LEFT", "Right lower lobe, left-sided, RIGHT"),
        ("RLL and LUL opacity, L base", "LLL and RUL opacity, R base"),
        ("mild dextroscoliosis", "mild levoscoliosis"),
        ("L1 and L-spine, leftover", "L1 and L-spine, leftover"),
        ("Lingular scarring", "Right lingular scarring"),
        ("left lingula", "right lingula"),
    ],
)
def test_mirroring_swaps_sides(text: str, mirrored: str) -> None:
    assert mirror_sides(text) == mirrored


def test_mirroring_twice_is_the_report_again() -> None:
    text = "Left base opacity; RIJ line; right pleural effusion, levoscoliosis."
    assert mirror_sides(mirror_sides(text)) == text
