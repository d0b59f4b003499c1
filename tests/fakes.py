"""A store in memory and a method without weights, for tests of what reads and asks them."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medlip.concepts import default_vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Method, MethodConfig, method_config
from medlip.training import load_recipe


@dataclass(frozen=True)
class FakeRecord:
    id: str
    patient: str
    split: str
    image: np.ndarray
    labels: dict = field(default_factory=dict)
    boxes: tuple = ()
    masks: tuple = ()
    view: str = ""
    attributes: dict = field(default_factory=dict)
    facts: tuple = ()
    study: str = ""
    source: str = "fake"
    sentences: tuple = ()


class FakeStore(list):
    hash = "fake"

    @property
    def stand_ins(self):
        return {}

    @property
    def splits(self):
        return Counter(record.split for record in self)

    def column(self, name):
        return [getattr(record, name) for record in self]

    def select(self, split):
        return FakeStore(record for record in self if record.split == split)

    def masked_findings(self):
        return [frozenset(mask.pathology for mask in record.masks) for record in self]

    def take(self, indices):
        return FakeStore(self[index] for index in indices)


REPORTS = (
    ("The heart is normal in size.", "No pneumothorax.", "There is a 3.5 cm mass in the left lung."),
    ("There is a large right pleural effusion.",),
    (),
    ("No change since the prior study.", "Mild cardiomegaly."),
)
SMALL: dict[str, Any] = {
    "backbone": "resnet10t",
    "stride": 16,
    "layers": 1,
    "feedforward": 32,
    "text_width": 32,
    "text_layers": 1,
    "width": 32,
    "decoder_width": 32,
    "decoder_layers": 1,
    "decoder_heads": 2,
}


def shrunk(settings: dict[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a method in small; what it doesn't know, what would do nothing, and what is in `but`, is left out."""
    known = type(method_config({"name": settings["name"]})).model_fields
    small = {key: value for key, value in SMALL.items() if key in known and key not in but}
    config = method_config(settings | small)
    return settings | {key: value for key, value in small.items() if not config.missed(key)}


def method_changes(recipe: str, settings: Mapping[str, Any]) -> list[str]:
    """What `--set` takes to give a recipe's method these settings."""
    whole = load_recipe(recipe).method
    return [f"method.{key}={value}" for key, value in settings.items() if whole.get(key) != value]


def recipe_settings(name: str, text_encoder: str) -> dict[str, Any]:
    """A shipped recipe's method: the same kind of networks, the same terms, but few layers, and a text encoder at hand."""
    settings = shrunk(load_recipe(name).method, but=["backbone", "stride"])
    for kind in ("text_encoder", "report_encoder"):
        if settings.get(kind, "").count("/"):
            settings[kind] = text_encoder
    return settings | ({"depth": 1} if settings["backbone"].startswith("vit_") else {})


def save_text_encoder(folder: Path) -> None:
    """Write a text encoder of one layer, as transformers saves them."""
    from transformers import BertTokenizerFast

    from medlip.nn.report_encoder import ReportEncoder

    tiny = ReportEncoder.from_reports([" ".join(report) for report in REPORTS] * 3, 32, width=32, layers=1)
    tiny.model.save_pretrained(folder)
    BertTokenizerFast(tokenizer_object=tiny.tokenizer).save_pretrained(folder)


PRELOADED = ("medlip.training", "transformers.models.bert.modeling_bert", "torch._dynamo")
"""What processes that train import, the last one with their optimizer; they are forked where it was imported already."""


def free_port() -> int:
    """A port of this machine at which processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def become_rank(rank: int, ranks: int, port: int) -> None:
    """Tell this process, as torchrun does, which of several it is and where they meet; each computes on a core."""
    os.environ.update(ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


class FakeMethod(Method):
    """A method without weights: tests give it the verbs that they ask."""

    name, summary, config_type, loss_weights = "fake", "", MethodConfig, {}

    def __init__(self, size=32):
        super().__init__(MethodConfig(), default_vocabulary(), Preprocessing(size=size, mean=(0, 0, 0), std=(1, 1, 1)))

    def losses(self, batch):
        raise NotImplementedError

    def score(self, images, prompts):
        return torch.full((len(images), len(prompts)), 0.5)

    def localise(self, images, prompts):
        return torch.zeros(len(images), len(prompts), 4, 4)

    def embed_images(self, images):
        raise NotImplementedError

    def embed_reports(self, reports):
        raise NotImplementedError

    @classmethod
    def blank(cls, config, vocabulary, preprocessing, state):
        raise NotImplementedError


def without_seconds(result):
    """A result as plain data, without how long it took."""
    return {**result.model_dump(mode="json"), "seconds": None}
