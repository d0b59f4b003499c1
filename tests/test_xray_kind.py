"""What a film says of itself: its view, and whether it is a chest X-ray at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from dicoms import chest, dataset, encoded
from medlip.images import read_image, read_xray

GREY = chest(8).astype(np.uint8)


def coded(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeMeaning = meaning
    return Sequence([item])


@pytest.mark.parametrize(
    ("view", "elements"),
    [
        ("PA", {"ViewPosition": "PA"}),
        ("PA", {"ViewPosition": "pa "}),
        ("AP", {"ViewPosition": "AP SUPINE"}),
        ("AP", {"ViewPosition": "CHEST_AP"}),
        ("lateral", {"ViewPosition": "LL"}),
        ("lateral", {"ViewPosition": "LATERAL"}),
        ("lateral", {"ViewPosition": "LLAT"}),
        ("oblique", {"ViewPosition": "RLO"}),
        ("decubitus", {"ViewPosition": "LLD"}),
        ("PA", {"ViewCodeSequence": coded("postero-anterior")}),
        ("AP", {"ViewCodeSequence": coded("Antero-posterior projection")}),
        ("lateral", {"ViewCodeSequence": coded("left lateral")}),
        ("lordotic", {"ViewCodeSequence": coded("Apical lordotic")}),
        ("lateral", {"PatientOrientation": ["A", "F"]}),
        ("", {"PatientOrientation": ["L", "F"]}),
        ("", {"ViewPosition": ""}),
        ("", {"ViewPosition": "PORTABLE"}),
        ("", {}),
    ],
)
def test_the_view_is_known_where_the_file_says_it(view: str, elements: dict[str, object]) -> None:
    assert read_xray(encoded(dataset(GREY, **elements))).view == view


@pytest.mark.parametrize(
    ("unfit", "elements"),
    [
        ("", {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}),
        ("", {"Modality": "DX", "BodyPartExamined": "PORT CHEST", "ViewPosition": "LL"}),
        ("", {"Modality": "OT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("", {"BodyPartExamined": "THORAX"}),
        ("", {"BodyPartExamined": "UNKNOWN"}),
        ("", {"BodyPartExamined": "CHEST ABDOMEN"}),
        ("the modality is CT", {"Modality": "CT"}),
        ("the modality is MG", {"Modality": "MG"}),
        ("the kind is CT Image Storage", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}),
        ("the kind is Segmentation Storage", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}),
        ("the body part is KNEE", {"BodyPartExamined": "KNEE"}),
        ("the body part is TSPINE", {"BodyPartExamined": "TSPINE"}),
        ("the body part is HAND", {"BodyPartExamined": "LEFT HAND"}),
        ("the body part is ABDOMEN", {"AnatomicRegionSequence": coded("Abdomen")}),
        ("the view is oblique", {"ViewPosition": "RAO"}),
        ("the modality is US, the body part is LEG", {"Modality": "US", "BodyPartExamined": "LEG"}),
    ],
)
def test_what_is_no_chest_x_ray_says_why(unfit: str, elements: dict[str, object]) -> None:
    assert read_xray(encoded(dataset(GREY, **elements))).unfit == unfit


def test_free_text_that_may_name_someone_is_not_repeated() -> None:
    elements = {"Modality": "MUSTERMANN ERIKA", "BodyPartExamined": "KNEE MUSTERMANN", "ViewPosition": "MUSTERMANN"}
    xray = read_xray(encoded(dataset(GREY, **elements)))
    assert (xray.view, xray.unfit) == ("", "the body part is KNEE")


def test_a_file_its_bytes_and_its_data_set_are_the_same(tmp_path: Path) -> None:
    made = dataset(GREY, ViewPosition="PA", PatientOrientation=["R", "F"])
    content = encoded(made)
    (tmp_path / "x").write_bytes(content)
    before = made.to_json()
    xrays = [read_xray(source) for source in (tmp_path / "x", str(tmp_path / "x"), content, made)]
    for xray in xrays:
        np.testing.assert_array_equal(xray.pixels, GREY[:, ::-1])
        assert (xray.view, xray.notes) == ("PA", ("mirrored left to right, as Patient Orientation says",))
    np.testing.assert_array_equal(read_image(tmp_path / "x"), GREY[:, ::-1])
    assert made.to_json() == before
