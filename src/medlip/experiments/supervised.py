"""The yardstick: an image classifier trained on the labels themselves, scored as a method is.

It says what the same images give to who may see their labels; a method that reads reports alone is held beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.basis import label_matrix
from medlip.evaluation.run import evaluate
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing, squash
from medlip.nn.image_encoder import ImageEncoder
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Store

WARM_UP = 0.05  # share of the time in which the learning rate rises


class SupervisedClassifier(nn.Module):
    """A backbone, the mean over its grid, and one linear layer; its class activation maps say where.

    Args:
        classes: C names; they are the only prompts that it answers.
        encoder: images to a grid of features.
        preprocessing: how images become its input.
        vocabulary: what names prompts are synonyms of.
    """

    def __init__(
        self, classes: Sequence[str], encoder: ImageEncoder, preprocessing: Preprocessing, vocabulary: Vocabulary
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.encoder = encoder
        self.preprocessing = preprocessing
        self.vocabulary = vocabulary
        self.head = nn.Linear(encoder.width, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, S, S)."""
        features, _ = self.encoder(images)
        logits: Tensor = self.head(features.mean(1))
        return logits

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, len(prompts)) of classes that are asked for by name.

        Raises:
            MedLIPError: a prompt is no class that it was trained on.
        """
        probabilities: Tensor = self(images)[:, self._columns(prompts)].sigmoid()
        return probabilities

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return class activation maps (B, len(prompts), h, w): what each location adds to the logit, where it adds."""
        features, grid = self.encoder(images)
        maps: Tensor = F.linear(features, self.head.weight[self._columns(prompts)]).clamp_min(0)
        return maps.transpose(1, 2).reshape(len(images), len(prompts), *grid)

    def _columns(self, prompts: Sequence[str]) -> list[int]:
        return [self._column(prompt) for prompt in prompts]

    def _column(self, prompt: str) -> int:
        pathology = self.vocabulary.find_pathology(prompt)
        for name in (prompt, pathology.name if pathology else prompt):
            if name in self.classes:
                return self.classes.index(name)
        raise MedLIPError(f"{prompt!r}: a supervised classifier knows only its own classes: {', '.join(self.classes)}.")


def train_supervised(
    store: Store,
    classes: Sequence[str] | None = None,
    *,
    backbone: str = "resnet18",
    weights: str | None = None,
    size: int = 128,
    seconds: float = 420,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> SupervisedClassifier:
    """Train on the split `train` for a given time: binary cross-entropy over known labels, AdamW, cosine over the time.

    The images are held in memory, somewhat larger than the input (about 26 kB each at 128 px). The seed fixes everything but
    how many steps fit into the time.

    Args:
        store: the data; its split `train` is used.
        classes: which labels; None for all that have a positive.
        backbone: name of a timm model that gives feature maps.
        weights: as for `ImageEncoder`: None for random, "timm", or a file.
        size: input side in pixels.
        seconds: of training; preparing the images comes on top.
        batch_size: images a step.
        learning_rate: its highest value.
        weight_decay: of AdamW.
        seed: of weights, order and augmentation.

    Raises:
        MedLIPError: there is no split `train`, or no class with a positive in it.
    """
    images, labels, classes = _load(store.select(split="train"), classes, round(1.25 * size))
    torch.manual_seed(seed)
    encoder = ImageEncoder(backbone, stride=32, weights=weights)
    model = SupervisedClassifier(classes, encoder, Preprocessing(size=size), default_vocabulary())
    model.to(memory_format=torch.channels_last)
    known, targets = (~labels.isnan()).float(), labels.nan_to_num()
    with torch.no_grad():  # rare classes start as rare: the first steps go to the images
        model.head.bias.copy_(((targets.sum(0) + 1) / (known.sum(0) + 2)).logit())
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    augment = Augment(size)
    batches = track(_batches(len(images), batch_size, seed), f"training {backbone}")
    start = time.monotonic()
    for rows, seeds in batches:
        done = (time.monotonic() - start) / seconds
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(done / WARM_UP, (1 + math.cos(math.pi * done)) / 2)
        inputs = model.preprocessing.normalise(augment(images[rows], seeds).images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs.contiguous(memory_format=torch.channels_last))
        losses: Tensor = F.binary_cross_entropy_with_logits(logits.float(), targets[rows], known[rows], reduction="sum")
        optimiser.zero_grad()
        torch.autograd.backward(losses / known[rows].sum().clamp_min(1))
        optimiser.step()
    return model.eval()


def bench_supervised(
    store: Store,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **training: Any,
) -> dict[str, Any]:
    """Train the yardstick and evaluate it as a method is: the result of `evaluate`, with the training under `supervised`.

    Args:
        store: its split `train` is trained on.
        classes: which labels; None for all that have a positive in training.
        split: which split to evaluate, as for `evaluate`.
        resamples: of the bootstrap.
        seed: of training and bootstrap.
        training: other settings of `train_supervised`.
    """
    start = time.monotonic()
    model = train_supervised(store, classes, seed=seed, **training)
    seconds = time.monotonic() - start
    result = evaluate(model, store, split=split, classes=model.classes, resamples=resamples, seed=seed)
    return {"supervised": {"seconds": round(seconds, 1), "classes": list(model.classes), "seed": seed, **training}} | result


def _load(store: Store, classes: Sequence[str] | None, side: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return images uint8 (N, side, side), labels (N, C) with NaN for unknown, and the classes with a positive."""
    images, labels = [], []
    for record in track(store, "reading images", len(store)):
        images.append(squash(torch.from_numpy(record.image)[None], side))
        labels.append(record.labels)
    present = {name for label in labels for name, presence in label.items() if presence == "present"}
    names = tuple(sorted(present) if classes is None else classes)
    lacking = [name for name in names if name not in present]
    if lacking or not names:
        what = ", ".join(map(repr, lacking)) or "any class"
        raise MedLIPError(
            f"the split 'train' has no positive of {what}: there is nothing to learn from. Name other classes."
        )
    return torch.cat(images), torch.from_numpy(label_matrix(labels, names)).float(), names


def _batches(n: int, batch_size: int, seed: int) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Yield rows and augmentation seeds without end; every pass has a new order and leaves out a rest below a batch."""
    generator = np.random.default_rng(seed)
    size = min(n, batch_size)
    while True:
        for rows in generator.permutation(n)[: n - n % size].reshape(-1, size):
            yield rows, generator.integers(2**62, size=size).tolist()
