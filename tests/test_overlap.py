from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from medlip.data.check import check
from medlip.data.overlap import SAME, Fingerprints, find_overlap, fingerprint, perceptual_hash
from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.phantom import phantom
from medlip.reports import Presence
from medlip.training import fit, load_recipe, load_run

pytestmark = pytest.mark.long


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


def test_check_says_which_optional_files_are_not_there(tmp_path: Path) -> None:
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    (tmp_path / "Data_Entry_2017.csv").write_text(f"{columns}\na.png,Mass,0,1,058Y,M,PA\n")
    (tmp_path / "test_list.txt").write_text("a.png\n")
    assert check(f"nih:{tmp_path}")["without"] == ["BBox_List_2017*.csv* or boxes.csv", "train_val_list.txt"]


def test_check_compares_a_store_with_its_hashes(tmp_path: Path) -> None:
    prepare([source("s", {"0": pixels(0)})], tmp_path / "s", workers=0)
    assert check(tmp_path / "s")["images"] == 1
    (shard,) = (tmp_path / "s" / "data").iterdir()
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(MedLIPError, match="its content changed"):
        check(tmp_path / "s")


def test_the_commands_print_one_json_document(tmp_path: Path, medlip: Callable[..., Any]) -> None:
    out = tmp_path / "s"
    prepared = medlip("prepare", "phantom:3", "--out", out, "--image-size", 64, "--workers", 0, "--json")
    assert prepared.document["images"] == 3
    assert set(medlip("data", "list", "--json").document["nih"]) == {"title", "where", "licence", "layout"}
    assert medlip("data", "check", out, "--json").document["images"] == 3
    assert len(medlip("data", "overlap", out, out, "--json").document["patients"]) == 3


def test_what_a_run_keeps_names_no_patient(tmp_path: Path) -> None:
    made = fingerprint(source("s", {"1": pixels(1), "2": pixels(2)}), workers=0).anonymous()
    made.save(tmp_path / "seen.npz")
    kept = Fingerprints.load(tmp_path / "seen.npz")
    assert kept.ids == ("0", "1") and not any("s:" in patient for patient in kept.patients)
    other = fingerprint(source("s", {"2": pixels(9)}), workers=0).anonymous()
    assert len(find_overlap(kept, other).patients) == 1
    (tmp_path / "seen.npz").write_bytes(b"PK\3\4 cut")
    with pytest.raises(MedLIPError, match=r"seen\.npz: not readable"):
        Fingerprints.load(tmp_path / "seen.npz")


def test_a_store_knows_its_fingerprints_and_an_early_one_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare([source("s", {str(i): pixels(i) for i in range(3)})], tmp_path / "s", size=128, workers=0)
    store = Store.open(tmp_path / "s")
    known = fingerprint(store.take([2, 0]))
    assert known.hashes.shape == (2, 4) and len(find_overlap(known, fingerprint(store), SAME).images) == 2
    column = store.column
    monkeypatch.setattr(store, "column", lambda name: {}[name] if name == "perceptual_hash" else column(name))
    assert len(find_overlap(known, fingerprint(store), SAME).images) == 2


@pytest.mark.slow
def test_phantoms_are_no_copies_of_each_other() -> None:
    made = fingerprint("phantom:2000")
    assert len(find_overlap(made, made, SAME).images) == 2000


def run_of(tmp_path: Path, train: Source, settings: tuple[str, ...]) -> Path:
    prepare([train], tmp_path / "train", size=64, shares={"train": 1}, workers=0)
    fit(load_recipe("medslip-phantom", settings), Store.open(tmp_path / "train"), tmp_path / "run")
    return tmp_path / "run"


def test_an_evaluation_of_training_patients_or_images_says_so_loudly(
    tmp_path: Path, tiny_settings: tuple[str, ...], medlip: Callable[..., Any]
) -> None:
    labels: dict[str, Presence] = {"effusion": "present", "nodule": "absent"}
    studies = {str(i): replace(study, labels=labels) for i, study in enumerate(open_phantoms(16))}
    run = run_of(tmp_path, Source("phantom", studies), tiny_settings)
    # Another name, another size, another format, another patient, but the same images; and the same patient, another image.
    copies = {str(i): Study(str(i), f"x{i}", (View(altered(pixels(i))),), labels=labels, split="test") for i in (3, 5, 40)}
    person = replace(studies["0"], views=(View(pixels(50)),), split="test")
    prepare([Source("other", {**copies, "p": person})], tmp_path / "test", size=80, workers=0)
    printed = medlip("evaluate", run, "--data", tmp_path / "test", "--json")
    result = printed.document
    assert printed.code == 3
    assert result["overlap"] == {"patients": 1, "images": 2}
    (note,) = (note for note in result["notes"] if note.startswith("WARNING"))
    assert "1 patients, and 2 of 4 images" in note and note in printed.err
    assert medlip("evaluate", run, "--data", tmp_path / "test").out.startswith("WARNING")
    alone = medlip("evaluate", run / "model.safetensors", "--data", tmp_path / "test", "--json").document
    assert alone["overlap"] is None and any("not looked for" in note for note in alone["notes"])


def test_held_back_phantoms_overlap_with_nothing(tiny_run: Path, phantom_store: Path) -> None:
    result = evaluate(load_run(tiny_run), Store.open(phantom_store), resamples=5)
    assert result.overlap is not None
    assert (result.overlap.patients, result.overlap.images) == (0, 0)
    assert not any("WARNING" in note for note in result.notes)


def open_phantoms(count: int) -> Source:
    opened = open_source(f"phantom:{count}")
    assert isinstance(opened, Source)
    return opened


def canvas(image: np.ndarray, value: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.pad(image, ((40, 10), (25, 60)), constant_values=value)


ALTERED = {
    "resized": altered,
    "equalised": lambda image: np.asarray(ImageOps.equalize(Image.fromarray(image))),
    "on black": lambda image: canvas(image, 0),
    "on white": lambda image: canvas(image, 255),
    "inverted": lambda image: 255 - image,
    "mirrored": lambda image: image[:, ::-1],
    "all of it": lambda image: canvas(255 - altered(image)[:, ::-1], 0),
}


@pytest.mark.parametrize("how", ALTERED)
def test_copies_are_found_however_they_were_changed(how: str) -> None:
    images = [pixels(index) for index in range(12)]
    made = Fingerprints(tuple("abcdefghijkl"), ("p",) * 12, np.stack([perceptual_hash(image) for image in images]))
    copies = replace(made, hashes=np.stack([perceptual_hash(np.ascontiguousarray(ALTERED[how](i))) for i in images]))
    assert find_overlap(made, copies, SAME).images == tuple((id, id) for id in made.ids)


def test_real_strangers_do_not_look_the_same() -> None:
    folder = Path(__file__).parents[1] / ".." / "shared" / "data" / "kermany" / "images"
    files = {path.name: path for path in sorted(folder.rglob("*.jp*g"))[:200]}
    if not files:
        pytest.skip("../shared/data is not there")
    made = fingerprint(source("kermany", files), workers=0)  # type: ignore[arg-type]
    person = re.compile(r"kermany:(person\d+|.*)_?")
    pairs = [(person.match(a), person.match(b)) for a, b in find_overlap(made, made).images]
    assert all(a and b and a[1] == b[1] for a, b in pairs)


def test_fingerprints_of_an_early_version_still_name_patients_and_say_that_they_know_no_images(tmp_path: Path) -> None:
    made = fingerprint(source("s", {"1": pixels(1)}), workers=0)
    np.savez_compressed(tmp_path / "seen.npz", ids=made.ids, patients=made.patients, hashes=made.hashes)
    early = Fingerprints.load(tmp_path / "seen.npz")
    assert early.skipped == 1
    assert find_overlap(early, made).patients == made.patients and not find_overlap(early, made).images


def test_a_store_of_an_early_version_is_looked_at_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([source("s", {"0": pixels(0)})], tmp_path / "s", size=128, workers=0)
    store = Store.open(tmp_path / "s")
    known = fingerprint(store)
    column = store.column
    monkeypatch.setattr(store, "column", lambda name: ["0" * 64] if name == "perceptual_hash" else column(name))
    assert find_overlap(known, fingerprint(store), SAME).images == ((known.ids[0],) * 2,)
