"""What happens beside the steps of a training: figures written, losses validated, checkpoints, the best weights kept."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from warnings import warn

import torch
from torch import Tensor

from medlip.data.batch import Batch
from medlip.errors import MedLIPError, MedLIPWarning
from medlip.files import write_atomic, writing
from medlip.nn.gather import without_gather
from medlip.plugins import entry_points
from medlip.training.average import WeightAverage
from medlip.training.checkpoint import Stateful, load_checkpoint, save_checkpoint
from medlip.training.loop import Callback, Training
from medlip.training.progress import Pace

LOG_EVERY = 10
SKIPPED_AT_MOST = 20  # batches in a row


def may_save(training: Training) -> bool:
    """Whether the state may be saved after this step; on an accelerator after some only, for losses are read before."""
    return training.device.type == "cpu" or training.step % LOG_EVERY == 0 or training.step % len(training.batches) == 0


class Logger(Protocol):
    """Takes the figures of a training as they come, to show or send them elsewhere."""

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Take what metrics.jsonl holds of a step.

        That is `epoch`, `loss`, `losses` by name, `lr`, `images_per_second` and `data_wait_share` (of the steps since the
        last such line); or `validation`, the losses of other images; or `gradient_norm` by loss term; or `balance`, its
        `norms` and `factors`.
        """


_LOGGERS: list[Logger] = []


def register_logger(logger: Logger) -> None:
    """Hand the figures of every training of this process to a logger."""
    _LOGGERS.append(logger)


def loggers() -> tuple[Logger, ...]:
    """Return all loggers: those registered, and those of other packages (entry points `medlip.loggers`)."""
    offered = list(entry_points("medlip.loggers"))
    return (*_LOGGERS, *(logger for logger in cast("list[Logger]", offered) if logger not in _LOGGERS))


class TensorBoard:
    """A logger that writes for TensorBoard: every number by its name.

    Args:
        writer: what `torch.utils.tensorboard` writes with.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Write the numbers of a step."""
        for name, value in values.items():
            for part, number in value.items() if isinstance(value, Mapping) else ((None, value),):
                if isinstance(number, int | float):
                    self._writer.add_scalar(name if part is None else f"{name}/{part}", number, step)
        self._writer.flush()


def tensorboard(folder: Path) -> list[Logger]:
    """Return a logger for TensorBoard that writes into a folder; none where it isn't installed."""
    try:
        module = import_module("torch.utils.tensorboard")
    except ImportError:
        return []
    return [TensorBoard(module.SummaryWriter(str(folder)))]


class Log(Callback):
    """Write a line of JSON every few steps; stop a training whose loss is not finite.

    Args:
        path: of the file; lines are added to it, by the main process.
        loggers: they get the same figures; one that fails is left out from then on.

    Attributes:
        loss: the last one that was written, NaN before.
    """

    def __init__(self, path: Path, loggers: Sequence[Logger] = ()) -> None:
        self.path, self.loss, self.loggers = path, math.nan, list(loggers)
        self._pace = Pace()

    def after_step(self, training: Training) -> None:
        """Write the losses, at the end of an epoch too."""
        epoch = len(training.batches)
        if training.step % LOG_EVERY and training.step % epoch and not training.over:
            return
        losses = training.losses()
        self.loss = training.total(losses)
        pace, self._pace = training.pace - self._pace, training.pace
        self.write(
            training,
            epoch=training.step / epoch,
            loss=self.loss,
            losses=losses,
            lr=training.rate,
            images_per_second=pace.images_per_second,
            data_wait_share=pace.data_wait_share,
        )

    def write(self, training: Training, **values: object) -> None:
        """Add a line with the step and these values."""
        if not training.processes.is_main_process:
            return
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": training.step, **values}) + "\n")
        for logger in list(self.loggers):
            try:
                logger.log(training.step, values)
            except Exception as error:  # a training of days must not end for a page that can't be reached
                self.loggers.remove(logger)
                what = f"the logger {type(logger).__name__} failed at step {training.step} and is left out from now on"
                warn(f"{what}: {type(error).__name__}: {error}", MedLIPWarning, stacklevel=2)

    def rewind(self, step: int) -> None:
        """Take back the lines of steps beyond this one, which come again."""
        if not self.path.exists():
            return
        with writing(self.path):
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(self.path, "".join(f"{line}\n" for line in lines).encode())


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; infinity for half a line, as a full disk leaves it."""
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf


class Validate(Callback):
    """Measure and write the losses of other images after every epoch, without augmentation and dropout.

    Args:
        batches: gives them anew each time, the same ones in every process.
        log: where to write.
        average: whose weights are to be validated, None for those of the training.

    Attributes:
        losses: mean of every term over all images, the last time; None before.
    """

    def __init__(self, batches: Callable[[], Iterable[Batch]], log: Log, average: WeightAverage | None = None) -> None:
        self.batches, self.log, self.average = batches, log, average
        self.losses: dict[str, float] | None = None

    def after_step(self, training: Training) -> None:
        """Validate at the end of an epoch."""
        if training.step % len(training.batches):
            return
        sums, images = Counter[str](), 0
        training.model.eval()
        weights = self.average.in_place() if self.average else nullcontext()
        with weights, torch.no_grad(), without_gather():  # every process has the same batches here
            for batch in self.batches():
                terms = training.model(batch.to(training.device))
                sums.update({name: term.item() * len(batch) for name, term in terms.items()})
                images += len(batch)
        training.model.train()
        self.losses = {name: value / images for name, value in sums.items()}
        self.log.write(training, epoch=training.step / len(training.batches), validation=self.losses)


class Finite(Callback):
    """Look out for losses that are not finite: name the terms, write down the batch, and stop or skip it.

    On a CPU, and where batches are skipped, every batch is looked at before the weights learn from it. Elsewhere several are
    looked at together, and all before a checkpoint: reading a loss waits for the accelerator.

    Args:
        path: where batches are written: a line of JSON each, with step, terms and the ids of the images.
        action: at such a batch.
    """

    def __init__(self, path: Path, action: Literal["stop", "skip"]) -> None:
        self.path, self.action = path, action
        self._unseen: list[tuple[int, Sequence[str], Mapping[str, Tensor]]] = []
        self._in_a_row = 0

    def before_backward(self, training: Training, batch: Batch, terms: Mapping[str, Tensor]) -> bool:
        """Look at the terms of a batch, those without a weight left out.

        Raises:
            MedLIPError: one is not finite, and training is to stop there; or too many batches in a row were skipped.
        """
        weighed = {name: term.detach() for name, term in terms.items() if training.weight(name)}
        self._unseen.append((training.step + 1, batch.ids, weighed))
        if training.device.type != "cpu" and self.action == "stop":
            return True
        fine = self._look(training)
        self._in_a_row = 0 if fine else self._in_a_row + 1
        return fine

    def after_step(self, training: Training) -> None:
        """Look at what is left, every few steps and before the state may be saved."""
        if may_save(training) or training.interrupted:
            self._look(training)

    def _look(self, training: Training) -> bool:
        fine = True
        for step, ids, terms in self._unseen:
            bad = {name: str(value) for name, term in terms.items() if not math.isfinite(value := term.item())}
            if training.any_process(bool(bad)):
                fine = False
                self._report(step, bad, ids)
        self._unseen.clear()
        return fine

    def _report(self, step: int, bad: Mapping[str, str], ids: Sequence[str]) -> None:
        if bad:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step, "terms": bad, "ids": list(ids)}) + "\n")
        which = ", ".join(f"{name} is {value}" for name, value in bad.items()) or "a term of another process is not"
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        what = f"step {step}: the loss is not finite ({which}) on a batch of {len(ids)} images ({some}; all in {self.path})"
        if self.action == "stop":
            raise MedLIPError(
                f"{what}. Lower training.lr, set training.clip=1, or pass over such batches with training.on_nan=skip."
            )
        if self._in_a_row + 1 >= SKIPPED_AT_MOST:
            raise MedLIPError(
                f"{what}, and so it was on the {self._in_a_row} batches before. The weights are spoilt: start anew with a "
                "lower training.lr, or with training.clip=1."
            )
        warn(f"{what}: skipped", MedLIPWarning, stacklevel=2)


class Checkpoint(Callback):
    """Save the state after every epoch, every few minutes, and when the training is interrupted.

    Args:
        path: of the latest checkpoint.
        manifest: what makes the training, under `recipe` and `data`: a checkpoint of another one is refused.
        minutes: between two checkpoints, at most.
        keep: how many of the latest stay, by the step in their names; 1 for `path` alone.
        parts: what else is saved and brought back, by name.
        extend: let a training go on for more epochs than the checkpoint's.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        minutes: float,
        keep: int = 1,
        parts: Mapping[str, Stateful] | None = None,
        *,
        extend: bool = False,
    ) -> None:
        self.extend = extend
        self.path, self.manifest, self.minutes, self.keep, self.parts = path, manifest, minutes, keep, parts or {}
        self._saved = time.monotonic()

    def restore(self, training: Training) -> None:
        """Bring a training to where it was last saved; without a checkpoint it stays as it is.

        Raises:
            MedLIPError: the checkpoint is broken, or belongs to another recipe or other data.
        """
        if self.path.exists():
            load_checkpoint(self.path, training, self.manifest, self.parts, extend=self.extend)

    def after_step(self, training: Training) -> None:
        """Save if it is time to."""
        if training.step % len(training.batches) and not training.interrupted and not self._is_due(training):
            return
        save_checkpoint(self.path, training, self.manifest, self.parts)  # every process has a part in it
        if training.processes.is_main_process:
            self._keep(training.step)
            if training.interrupted and not training.over:
                print(f"interrupted after step {training.step:,}; to resume from: {self.path}", file=sys.stderr)
        self._saved = time.monotonic()

    def _is_due(self, training: Training) -> bool:
        return may_save(training) and training.any_process(time.monotonic() - self._saved > 60 * self.minutes)

    def _keep(self, step: int) -> None:
        """Give the checkpoint a second name with its step, and let go of the oldest ones that have one."""
        if self.keep > 1:
            named = self.path.with_name(f"{self.path.stem}-{step:08}{self.path.suffix}")
            named.unlink(missing_ok=True)
            try:
                named.hardlink_to(self.path)
            except OSError:  # not every file system has second names
                shutil.copyfile(self.path, named)
        with_steps = sorted(self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}"))
        for old in with_steps[: -self.keep] if self.keep > 1 else with_steps:
            old.unlink()


class KeepBest(Callback):
    """Measure a module at some steps, and end with the weights that were best; of values that aren't defined, the last.

    Args:
        steps: when to measure.
        measure: gives a value, the higher the better; it may put the module into evaluation mode.
    """

    def __init__(self, steps: Collection[int], measure: Callable[[], float]) -> None:
        self.steps, self.measure = steps, measure
        self._best, self._kept = -math.inf, dict[str, Tensor]()

    def after_step(self, training: Training) -> None:
        """Measure if it is time to."""
        if training.step in self.steps:
            value = self.measure()
            if not value <= self._best:
                self._best, self._kept = value, deepcopy(training.module.state_dict())
            training.model.train()

    def at_end(self, training: Training) -> None:
        """Bring back the best weights."""
        if self._kept:
            training.module.load_state_dict(self._kept)
