"""The one training loop of the package: whatever has named losses is optimised here.

So resuming, precision, clipping, several processes and interruption exist once. Pre-training, fine-tuning, U-Net and the
supervised yardstick differ in what they hand over.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medlip.data.batch import Batch
from medlip.errors import MedLIPError
from medlip.nn.cpu import keep_freed_memory
from medlip.nn.device import Precision, autocast, device_of, resolve_precision
from medlip.nn.gather import uneven
from medlip.training.progress import Pace, Progress
from medlip.training.schedule import Budget, Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


class Learner(Protocol):
    """What the loop trains: an `nn.Module` with named losses; a method of pre-training is one by its verbs."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Factor of every named loss term in the total."""
        ...

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named, unweighted loss terms (0-d) of a batch."""
        ...


class Epochs(Protocol):
    """Batches that come again in another order every epoch, and can be gone on with at any of them."""

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        ...


class Callback:
    """What happens beside the steps; in every process."""

    def before_backward(self, training: Training, batch: Batch, terms: Mapping[str, Tensor]) -> bool:
        """Look at the terms of a batch, or of each part of it, while their graph stands.

        Returns:
            Whether the step is to be taken; if not, the weights stay as they are.
        """
        return True

    def after_step(self, training: Training) -> None:
        """Look at the training after a step, and do something."""

    def at_end(self, training: Training) -> None:
        """Do something once training is over; not if it was interrupted."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        parameters: which.
        lr: their highest learning rate.
        weight_decay: of AdamW.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float


class Training:
    """One training, from the first step to the last: what it consists of, and how far it is.

    Attributes:
        module: what is trained, on the device where it is to be trained.
        model: the module's losses as a forward pass, as autocast and data parallelism wrap it.
        batches: what it is trained on.
        processes: that train together, see `processes`.
        optimizer: AdamW.
        scaler: of the losses in fp16, whose smallest gradients would be 0 else; None in other precisions.
        schedule: of the rates.
        budget: when it is over.
        clip: largest gradient norm; 0 for no clipping.
        parts: in which a batch is worked through; gradients are the mean of theirs over its images.
        factors: by which named losses weigh more, or less, than the learner has it.
        step: how many are done.
        seconds: that it has taken.
        rate: learning rate of the last step, of the first group.
        terms: named losses (0-d tensors) of the last step, unweighted.
        pace: images and seconds of the steps that were taken since `run` began.
        interrupted: a signal that came to any of the processes, 0 for none; training stops after this step.
    """

    def __init__(
        self,
        learner: Learner,
        batches: Epochs,
        processes: Accelerator,
        groups: Sequence[Group],
        *,
        schedule: Schedule,
        budget: Budget,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float = 0.0,
        parts: int = 1,
    ) -> None:
        assert isinstance(learner, nn.Module)
        self.module = learner.to(memory_format=torch.channels_last)
        half = resolve_precision(processes.precision, processes.device) == "fp16"
        self.model: nn.Module = _Forward(learner, processes.device if half else None)
        self.scaler = torch.amp.GradScaler(processes.device.type) if half else None
        self.batches, self.processes = batches, processes
        self._control: Any = dist.new_group(backend="gloo") if processes.num_processes > 1 else None
        self.schedule, self.budget, self.clip, self.parts = schedule, budget, clip, parts
        self.factors: dict[str, float] = {}
        self._highest = [group.lr for group in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
            betas=betas,
            fused=True,
        )
        self.step, self.seconds, self.rate, self.interrupted = 0, 0.0, 0.0, 0
        self.terms: dict[str, Tensor] = {}
        self.pace = Pace()

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return device_of(self.module)

    @property
    def over(self) -> bool:
        """Whether the last step was taken."""
        return self.budget.spent(self.step, self.seconds)

    def losses(self) -> dict[str, float]:
        """Return the named losses of the last step; on an accelerator, this waits for it."""
        return {name: term.item() for name, term in self.terms.items()}

    def total(self, losses: Mapping[str, float]) -> float:
        """Return the weighted sum of named losses: what is minimised."""
        return float(sum(self.weight(name) * value for name, value in losses.items()))

    def weight(self, name: str) -> float:
        """Return the factor of a named loss in the total."""
        return self.module.loss_weights[name] * self.factors.get(name, 1.0)

    def run(self, description: str, callbacks: Sequence[Callback] = ()) -> None:
        """Train, from the step that is reached to the last one.

        Args:
            description: shown beside the progress bar.
            callbacks: run after each step in this order.

        Raises:
            MedLIPError: another process of the training ended.
            KeyboardInterrupt: after Ctrl-C, once the callbacks of the step have run. SIGTERM is put off likewise and then
                does what it would have done at once. In several processes, the signal of one stops all.
        """
        with self._together():
            self._run(description, callbacks)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say so if another process ended, on which the exchange of this one breaks off."""
        try:
            yield
        except RuntimeError as error:
            broken = isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)
            if self._control is None or not broken:
                raise
            raise MedLIPError(
                f"step {self.step + 1:,}: another process of this training ended, and says itself why, unless the system "
                "killed it, as it does when memory runs out. Start all of them again with --resume."
            ) from error

    def _run(self, description: str, callbacks: Sequence[Callback]) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model, optimizer = self.processes.prepare(self.model, self.optimizer)
        self.model.train()
        before, began = self.seconds, None
        with (
            _signals_put_off() as received,
            Progress(description, self.step, self.budget.steps, shown=self.processes.is_main_process) as progress,
            closing(self._remaining()) as batches,
        ):
            previous = time.monotonic()
            while (batch := next(batches, None)) is not None:
                there = time.monotonic()
                if began is None:
                    began = previous = there  # what comes before the first batch doesn't count
                share = self.budget.share(self.step, self.seconds)
                for group, highest in zip(optimizer.param_groups, self._highest, strict=True):
                    group["lr"] = self.schedule(highest, self.step, share)
                self.terms = self._learn(optimizer, batch, callbacks)
                self.rate = optimizer.param_groups[0]["lr"]
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - began
                images = sum(batch.shares or (len(batch),) * self.processes.num_processes)
                self.pace += Pace(images, now - previous, there - previous)
                self.interrupted = self._highest_of_all(max(received, default=0))
                for callback in callbacks:
                    callback.after_step(self)
                progress.update(self.step, self.pace, lambda: self.total(self.losses()))
                previous = time.monotonic()
                if self.interrupted and not self.over:
                    break
        if self.interrupted and not self.over:
            self.processes.wait_for_everyone()  # a launcher ends the others once one has ended
            signal.raise_signal(self.interrupted)
            raise KeyboardInterrupt  # whoever handles the signal may want to go on, but this training doesn't
        for callback in callbacks:
            callback.at_end(self)

    def _remaining(self) -> Generator[Batch]:
        first, start = divmod(self.step, len(self.batches))
        for epoch in count(first):
            if self.over:
                return
            for batch in self.batches.epoch(epoch, start if epoch == first else 0):
                yield batch
                if self.over:
                    return

    def _learn(self, optimizer: Any, batch: Batch, callbacks: Sequence[Callback]) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = defaultdict(list)
        batch = batch.to(self.device)
        parts = batch.parts(self.parts) if self.parts > 1 else [batch]
        for number, part in enumerate(parts, 1):
            last, share = number == len(parts), len(batch) / len(part)
            with nullcontext() if last else self.processes.no_sync(self.model):  # gradients are exchanged once a step
                terms: dict[str, Tensor] = self.model(part)
                for name, term in terms.items():
                    found[name].append(term.detach() / share)
                if not all(callback.before_backward(self, part, terms) for callback in callbacks):
                    optimizer.zero_grad(set_to_none=True)
                    return {name: term.detach() for name, term in terms.items()}
                self._go_back(sum(self.weight(name) * term for name, term in terms.items()) / share)
        self._update(optimizer)
        optimizer.zero_grad(set_to_none=True)
        return {name: torch.stack(values).sum() for name, values in found.items()}

    def _go_back(self, total: Any) -> None:
        if self.scaler is None:
            self.processes.backward(total)
        else:
            self.scaler.scale(total).backward()

    def _update(self, optimizer: Any) -> None:
        if self.clip:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            self.processes.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.scaler is None:
            optimizer.step()
        else:  # a step whose gradients overflow is left out, and the next ones are scaled less
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def any_process(self, here: bool) -> bool:
        """Return whether it is so in any process: all must do the same, or one would wait for the others."""
        return bool(self._highest_of_all(int(here)))

    def of_all_processes(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return tensors of the host, of the same names and shapes in every process, by rank."""
        if self._control is None:
            return [dict(tensors)]
        found: list[dict[str, Tensor]] = [{} for _ in range(self.processes.num_processes)]
        for name, tensor in tensors.items():
            everyone = [torch.empty_like(tensor) for _ in found]
            dist.all_gather(everyone, tensor.contiguous(), group=self._control)
            for own, theirs in zip(found, everyone, strict=True):
                own[name] = theirs
        return found

    def _highest_of_all(self, here: int) -> int:
        """Return the highest value of any process; it goes from host to host, so that no accelerator is waited for."""
        if self._control is None:
            return here
        highest = torch.tensor(here)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self._control)
        return int(highest)


class _Forward(nn.Module):
    """The losses as a forward pass, which is what autocast and data parallelism wrap.

    Args:
        learner: what has losses.
        half: the device that computes networks in fp16; None in other precisions, which Accelerate sees to.
    """

    def __init__(self, learner: Learner, half: torch.device | None = None) -> None:
        super().__init__()
        self.learner, self._half = learner, half

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with uneven(batch.shares), nullcontext() if self._half is None else autocast(self._half, "fp16"):
            terms = self.learner.losses(batch)
        return terms if self._half is None else {name: term.float() for name, term in terms.items()}


@contextmanager
def processes(device: torch.device, precision: Precision = "fp32") -> Iterator[Accelerator]:
    """Give the processes that train together: those of a launcher such as `torchrun`, or this one alone.

    Args:
        device: where to compute. Of several GPUs, each process of a launcher takes its own.
        precision: `bf16` and `fp16` compute the networks under autocast, `fp32` does without; see `resolve_precision`.

    Raises:
        MedLIPError: the device doesn't compute in that precision.
    """
    from accelerate import Accelerator  # not for whoever only loads what was trained
    from accelerate.state import AcceleratorState

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    resolved = resolve_precision(precision, device)
    try:
        accelerator = Accelerator(mixed_precision="bf16" if resolved == "bf16" else "no", cpu=device.type == "cpu")
        accelerator.precision = resolved
    except ValueError as error:
        raise MedLIPError(f"precision {precision!r} is not possible on {device} ({error}). Use fp32.") from error
    try:
        if accelerator.num_processes == 1:
            accelerator.state.device = device
        yield accelerator
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # the next training may want another precision


@contextmanager
def _signals_put_off() -> Iterator[list[int]]:
    """List the first Ctrl-C or SIGTERM instead of obeying it, for the loop to read between steps; a second one is obeyed."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()
