"""Early warnings come for made-up failures, and for them alone; and a run's page shows what there is of a run."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from medlip.app.pages.run_page import run_page
from medlip.data.store import Store
from medlip.errors import MedLIPError, MedLIPWarning
from medlip.methods import Method, build_method
from medlip.training import fit, load_recipe
from medlip.training.bench import made_up_batch
from medlip.training.callbacks import Log, tensorboard
from medlip.training.watch import Alarm, GradientAlarm, Watch, diverges, dominant, evenness, spread

pytestmark = pytest.mark.long

SMALL = ("image.size=32", "method.backbone=resnet10t", "method.weights=null", "method.width=32", "method.feedforward=64")


def test_each_measure_tells_a_failure_from_what_is_sound() -> None:
    different = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert spread(torch.ones(8, 16) + 1e-4 * different) < 0.01 < spread(torch.ones(8, 16) + 0.3 * different)
    assert evenness(torch.ones(2, 3, 9)) == pytest.approx(1)
    assert evenness(torch.tensor([[1.0, 0, 0, 0]])) == 0
    assert dominant({"a": 0.96, "b": 0.04}) == "a"
    assert dominant({"a": 0.9, "b": 0.1}) == dominant({"a": 1.0}) == dominant({}) == ""
    falling = [2 * math.exp(-step / 20) for step in range(40)]
    assert not diverges(falling)
    assert not diverges([*falling, *[0.7] * 10])  # worse again, but not than at the start
    assert diverges([*falling, *[3.0] * 10])
    assert not diverges([5.0] * 10)


class Trained(SimpleNamespace):
    """A training that is at some step, of epochs of ten."""

    def __init__(self, method: Method, step: int) -> None:
        main = SimpleNamespace(is_main_process=True)
        super().__init__(model=method, step=step, batches=range(10), processes=main, device=method.device)


def watched(method: Any, tmp_path: Path, step: int = 1000) -> list[str]:
    """Return what is warned of after an epoch of a method."""
    log = Log(tmp_path / "metrics.jsonl")
    watch = Watch(method, log, Alarm(log))
    batch = made_up_batch(4, 32, method.vocabulary)
    training: Any = Trained(method, step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MedLIPWarning)
        for _ in range(2):
            watch.before_backward(training, batch, {})
            watch.after_step(training)
    found = [str(warning.message) for warning in caught if isinstance(warning.message, MedLIPWarning)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines() if found else []
    assert [f"step {json.loads(line)['step']:,}: {json.loads(line)['warning']}" for line in lines] == found
    return found


def small(name: str) -> Any:
    recipe = load_recipe(f"{name}-phantom", SMALL if name == "medslip" else SMALL[:3])
    reports = ["There is a large effusion on the left.", "The heart is normal."] * 3
    return build_method(recipe.method, recipe.make_vocabulary(), recipe.make_preprocessing(), lambda: reports)


def choosy() -> Any:
    """A model whose queries attend to some locations more than to others, as they do once they have learned."""
    method = small("medslip")
    with torch.no_grad():
        for decoder in method.decode.values():
            for layer in decoder.layers:
                layer.cross_attention.in_proj_weight[:64] *= 30
    return method


def test_a_sound_model_is_not_warned_of(tmp_path: Path) -> None:
    assert watched(choosy(), tmp_path) == []


def test_uniform_attention_is_warned_of_once_by_stream_layer_and_head(tmp_path: Path) -> None:
    method = choosy()
    with torch.no_grad():
        for layer in method.decode["anatomy"].layers:
            layer.cross_attention.in_proj_weight[:32] = 0  # it asks nothing
            layer.cross_attention.in_proj_bias[:32] = 0
    (warning,) = watched(method, tmp_path)
    assert "anatomy, layer 1, head 1" in warning
    assert "pathology" not in warning


def test_collapsed_embeddings_are_warned_of_but_not_at_the_start(tmp_path: Path) -> None:
    method = small("convirt")
    with torch.no_grad():
        method.project[2].weight.zero_()
    assert watched(method, tmp_path, step=10) == []
    (warning,) = watched(method, tmp_path)
    assert "embeddings of images are the same for all images" in warning


def test_a_dominating_term_is_warned_of_after_three_measurements_in_a_row(tmp_path: Path) -> None:
    training: Any = Trained(small("convirt"), 30)
    look = GradientAlarm(Alarm(Log(tmp_path / "metrics.jsonl")))
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedLIPWarning)
        for norms in ({"icl": 99.0, "exist": 1.0}, {"icl": 99.0, "exist": 1.0}, {"icl": 1.0, "exist": 1.0}) * 2:
            look(training, norms)
    look(training, {"icl": 99.0, "exist": 1.0})
    look(training, {"icl": 99.0, "exist": 1.0})
    with pytest.warns(MedLIPWarning, match=r"the term icl has more than 95% of the gradient.*training\.balance"):
        look(training, {"icl": 99.0, "exist": 1.0})


def test_a_loss_that_rises_above_its_start_is_warned_of(tmp_path: Path) -> None:
    method = small("convirt")
    log = Log(tmp_path / "metrics.jsonl")
    watch = Watch(method, log, Alarm(log))
    losses = [2.0] * 5 + [1.0] * 20 + [4.0] * 10
    with pytest.warns(MedLIPWarning, match=r"the learning rate is too high\. Lower training\.lr"):
        for number, loss in enumerate(losses, 1):
            log.loss = loss
            watch.after_step(Trained(method, 10 * number))  # type: ignore[arg-type]


def test_a_runs_page_shows_curves_recipe_warnings_and_maps_over_time(phantom_store: Path, tmp_path: Path) -> None:
    store = Store.open(phantom_store)
    settings = ("training.batch_size=8", "training.epochs=2", "training.precision=fp32", "training.sample_maps=2")
    recipe = load_recipe("medslip-phantom", [*SMALL, *settings, "training.log_gradients=1"])
    fit(recipe, store.select("train").take(range(16)), tmp_path / "run", validation=store.select("val"))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "warning": "the <loss> rose"}) + '\n{"step": 4, "los')
    page = run_page(tmp_path / "run")
    for said in (
        "exist pathology",
        "gradient of icl",
        "validation",
        "training.batch_size",
        "It is done.",
        "step 2",
        "step 4",
    ):
        assert said in page
    assert "Step 4: the &lt;loss&gt; rose." in page
    assert page.count("data:image/jpeg") == 4
    assert 'src="http' not in page and 'href="http' not in page  # it needs no other file


def test_what_is_no_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"neither run\.json nor metrics\.jsonl"):
        run_page(tmp_path)


def test_tensorboard_gets_every_number_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (logger,) = tensorboard(tmp_path)
    logger.log(7, {"loss": 0.5, "losses": {"icl": 0.25}, "warning": "words"})
    assert written == [("loss", 0.5, 7), ("losses/icl", 0.25, 7)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert tensorboard(tmp_path) == []
