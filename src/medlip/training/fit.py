"""The one training loop: from a recipe and a store to a run that can be interrupted, resumed and loaded."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from medlip.data.batch import Batch, TrainingBatches, evaluation_batches
from medlip.data.overlap import Fingerprints, fingerprint
from medlip.errors import MedLIPError
from medlip.methods import Method, build_method, load_method, save_method
from medlip.nn.gather import without_gather
from medlip.parallel import track
from medlip.training.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.training.recipe import Recipe

MODEL, CHECKPOINT, METRICS, MANIFEST = "model.safetensors", "checkpoint.safetensors", "metrics.jsonl", "run.json"
SEEN = "seen.npz"
LOG_EVERY = 10


def fit(recipe: Recipe, store: Store, out: Path, *, validation: Store | None = None, resume: bool = False) -> dict[str, Any]:
    """Pre-train a method.

    Writes to `out`: run.json (what made it), seen.npz (fingerprints of its images and patients, by which an evaluation knows
    them again), metrics.jsonl (a line every few steps), checkpoint.safetensors (to resume from) and, when done,
    model.safetensors (to load). Ctrl-C saves a checkpoint first; of several processes it stops all, whichever it reached.

    Args:
        recipe: the experiment.
        store: prepared studies; all of it is learned from, so select the training split before.
        out: folder of the run.
        validation: studies whose losses are measured after every epoch.
        resume: go on where an interrupted run stopped, bit by bit as if it had not (with several processes the dropout of
            all but the main one starts anew).

    Returns:
        {"run", "steps", "seconds", "images_per_second", "loss", "validation"}; seconds of this call alone.

    Raises:
        MedLIPError: `out` holds a run already and `resume` is off; the checkpoint belongs to another recipe or other data;
            the loss is not finite.
        KeyboardInterrupt: after the checkpoint is written.
    """
    settings = recipe.training
    manifest = _manifest(recipe, store)
    _claim(out, resume)
    precision = "no" if settings.precision == "fp32" else settings.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    try:
        torch.manual_seed(settings.seed)
        vocabulary = recipe.make_vocabulary()
        method = build_method(
            {"seed": settings.seed, **recipe.method},
            vocabulary,
            recipe.make_preprocessing(),
            lambda: (" ".join(sentences) for sentences in store.column("sentences")),
        )
        batches = TrainingBatches(
            store,
            method.preprocessing,
            recipe.make_augment(),
            settings.batch_size,
            settings.seed,
            vocabulary,
            uncertain=recipe.facts.uncertain,
            implied=recipe.facts.implied,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
        )
        if validation is not None:
            validation = validation.take(range(min(len(validation), settings.validation_images)))
        run = _Run(recipe, method, batches, accelerator, out, validation)
        if resume and (out / CHECKPOINT).exists():
            run.restore(manifest)
        if accelerator.is_main_process:  # not before the checkpoint was found to be of this recipe and this data
            if not run.step:
                (out / METRICS).unlink(missing_ok=True)
            (out / MANIFEST).write_text(json.dumps(manifest, indent=1))
            fingerprint(store).anonymous().save(out / SEEN)
        else:
            torch.manual_seed(settings.seed + accelerator.process_index)  # the weights are equal, dropout is not to be
        return run.train(manifest)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # the next run of this process may want another precision


def load_run(path: str | Path) -> Method:
    """Load a trained method from its run folder, with what it has `seen` and was `made_by`, or from its model file alone.

    Raises:
        MedLIPError: there is no trained model.
    """
    path = Path(path)
    if not path.is_dir():
        return load_method(path)
    if not (path / MODEL).exists():
        advice = "go on with --resume" if (path / CHECKPOINT).exists() else "give the folder that medlip pretrain wrote"
        raise MedLIPError(f"{path}: no {MODEL} in this folder: {advice}.")
    method = load_method(path / MODEL)
    if (path / SEEN).exists():
        method.seen = Fingerprints.load(path / SEEN)
    if (path / MANIFEST).exists():
        manifest = json.loads((path / MANIFEST).read_text())
        data = {key: manifest["data"][key] for key in ("hash", "images")}
        seed = manifest["recipe"]["training"]["seed"]
        method.made_by = {"recipe": manifest["recipe"], "seed": seed, "data": data, "versions": manifest["versions"]}
    return method


class _Step(nn.Module):
    """The losses as a forward pass, which is what autocast and data parallelism wrap."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.losses(batch)


@dataclass
class _Run:
    recipe: Recipe
    method: Method
    batches: TrainingBatches
    accelerator: Accelerator
    out: Path
    validation: Store | None = None
    step: int = 0

    def __post_init__(self) -> None:
        settings = self.recipe.training
        self.method.to(memory_format=torch.channels_last)
        decayed = [p for p in self.method.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.method.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(_Step(self.method), optimizer)
        self.total = settings.epochs * len(self.batches)

    def train(self, manifest: dict[str, Any]) -> dict[str, Any]:
        settings = self.recipe.training
        began, saved, first = time.monotonic(), time.monotonic(), self.step
        loss, validated = math.nan, None
        self.model.train()
        metrics = self.out / METRICS if self.accelerator.is_main_process else Path(os.devnull)
        with _interruption() as interrupted, metrics.open("a") as log:
            previous = time.monotonic()
            for batch in track(self._remaining(), "pre-training", self.total, completed=self.step):
                terms = self._learn(batch)
                self.step += 1
                epoch, within = divmod(self.step, len(self.batches))
                if self.step % LOG_EVERY == 0 or self.step == self.total or within == 0:
                    losses = {name: term.item() for name, term in terms.items()}
                    loss = sum(self.method.loss_weights[name] * value for name, value in losses.items())
                    _write(
                        log,
                        step=self.step,
                        epoch=self.step / len(self.batches),
                        loss=loss,
                        losses=losses,
                        lr=self._lr(self.step - 1),
                        images_per_second=len(batch) / max(time.monotonic() - previous, 1e-9),
                    )
                    if not math.isfinite(loss):
                        raise MedLIPError(
                            f"step {self.step}: the loss is {loss} (see {self.out / METRICS}). "
                            "Lower training.lr, or set training.clip=1."
                        )
                if within == 0 and self.validation:
                    validated = self._validate()
                    _write(log, step=self.step, epoch=float(epoch), validation=validated)
                stop = self._any(interrupted.is_set())
                if within == 0 or stop or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                    self.save(manifest)
                    saved = time.monotonic()
                previous = time.monotonic()
                if stop and self.step < self.total:
                    self.accelerator.wait_for_everyone()  # a launcher ends the others once one has ended
                    raise KeyboardInterrupt
        seconds = time.monotonic() - began
        if self.accelerator.is_main_process:
            save_method(self.method, self.out / MODEL, run=manifest)
        images = (self.step - first) * settings.batch_size
        return {
            "run": str(self.out),
            "steps": self.step,
            "seconds": seconds,
            "images_per_second": images / seconds if images else None,
            "loss": loss if math.isfinite(loss) else None,
            "validation": validated,
        }

    def _remaining(self) -> Iterator[Batch]:
        first, start = divmod(self.step, len(self.batches))
        for epoch in range(first, self.recipe.training.epochs):
            yield from self.batches.epoch(epoch, start if epoch == first else 0)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.recipe.training
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.step)
        batch = batch.to(self.accelerator.device)
        terms: dict[str, Tensor] = self.model(batch)
        self.accelerator.backward(sum(self.method.loss_weights[name] * term for name, term in terms.items()))
        if settings.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: term.detach() for name, term in terms.items()}

    def _any(self, here: bool) -> bool:
        """Whether it holds in any process: all must stop after the same step, or one would wait for the others forever."""
        if self.accelerator.num_processes == 1:
            return here
        return bool(self.accelerator.reduce(torch.tensor(float(here), device=self.accelerator.device), "sum"))

    def _lr(self, step: int) -> float:
        """Linear warm-up, then a cosine to the final rate: a function of the step alone, so nothing of it needs saving."""
        settings = self.recipe.training
        warmup = min(settings.warmup, self.total // 10)
        if step < warmup:
            return settings.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.total - warmup)
        return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * progress)) / 2

    def _validate(self) -> dict[str, float]:
        """Mean of every loss term over the validation images, without augmentation and dropout."""
        assert self.validation
        facts, sums = self.recipe.facts, Counter[str]()
        self.model.eval()
        with torch.no_grad(), without_gather():  # every process has the same batches here
            for batch in evaluation_batches(
                self.validation,
                self.method.preprocessing,
                self.recipe.training.batch_size,
                uncertain=facts.uncertain,
                implied=facts.implied,
            ):
                terms = self.model(batch.to(self.accelerator.device))
                sums.update({name: term.item() * len(batch) for name, term in terms.items()})
        self.model.train()
        return {name: value / len(self.validation) for name, value in sums.items()}

    def save(self, manifest: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.out / CHECKPOINT, self.method, self.optimizer.optimizer, self.step, manifest)

    def restore(self, manifest: dict[str, Any]) -> None:
        self.step = load_checkpoint(self.out / CHECKPOINT, self.method, self.optimizer.optimizer, manifest)
        if not self.accelerator.is_main_process:
            return
        log = self.out / METRICS
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in lines))


def _manifest(recipe: Recipe, store: Store) -> dict[str, Any]:
    """What makes a run: the same recipe on the same data may be resumed, anything else may not."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"hash": store.hash, "images": len(store), "sources": store.manifest.get("sources")},
        "versions": {name: version(name) for name in ("medlip", "torch", "timm")},
        "machine": {"python": platform.python_version(), "system": platform.system(), "threads": torch.get_num_threads()},
    }


def _claim(out: Path, resume: bool) -> None:
    """Make the run's folder, unless it holds another run."""
    if not resume and ((out / CHECKPOINT).exists() or (out / MODEL).exists()):
        raise MedLIPError(f"{out} holds a run already: go on with --resume, or give another folder.")
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag that the loop reads between steps; a second one interrupts at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def _write(log: Any, **line: Any) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
