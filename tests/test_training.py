"""The loop can be stopped anywhere and goes on bit by bit; recipes say what is wrong with them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from medlip.concepts import default_vocabulary
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.methods import build_method, method_names
from medlip.methods.base import read_safetensors
from medlip.training import fit, load_recipe, load_run
from medlip.training.loop import Callback
from medlip.training.recipe import recipe_files

pytestmark = pytest.mark.long

SHORT = (
    "image.size=64",
    "training.batch_size=8",
    "training.precision=fp32",
    "training.epochs=2",
    "training.validation_images=8",
)
BACKBONE = ("method.backbone=resnet10t", "method.weights=null")
SETTINGS = (*SHORT, *BACKBONE, "method.layers=1")
RECIPES = {
    "medslip": ("medslip-phantom", *SETTINGS),
    "mlip": (
        "mlip-phantom",
        *SHORT,
        *BACKBONE,
        "method.text_width=32",
        "method.mask_ratio=0.3",
        "method.integrity=position",
    ),
}


@pytest.fixture(scope="module")
def store(phantom_store):
    return Store.open(phantom_store).select("train").take(range(24))


def recipe(*changes):
    return load_recipe("medslip-phantom", [*SETTINGS, *changes])


def lines(run):
    keep = ("step", "loss", "losses", "lr", "validation")
    return [
        {k: v for k, v in json.loads(line).items() if k in keep} for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


class SignalAfter(Callback):
    """A signal that comes once a step is done: that of Ctrl-C, or SIGTERM."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def after_step(self, training):
        if training.step == self.step:
            signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """Runs that were never interrupted, by method, with their summaries."""
    done = {}
    for method in ("medslip", "mlip"):
        name, *changes = RECIPES[method]
        out = tmp_path_factory.mktemp("whole") / method
        done[method] = out, fit(load_recipe(name, changes), store, out, validation=store)
    return done


@pytest.mark.parametrize(("method", "step"), [("medslip", 1), ("medslip", 2), ("medslip", 3), ("mlip", 3)])
def test_an_interrupted_run_resumes_bit_by_bit(store, whole, tmp_path, method, step, capsys):
    name, *changes = RECIPES[method]
    settings, parts = load_recipe(name, changes), tmp_path / "parts"
    uninterrupted, summary = whole[method]
    with pytest.raises(KeyboardInterrupt):
        fit(settings, store, parts, validation=store, callbacks=[SignalAfter(step)])
    assert f"interrupted after step {step + 1}; to resume from: {parts}" in capsys.readouterr().err
    assert not (parts / "model.safetensors").exists()
    with pytest.raises(MedLIPError, match="--resume"):
        load_run(parts)
    resumed = fit(settings, store, parts, validation=store, resume=True)
    assert resumed["steps"] == summary["steps"] == 6
    ours, theirs = (read_safetensors(run / "model.safetensors")[0] for run in (uninterrupted, parts))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines(uninterrupted) == lines(parts)


def test_sigterm_takes_its_course_once_the_checkpoint_is_written(store, tmp_path):
    def end(number, frame):
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit) as ended:
            fit(recipe(), store, tmp_path / "run", callbacks=[SignalAfter(1, signal.SIGTERM)])
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert ended.value.code == 143
    assert fit(recipe(), store, tmp_path / "run", resume=True)["steps"] == 6


def test_a_finished_run_resumes_to_itself(store, tmp_path):
    fit(recipe("training.epochs=1"), store, tmp_path / "run")
    before = read_safetensors(tmp_path / "run" / "model.safetensors")[0]
    fit(recipe("training.epochs=1"), store, tmp_path / "run", resume=True)
    after = read_safetensors(tmp_path / "run" / "model.safetensors")[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_ended_before_its_first_checkpoint_starts_its_log_anew(store, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    fit(recipe("training.epochs=1"), store.take(range(8)), tmp_path, resume=True)
    assert [(line["step"], "loss" in line) for line in lines(tmp_path)] == [(1, True)]


def test_a_run_is_not_overwritten_nor_resumed_with_something_else(store, tmp_path):
    run = tmp_path / "run"
    fit(recipe("training.epochs=1"), store, run)
    before = [(run / name).read_bytes() for name in ("run.json", "seen.npz", "metrics.jsonl")]
    with pytest.raises(MedLIPError, match="holds a run already"):
        fit(recipe("training.epochs=1"), store, run)
    with pytest.raises(MedLIPError, match=r"training\.lr was 0\.0\d+, now 0\.3"):
        fit(recipe("training.epochs=1", "training.lr=0.3"), store, run, resume=True)
    with pytest.raises(MedLIPError, match="other data"):
        fit(recipe("training.epochs=1"), store.take(range(16)), run, resume=True)
    assert [(run / name).read_bytes() for name in ("run.json", "seen.npz", "metrics.jsonl")] == before


def test_a_truncated_checkpoint_is_an_error_that_names_it(store, tmp_path):
    run = tmp_path / "run"
    fit(recipe("training.epochs=1"), store, run)
    checkpoint = run / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(MedLIPError, match=r"checkpoint\.safetensors"):
        fit(recipe("training.epochs=1"), store, run, resume=True)


def test_a_saved_model_needs_no_file_beside_it(store, tmp_path):
    fit(recipe("training.epochs=1"), store, tmp_path / "run")
    shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path / "alone.safetensors")
    images = torch.randn(2, 3, 64, 64)
    asked = ["effusion", "anything"]
    ours = load_run(tmp_path / "run").score(images, asked)
    theirs = load_run(tmp_path / "alone.safetensors").score(images, asked)
    assert torch.equal(ours, theirs)


def test_another_vocabulary_than_the_stores_is_refused(store, tmp_path):
    import yaml

    content = default_vocabulary().model_dump(mode="json")
    content["pathologies"] = content["pathologies"][:20]
    content["overlapping_pathologies"] = []
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(MedLIPError, match="differ from the vocabulary"):
        fit(recipe(f"vocabulary={tmp_path / 'mine.yaml'}"), store, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(store, tmp_path):
    with pytest.raises(MedLIPError, match=r"training\.lr"):
        fit(
            recipe("training.lr=1e30", "training.clip=0", "training.precision=fp32", "training.epochs=4"),
            store,
            tmp_path / "run",
        )


def test_the_loss_goes_down(store, tmp_path):
    fit(recipe("training.epochs=4", "training.warmup=1"), store, tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", recipe_files())
def test_every_recipe_of_the_package_is_valid(name):
    loaded = load_recipe(name)
    assert loaded.method["name"] in method_names()
    loaded.make_augment()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", r"training\.epochs"),
        ("training.epoch=3", r"training\.epoch"),
        ("epochs", "key=value"),
        ("training.epochs.more=1", "is a value"),
    ],
)
def test_a_bad_setting_is_named(override, message):
    with pytest.raises(MedLIPError, match=message):
        load_recipe("medslip-phantom", [override])


def test_an_unknown_method_setting_or_backbone_is_named():
    loaded = load_recipe("medslip-phantom")
    for settings, message in (
        ({"name": "medslip", "depth": 3}, r"method\.depth.*layers"),
        ({"name": "medsleep"}, "Choose one of: .*medslip"),
        ({"name": "medslip", "backbone": "resnet17"}, "resnet1"),
        ({"name": "medslip", "stride": 7}, r"stride 7.*16"),
    ):
        with pytest.raises(MedLIPError, match=message):
            build_method(settings, default_vocabulary(), loaded.make_preprocessing())


def test_unknown_recipes_are_answered_with_those_there_are():
    with pytest.raises(MedLIPError, match="medslip-phantom"):
        load_recipe("medslip-mars")


def test_weights_that_are_not_ours_are_refused_with_advice(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(MedLIPError, match="from_released"):
        load_run(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedLIPError, match="pretrain"):
        load_run(tmp_path / "empty")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit(phantom_store, tmp_path):
    """SIGKILL at ten random moments: what is on disk is always a whole checkpoint."""
    changes = [*SETTINGS, "training.epochs=6", "training.checkpoint_minutes=0.01"]
    command = [sys.executable, "-c", "from medlip.app.cli import main; main()", "pretrain", "medslip-phantom", "--resume"]
    command += ["--data", str(phantom_store), *(word for change in changes for word in ("--set", change))]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    for moment in range(10):
        killed = [*command, "--out", str(tmp_path / "killed")]
        process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(6 + 0.7 * moment)
        process.kill()
        process.wait()
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    ours, theirs = (read_safetensors(tmp_path / run / "model.safetensors")[0] for run in ("whole", "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_off_is_a_word_and_not_a_truth_value() -> None:
    recipe = load_recipe("medslip-phantom", ["method.icl=off", "facts.implied=false", "method.gate=off"])
    assert (recipe.method["icl"], recipe.method["gate"], recipe.facts.implied) == ("off", "off", False)
