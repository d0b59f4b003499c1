"""What a training will take, from a few of its steps: size of the model, memory, time; nothing is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from medlip.data.batch import TrainingBatches
from medlip.data.store import Store
from medlip.memory import MIB
from medlip.methods.base import HasEncoder
from medlip.nn.device import peak_memory, resolve_device, synchronize
from medlip.nn.parameters import count_learned, learned_parameters
from medlip.training.average import WeightAverage
from medlip.training.fit import begin, model_file, read_together, training_batches
from medlip.training.loop import Callback, Training, processes
from medlip.training.progress import duration
from medlip.training.schedule import Steps
from medlip.training.start import start_from

if TYPE_CHECKING:
    from medlip.training.recipe import Recipe

STEPS = 5  # of which the first warms up


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a training will take.

    Attributes:
        parameters: that are learned.
        encoder_parameters: of these, the image encoder's; None where the method has none.
        model_mb: size of the saved model in MiB.
        checkpoint_mb: size of a checkpoint in MiB.
        memory_mb: most memory in use, in MiB: of the accelerator, or of this process on a CPU, decoded images of a few
            batches included.
        image_cache_mb: of decoded images that a training keeps in memory beside, in MiB.
        steps: of the whole training.
        steps_per_epoch: batches.
        seconds_per_step: median, images at hand.
        images_per_second: likewise.
        seconds: of all steps; reading the images, validation and checkpoints come on top.
        device: it was measured on.
        notes: what to know of the data before.
    """

    parameters: int
    encoder_parameters: int | None
    model_mb: float
    checkpoint_mb: float
    memory_mb: float
    image_cache_mb: float
    steps: int
    steps_per_epoch: int
    seconds_per_step: float
    images_per_second: float
    seconds: float
    device: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def describe(self) -> str:
        """Return some lines for people."""
        encoder = "" if self.encoder_parameters is None else f", {self.encoder_parameters / 1e6:.1f} M in the image encoder"
        return "\n".join(
            (
                f"model       {self.parameters / 1e6:.1f} M parameters{encoder}; {self.model_mb:.0f} MiB",
                f"checkpoint  {self.checkpoint_mb:.0f} MiB",
                f"memory      {self.memory_mb:.0f} MiB on {self.device}; {self.image_cache_mb:.0f} MiB of decoded images",
                f"step        {self.seconds_per_step:.3g} s, {self.images_per_second:.3g} images/s",
                f"training    {self.steps:,} steps ({self.steps_per_epoch:,} an epoch), {duration(self.seconds)} "
                "without reading the images, validation and checkpoints",
            )
        )


def dry_run(recipe: Recipe, store: Store, device: str = "auto") -> DryRun:
    """Take a few steps as `fit` would, and say what all of them will take; nothing is written.

    Args:
        recipe: the experiment.
        store: all of what is to be learned from; the images of a few batches are read.
        device: to train on, see `medlip.nn.device.resolve_device`.

    Raises:
        MedLIPError: as for `fit`.
    """
    where, settings = resolve_device(device), recipe.training
    with processes(where, settings.precision) as ranks:
        method, training, notes = begin(recipe, store, ranks)
        if recipe.first:
            notes.append(f"{recipe.first.recipe} on {recipe.first.data} comes first, and is not counted")
        if settings.start_from:
            notes.append(start_from(method, model_file(Path(settings.start_from))).note)
        planned, images = training.batches, settings.batch_size * ranks.num_processes
        assert isinstance(planned, TrainingBatches)
        most = 1 if planned.studies is None else planned.studies.most
        few = store.take(range(min(len(store), 2 * images * most)))
        training.batches, training.budget = (
            training_batches(recipe, method, few, ranks, read_together(recipe, few)),
            Steps(STEPS),
        )
        clock = _Clock()
        training.run("dry run", [*([WeightAverage(method, settings.ema)] if settings.ema else []), clock])
        model, moments = _bytes(method.state_dict().values()), 2 * _bytes(learned_parameters(method))
        seconds, steps = statistics.median(clock.seconds), settings.epochs * len(planned)
        return DryRun(
            parameters=count_learned(method),
            encoder_parameters=count_learned(method.encoder) if isinstance(method, HasEncoder) else None,
            model_mb=model / MIB,
            checkpoint_mb=(model * (2 if settings.ema else 1) + moments) / MIB,
            memory_mb=peak_memory(training.device) / MIB,
            image_cache_mb=planned.cached_bytes / MIB,
            steps=steps,
            steps_per_epoch=len(planned),
            seconds_per_step=seconds,
            images_per_second=images / seconds,
            seconds=steps * seconds,
            device=str(training.device),
            notes=tuple(notes),
        )


class _Clock(Callback):
    """Seconds of every step but the first, without what it waited for images."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: tuple[float, float] | None = None

    def after_step(self, training: Training) -> None:
        synchronize(training.device)
        now, waited = time.monotonic(), training.pace.waited
        if self._last is not None:
            self.seconds.append(now - self._last[0] - (waited - self._last[1]))
        self._last = now, waited


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
