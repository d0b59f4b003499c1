"""Turning films upright: the patient's right on the image's left, head up, pixels square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicoms import chest, dataset, encoded, spoilt, stretched
from medlip.images import read_xray
from medlip.images.orientation import Turn

GREY = chest(8).astype(np.uint8)

LIES = {  # what Patient Orientation says of rows and columns, and how a film that lies so comes from an upright one
    "L\\F": GREY,
    "R\\F": GREY[:, ::-1],
    "L\\H": GREY[::-1],
    "R\\H": GREY[::-1, ::-1],
    "F\\L": GREY.T,
    "H\\L": GREY[::-1].T,
    "F\\R": GREY[:, ::-1].T,
    "H\\R": GREY[::-1, ::-1].T,
    "A\\F": GREY,
    "P\\H": GREY[::-1],
    "LP\\FA": GREY,
}


@pytest.mark.parametrize("words", LIES)
def test_patient_orientation_turns_the_film_upright(words: str) -> None:
    xray = read_xray(encoded(dataset(np.ascontiguousarray(LIES[words]), PatientOrientation=words.split("\\"))))
    np.testing.assert_array_equal(xray.pixels, GREY)
    upright = words in ("L\\F", "A\\F", "LP\\FA")
    assert bool(xray.notes) != upright and all("Patient Orientation says" in note for note in xray.notes)


@pytest.mark.parametrize("words", [b"L", b"L\\R", b"F\\H", b"X\\Y", b"L\\F\\A", b"12", b"\xff\xfe"])
def test_a_patient_orientation_without_sense_turns_nothing(words: bytes) -> None:
    xray = read_xray(spoilt(dataset(GREY), "PatientOrientation", words))
    np.testing.assert_array_equal(xray.pixels, GREY)
    assert xray.notes == ("Patient Orientation is unusable: left out",)


def test_an_empty_patient_orientation_is_no_fault() -> None:
    assert read_xray(encoded(dataset(GREY, PatientOrientation=""))).notes == ()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["YES", "NO"])
def test_what_was_done_to_the_field_of_view_is_undone(rotation: int, flip: str) -> None:
    film = np.rot90(GREY, -rotation // 90)  # clockwise
    film = film[:, ::-1] if flip == "YES" else film
    made = dataset(np.ascontiguousarray(film), FieldOfViewRotation=rotation, FieldOfViewHorizontalFlip=flip)
    xray = read_xray(encoded(made))
    np.testing.assert_array_equal(xray.pixels, GREY)
    assert len(xray.notes) == (rotation > 0) + (flip == "YES")
    made.PatientOrientation = ["L", "F"]  # which says how the pixels lie after all
    np.testing.assert_array_equal(read_xray(encoded(made)).pixels, film)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["Y", "N"])
def test_what_is_asked_for_before_display_is_done(rotation: int, flip: str) -> None:
    shown = np.rot90(GREY, -rotation // 90)
    shown = shown[:, ::-1] if flip == "Y" else shown
    xray = read_xray(encoded(dataset(GREY, ImageRotation=rotation, ImageHorizontalFlip=flip)))
    np.testing.assert_array_equal(xray.pixels, shown)


@pytest.mark.parametrize("name", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"])
@pytest.mark.parametrize(
    ("sides", "shape"), [((2, 1), (192, 80)), ((1, 2), (96, 160)), ((3, 2), (144, 80)), ((1, 1), (96, 80))]
)
def test_pixels_become_square(name: str, sides: tuple[int, int], shape: tuple[int, int]) -> None:
    xray = read_xray(encoded(dataset(GREY, **{name: list(sides)})))
    assert xray.pixels.shape == shape and bool(xray.notes) == (shape != GREY.shape)
    step = shape[0] // 96, shape[1] // 80
    if 3 not in sides:
        smaller = xray.pixels.reshape(96, step[0], 80, step[1]).mean((1, 3))
        np.testing.assert_allclose(smaller, GREY, atol=6)


def test_square_pixels_of_a_turned_film_have_its_sides() -> None:
    made = dataset(GREY, PatientOrientation=["F", "L"], PixelSpacing=[2, 1])
    assert read_xray(encoded(made)).pixels.shape == (80, 192)


@pytest.mark.parametrize("spacing", [b"0\\0", b"-1\\1", b"1", b"", b"1\\1000", b"a\\b"])
def test_a_spacing_without_sense_stretches_nothing(spacing: bytes) -> None:
    xray = read_xray(spoilt(dataset(GREY), "PixelSpacing", spacing))
    assert xray.pixels.shape == GREY.shape and xray.notes == ("Pixel Spacing is unusable: left out",)


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 60), st.integers(0, 70), st.integers(1, 20))
def test_boxes_and_masks_go_along(transposed: bool, down: bool, across: bool, x: int, y: int, side: int) -> None:
    turn = Turn(GREY.shape, transposed, down, across)
    mask = np.zeros(GREY.shape, bool)
    mask[y : y + side + 3, x : x + side] = True
    left, top, width, height = turn.box(x, y, side, side + 3)
    moved = np.zeros(turn.apply(GREY).shape, bool)
    moved[int(top) : int(top + height), int(left) : int(left + width)] = True
    np.testing.assert_array_equal(turn.apply(mask), moved)


def test_boxes_and_masks_are_stretched_along() -> None:
    turn = read_xray(encoded(dataset(GREY, PixelAspectRatio=[2, 1], PatientOrientation=["R", "F"]))).turn
    assert turn is not None and turn.box(10, 20, 30, 5) == (40, 40, 30, 10)
    mask = np.zeros(GREY.shape, bool)
    mask[20:25, 10:40] = True
    moved = turn.apply(mask)
    assert moved[40:50, 40:70].all() and moved.sum() == 300


# Films made for processing


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize("by", ["class", "intent"])
def test_bone_is_bright_in_films_made_for_processing(photometric: str, sign: int, slope: int, by: str) -> None:
    bone = chest(12)
    made = dataset(bone if sign == -1 else 4095 - bone, BitsStored=12, PhotometricInterpretation=photometric)
    made.PixelIntensityRelationshipSign, made.RescaleSlope, made.RescaleIntercept = sign, slope, 4095 * (slope < 0)
    if by == "class":
        made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1.1"
    else:
        made.PresentationIntentType = "FOR PROCESSING"
    xray = read_xray(encoded(made))
    np.testing.assert_allclose(xray.pixels, stretched(bone), atol=1)
    assert xray.notes[0].startswith("made for processing")


def test_a_film_for_processing_that_does_not_say_what_is_bright_is_said_to() -> None:
    xray = read_xray(encoded(dataset(chest(12), BitsStored=12, PresentationIntentType="FOR PROCESSING")))
    assert "doesn't say whether bone is bright" in xray.notes[0]


def test_a_film_for_presentation_is_shown_as_it_is_meant_to_be() -> None:
    xray = read_xray(encoded(dataset(chest(12), BitsStored=12, PixelIntensityRelationshipSign=1)))
    np.testing.assert_allclose(xray.pixels, stretched(chest(12)), atol=1)
    assert "bone is dark in it" in xray.notes[0]
