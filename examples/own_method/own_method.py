"""A method of your own: a small network with one output per pathology, and a focal loss on the facts of the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medlip.concepts import Vocabulary
from medlip.data.batch import Batch
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Method, MethodConfig, register
from medlip.training.recipe import register_recipes

RECIPES = Path(__file__).with_name("own_method_recipes")
register_recipes(RECIPES)


class FocalConfig(MethodConfig):
    """Settings.

    Attributes:
        width: channels of the features.
        focus: exponent of the focal loss; 0 for plain cross-entropy.
    """

    width: int = 64
    focus: float = 2.0


@register
class Focal(Method):
    """Convolutions, then a linear layer: a pathology's score is the mean of its logits over the image."""

    name = "focal"
    summary = "One output per pathology, trained with a focal loss on the facts of the reports."
    config_type = FocalConfig

    def __init__(self, config: FocalConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> None:
        super().__init__(config, vocabulary, preprocessing)
        torch.manual_seed(config.seed)
        layers: list[nn.Module] = []
        for channels in (3, config.width, config.width, config.width):
            layers += [nn.Conv2d(channels, config.width, 3, stride=2, padding=1), nn.BatchNorm2d(config.width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(config.width, len(vocabulary.pathologies), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, P, h, w) of images (B, 3, S, S)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the focal loss."""
        return {"focal": focal_loss(self(batch.images).mean((2, 3)), batch.facts, self.config.focus)}

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C) of pathologies."""
        return self(images).mean((2, 3))[:, self._columns(prompts)].sigmoid()

    @torch.no_grad()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the same probabilities location by location, (B, C, h, w)."""
        return self(images)[:, self._columns(prompts)].sigmoid()

    def _columns(self, prompts: Sequence[str]) -> list[int]:
        found = [self.vocabulary.find_pathology(prompt) for prompt in prompts]
        unknown = [prompt for prompt, pathology in zip(prompts, found, strict=True) if pathology is None]
        if unknown:
            raise MedLIPError(f"{unknown[0]!r}: method {self.name!r} knows only the pathologies of its vocabulary.")
        return [self.vocabulary.pathology_index[pathology.name] for pathology in found if pathology]


def focal_loss(logits: Tensor, facts: Tensor, focus: float) -> Tensor:
    """Cross-entropy that weighs a pathology by (1 - probability of the truth) ** focus (Lin et al., arXiv 1708.02002).

    Args:
        logits: (B, P).
        facts: (B, A, P): 1 present, 0 absent, below 0 unknown. A pathology that is present in any anatomy is present; one
            that is known in none does not count.
        focus: 0 for plain cross-entropy.
    """
    truth = facts.amax(1)
    known = (truth >= 0).float()
    losses = F.binary_cross_entropy_with_logits(logits, truth.clamp_min(0).float(), reduction="none")
    return (known * (1 - torch.exp(-losses)) ** focus * losses).sum() / known.sum().clamp_min(1)
