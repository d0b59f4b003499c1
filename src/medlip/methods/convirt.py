"""ConVIRT: contrast of whole images and sentences of their reports (arXiv 2010.00747).

    L = mean_i (lambda CE_i(L) + (1 - lambda) CE_i(L^T)),  L_ij = cos(v_i, u_j) / tau

v is the image's mean feature and u its text's vector, each behind a head with one hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from medlip.methods.base import register, upcast
from medlip.methods.image_text import ImageTextConfig, ImageTextMethod, Lesson, SeenImages

if TYPE_CHECKING:
    from medlip.concepts import Vocabulary
    from medlip.images.preprocessing import Preprocessing
    from medlip.nn.report_encoder import ReportEncoder


class ConVIRTConfig(ImageTextConfig):
    """Settings of ConVIRT beside those of the encoders; the defaults are the published ones, but for the text encoder.

    Attributes:
        stride: as for the encoders; 32 is the last stage of a ResNet.
        report_vector: as for the encoders.
        max_sentences: as for the encoders; published is one sentence at a time.
        temperature: tau, fixed.
        image_to_text: lambda, weight of finding an image's text among all; the rest goes to finding a text's image.
    """

    stride: int | None = Field(32, gt=0)
    report_vector: Literal["cls", "mean", "max"] = "max"
    max_sentences: int = Field(1, ge=0)
    temperature: float = Field(0.1, gt=0)
    image_to_text: float = Field(0.75, ge=0, le=1)


@register
class ConVIRT(ImageTextMethod):
    """Two encoders with a non-linear head each.

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    name = "convirt"
    summary = "The model learns to tell the sentences of an image's own report from those of the others."
    config_type = ConVIRTConfig

    def __init__(
        self, config: ConVIRTConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing, text)
        self.project = _head(self.encoder.width, config.width)
        self.project_report = _head(text.width, config.width)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """One term."""
        return {"contrast": 1.0}

    def loss_terms(self, images: Tensor, lesson: Lesson) -> dict[str, Tensor]:
        """Return the contrast of images (B, 3, S, S) and their texts; one without any is left out."""
        seen, texts, config = self.see(images), self.taught(lesson), self.config
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            term = self.contrast(seen, texts, lesson, 1 / config.temperature, to_reports=config.image_to_text)
        return {"contrast": term}

    def see(self, images: Tensor) -> SeenImages:
        """Return whole images and their parts. ConVIRT aligns whole images alone: the head is trained for their mean."""
        features = self.encoder(images)
        parts = normalize(upcast(self.project(features.tokens)), dim=-1)
        return SeenImages(self._whole(features.tokens), parts, features.grid)

    def scores_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C): softmax over what speaks for and against each prompt."""
        return self.probabilities(seen, prompts, 1 / self.config.temperature)

    def maps_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return (1 + cosine) / 2 of each location and each prompt's positive words, (B, N, C)."""
        positive, _ = self.embed_prompts(prompts)
        return (1 + seen.parts @ positive.T).clamp(min=0) / 2

    def encode_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1."""
        return normalize(upcast(self.project_report(self.report_vectors(self.text(reports)))), dim=-1)

    def _whole(self, tokens: Tensor) -> Tensor:
        return normalize(upcast(self.project(tokens.mean(1))), dim=-1)


def _head(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))
