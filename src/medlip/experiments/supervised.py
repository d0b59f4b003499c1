"""The yardstick: an image classifier trained on the labels themselves, scored as a method is.

It says what the same images give to who may see their labels; a method that reads reports alone is held beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.data.batch import Batch, TrainingBatches
from medlip.data.overlap import Fingerprints, fingerprint
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.selection import label_matrix
from medlip.experiments.finetune import label_loss
from medlip.experiments.labels import labelled_classes
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Answers, Method, on_one_scale
from medlip.nn.cpu import optimize_for_cpu
from medlip.nn.device import Precision, device_of, resolve_device
from medlip.nn.vision_encoder import VisionEncoder, vision_encoder
from medlip.training import load_recipe
from medlip.training.loop import Group, Training, processes
from medlip.training.schedule import Seconds, Shaped, Steps

if TYPE_CHECKING:
    from medlip.data.store import Store

LIKE = "medslip-openi-cpu"
"""The recipe whose backbone and initial weights are the default."""

WARM_UP = 0.05  # share of the time in which the learning rate rises


class SupervisedClassifier(nn.Module):
    """A backbone, the mean over its grid, and one linear layer; its class activation maps say where.

    Args:
        classes: C names; they are the only prompts that it answers.
        encoder: images to a grid of features.
        preprocessing: how images become its input.
        vocabulary: what names prompts are synonyms of.
    """

    loss_weights: Mapping[str, float] = {"labels": 1.0}
    seen: Fingerprints | None = None
    made_by = None

    def __init__(
        self, classes: Sequence[str], encoder: VisionEncoder, preprocessing: Preprocessing, vocabulary: Vocabulary
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.encoder = encoder
        self.preprocessing = preprocessing
        self.vocabulary = vocabulary
        self.head = nn.Linear(encoder.width, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, S, S)."""
        logits: Tensor = self.head(self.encoder(images).tokens.mean(1))
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `labels`: the binary cross-entropy over known labels."""
        return {"labels": label_loss(self(batch.images), batch, self.classes)}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, len(prompts)) of classes that are asked for by name.

        Raises:
            MedLIPError: a prompt is no class that it was trained on.
        """
        return self.answer(images, prompts).scores

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return class activation maps (B, len(prompts), h, w): what each location adds to the logit, `on_one_scale`."""
        maps = self.answer(images, prompts, maps=True).maps
        assert maps is not None
        return maps

    def answer(self, images: Tensor, prompts: Sequence[str], *, maps: bool = False, **others: bool) -> Answers:
        """Return what is wanted of images at once, as a method does."""
        features, columns = self.encoder(images), self._columns(prompts)
        scores = self.head(features.tokens.mean(1))[:, columns].sigmoid()
        if not maps:
            return Answers(scores)
        adds = (features.tokens @ self.head.weight[columns].T).transpose(1, 2)
        return Answers(scores, on_one_scale(adds, scores).view(*scores.shape, *features.grid))

    @property
    def map_rule(self) -> str:
        """By which rule its maps are made."""
        return "class activation"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self)

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
    backbone: str | None = None,
    weights: str | None = None,
    size: int = 128,
    seconds: float = 420,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    precision: Precision = "auto",
    device: str = "auto",
    seed: int = 0,
) -> SupervisedClassifier:
    """Train on the split `train` for a given time: binary cross-entropy over known labels, AdamW, cosine over the time.

    The seed fixes everything but how many steps fit into the time; with `steps`, everything.

    Args:
        store: the data; its split `train` is used.
        classes: which labels; None for all that have a positive.
        backbone: name of a timm model that gives feature maps; None for the backbone and the weights of the recipe `LIKE`,
            so that it starts from ImageNet where the methods do.
        weights: as for `vision_encoder`: None for random, "timm", or a file; with a backbone alone.
        size: input side in pixels.
        seconds: of training; reading the images comes on top.
        steps: to train for instead of a time.
        batch_size: images a step.
        learning_rate: its highest value.
        weight_decay: of AdamW.
        precision: of training.
        device: to train on, see `medlip.nn.device.resolve_device`; the classifier stays there.
        seed: of weights, order and augmentation.

    Raises:
        MedLIPError: there is no split `train`, no class with a positive in it, or no such device; weights are given without
            their backbone.
    """
    where = resolve_device(device)
    if backbone is None:
        if weights is not None:
            raise MedLIPError(f"weights={weights!r}: name the backbone whose weights these are.")
        settings = load_recipe(LIKE).method
        backbone, weights = str(settings["backbone"]), settings["weights"]
    train = store.select(split="train")
    classes = labelled_classes(train, classes)
    torch.manual_seed(seed)
    encoder = vision_encoder(backbone, stride=32, image_size=size, weights=weights)
    model = optimize_for_cpu(SupervisedClassifier(classes, encoder, Preprocessing(size=size), train.vocabulary))
    labels = torch.from_numpy(label_matrix(train.column("labels"), classes)).float()
    known = (~labels.isnan()).sum(0)
    with torch.no_grad():  # rare classes start as rare: the first steps go to the images
        model.head.bias.copy_(((labels.nan_to_num().sum(0) + 1) / (known + 2)).logit())
    batches = TrainingBatches(train, model.preprocessing, Augment(size), min(batch_size, len(train)), seed, train.vocabulary)
    with processes(where, precision) as ranks:
        model.to(ranks.device)
        Training(
            model,
            batches,
            ranks,
            [Group(list(model.parameters()), learning_rate, weight_decay)],
            schedule=Shaped("cosine", WARM_UP),
            budget=Steps(steps) if steps else Seconds(seconds),
        ).run(f"training {backbone}")
    return model.eval()


def bench_supervised(
    store: Store,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **training: Any,
) -> dict[str, object]:
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
    model.seen = fingerprint(store.select("train")).anonymous()
    result = evaluate(cast("Method", model), store, split=split, classes=model.classes, resamples=resamples, seed=seed)
    about = {"seconds": round(seconds, 1), "classes": list(model.classes), "seed": seed, **training}
    return {"supervised": about} | result.model_dump(mode="json")
