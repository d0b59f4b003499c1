from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medlip.data.check import check
from medlip.data.overlap import Fingerprints, find_overlap, fingerprint, perceptual_hash
from medlip.data.phantom import phantom
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.study import Study, View
from medlip.errors import MedLIPError


def pixels(index: int) -> np.ndarray:  # type: ignore[type-arg]
    image = phantom(index).views[0].image
    assert isinstance(image, np.ndarray)
    return image


def source(name: str, images: dict[str, object]) -> Source:
    return Source(name, {id: Study(id, f"{name}:{id}", (View(image),)) for id, image in images.items()})  # type: ignore[arg-type]


def altered(image: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return it shrunk, brightened, and saved as a poor JPEG."""
    picture = Image.fromarray(image).resize((200, 210), Image.Resampling.BILINEAR).point(lambda value: value * 0.9 + 12)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def test_a_copy_is_found_and_a_stranger_is_not() -> None:
    images = [pixels(index) for index in range(12)]
    ours = fingerprint(source("ours", {str(i): image for i, image in enumerate(images[:8])}), workers=0)
    theirs = fingerprint(source("theirs", {"x": altered(images[5]), "y": images[10]}), workers=0)
    shared = find_overlap(ours, theirs)
    assert shared.images == (("ours:5:0", "theirs:x:0"),) and not shared.patients and shared


def test_shared_patients_are_found_whatever_their_images() -> None:
    dark = Fingerprints(("a",), ("nih:7",), np.zeros((1, 4), np.uint64))
    bright = Fingerprints(("b",), ("nih:7",), ~np.zeros((1, 4), np.uint64))
    assert find_overlap(dark, bright).patients == ("nih:7",) and not find_overlap(dark, bright).images


def test_fingerprints_are_kept_in_a_file(tmp_path: Path) -> None:
    made = fingerprint(source("s", {"1": pixels(1), "2": tmp_path / "missing.png"}), workers=0)
    assert made.skipped == 1 and made.ids == ("s:1:0",)
    made.save(tmp_path / "f.npz")
    assert find_overlap(Fingerprints.load(tmp_path / "f.npz"), made).images == (("s:1:0", "s:1:0"),)


def test_a_store_looks_like_its_source(tmp_path: Path) -> None:
    made = source("s", {str(i): pixels(i) for i in range(3)})
    prepare([made], tmp_path / "s", size=128, workers=0)
    shared = find_overlap(fingerprint(made, workers=2), fingerprint(tmp_path / "s"))
    assert {a for a, _ in shared.images} == {"s:0:0", "s:1:0", "s:2:0"} and len(shared.patients) == 3


def test_the_hash_is_of_256_bits() -> None:
    assert perceptual_hash(pixels(0)).shape == (4,) and perceptual_hash(pixels(0)).dtype == np.uint64


def test_check_counts_and_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,report,split,view\na.png,Clear.,train,PA\nb.png,,test,lateral\n")
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    found = check(f"csv:{tmp_path / 't.csv'}")
    assert (found["studies"], found["reports"], found["missing"]) == (2, 1, 1)
    assert found["missing_first"] == [str(tmp_path / "b.png")] and found["views"] == {"PA": 1, "lateral": 1}
    assert found["splits"] == {"train": 1, "test": 1}


def test_check_compares_a_store_with_its_hashes(tmp_path: Path) -> None:
    prepare([source("s", {"0": pixels(0)})], tmp_path / "s", workers=0)
    assert check(tmp_path / "s")["images"] == 1
    (shard,) = (tmp_path / "s" / "data").iterdir()
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(MedLIPError, match="its content changed"):
        check(tmp_path / "s")


def test_the_commands_print_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medlip.app.data import check as check_command
    from medlip.app.data import list_sets, overlap
    from medlip.app.prepare import prepare as prepare_command

    out = tmp_path / "s"
    prepare_command(sources=["phantom:3"], out=out, size=64, views="frontal", vocabulary=None, workers=0, as_json=True)
    assert json.loads(capsys.readouterr().out)["images"] == 3
    list_sets(as_json=True)
    assert set(json.loads(capsys.readouterr().out)["nih"]) == {"title", "where", "licence", "layout"}
    check_command(source=str(out), as_json=True)
    assert json.loads(capsys.readouterr().out)["images"] == 3
    overlap(first=str(out), second=str(out), as_json=True)
    assert len(json.loads(capsys.readouterr().out)["patients"]) == 3
