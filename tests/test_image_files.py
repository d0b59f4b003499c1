"""The X-ray of an identifier, and what is none although it is called so."""

from __future__ import annotations

from pathlib import Path

import pytest

from medlip.data.image_files import ImageFiles
from medlip.data.views import kind_of, parse_views, view_of
from medlip.errors import MedLIPError


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_dicom_wins_over_a_picture_of_its_name(tmp_path: Path) -> None:
    film = write(tmp_path / "a" / "1.2.3.dcm")
    write(tmp_path / "b" / "1.2.3.png")
    assert ImageFiles(tmp_path).find("1.2.3") == (film, "")


@pytest.mark.parametrize("folder", ["masks", "train_masks", "Segmentation", "lung-seg", "thumbs", "labels", "GT"])
def test_masks_and_the_like_are_never_taken(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder / "7.png")
    missing = ImageFiles(tmp_path).find("7", tmp_path / "7.dcm")
    assert missing.path == tmp_path / "7.dcm" and "which is no X-ray" in missing.problem
    film = write(tmp_path / "images" / "7.png", b"film")
    assert ImageFiles(tmp_path).find("7") == (film, "")


@pytest.mark.parametrize("name", ["7.txt", "7.json", "7.xml", "7.nii.gz", "7.npy", "._7.png"])
def test_files_of_other_kinds_are_no_images(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert "7" not in ImageFiles(tmp_path)


def test_two_candidates_are_named_and_copies_are_one(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "7.png", b"one"), write(tmp_path / "b" / "7.jpg", b"two")
    problem = ImageFiles(tmp_path).find("7").problem
    assert str(first) in problem and str(second) in problem
    write(second, b"one")
    assert ImageFiles(tmp_path).find("7") == (first, "")


def test_a_dicom_called_by_its_number_alone_is_found(tmp_path: Path) -> None:
    film = write(tmp_path / "1.2.840.11", b"\0" * 128 + b"DICM")
    write(tmp_path / "1.2.840.12", b"notes")
    files = ImageFiles(tmp_path)
    assert files.find("1.2.840.11") == (film, "") and "1.2.840.12" not in files


WORDS = {
    "frontal": ["PA", "ap", "AP Supine", "AP_horizontal", "Frontal", "postero-anterior", "AP/PA", "CHEST PA"],
    "lateral": ["L", "LL", "Lateral", "Left lateral", "LLAT", "L-LAT", "lat", "XTABLE LATERAL"],
    "other": ["LAO", "oblique", "COSTAL", "Axial", "SWIMMERS"],
    "unknown": ["", "UNK", "unknown", "nan", "N/A"],
    "": ["LA", "Seitaufnahme", "PA/LAT", "view 3"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in WORDS.items() for word in words])
def test_words_for_views_are_known_or_named(kind: str, word: str) -> None:
    assert kind_of(view_of(word)) == kind


def test_which_views_to_keep_is_a_list_of_kinds() -> None:
    assert parse_views("unknown, frontal") == ("frontal", "unknown") and len(parse_views("all")) == 4
    with pytest.raises(MedLIPError, match="'side'"):
        parse_views("frontal,side")
