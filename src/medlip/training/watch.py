"""Early warnings: what goes wrong in a training long before its losses say so, and maps of the same images over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from medlip.data.batch import Batch
from medlip.errors import MedLIPWarning
from medlip.files import writing
from medlip.methods.base import EmbedsReports, HasAttention, HasEncoder, Method, TellsPlaces
from medlip.training.callbacks import LOG_EVERY, Log
from medlip.training.loop import Callback, Training

if TYPE_CHECKING:
    from medlip.data.store import Store

AFTER = 500  # steps before which nothing has to have become of anything
LOOKED_AT = 8  # images
SPREAD = 0.01  # share of their length by which embeddings must differ from image to image
EVEN = 0.999  # share of the greatest entropy above which attention looks nowhere in particular
DOMINANT = 0.95  # share of the gradient at the encoder
IN_A_ROW = 3  # measurements
SAMPLES = "samples"


class Alarm:
    """Warns once of each thing, and writes it down beside the losses."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._known: set[str] = set()

    def __call__(self, training: Training, what: str, text: str) -> None:
        """Warn of `what`, unless that was done before."""
        if what in self._known or not training.processes.is_main_process:
            return
        self._known.add(what)
        self.log.write(training, warning=text)
        warn(f"step {training.step:,}: {text}", MedLIPWarning, stacklevel=2)


def spread(embeddings: Tensor) -> float:
    """Return by how much embeddings (B, d) differ from image to image, as a share of their length: 0 where all are one."""
    centred = embeddings - embeddings.mean(0)
    return float(centred.norm() / embeddings.norm().clamp(min=1e-12))


def evenness(attention: Tensor) -> float:
    """Return the mean entropy of attention (..., N), as a share of what it is where all N locations get as much."""
    weights = attention / attention.sum(-1, keepdim=True).clamp(min=1e-12)
    return float(torch.special.entr(weights).sum(-1).mean() / np.log(attention.shape[-1]))


def dominant(norms: Mapping[str, float]) -> str:
    """Return the term that has nearly all of the gradient, "" if none of several has."""
    together = sum(norms.values())
    name = max(norms, key=lambda term: norms[term], default="")
    return name if len(norms) > 1 and norms[name] > DOMINANT * together > 0 else ""


def diverges(losses: Sequence[float]) -> bool:
    """Whether losses, one every few steps, rose far above their best, and above where they began."""
    if len(losses) < 20:
        return False
    means = [fmean(losses[start : start + 5]) for start in range(len(losses) - 4)]
    return means[-1] > max(1.5 * min(means), means[0])


class Watch(Callback):
    """Look after every epoch whether embeddings collapsed or attention is uniform, and meanwhile whether the loss diverges.

    Args:
        method: that is trained.
        log: of its losses, which runs before.
        alarm: takes the warnings.
        after: steps before which nothing is looked at but the loss.
    """

    def __init__(self, method: Method, log: Log, alarm: Alarm, after: int = AFTER) -> None:
        self.method, self.log, self.alarm, self.after = method, log, alarm, after
        self._losses: list[float] = []
        self._images: Tensor | None = None

    def before_backward(self, training: Training, batch: Batch, terms: Mapping[str, Tensor]) -> bool:
        """Keep some images to look at."""
        self._images = batch.images[:LOOKED_AT]
        return True

    def after_step(self, training: Training) -> None:
        """Look, if it is time to."""
        if training.step % LOG_EVERY == 0:
            self._losses.append(self.log.loss)
            if diverges(self._losses):
                self.alarm(
                    training,
                    "loss",
                    "the loss has risen above where it began: the learning rate is too high. Lower training.lr, or set "
                    "training.clip=1 and a longer training.warmup",
                )
        main = training.processes.is_main_process
        if main and self._images is not None and training.step >= self.after and training.step % len(training.batches) == 0:
            self.method.eval()
            with torch.inference_mode():
                self._look(training, self._images)
            training.model.train()

    def _look(self, training: Training, images: Tensor) -> None:
        seen: dict[str, Tensor] = {}
        if isinstance(self.method, HasEncoder):
            seen["the image encoder's features"] = self.method.encoder(images).tokens.mean(1)
        # What tells places embeds an image by probabilities, most of which are near 0 for all.
        if isinstance(self.method, EmbedsReports) and not isinstance(self.method, TellsPlaces):
            seen["embeddings of images"] = self.method.embed_images(images)
        for name, values in seen.items():
            if len(values) > 1 and spread(values.float()) < SPREAD:
                text = (
                    f"{name} are the same for all images: they collapsed. Lower training.lr, or start from trained weights"
                )
                self.alarm(training, name, text)
        if isinstance(self.method, HasAttention):
            even = [name for name, weights in self.method.attention(images).items() if evenness(weights.float()) > EVEN]
            if even:
                named = "; ".join(even[:3]) + (f" and {len(even) - 3} more" if len(even) > 3 else "")
                text = f"attention looks at all locations alike ({named}): these heads read nothing of where"
                self.alarm(training, "attention", text)


class GradientAlarm:
    """Warns where one loss term has nearly all of the gradient at the encoder, several measurements in a row."""

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self._in_a_row: tuple[str, int] = "", 0

    def __call__(self, training: Training, norms: Mapping[str, float]) -> None:
        """Take a measurement of gradient norms by term."""
        name, (before, count) = dominant(norms), self._in_a_row
        self._in_a_row = name, count + 1 if name and name == before else 1
        if name and self._in_a_row[1] >= IN_A_ROW:
            text = (
                f"the term {name} has more than {DOMINANT:.0%} of the gradient at the encoder: the others teach it nothing. "
            )
            self.alarm(training, f"gradient of {name}", f"{text}Lower its weight, or share it out with training.balance")


class SampleMaps(Callback):
    """Keep, after every epoch, where the same images show the same findings: maps alone, no X-ray.

    Args:
        folder: of the maps, a file an epoch.
        method: that is trained.
        store: of the images, such as those of the validation.
        count: images.
    """

    def __init__(self, folder: Path, method: Method, store: Store, count: int) -> None:
        self.folder, self.method = folder, method
        abnormal = {pathology.name for pathology in store.vocabulary.pathologies if pathology.kind == "abnormal"}
        self._cases: list[tuple[int, str]] = []
        for row, facts in enumerate(store.column("facts")):
            shown = [fact.pathology for fact in facts if fact.presence == "present" and fact.pathology in abnormal]
            if shown and len(self._cases) < count:
                self._cases.append((row, shown[0]))
        self._pixels = [torch.from_numpy(store[row].image)[None] for row, _ in self._cases]

    def after_step(self, training: Training) -> None:
        """Draw the maps at the end of an epoch."""
        if training.step % len(training.batches) or not self._cases or not training.processes.is_main_process:
            return
        self.method.eval()
        maps = [
            self.method.localise(self.method.preprocessing(pixels).to(training.device), [finding])[0, 0]
            .float()
            .cpu()
            .numpy()
            for pixels, (_, finding) in zip(self._pixels, self._cases, strict=True)
        ]
        training.model.train()
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            file = self.folder / f"{training.step:08}.npz"
            np.savez_compressed(file, maps=np.stack(maps), findings=[finding for _, finding in self._cases])
