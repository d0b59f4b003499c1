"""Networks that learn from labels: a linear head or a U-Net decoder on an image encoder, frozen or trained along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medlip.data.batch import Batch, TrainingBatches
from medlip.data.store import Store
from medlip.evaluation.selection import label_matrix
from medlip.experiments.labels import outline
from medlip.experiments.transfer_protocols import TransferTraining
from medlip.images.augment import Augment
from medlip.images.preprocessing import Preprocessing
from medlip.nn.device import device_of
from medlip.nn.unet import UNetDecoder
from medlip.nn.vision_encoder import VisionEncoder
from medlip.training.callbacks import KeepBest
from medlip.training.loop import Group, Training, processes
from medlip.training.schedule import Shaped, Steps


class Network(nn.Module, ABC):
    """A copy of an encoder, frozen or not, and a head that is learned on it.

    Args:
        encoder: of images.
        head: what takes its features.
        classes: C names.
        frozen: the encoder stays as it is.
    """

    loss_weights: Mapping[str, float]
    with_regions = False
    """Whether it learns from masks and boxes."""

    def __init__(self, encoder: VisionEncoder, head: nn.Module, classes: Sequence[str], frozen: bool) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(not frozen)
        self.head = head
        self.classes = list(classes)
        self.frozen = frozen

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named loss terms of a batch."""

    def reset(self) -> None:
        """Draw the weights of the head."""
        for module in self.head.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features, without gradients where it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return list(self.encoder(images, pyramid=True).pyramid)

    def groups(self, training: TransferTraining) -> list[Group]:
        """Return what is trained, each at its rate."""
        groups = [Group(list(self.head.parameters()), training.lr, training.weight_decay)]
        if not self.frozen:
            rate = training.encoder_lr or training.lr
            groups.append(Group(list(self.encoder.parameters()), rate, training.weight_decay))
        return groups

    def train(self, mode: bool = True) -> Network:
        """Switch between training and use; a frozen encoder is always in use."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class Classifier(Network):
    """One linear layer on the mean over locations, after a layer norm and with weights that start small if `normalised`."""

    loss_weights: Mapping[str, float] = {"labels": 1.0}

    def __init__(
        self, encoder: VisionEncoder, classes: Sequence[str], *, frozen: bool = False, normalised: bool = False
    ) -> None:
        shape = encoder.width, len(classes)
        head = nn.Sequential(nn.LayerNorm(encoder.width), _SmallLinear(*shape)) if normalised else nn.Linear(*shape)
        super().__init__(encoder, head, classes, frozen)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, S, S)."""
        logits: Tensor = self.head(pooled(self.pyramid(images)))
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `labels`, see `label_loss`."""
        return {"labels": label_loss(self(batch.images), batch, self.classes)}


class _SmallLinear(nn.Linear):
    """A linear layer whose weights start small."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.weight, 0, 0.01)
        nn.init.zeros_(self.bias)


class Segmenter(Network):
    """A U-Net decoder; focal plus Dice loss over the maps that are known."""

    loss_weights: Mapping[str, float] = {"focal": 10.0, "dice": 1.0}
    with_regions = True

    def __init__(self, encoder: VisionEncoder, classes: Sequence[str], *, frozen: bool = False) -> None:
        super().__init__(encoder, UNetDecoder(encoder.widths, len(classes)), classes, frozen)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C, S, S) of images (B, 3, S, S)."""
        logits: Tensor = self.head(self.pyramid(images), images.shape[-1])
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `focal`, the mean over known pixels, and `dice`, over all of a class's known maps in the batch."""
        logits = self(batch.images).float()
        side = logits.shape[-1]
        targets, known = torch.zeros_like(logits), logits.new_zeros(*logits.shape[:2], 1, 1)
        for row, (masks, boxes, labels) in enumerate(zip(batch.masks, batch.boxes, batch.labels, strict=True)):
            for c, name in enumerate(self.classes):
                pixels, certain = outline(masks, boxes, labels, name, (side, side))
                known[row, c] = float(certain)
                targets[row, c] = torch.from_numpy(pixels)
        probabilities = logits.sigmoid()
        crossed = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        hardness = (targets - probabilities).abs().square()
        focal = (hardness * crossed * known).sum() / (known.sum() * side * side).clamp_min(1)
        shared, sizes = ((value * known).sum((0, 2, 3)) for value in (probabilities * targets, probabilities + targets))
        return {"focal": focal, "dice": (1 - (2 * shared + 1) / (sizes + 1)).mean()}


def label_loss(logits: Tensor, batch: Batch, classes: Sequence[str]) -> Tensor:
    """Return the binary cross-entropy of logits (B, C), the mean over the labels that are known."""
    labels = torch.from_numpy(label_matrix(batch.labels, classes)).float().to(logits.device)
    known = (~labels.isnan()).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), known, reduction="sum")
    return losses / known.sum().clamp_min(1)


def pooled(pyramid: Sequence[Tensor]) -> Tensor:
    """Return the mean over locations (B, width) of the last features of a pyramid."""
    return pyramid[-1].float().mean((2, 3))


def finetune(
    network: Network,
    store: Store,
    preprocessing: Preprocessing,
    training: TransferTraining,
    *,
    seed: int,
    measure: Callable[[], float],
    description: str,
) -> None:
    """Train a network on all images of a store, where it is; it ends as it was when `measure` was highest.

    Args:
        network: what is trained; its head starts anew.
        store: labelled images.
        preprocessing: of the encoder.
        training: the settings.
        seed: of the head's weights, order and augmentation.
        measure: says how good the network is, on other images.
        description: shown beside the progress bar.
    """
    batches = TrainingBatches(
        store,
        preprocessing,
        Augment(preprocessing.size, scale=training.scale, rotate=training.rotate),
        min(training.batch_size, len(store)),
        seed,
        store.vocabulary,
        regions=network.with_regions,
    )
    torch.manual_seed(seed)
    network.reset()
    steps = max(training.epochs * len(batches), training.minimum_steps)
    checks = {round(steps * (check + 1) / training.checks) for check in range(training.checks)}
    with processes(device_of(network), training.precision) as ranks:
        Training(
            network,
            batches,
            ranks,
            network.groups(training),
            schedule=Shaped(training.schedule, training.warmup),
            budget=Steps(steps),
        ).run(description, [KeepBest(checks, measure)])
