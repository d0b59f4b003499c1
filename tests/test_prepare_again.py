"""Preparing a store again: what was corrected is applied, what was not stays, and no two processes write at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medlip.concepts import default_vocabulary, load_vocabulary
from medlip.data import writer
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Study, View
from medlip.errors import MedLIPError


def film(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [film(tmp_path / f"{number}.png", number) for number in range(6)]


def study(number: int, image: Path, **changes: Any) -> Study:
    one = Study(
        str(number),
        f"p{number}",
        (View(image, "PA"),),
        "FINDINGS: Right effusion.",
        labels={"mass": "absent"},
        split="train",
    )
    return replace(one, **changes)


def run(out: Path, *studies: Study, **options: Any) -> dict[str, Any]:
    summary = prepare([Source("made", {one.id: one for one in studies})], out, workers=0, size=32, **options)
    assert summary["found"] == sum(summary["account"].values())
    return summary


def counts(out: Path) -> dict[str, int]:
    return {name: count for name, count in Store.open(out).manifest["counts"].items() if count}


CORRECTIONS: dict[str, dict[str, Any]] = {
    "report": {"report": "FINDINGS: Left pneumothorax. Cardiomegaly."},
    "labels": {"labels": {"mass": "present"}},
    "split": {"split": "val"},
    "patient": {"patient": "p9"},
    "attributes": {"attributes": {"sex": "F"}},
}


@pytest.mark.parametrize("what", CORRECTIONS)
def test_what_was_corrected_is_made_anew_and_nothing_else(tmp_path: Path, images: list[Path], what: str) -> None:
    studies = [study(number, image) for number, image in enumerate(images)]
    run(tmp_path / "s", *studies, shard_size=4)
    corrected = [*studies[:2], replace(studies[2], **CORRECTIONS[what]), *studies[3:]]
    summary = run(tmp_path / "s", *corrected, shard_size=4)
    assert (summary["added"], summary["rebuilt"], summary["already"]) == (0, 1, 5)
    assert summary["account"] == {"prepared again": 1, "already in the store": 5}
    run(tmp_path / "fresh", *corrected)
    fresh = {record.id: record for record in Store.open(tmp_path / "fresh")}
    again = {record.id: record for record in Store.open(tmp_path / "s")}
    assert again.keys() == fresh.keys() and counts(tmp_path / "s") == counts(tmp_path / "fresh")
    record, expected = again["made:2:0"], fresh["made:2:0"]
    assert (record.report, record.labels, record.split, record.patient, record.attributes, record.facts) == (
        expected.report, expected.labels, expected.split, expected.patient, expected.attributes, expected.facts,
    )  # fmt: skip
    assert run(tmp_path / "s", *corrected)["already"] == 6


WORDS = {
    "a synonym": ("pathologies: [{name: effusion, synonyms: [fluid rim]}]", "Right fluid rim."),
    "a cue": ("wording: {cues: {uncertain_behind: [is on the table]}}", "Right effusion is on the table."),
    "a spelling": ("wording: {spelling: {efx: effusion}}", "Right efx."),
}


@pytest.mark.parametrize("what", WORDS)
def test_studies_that_other_words_read_otherwise_are_made_anew_and_no_others(
    tmp_path: Path, images: list[Path], what: str
) -> None:
    content, report = WORDS[what]
    (tmp_path / "own.yaml").write_text(f"extends: default\n{content}\n")
    own = load_vocabulary(tmp_path / "own.yaml")
    studies = [study(0, images[0], report=f"FINDINGS: {report}"), study(1, images[1]), study(2, images[2], report="")]
    run(tmp_path / "s", *studies)
    before = {record.id: record.facts for record in Store.open(tmp_path / "s")}
    for vocabulary in (own, default_vocabulary()):
        summary = run(tmp_path / "s", *studies, vocabulary=vocabulary)
        assert (summary["rebuilt"], summary["already"]) == (1, 2)
        assert run(tmp_path / "s", *studies, vocabulary=vocabulary)["already"] == 3
        store = Store.open(tmp_path / "s")
        after = {record.id: record.facts for record in store}
        assert store.vocabulary == vocabulary
        assert {id for id in after if after[id] != before[id]} == ({"made:0:0"} if vocabulary is own else set())


def test_sentences_are_those_that_the_vocabulary_reads(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "own.yaml").write_text("extends: default\nwording: {sections: {history: [opinion]}}\n")
    one = study(0, images[0], report="No effusion. OPINION: Nodule.")
    for name, own, read in (("a", default_vocabulary(), 2), ("b", load_vocabulary(tmp_path / "own.yaml"), 1)):
        run(tmp_path / name, one, vocabulary=own)
        assert Store.open(tmp_path / name)[0].sentences == ("No effusion.", "Nodule.")[:read]


def test_another_data_set_of_a_store_is_read_by_other_words_when_it_is_prepared(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "own.yaml").write_text("extends: default\npathologies: [{name: effusion, synonyms: [fluid rim]}]\n")
    own = load_vocabulary(tmp_path / "own.yaml")
    one, other = (Source(name, {"0": study(0, images[0], report="FINDINGS: Right fluid rim.")}) for name in ("one", "other"))
    prepare([one, other], tmp_path / "s", workers=0, size=32)
    assert prepare([one], tmp_path / "s", workers=0, size=32, vocabulary=own)["rebuilt"] == 1
    assert prepare([one, other], tmp_path / "s", workers=0, size=32, vocabulary=own)["rebuilt"] == 1
    assert all(record.facts for record in Store.open(tmp_path / "s"))


def test_a_replaced_image_is_read_again(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "s", study(0, images[0]), study(1, images[1]))
    before = Store.open(tmp_path / "s").column("perceptual_hash")
    film(images[0], 99)
    os.utime(images[0], (0, 0))
    assert run(tmp_path / "s", study(0, images[0]), study(1, images[1]))["rebuilt"] == 1
    after = Store.open(tmp_path / "s").column("perceptual_hash")
    assert len({*before} & {*after}) == 1


def test_a_data_set_that_was_moved_or_put_away_is_not_prepared_again(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "s", study(0, images[0]))
    (tmp_path / "moved").mkdir()
    moved = images[0].rename(tmp_path / "moved" / "0.png")
    assert run(tmp_path / "s", study(0, moved))["already"] == 1
    moved.unlink()
    assert run(tmp_path / "s", study(0, moved))["already"] == 1


def test_what_changed_but_can_not_be_read_stays_as_it_was_and_is_named(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "s", study(0, images[0]), study(1, images[1]))
    images[0].write_text("<html>")
    summary = run(tmp_path / "s", study(0, images[0]), study(1, images[1]))
    assert summary["images"] == 2 and len(summary["notes"]) == 1 and "keeps what it had" in summary["notes"][0]


def test_what_is_lateral_after_all_leaves_the_store(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "s", study(0, images[0]), study(1, images[1]))
    summary = run(tmp_path / "s", study(0, images[0], views=(View(images[0], "lateral"),)), study(1, images[1]))
    assert summary["images"] == 1 and summary["lateral"] == 1 and Store.open(tmp_path / "s").column("study") == ["1"]


def test_rebuilding_makes_all_anew_and_drops_what_is_gone(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "s", *(study(number, image) for number, image in enumerate(images)))
    kept = run(tmp_path / "s", study(0, images[0]))
    assert kept["images"] == 6 and any("--rebuild drops them" in remark for remark in kept["remarks"])
    summary = run(tmp_path / "s", study(0, images[0]), rebuild=True)
    assert (summary["images"], summary["rebuilt"]) == (1, 1) and counts(tmp_path / "s")["studies"] == 1


def test_a_kill_while_rows_are_replaced_loses_nothing(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:

    studies = [study(number, image) for number, image in enumerate(images)]
    corrected = [replace(one, labels={"mass": "present"}) for one in studies]
    write = writer.write_atomic
    for kill in range(1, 8):
        out = tmp_path / f"s{kill}"
        run(out, *studies, shard_size=3)
        left = kill

        def stop(path: Path, content: bytes) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(writer, "write_atomic", stop)
        with suppress(KeyboardInterrupt):
            run(out, *corrected, shard_size=3)
        monkeypatch.setattr(writer, "write_atomic", write)
        assert sorted(Store.open(out).column("study")) == [str(number) for number in range(6)]
        run(out, *corrected, shard_size=3)
        assert [dict(record.labels) for record in Store.open(out)] == [{"mass": "present"}] * 6
        assert counts(out)["images"] == 6


def test_other_sources_of_a_store_keep_what_is_said_of_them(tmp_path: Path, images: list[Path]) -> None:
    missing = study(7, tmp_path / "missing.png")
    prepare([Source("one", {"0": study(0, images[0]), "7": missing})], tmp_path / "s", workers=0)
    prepare([Source("other", {"1": study(1, images[1])})], tmp_path / "s", workers=0)
    assert "missing.png" in (tmp_path / "s" / "skipped.csv").read_text()


def test_what_two_sources_call_the_same_is_named(tmp_path: Path, images: list[Path]) -> None:
    one, other = Source("t", {"1": study(1, images[0])}), Source("t", {"1": study(1, images[1])})
    summary = prepare([one, other], tmp_path / "s", workers=0)
    assert summary["images"] == 1 and summary["skipped"] == 1 and summary["found"] == 2


WRITER = """
import sys, time
from pathlib import Path
from medlip.concepts import default_vocabulary
from medlip.data.writer import open_writer
from medlip.data.prepare import SHARES
settings = {"size": 32, "views": ["frontal", "unknown"], "shares": SHARES, "seed": 0}
with open_writer(Path(sys.argv[1]), settings, default_vocabulary(), 10):
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_dead_one_forgotten(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "s"
    first = subprocess.Popen([sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "writing\n"
        with pytest.raises(MedLIPError, match="another process is preparing this store"):
            run(out, study(0, images[0]))
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert run(out, study(0, images[0]))["images"] == 1
