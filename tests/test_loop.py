"""The loop trains whatever has named losses: at its rates, in its precision, clipped, until its budget is spent."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from medlip.errors import MedLIPError, MedLIPWarning
from medlip.nn.device import random_state, set_random_state
from medlip.training.callbacks import Checkpoint, Finite, KeepBest
from medlip.training.loop import Callback, Group, Training, processes
from medlip.training.schedule import Seconds, Shaped, Steps, WarmupCosine

CPU = torch.device("cpu")
MANIFEST = {"recipe": {"name": "line"}, "data": {"hash": "none"}}


class Numbers:
    """Batches of numbers and their doubles, four an epoch, the same ones every time."""

    def __len__(self) -> int:
        return 4

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for number in range(start, 4):
            yield Pair(torch.full((2, 3), number + 1.0))


class Pair(SimpleNamespace):
    def __init__(self, values: Tensor) -> None:
        super().__init__(values=values, shares=None, ids=[f"image {float(values[0, 0])} {letter}" for letter in "ab"])

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> Pair:
        return Pair(self.values.to(device))

    def parts(self, count: int) -> list[Pair]:
        return [Pair(part) for part in self.values.chunk(count)]


class Line(nn.Module):
    """A linear layer that is to double its input, with dropout, and a term without a weight in the total."""

    loss_weights: ClassVar = {"error": 2.0, "other": 0.0}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.dtypes: list[torch.dtype] = []

    def losses(self, batch: Any) -> dict[str, Tensor]:
        outputs = self.layer(nn.functional.dropout(batch.values, 0.1, self.training))
        self.dtypes.append(outputs.dtype)
        error = (outputs - 2 * batch.values).square().mean()
        return {"error": error, "other": error.detach()}


def train(
    module: Line, steps: int = 8, callbacks: Sequence[Callback] = (), precision: Any = "fp32", **settings: Any
) -> Training:
    settings = {"schedule": Shaped("constant"), "budget": Steps(steps)} | settings
    with processes(CPU, precision) as ranks:
        training = Training(module, Numbers(), ranks, [Group(list(module.parameters()), 1e-2, 0.0)], **settings)
        for callback in callbacks:
            if isinstance(callback, Checkpoint):
                callback.restore(training)
        training.run("learning", callbacks)
    return training


class Watch(Callback):
    """Keeps what was seen after every step, and may raise a signal."""

    def __init__(self, at: int = 0, number: int = signal.SIGINT) -> None:
        self.at, self.number = at, number
        self.rates: list[float] = []
        self.ended = False

    def after_step(self, training: Training) -> None:
        self.rates.append(training.rate)
        if training.step == self.at:
            signal.raise_signal(self.number)

    def at_end(self, training: Training) -> None:
        self.ended = True


def test_the_weighted_losses_go_down_over_as_many_steps_as_asked_for() -> None:
    short, long = train(Line(), 1), train(Line(), 200)
    assert (short.step, long.step) == (1, 200)
    assert long.losses()["error"] < short.losses()["error"]
    assert short.total(short.losses()) == pytest.approx(2 * short.losses()["error"])


def test_a_warm_up_rises_in_equal_steps_and_a_cosine_ends_at_the_lowest_rate() -> None:
    watch = Watch()
    train(Line(), 40, [watch], schedule=WarmupCosine(40, 4, 1e-3))
    assert watch.rates[:4] == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2])
    assert watch.rates[4] == pytest.approx(1e-2)
    assert watch.rates[22] == pytest.approx((1e-2 + 1e-3) / 2)
    assert 1e-3 < watch.rates[-1] < 1.02e-3
    assert watch.rates[4:] == sorted(watch.rates[4:], reverse=True)


def test_a_warm_up_takes_a_tenth_of_a_short_training_at_most() -> None:
    schedule = WarmupCosine(20, 1000)
    assert [schedule(1.0, step, 0.0) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]


def test_a_shape_over_shares_rises_and_falls() -> None:
    assert [Shaped("constant", 0.5)(2.0, 0, share) for share in (0.25, 0.5, 1.0)] == [1.0, 2.0, 2.0]
    assert [Shaped()(2.0, 0, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.0])
    assert Shaped("cosine", 0.5)(1.0, 0, 0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)) / 2)


def test_training_by_time_ends_when_the_time_has_passed() -> None:
    training = train(Line(), budget=Seconds(0.05))
    assert training.step >= 1
    assert training.seconds >= 0.05
    assert training.over


def test_gradients_are_clipped_to_their_norm() -> None:
    def first_moment(**settings: Any) -> float:
        training = train(Line(), 1, **settings)
        moments = [state["exp_avg"].flatten() for state in training.optimizer.state.values()]
        return float(torch.cat(moments).norm()) / (1 - 0.9)

    assert first_moment() > 1
    assert first_moment(clip=0.25) == pytest.approx(0.25, rel=1e-3)


def test_a_batch_in_parts_is_learned_from_as_a_whole() -> None:
    whole, parts = Line().eval(), Line().eval()
    for module, count in ((whole, 1), (parts, 2)):
        module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]  # no dropout
        train(module, 8, parts=count, clip=0.5)
    assert torch.allclose(whole.layer.weight, parts.layer.weight, atol=1e-6)
    assert not torch.allclose(whole.layer.weight, Line().layer.weight, atol=1e-3)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_compute_in_the_precision_asked_for_and_losses_in_full(precision: str, dtype: torch.dtype) -> None:
    module = Line()
    training = train(module, 1, precision=precision)
    assert module.dtypes == [dtype]
    assert training.terms["error"].dtype == torch.float32


def test_the_best_weights_are_kept_and_of_undefined_values_the_last() -> None:
    for values, best in (([0.2, 0.9, 0.5], 4), ([math.nan, math.nan, math.nan], 6)):
        module, left = Line(), iter(values)
        train(module, 6, [KeepBest({2, 4, 6}, lambda left=left: next(left))])  # type: ignore[misc]
        expected = Line()
        train(expected, best)
        assert torch.equal(module.layer.weight, expected.layer.weight)


def test_a_training_goes_on_from_its_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    whole = Line()
    train(whole, 8)
    parts = Line()  # from the same seed again
    for at in (2, 5):
        watch = Watch(at)
        with pytest.raises(KeyboardInterrupt):
            train(parts, 8, [Checkpoint(tmp_path / "c.safetensors", MANIFEST, 10), watch])
        assert not watch.ended
    resumed = train(Line(), 8, [Checkpoint(tmp_path / "c.safetensors", MANIFEST, 10)])
    assert resumed.step == 8
    assert torch.equal(resumed.module.layer.weight, whole.layer.weight)  # type: ignore[union-attr,arg-type]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    train(Line(), 4, [Checkpoint(tmp_path / "c.safetensors", MANIFEST, 10)])
    other = MANIFEST | {"recipe": {"name": "curve"}}
    with pytest.raises(MedLIPError, match="name was 'line', now 'curve'"):
        train(Line(), 4, [Checkpoint(tmp_path / "c.safetensors", other, 10)])


def test_a_second_signal_is_obeyed_at_once() -> None:
    class Impatient(Callback):
        def after_step(self, training: Training) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    watch = Watch()
    with pytest.raises(KeyboardInterrupt):
        train(Line(), 8, [Impatient(), watch])
    assert watch.rates == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_the_last_step_does_not_undo_it() -> None:
    watch = Watch(at=8)
    assert train(Line(), 8, [watch]).step == 8
    assert watch.ended


class NotANumberAt(Line):
    """A line whose error is not a number on batches of one value, as long as there are such."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def losses(self, batch: Any) -> dict[str, Tensor]:
        terms = super().losses(batch)
        return terms | {"error": terms["error"] * (math.nan if batch.values[0, 0] == self.value else 1)}


def test_a_loss_that_is_not_finite_stops_the_training_before_it_is_learned_from(tmp_path: Path) -> None:
    module, path = NotANumberAt(3.0), tmp_path / "not_finite.jsonl"
    with pytest.raises(MedLIPError, match=r"step 3: .*\(error is nan\) .*image 3\.0 a.*training\.lr"):
        train(module, 8, [Finite(path, "stop")])
    assert json.loads(path.read_text()) == {"step": 3, "terms": {"error": "nan"}, "ids": ["image 3.0 a", "image 3.0 b"]}
    assert module.layer.weight.isfinite().all()


def test_a_batch_whose_loss_is_not_finite_can_be_skipped(tmp_path: Path) -> None:
    module = NotANumberAt(3.0)
    with pytest.warns(MedLIPWarning, match="skipped"):
        assert train(module, 8, [Finite(tmp_path / "not_finite.jsonl", "skip")]).step == 8
    assert module.layer.weight.isfinite().all()
    lines = (tmp_path / "not_finite.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 7]


def test_skipping_ends_where_nothing_else_comes(tmp_path: Path) -> None:
    module = Line()
    module.layer.weight.data.fill_(math.inf)
    with pytest.warns(MedLIPWarning, match="skipped"), pytest.raises(MedLIPError, match="start anew"):
        train(module, 100, [Finite(tmp_path / "not_finite.jsonl", "skip")])


def test_the_generators_of_a_gpu_are_kept_and_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, kept, restored = torch.device("cuda"), torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: kept)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    states = random_state(gpu)
    assert set(states) == {"random", "random.cuda"}
    expected = torch.rand(3)
    set_random_state(states, gpu)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(restored[0], kept)
    set_random_state(states, CPU)  # a run that goes on elsewhere
    assert len(restored) == 1
