"""A method computes where it is: nothing names a device, and what is read from images, batches or labels goes there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from far import FAR, far_device, waits
from medlip.data.batch import TrainingBatches
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.experiments.disentanglement import disentanglement
from medlip.experiments.transfer import transfer
from medlip.experiments.transfer_protocols import TransferProtocol
from medlip.methods import build_method, method_names
from medlip.methods.base import HasEncoder
from medlip.nn.device import autocast, device_of, resolve_device, resolve_precision
from medlip.training import load_recipe, load_run
from medlip.training.loop import Callback, Group, Training, processes
from medlip.training.schedule import Shaped, Steps

pytestmark = pytest.mark.long

PACKAGE = Path(__file__).parents[1] / "src" / "medlip"
QUICK = {"epochs": 1, "minimum_steps": 2, "batch_size": 4, "checks": 1, "precision": "fp32"}


def test_the_best_device_is_taken_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for gpu, apple, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda apple=apple: apple)
        assert resolve_device() == torch.device(best)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "'gpu' is unknown. Choose auto, cpu, cuda, cuda:N or mps"),
        ("meta", "unknown"),
        ("cuda", r"nvidia-smi.*Choose auto or one of: cpu"),
        ("cuda:1", "can't be used here"),
        ("mps", "Apple silicon"),
        ("cpu:3", "only 1"),
    ],
)
def test_a_device_that_is_not_there_is_answered_with_those_that_are(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MedLIPError, match=message):
        resolve_device(name)


def test_one_gpu_of_several_can_be_named_but_not_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(MedLIPError, match="only 2, counted from 0"):
        resolve_device("cuda:2")


def _named_devices(source: str) -> Iterator[int]:
    """Yield the lines that name a device for anything but a question ("is it the CPU?"), or call one by its module."""
    tree = ast.parse(source)
    asked = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ("cpu", "cuda", "mps") and id(node) not in asked:
            yield node.lineno
        if isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps"):
            yield node.lineno


def test_nothing_but_the_module_of_devices_names_one() -> None:
    allowed = {
        "nn/device.py": None,
        "training/loop.py": "torch.cuda.set_device(device)",  # several GPUs: this process's own
        "app/options.py": None,  # the choices of --device
    }
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {lines[line - 1].strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for lines in [path.read_text(encoding="utf-8").splitlines()]
        for line in _named_devices("\n".join(lines))
        if 'map_location="cpu"' not in lines[line - 1]  # files are read there, and moved with their module
        if (name := str(path.relative_to(PACKAGE))) not in allowed or allowed[name] not in (None, lines[line - 1].strip())
    ]
    assert found == []


@pytest.mark.parametrize(
    "line", ['x.to("cuda")', "x.cuda()", 'torch.autocast("cpu")', "torch.cuda.is_available()", 'device = "mps"']
)
def test_a_device_that_is_named_does_not_go_unseen(line: str) -> None:
    assert list(_named_devices(line))
    assert not list(_named_devices('fast = x.device.type == "cpu"'))


def test_mixing_devices_fails_on_the_far_one_too() -> None:
    with far_device():
        far = torch.ones(2, 3).to(FAR)
        assert far.device == (far + 1).device == FAR
        assert torch.equal((far * 2).cpu(), torch.full((2, 3), 2.0))
        with pytest.raises(RuntimeError, match="on far:0 and on the CPU"):
            far + torch.ones(3)
        with pytest.raises(RuntimeError):
            far.numpy()


class SecondStep(Callback):
    """Notes what would be waited for in the second step: the first one may build what is kept."""

    def __init__(self) -> None:
        self.stack, self.found = ExitStack(), list[str]()

    def after_step(self, training: Training) -> None:
        self.stack.close()
        assert {term.device for term in training.terms.values()} == {FAR}
        if training.step == 1:
            self.found = self.stack.enter_context(waits())


def train(name: str, store: Store, device: torch.device, callbacks: Sequence[Callback], *settings: str) -> None:
    """Train a method in small for two steps."""
    changes = ["image.size=32", "method.backbone=resnet10t", "method.weights=null", *settings]
    recipe, train = load_recipe(f"{name}-phantom", changes), store.select("train").take(range(8))
    texts = [" ".join(sentences) for sentences in train.column("sentences")]
    method = build_method(recipe.method, train.vocabulary, recipe.make_preprocessing(), lambda: texts)
    batches = TrainingBatches(
        train, method.preprocessing, recipe.make_augment(), 4, 0, train.vocabulary, ahead=0, on_device=True
    )
    with processes(device) as ranks:
        method.to(device)
        groups = [Group(list(method.parameters()), 1e-3, 0.0)]
        training = Training(method, batches, ranks, groups, schedule=Shaped(), budget=Steps(2), clip=1.0)
        training.run("learning", callbacks)


ASKING = {"mlip": ("method.local=transport",)}  # its transport asks after every iteration whether it is done
SILENT = {"mlip": ("method.local=attention",), "medlip": ("method.lambda_match=0",)}


@pytest.mark.parametrize("name", method_names())
def test_every_method_trains_where_it_is_and_waits_for_nothing(name: str, phantom_store: Path) -> None:
    second = SecondStep()
    with far_device():
        train(name, Store.open(phantom_store), FAR, [second], *SILENT.get(name, ()))
    assert second.found == []


def test_only_transport_asks_an_accelerator_whether_it_is_done(phantom_store: Path) -> None:
    second = SecondStep()
    with far_device():
        train("mlip", Store.open(phantom_store), FAR, [second], *ASKING["mlip"])
    assert second.found
    assert {found.partition(" at ")[2].partition(":")[0] for found in second.found} == {"nn/transport.py"}


def test_what_waits_does_not_go_unseen() -> None:
    with far_device(), waits() as found:
        values = torch.arange(4.0).to(FAR)
        values[values > 1], values.nonzero(), values.sum().item(), values.cpu()
        values[torch.tensor([0, 1]).to(FAR)], values.where(values > 1, 0)
    assert [what.partition(" at ")[0] for what in found] == [
        "boolean index",
        "nonzero",
        "_local_scalar_dense",
        "copy to the host",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", method_names())
def test_a_gpu_is_not_waited_for_in_a_step(name: str, phantom_store: Path) -> None:
    class NoWaiting(Callback):
        def after_step(self, training: Training) -> None:
            torch.cuda.set_sync_debug_mode("error" if training.step == 1 else "default")

    try:
        train(name, Store.open(phantom_store), torch.device("cuda"), [NoWaiting()], *SILENT.get(name, ()))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_method_is_evaluated_where_it_is(tiny_run: Path, phantom_store: Path) -> None:
    store, method = Store.open(phantom_store), load_run(tiny_run, "cpu")
    expected = evaluate(method, store, resamples=5)["grounding"]["iou"].value
    with far_device():
        found = evaluate(method.to(FAR), store, resamples=5)["grounding"]["iou"].value
        assert method.device == FAR
    assert found == pytest.approx(expected, abs=0.01)


def test_streams_are_measured_where_the_method_is(tiny_run: Path, halved_store: Path) -> None:
    store, method = Store.open(halved_store), load_run(tiny_run, "cpu")
    expected = disentanglement(method, store, resamples=5).maps
    with far_device():
        found = disentanglement(method.to(FAR), store, resamples=5).maps
    assert expected and found
    assert found.own.value == pytest.approx(expected.own.value, abs=0.01)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_an_encoder_is_tuned_where_its_method_is(task: str, tiny_run: Path, phantom_store: Path) -> None:
    store, method = Store.open(phantom_store), load_run(tiny_run, "cpu")
    protocol = TransferProtocol.model_validate(
        {"name": "mine", "title": "", "task": task, "encoder": "trained", "shares": (1.0,), "training": QUICK}
    )

    class Taken(HasEncoder):
        """An encoder on the far device, with what transfer reads beside it."""

        encoder, preprocessing, made_by, seen = method.encoder, method.preprocessing, None, None

    with far_device():
        taken = Taken()
        taken.encoder = taken.encoder.to(FAR)
        (level,) = transfer(taken, store, protocol, resamples=5).levels  # type: ignore[arg-type]
        assert device_of(taken.encoder) == FAR
    assert level.images == store.splits["train"]


def test_a_precision_that_is_named_is_kept_and_auto_is_one_of_them() -> None:
    cpu = torch.device("cpu")
    assert [resolve_precision(precision, cpu) for precision in ("fp32", "bf16")] == ["fp32", "bf16"]
    resolved = resolve_precision("auto", cpu)
    with autocast(cpu, "auto"):
        computed = torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    assert computed == {"fp32": torch.float32, "bf16": torch.bfloat16}[resolved]
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
