"""Broken files, kills and size: a store comes out whole, and says what it left out."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dicoms
from broken import corpus, damaged, encoded
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Study, View
from medlip.errors import MedLIPError
from medlip.images import read_image


def test_every_broken_file_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    broken = dict(corpus())
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    good = {
        "good.dcm": encoded("PNG"),
        "good.jpg": dicoms.encoded(dicoms.dataset(dicoms.chest())),
    }  # the extension says nothing
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    files = [*broken, *good]
    studies = {name: Study(name, name, (View(tmp_path / name),)) for name in files}
    summary = prepare([Source("corpus", studies)], tmp_path / "store", workers=2)
    with (tmp_path / "store" / "skipped.csv").open(newline="") as file:
        skipped = {row["study"]: row for row in csv.DictReader(file)}
    assert set(skipped) == set(broken) and summary["skipped"] == len(broken)
    assert sorted(Store.open(tmp_path / "store").column("study")) == sorted(good)
    for name, row in skipped.items():
        assert row["image"] == str(tmp_path / name) and row["reason"].startswith(f"{tmp_path / name}: ")
        assert "unexpected" not in row["reason"]


MEDLIP = "from medlip.app.cli import main; main()"


@pytest.mark.processes
def test_the_exit_code_says_that_something_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded("PNG"))
    (tmp_path / "page.png").write_text("<html>")
    command = [
        sys.executable,
        "-c",
        MEDLIP,
        "prepare",
        f"csv:{tmp_path / 't.csv'}",
        "--out",
        str(tmp_path / "s"),
        "--json",
    ]

    def run(*images: str) -> tuple[int, str, str]:
        (tmp_path / "t.csv").write_text("\n".join(("image", *images)) + "\n")
        done = subprocess.run([*command, "--workers", "0"], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, error = run("page.png")
    assert code == 1 and not out and "not one image could be prepared" in error.splitlines()[-1]
    code, out, error = run("page.png", "good.png")
    assert code == 3 and json.loads(out)["skipped"] == 1 and json.loads(out)["images"] == 1
    assert "1 images or studies were skipped" in error.splitlines()[-1] and "skipped.csv" in error.splitlines()[-1]
    assert run("good.png")[0] == 0


def fuzz(seconds: float, seed: int, folder: Path) -> int:
    """Read files with random damage until the time is over; anything but a clear error or an image fails."""
    draw = random.Random(seed)
    path = folder / "fuzzed"
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        path.write_bytes(damaged(draw))
        count += 1
        try:
            pixels = read_image(path)
        except MedLIPError as error:
            assert str(path) in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 2
    return count


def test_damaged_bytes_never_get_through_as_another_error(tmp_path: Path) -> None:
    assert fuzz(2, 0, tmp_path) > 20


@pytest.mark.slow
def test_damaged_bytes_for_longer(tmp_path: Path) -> None:
    assert fuzz(120, 1, tmp_path) > 1000


SCRIPT = """
import sys
from medlip.data.prepare import prepare

if __name__ == "__main__":
    prepare(["phantom:80"], sys.argv[1], size=64, shard_size=8, workers=2)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)

    def run(out: Path, kill_after: float | None) -> bool:
        command = [sys.executable, str(script), str(out)]
        child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            return child.wait(kill_after) == 0
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return False

    start = time.monotonic()
    assert run(tmp_path / "whole", None)
    seconds = time.monotonic() - start
    whole = Store.open(tmp_path / "whole")
    draw = random.Random(0)
    for _ in range(20):
        run(tmp_path / "killed", draw.uniform(0.3, 1) * seconds)
        manifest = tmp_path / "killed" / "manifest.json"
        if manifest.exists() and json.loads(manifest.read_text())["shards"]:
            seen = [record.id for record in Store.open(tmp_path / "killed")]
            assert len(seen) == len(set(seen))
    assert run(tmp_path / "killed", None)
    resumed = Store.open(tmp_path / "killed")
    assert sorted(resumed.column("id")) == sorted(whole.column("id")) and resumed.hash == whole.hash


MILLION = """
import sys, time
from medlip.data.store import Store

def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

start = time.perf_counter()
store = Store.open(sys.argv[1])
train = store.select("train")
opened = time.perf_counter() - start
import random
draw = random.Random(0)
start = time.perf_counter()
for _ in range(200):
    store[draw.randrange(len(store))]
print(len(store), opened, (time.perf_counter() - start) / 200, memory())
"""


@pytest.mark.slow
def test_a_million_studies_open_at_once_in_little_memory(tmp_path: Path) -> None:
    """One real shard, listed again and again under links: what opening and reading cost depends on the manifest alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    study = Study("s", "p", (View(pixels),), "FINDINGS: Right effusion. Clear left lung.", split="train")
    count = 5_000
    prepare([Source("made", dict.fromkeys(map(str, range(count)), study))], tmp_path, shard_size=count, workers=2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (shard,) = manifest["shards"]
    for number in range(1, 200):
        name = f"data/train-{number:05d}.parquet"
        os.link(tmp_path / shard["file"], tmp_path / name)
        manifest["shards"].append({**shard, "file": name})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    out = subprocess.run([sys.executable, "-c", MILLION, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    images, opened, read, memory = map(float, out.split())
    print(out)
    assert images == 1_000_000 and opened < 1 and read < 0.1 and memory < 500
