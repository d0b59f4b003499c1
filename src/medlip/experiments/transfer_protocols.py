"""Named protocols of transfer: what is trained on how many labels, frozen and under a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medlip.errors import MedLIPError, first_problem
from medlip.evaluation.protocols import read_own


class TransferTraining(BaseModel):
    """How a network is trained on labels, with AdamW.

    Attributes:
        epochs: over the labelled images.
        minimum_steps: at least so many, for few images make short epochs.
        lr: of the head or decoder.
        encoder_lr: of the encoder, None for the same.
        schedule: `cosine` to 0, or `constant`.
        warmup: share of the steps in which the rates rise.
        weight_decay: of AdamW.
        batch_size: images a step.
        checks: how often the network is held against validation images; the best one is kept.
        scale: smallest and largest share of the image that the augmentation keeps.
        rotate: largest angle of the augmentation, degrees.
        precision: `bf16` or `fp32`; `auto` is bf16 where that is fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(50, gt=0)
    minimum_steps: int = Field(100, gt=0)
    lr: float = Field(1e-3, gt=0)
    encoder_lr: float | None = Field(None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    batch_size: int = Field(32, gt=0)
    checks: int = Field(5, gt=0)
    scale: tuple[float, float] = (0.8, 1.0)
    rotate: float = Field(10.0, ge=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"


class TransferProtocol(BaseModel):
    """How an encoder is put to use with labels.

    Attributes:
        name: such as "linear-probe".
        title: what it is, for people.
        task: `classification` of the images' labels, or `segmentation` of masks (of boxes, where there is no mask).
        encoder: `frozen`, or `trained` along.
        head: `linear`, or `normalised`: a layer norm first, and weights that start small. Segmentation has a U-Net decoder.
        shares: of the training (and of the validation) patients that have labels, nested.
        shots: positive and negative patients of each class, nested, instead of shares; for frozen classification.
        draws: how often labelled patients are drawn.
        dice: which convention the threshold of a segmentation is chosen for, see `medlip.evaluation.segmentation`: over
            images that show the finding (`positives`), or over `all`.
        training: None for logistic regression on features, its strength chosen on validation (with shots, it is 1). All that
            is chosen at a level is chosen on its share of the validation patients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    task: Literal["classification", "segmentation"]
    encoder: Literal["frozen", "trained"]
    head: Literal["linear", "normalised"] = "linear"
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    shots: tuple[int, ...] = ()
    draws: int = Field(1, gt=0)
    dice: Literal["positives", "all"] = "positives"
    training: TransferTraining | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> TransferProtocol:
        if not all(0 < share <= 1 for share in self.shares) or not all(shot > 0 for shot in self.shots):
            raise ValueError("shares are above 0 and at most 1, shots are at least 1")
        if self.training is None and (self.task != "classification" or self.encoder != "frozen"):
            raise ValueError("without training settings, only classification with a frozen encoder is possible")
        if self.shots and self.training is not None:
            raise ValueError("shots go with logistic regression: leave out the training settings")
        return self

    @property
    def hash(self) -> str:
        """Short hash of all but name and title."""
        content = self.model_dump(mode="json", exclude={"name", "title"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def transfer_protocols() -> Mapping[str, TransferProtocol]:
    """Return all transfer protocols of the package by name."""
    content = yaml.safe_load((files("medlip.experiments") / "transfer.yaml").read_text(encoding="utf-8"))
    return {name: _parse({"name": name, **entry}, name) for name, entry in content.items()}


def load_transfer_protocol(name: str) -> TransferProtocol:
    """Return a protocol of the package, or one of your own from a YAML file.

    Raises:
        MedLIPError: there is none of this name, or the file is broken or has a setting that can't be.
    """
    own = read_own(name, "name, title, task and encoder")
    if own is not None:
        return _parse(own, name)
    if name not in transfer_protocols():
        raise MedLIPError(
            f"no transfer protocol {name!r}. There are: {', '.join(transfer_protocols())}; or give a YAML file."
        )
    return transfer_protocols()[name]


def _parse(content: Mapping[str, Any], where: str) -> TransferProtocol:
    try:
        return TransferProtocol.model_validate(content)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise MedLIPError(f"{where}: {place or 'settings'}: {problem}.") from error
