"""Settings of the loop beyond the plain one: each does what it says, and none changes a training that leaves it off."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import resource
import signal
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medlip.concepts import default_vocabulary
from medlip.data.batch import evaluation_batches
from medlip.data.overlap import Fingerprints
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import read_safetensors, write_safetensors
from medlip.nn.device import peak_allocated
from medlip.nn.vision_encoder import vision_encoder
from medlip.training import fit, load_recipe
from medlip.training.bench import made_up_batch
from medlip.training.callbacks import register_logger
from medlip.training.dry_run import dry_run
from medlip.training.loop import Callback, Training
from medlip.training.recipe import parse_override

pytestmark = pytest.mark.long

SETTINGS = (
    "image.size=32",
    "method.backbone=resnet10t",
    "method.weights=null",
    "training.batch_size=8",
    "training.precision=fp32",
    "training.epochs=2",
    "training.warmup=1",
)
MEDSLIP = (*SETTINGS, "method.layers=1", "method.width=32", "method.feedforward=64")
Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def store(phantom_store: Path) -> Store:
    return Store.open(phantom_store).select("train").take(range(24))


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Fit:
    """Train MedSLIP, or another, for six steps with some settings, and return the run's folder."""

    def train(name: str, *changes: str, recipe: str = "medslip-phantom", **options: Any) -> Path:
        base = MEDSLIP if recipe == "medslip-phantom" else SETTINGS
        fit(load_recipe(recipe, [*base, *changes]), store, tmp_path / name, **options)
        return tmp_path / name

    return train


@pytest.fixture(scope="module")
def plain(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training without any of the settings, validated."""
    out = tmp_path_factory.mktemp("plain") / "run"
    fit(load_recipe("medslip-phantom", MEDSLIP), store, out, validation=store)
    return out


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if key in line]


def weights(run: Path, file: str = "model.safetensors", prefix: str = "") -> dict[str, Tensor]:
    tensors = read_safetensors(run / file)[0]
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class InterruptAfter(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, training: Training) -> None:
        if training.step == self.step:
            signal.raise_signal(signal.SIGINT)


def in_two(run: Fit, *changes: str, recipe: str = "medslip-phantom") -> Path:
    """Train with an interruption after the second step, and return the run's folder."""
    with pytest.raises(KeyboardInterrupt):
        run("parts", *changes, recipe=recipe, callbacks=[InterruptAfter(2)])
    return run("parts", *changes, recipe=recipe, resume=True)


def test_the_average_is_saved_and_the_weights_themselves_stay_in_the_checkpoint(run: Fit, plain: Path) -> None:
    averaged = run("averaged", "training.ema=0.9")
    assert lines(plain, "loss")[-1]["losses"] == lines(averaged, "loss")[-1]["losses"]
    raw, average = weights(averaged, "checkpoint.safetensors", "method."), weights(averaged)
    assert same(raw, weights(plain))
    for name in ("encoder.stages.conv1.0.weight", "encoder.stages.bn1.running_mean", "embed.weight"):
        assert not torch.equal(raw[name], average[name])
        assert torch.allclose(raw[name], average[name], atol=0.05)


def test_the_average_of_a_short_training_is_not_that_of_its_first_weights(run: Fit) -> None:
    trained = run("trained", "training.ema=0.9999", "training.lr=0.001")
    name = "embed.weight"
    begun = weights(run("begun", "training.epochs=1", "training.lr=1e-12", "training.final_lr=0"))[name]
    raw, average = weights(trained, "checkpoint.safetensors", "method.")[name], weights(trained)[name]
    assert (average - raw).norm() < (average - begun).norm()


def test_the_average_is_validated(run: Fit, plain: Path, store: Store) -> None:
    averaged = run("averaged", "training.ema=0.5", validation=store)
    ours, theirs = (lines(each, "validation")[-1]["validation"] for each in (averaged, plain))
    assert ours.keys() == theirs.keys()
    assert ours != theirs


def test_an_averaged_run_resumes_bit_by_bit(run: Fit) -> None:
    whole, parts = run("whole", "training.ema=0.9"), in_two(run, "training.ema=0.9")
    for file in ("model.safetensors", "checkpoint.safetensors"):
        assert same(weights(whole, file), weights(parts, file))


def test_a_training_starts_from_the_weights_of_another(run: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("first", "training.lr=0.01")
    settings = (f"training.start_from={first}", "training.lr=1e-12", "training.final_lr=0", "training.epochs=1")
    second = run("second", *settings)
    assert "started from" in capsys.readouterr().err
    ours, theirs = weights(second), weights(first)
    learned = [name for name in ours if name.startswith(("embed", "decode", "encoder")) and name.endswith("weight")]
    assert learned
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in learned)
    made_by = json.loads((second / "run.json").read_text())["start"]
    assert made_by["sha256"] == hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()


def test_what_does_not_fit_the_start_is_named(run: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("first", "training.epochs=1")
    run("second", f"training.start_from={first}", "training.epochs=1", "method.layers=2", "method.feedforward=32")
    note = next(line for line in capsys.readouterr().err.splitlines() if "started from" in line)
    assert re.search(r"not there: decode\.anatomy\.layers\.1\..*of another shape: decode\.anatomy\.layers\.0\.linear1", note)


def test_a_text_encoder_with_other_words_is_not_taken_over(
    run: Fit, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ("method.text_width=32", "method.text_layers=1", "training.epochs=1")
    recipe = load_recipe("convirt-phantom", [*SETTINGS, *text, "method.text_vocabulary=100"])
    fit(recipe, store.take(range(8)), tmp_path / "first")
    run("second", *text, f"training.start_from={tmp_path / 'first'}", recipe="convirt-phantom")
    note = next(line for line in capsys.readouterr().err.splitlines() if "started from" in line)
    assert "made for another text encoder: text.model" in note
    assert "encoder.stages" not in note


def test_a_start_that_is_no_run_or_fits_nowhere_is_an_error(run: Fit, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"no model\.safetensors in this folder"):
        run("a", f"training.start_from={tmp_path}")
    with pytest.raises(MedLIPError, match="nowhere: not a readable"):
        run("b", f"training.start_from={tmp_path / 'nowhere'}")
    with pytest.raises(MedLIPError, match="nowhere: not a readable"):
        dry_run(load_recipe("medslip-phantom", [*MEDSLIP, f"training.start_from={tmp_path / 'nowhere'}"]), store)
    convirt = ("method.text_width=32", "method.text_layers=1", "training.epochs=1")
    other = run("other", *convirt, "method.backbone=resnet10t", recipe="convirt-phantom")
    with pytest.raises(MedLIPError, match="none of its weights fit"):
        run("c", f"training.start_from={other}", "method.backbone=mobilenetv3_small_050", "method.stride=16")


def test_a_start_is_not_loaded_again_on_resume(run: Fit) -> None:
    first = run("first", "training.lr=0.01", "training.epochs=1")
    start = f"training.start_from={first}"
    whole = run("whole", start)
    with pytest.raises(KeyboardInterrupt):
        run("parts", start, callbacks=[InterruptAfter(2)])
    (first / "model.safetensors").unlink()
    parts = run("parts", start, resume=True)
    assert same(weights(whole), weights(parts))
    starts = [json.loads((each / "run.json").read_text())["start"] for each in (whole, parts)]
    assert starts[0] == starts[1] is not None


def staged(data: Path, *changes: str) -> str:
    settings = dict(parse_override(change) for change in (*MEDSLIP, *changes))
    return f"first={json.dumps({'recipe': 'medslip-phantom', 'data': str(data), 'settings': settings})}"


def test_a_training_that_comes_first_gives_the_start(run: Fit, store: Store, tmp_path: Path) -> None:
    setting = staged(store.root, "training.epochs=1")
    with pytest.raises(KeyboardInterrupt):
        run("both", setting, callbacks=[InterruptAfter(2)])
    (tmp_path / "both" / "first" / "model.safetensors").unlink()
    both = run("both", setting, resume=True)  # from its own checkpoint, whatever became of what was first
    fit(
        load_recipe("medslip-phantom", [*MEDSLIP, "training.epochs=1"]),
        Store.open(store.root).select("train"),
        tmp_path / "a",
    )
    second = run("second", f"training.start_from={tmp_path / 'a'}")
    assert same(weights(both), weights(second))
    seen = [Fingerprints.load(each / "seen.npz") for each in (both, second, tmp_path / "a")]
    assert len(seen[0].ids) == len(seen[1].ids) == len(seen[2].ids) + len(store)


def test_what_comes_first_goes_on_where_it_was_interrupted(run: Fit, store: Store, tmp_path: Path) -> None:
    whole = run("whole", staged(store.root))
    opened = Store.open(store.root)
    with pytest.raises(KeyboardInterrupt):
        fit(
            load_recipe("medslip-phantom", MEDSLIP), opened.select("train"), tmp_path / "parts" / "first",
            validation=opened.select("val"), callbacks=[InterruptAfter(2)],
        )  # fmt: skip
    with pytest.raises(MedLIPError, match="holds a run already: go on with --resume"):
        run("parts", staged(store.root))
    assert same(weights(whole), weights(run("parts", staged(store.root), resume=True)))


def test_what_comes_first_is_not_taken_for_another(run: Fit, store: Store, tmp_path: Path) -> None:
    """A training interrupted behind what comes first goes on only with what was asked before."""
    setting = staged(store.root, "training.epochs=1")
    with pytest.raises(KeyboardInterrupt):
        run("both", setting, callbacks=[InterruptAfter(2)])
    (tmp_path / "both" / "checkpoint.safetensors").unlink()  # as if it had ended between the two
    for changes, differs in (
        ((setting, "training.seed=7"), r"another recipe.* training\.seed was 0, now 7"),
        (
            (staged(store.root, "training.epochs=1", "training.lr=0.001"),),
            r"another recipe.* training\.lr was .*, now 0\.001",
        ),
        ((staged(tmp_path / "elsewhere", "training.epochs=1"),), r"trained on first\.data=.* now it is .*elsewhere"),
    ):
        with pytest.raises(MedLIPError, match=differs):
            run("both", *changes, resume=True)
    (tmp_path / "both" / "run.json").unlink()  # an earlier version did not write it before
    with pytest.raises(MedLIPError, match=r"first: made with another recipe.*training\.seed was 0, now 7"):
        run("both", setting, "training.seed=7", resume=True)
    assert (run("both", setting, resume=True) / "model.safetensors").exists()


def test_settings_of_what_comes_first_are_set_one_by_one() -> None:
    first = {"recipe": "medslip-phantom", "data": "phantom:8", "settings": {"training.lr": 2e-4, "augment": {"mirror": 0.5}}}
    changes = ["first.settings.training.warmup=3", "first.settings.method.width=32"]
    before = load_recipe("medslip-phantom", [f"first={json.dumps(first)}", *changes]).load_first()
    plain = load_recipe("medslip-phantom")
    assert before is not None
    assert (before.training.lr, before.training.warmup, before.augment["mirror"]) == (2e-4, 3, 0.5)
    assert before.training.model_copy(update={"lr": plain.training.lr, "warmup": plain.training.warmup}) == plain.training
    assert before.method == {**plain.method, "width": 32}
    with pytest.raises(MedLIPError, match=r"seed of the training behind it: training\.seed"):
        load_recipe("medslip-phantom", [f"first={json.dumps(first)}", "first.settings.training.seed=5"])
    with pytest.raises(MedLIPError, match=r"first\.epochs: .* Settings of first: recipe, data, settings"):
        load_recipe("medslip-phantom", [f"first={json.dumps(first)}", "first.epochs=2"])


def test_parts_that_are_left_out_are_named_at_the_start(run: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("first", "training.epochs=1", "method.pooled=1")
    run("second", f"training.start_from={first}", "training.epochs=1", "method.pooled=0")
    assert "without a place here: tell." in capsys.readouterr().err


def test_what_can_not_be_trained_is_found_out_before_what_comes_first(run: Fit, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"Set training\.batch_size=24 or less"):
        run("large", staged(store.root), "training.batch_size=25")
    with pytest.raises(MedLIPError, match=r"training\.balance\.protocl_anatomy: there is no such loss term.*icl"):
        run("large", staged(store.root), "training.balance={icl: 0.5, protocl_anatomy: 0.5}")
    assert not (tmp_path / "large" / "first").exists()


def test_what_comes_first_has_nothing_before_it(run: Fit, store: Store) -> None:
    with pytest.raises(MedLIPError, match=r"Add first: null to first\.settings"):
        run("nested", staged(store.root, "first={recipe: medslip-phantom, data: phantom:8}"))


def test_two_starts_are_an_error() -> None:
    with pytest.raises(MedLIPError, match="Set first=null"):
        load_recipe("medslip-phantom", ["first={recipe: medslip-phantom, data: phantom:8}", "training.start_from=elsewhere"])


def test_logging_gradients_changes_no_number(run: Fit, plain: Path) -> None:
    logged = run("logged", "training.log_gradients=2")
    assert same(weights(plain), weights(logged))
    norms = lines(logged, "gradient_norm")
    assert [line["step"] for line in norms] == [1, 3, 5]
    assert norms[0]["gradient_norm"].keys() == lines(logged, "loss")[0]["losses"].keys()
    assert all(norm > 0 for norm in norms[0]["gradient_norm"].values())
    assert not lines(plain, "gradient_norm")


def shares(norms: dict[str, float], names: Sequence[str]) -> list[float]:
    together = sum(norms[name] for name in names)
    return [norms[name] / together for name in names]


def test_a_balance_gives_each_term_its_share_of_the_gradient(run: Fit) -> None:
    terms = ("exist_pathology", "exist_anatomy", "icl")
    balance = "training.balance={exist_pathology: 0.5, exist_anatomy: 0.3, icl: 0.2}"
    every = ("training.log_gradients=1", "training.epochs=1", "method.prototype=mean")
    logged, held = run("logged", *every), run("held", balance, "training.balance_every=1", *every)
    before, after = (lines(each, "gradient_norm")[0]["gradient_norm"] for each in (logged, held))
    assert shares(after, terms) == pytest.approx([0.5, 0.3, 0.2], rel=1e-4)
    assert sum(after[name] for name in terms) == pytest.approx(sum(before[name] for name in terms), rel=1e-4)
    assert after["protocl_anatomy"] == pytest.approx(before["protocl_anatomy"])  # it has no share: its weight stays
    assert lines(held, "balance")[0]["balance"]["factors"].keys() == set(terms)


def test_a_balanced_run_resumes_bit_by_bit(run: Fit) -> None:
    settings = ("training.balance={exist_pathology: 0.5, icl: 0.5}", "training.balance_every=3")
    assert same(weights(run("whole", *settings)), weights(in_two(run, *settings)))


def test_a_balance_of_what_is_not_there_is_an_error(run: Fit) -> None:
    with pytest.raises(MedLIPError, match=r"training\.balance\.icls: there is no such loss term.*exist_pathology"):
        run("a", "training.balance={exist_pathology: 0.5, icls: 0.5}")
    with pytest.raises(MedLIPError, match=r"training\.balance\.protocl_anatomy: .* no gradient"):
        stopped = ("method.prototype=mean", "method.contrast_stop_gradient=true")
        run("b", "training.balance={icl: 0.5, protocl_anatomy: 0.5}", *stopped)


def test_the_latest_checkpoints_are_kept_and_each_can_be_gone_on_from(run: Fit) -> None:
    done = run("done", "training.epochs=4", "training.keep=2")
    assert sorted(file.name for file in done.glob("checkpoint*")) == [
        "checkpoint-00000009.safetensors",
        "checkpoint-00000012.safetensors",
        "checkpoint.safetensors",
    ]
    expected = weights(done)
    (done / "checkpoint-00000009.safetensors").replace(done / "checkpoint.safetensors")
    run("done", "training.epochs=4", "training.keep=1", resume=True)
    assert same(weights(done), expected)
    assert [file.name for file in done.glob("checkpoint*")] == ["checkpoint.safetensors"]


def test_a_checkpoint_from_before_a_setting_existed_can_be_gone_on_from(run: Fit, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("old", callbacks=[InterruptAfter(2)])
    path = tmp_path / "old" / "checkpoint.safetensors"
    tensors, metadata = read_safetensors(path)
    manifest = json.loads(metadata["manifest"])
    for name in ("ema", "start_from", "keep", "accumulate", "balance"):
        del manifest["recipe"]["training"][name]
    write_safetensors(tensors, path, metadata | {"manifest": json.dumps(manifest)})
    assert same(weights(run("old", resume=True)), weights(plain))


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk that is full."""
    path, limits = tmp_path / "model.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_safetensors({"a": torch.zeros(10)}, path, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(MedLIPError, match=r"model\.safetensors: can't be written \(.*File too large.*\)\."):
            write_safetensors({"a": torch.zeros(10_000)}, path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert len(read_safetensors(path)[0]["a"]) == 10


def test_a_folder_that_can_not_be_made_is_said_before_anything_is_trained(run: Fit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedLIPError, match=r"file/run: can't be written \(Not a directory\)"):
        run("file/run")


def test_the_loop_says_how_fast_it_was(run: Fit, store: Store, tmp_path: Path) -> None:
    summary = fit(load_recipe("medslip-phantom", MEDSLIP), store, tmp_path / "run")
    logged = lines(tmp_path / "run", "loss")
    for figures in (summary, *logged):
        assert figures["images_per_second"] > 0
        assert 0 <= figures["data_wait_share"] < 1


def test_sigterm_during_validation_leaves_a_checkpoint_and_says_how_to_go_on(
    medlip: Callable[..., Any], phantom_store: Path, tmp_path: Path
) -> None:
    class Scheduler:
        """Ends the job when the first validation is written."""

        came = False

        def log(self, step: int, values: Any) -> None:
            if "validation" in values and not self.came:
                self.came = True
                signal.raise_signal(signal.SIGTERM)

    register_logger(Scheduler())
    settings = [word for setting in MEDSLIP for word in ("--set", setting)]
    command = ("pretrain", "medslip-phantom", "--data", phantom_store, "--out", tmp_path / "run", *settings)
    ended = medlip(*command)
    assert ended.code == 143
    assert re.search(r"interrupted after step \d+; to resume from: .*checkpoint\.safetensors", ended.err)
    assert ended.last_line == "error: interrupted. Add --resume to the same command to resume."
    finished = medlip(*command, "--resume")
    assert finished.code == 0
    assert re.search(r"12 steps in .* images/s, \d+ % of the time waiting for images", finished.out)


def test_a_line_is_written_now_and_then_where_there_is_no_terminal(
    run: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medlip.training.progress.LINE_SECONDS", 0.0)
    run("run")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pre-training: ")]
    assert re.fullmatch(r"pre-training: step 3 of 6, loss [\d.]+, [\d.]+ images/s, \d+ s left", said[2])


TEXT = ("method.text_width=32", "method.text_layers=1", "method.max_sentences=0")
PLAIN_VISION = ("method.backbone=vit_tiny_patch16_224", "method.depth=1", "method.stride=null", "method.weights=null")
CONTRASTS = {
    "convirt-phantom": ("method.stride=16",),
    "gloria-phantom": (),
    "mlip-phantom": (
        "method.mask_ratio=0.3",
        "method.local=transport",
        "method.integrity=similarity",
        "method.decoder_width=32",
        "method.decoder_heads=2",
    ),
}


@pytest.mark.parametrize("recipe", CONTRASTS)
def test_a_contrast_in_parts_has_the_gradients_and_the_negatives_of_the_whole_batch(recipe: str, store: Store) -> None:
    """Without batch normalization, whose statistics are those of a part."""
    torch.manual_seed(0)
    settings = load_recipe(recipe, [*SETTINGS, *TEXT, *CONTRASTS[recipe], *PLAIN_VISION])
    reports = [" ".join(sentences) for sentences in store.column("sentences")]
    batch = next(evaluation_batches(store, settings.make_preprocessing(), 8))
    method = build_method(settings.method, default_vocabulary(), settings.make_preprocessing(), lambda: reports).double()
    batch = replace(batch, images=batch.images.double())
    found = []
    for parts in (1, 4, 3):
        assert method.divide(parts)
        terms = method.losses(batch)
        sum(terms.values()).backward()  # type: ignore[union-attr, no-untyped-call]
        found.append(({name: term.item() for name, term in terms.items()}, gradients(method)))
        method.zero_grad()
    for terms, slopes in found[1:]:
        assert terms == pytest.approx(found[0][0], rel=1e-9)
        assert slopes.keys() == found[0][1].keys()
        assert all(torch.allclose(slope, found[0][1][name], rtol=1e-6, atol=1e-9) for name, slope in slopes.items())


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: part.grad.clone() for name, part in module.named_parameters() if part.grad is not None}


def test_a_batch_normalized_encoder_in_parts_counts_every_image_once() -> None:
    images = torch.randn(8, 3, 32, 32)
    encoders = [vision_encoder("resnet10t", 16, image_size=32) for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    encoders[0].parts = 2
    encoders[0](images).tokens.sum().backward()
    for half in images.chunk(2):
        encoders[1](half)
    ours, theirs = (encoder.state_dict() for encoder in encoders)
    names = [name for name in ours if name.endswith(("running_mean", "running_var"))]
    assert names
    assert all(torch.allclose(ours[name], theirs[name]) for name in names)


@pytest.mark.parametrize("recipe", ["medslip-phantom", "convirt-phantom"])
def test_a_run_in_parts_trains_and_resumes_bit_by_bit(run: Fit, recipe: str) -> None:
    settings = ("training.accumulate=4", *(TEXT if recipe.startswith("convirt") else ()))
    whole = run("whole", *settings, recipe=recipe)
    assert same(weights(whole), weights(in_two(run, *settings, recipe=recipe)))


def test_activations_that_are_computed_again_change_no_number(run: Fit, plain: Path) -> None:
    settings = ("training.checkpointing=true", "method.layers=1")
    assert same(weights(run("spared", *settings)), weights(plain))
    text = (*TEXT, *CONTRASTS["mlip-phantom"], "training.epochs=1")
    kept, spared = (
        weights(run(f"mlip {on}", *text, f"training.checkpointing={on}", recipe="mlip-phantom")) for on in ("false", "true")
    )
    assert same(kept, spared)


def test_computing_activations_again_saves_memory() -> None:
    def held(checkpointing: bool) -> int:
        settings = {"name": "medslip", "backbone": "resnet18"}
        method = build_method(settings, default_vocabulary(), Preprocessing(64))
        if checkpointing:
            method.recompute()
        batch = made_up_batch(4, 64, default_vocabulary())
        step = lambda: torch.stack(list(method.losses(batch).values())).sum().backward()  # noqa: E731
        return peak_allocated(step, method.device)

    assert held(True) < 0.7 * held(False)


def test_images_can_be_augmented_where_they_are_learned_from(run: Fit, plain: Path) -> None:
    assert same(weights(run("there", "training.augment_on=device")), weights(plain))


def test_half_precision_scales_its_losses_and_resumes_bit_by_bit(run: Fit) -> None:
    settings = ("training.precision=fp16", "training.clip=1")
    whole, parts = run("whole", *settings), in_two(run, *settings)
    assert same(weights(whole), weights(parts))
    scale = weights(parts, "checkpoint.safetensors", "scaler.")
    assert scale["scale"] > 1
    assert all(math.isfinite(line["loss"]) for line in lines(whole, "loss"))


def test_without_a_compiler_it_is_said_and_trained_as_it_is(
    run: Fit, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    assert same(weights(run("as it is", "training.compile=true")), weights(plain))
    assert "training.compile: nothing is compiled, for this machine can't (no C++ compiler found)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_encoder_learns_the_same(run: Fit, plain: Path) -> None:
    compiled = run("compiled", "training.compile=true")
    assert lines(compiled, "loss")[-1]["loss"] == pytest.approx(lines(plain, "loss")[-1]["loss"], rel=1e-3)
    assert weights(compiled).keys() == weights(plain).keys()


@pytest.mark.parametrize("recipe", CONTRASTS)
def test_a_contrast_of_one_image_is_an_error(run: Fit, recipe: str, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"Set training\.batch_size=2 or more"):
        run("one", "training.batch_size=1", recipe=recipe)
    assert list((tmp_path / "one").iterdir()) == []


def test_an_epoch_can_have_a_smaller_last_batch(run: Fit) -> None:
    kept = run("kept", "training.batch_size=10", "training.rest=keep", "training.accumulate=2")
    assert lines(kept, "loss")[-1]["step"] == 6  # 10, 10 and 4 images, twice


def test_more_epochs_are_a_choice_and_go_on_at_the_rates_of_the_longer_training(run: Fit, plain: Path) -> None:
    run("longer", "training.epochs=1")
    with pytest.raises(MedLIPError, match=r"made for 1 epochs, now training\.epochs=2\. Add --extend"):
        run("longer", resume=True)
    with pytest.raises(MedLIPError, match=r"training\.lr was"):
        run("longer", "training.lr=1", resume=True, extend=True)
    longer = run("longer", resume=True, extend=True)
    assert [line["step"] for line in lines(longer, "loss")] == [3, 6]
    assert lines(longer, "loss")[-1]["lr"] == lines(plain, "loss")[-1]["lr"]
    with pytest.raises(MedLIPError, match="another recipe"):
        run("longer", "training.epochs=1", resume=True, extend=True)


def test_half_a_line_of_metrics_is_taken_back(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("torn", callbacks=[InterruptAfter(2)])
    with (tmp_path / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    torn = run("torn", resume=True)
    assert [line["step"] for line in lines(torn, "loss")] == [3, 6]


@pytest.mark.skipif(not hasattr(os, "chown"), reason="files belong to no group here")
def test_checkpoints_can_be_read_by_the_group_of_their_folder(run: Fit, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        done = run("run", "training.epochs=1", "training.keep=2")
    finally:
        os.umask(mask)
    for file in done.glob("*.safetensors"):
        assert file.stat().st_mode & stat.S_IRGRP
        assert file.stat().st_gid == done.stat().st_gid


def test_a_dry_run_says_what_a_training_takes_and_writes_nothing(
    medlip: Callable[..., Any], phantom_store: Path, tmp_path: Path
) -> None:
    settings = [word for setting in (*MEDSLIP, "training.epochs=50", "training.ema=0.9") for word in ("--set", setting)]
    command = ("pretrain", "medslip-phantom", "--data", phantom_store, "--out", tmp_path / "run", *settings, "--dry-run")
    before = sorted(phantom_store.iterdir())
    outcome = medlip(*command, "--json")
    assert list(tmp_path.iterdir()) == [] and sorted(phantom_store.iterdir()) == before
    found = outcome.document
    assert (found["steps_per_epoch"], found["steps"]) == (6, 300)
    assert found["seconds"] == pytest.approx(300 * found["seconds_per_step"])
    assert found["images_per_second"] == pytest.approx(8 / found["seconds_per_step"])
    assert 4 * found["parameters"] / 2**20 < found["model_mb"] < found["checkpoint_mb"] / 3
    assert found["encoder_parameters"] < found["parameters"]
    assert re.search(r"300 steps \(6 an epoch\)", medlip(*command).out)


def test_a_dry_run_of_more_than_there_is_fails_as_the_training_would(
    medlip: Callable[..., Any], phantom_store: Path, tmp_path: Path
) -> None:
    outcome = medlip(
        "pretrain",
        "medslip-phantom",
        "--data",
        phantom_store,
        "--out",
        tmp_path,
        "--set",
        "training.batch_size=64",
        "--dry-run",
    )
    assert outcome.code == 1
    assert "fewer than a batch of 64" in outcome.last_line
