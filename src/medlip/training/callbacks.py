"""What happens beside the steps of a training: figures written, losses validated, checkpoints, the best weights kept."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, cast
from warnings import warn

import torch
from torch import Tensor

from medlip.data.batch import Batch
from medlip.errors import MedLIPError, MedLIPWarning
from medlip.nn.gather import without_gather
from medlip.plugins import entry_points
from medlip.training.checkpoint import load_checkpoint, save_checkpoint
from medlip.training.loop import Callback, Training

LOG_EVERY = 10


class Logger(Protocol):
    """Takes the figures of a training as they come, to show or send them elsewhere."""

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Take what metrics.jsonl holds of a step.

        That is `epoch`, `loss`, `losses` by name, `lr` and `images_per_second`, or `validation`, the losses of other images.
        """


_LOGGERS: list[Logger] = []


def register_logger(logger: Logger) -> None:
    """Hand the figures of every training of this process to a logger."""
    _LOGGERS.append(logger)


def loggers() -> tuple[Logger, ...]:
    """Return all loggers: those registered, and those of other packages (entry points `medlip.loggers`)."""
    offered = list(entry_points("medlip.loggers"))
    return (*_LOGGERS, *(logger for logger in cast("list[Logger]", offered) if logger not in _LOGGERS))


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

    def after_step(self, training: Training) -> None:
        """Write the losses, at the end of an epoch too.

        Raises:
            MedLIPError: the loss is not finite.
        """
        epoch = len(training.batches)
        if training.step % LOG_EVERY and training.step % epoch and not training.over:
            return
        losses = training.losses()
        self.loss = training.total(losses)
        self.write(
            training,
            epoch=training.step / epoch,
            loss=self.loss,
            losses=losses,
            lr=training.rate,
            images_per_second=training.images / max(training.step_seconds, 1e-9),
        )
        if not math.isfinite(self.loss):
            raise MedLIPError(
                f"step {training.step}: the loss is {self.loss} (see {self.path}). "
                "Lower training.lr, or set training.clip=1."
            )

    def write(self, training: Training, **values: object) -> None:
        """Add a line with the step and these values."""
        if not training.processes.is_main_process:
            return
        with self.path.open("a") as file:
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
        lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
        self.path.write_text("".join(f"{line}\n" for line in lines))


class Validate(Callback):
    """Measure and write the losses of other images after every epoch, without augmentation and dropout.

    Args:
        batches: gives them anew each time, the same ones in every process.
        log: where to write.

    Attributes:
        losses: mean of every term over all images, the last time; None before.
    """

    def __init__(self, batches: Callable[[], Iterable[Batch]], log: Log) -> None:
        self.batches, self.log = batches, log
        self.losses: dict[str, float] | None = None

    def after_step(self, training: Training) -> None:
        """Validate at the end of an epoch."""
        if training.step % len(training.batches):
            return
        sums, images = Counter[str](), 0
        training.model.eval()
        with torch.no_grad(), without_gather():  # every process has the same batches here
            for batch in self.batches():
                terms = training.model(batch.to(training.device))
                sums.update({name: term.item() * len(batch) for name, term in terms.items()})
                images += len(batch)
        training.model.train()
        self.losses = {name: value / images for name, value in sums.items()}
        self.log.write(training, epoch=training.step / len(training.batches), validation=self.losses)


class Checkpoint(Callback):
    """Save the state after every epoch, every few minutes, and when the training is interrupted.

    Args:
        path: of the file.
        manifest: what makes the training, under `recipe` and `data`: a checkpoint of another one is refused.
        minutes: between two checkpoints, at most.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], minutes: float) -> None:
        self.path, self.manifest, self.minutes = path, manifest, minutes
        self._saved = time.monotonic()

    def restore(self, training: Training) -> None:
        """Bring a training to where it was last saved; without a checkpoint it stays as it is.

        Raises:
            MedLIPError: the checkpoint is broken, or belongs to another recipe or other data.
        """
        if self.path.exists():
            load_checkpoint(self.path, training, self.manifest)

    def after_step(self, training: Training) -> None:
        """Save if it is time to."""
        due = time.monotonic() - self._saved > 60 * self.minutes
        if training.step % len(training.batches) and not training.interrupted and not due:
            return
        if training.processes.is_main_process:
            save_checkpoint(self.path, training, self.manifest)
            if training.interrupted and not training.over:
                print(f"interrupted after step {training.step:,}; to resume from: {self.path}", file=sys.stderr)
        self._saved = time.monotonic()


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
