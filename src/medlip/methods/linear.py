"""The plain baseline on facts: pooled features and one linear layer, no text, no query.

It learns from the same extracted facts as the query methods do. Whatever a decoder, a text bank and contrasts add must at
least not lose what this recognizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.losses import existence_labels, existence_loss
from medlip.methods.base import (
    Answers,
    AnswersAtOnce,
    EncoderConfig,
    HasEncoder,
    WhichMaps,
    on_one_scale,
    register,
    split_prompts,
    upcast,
)

if TYPE_CHECKING:
    from medlip.data.batch import Batch


class LinearConfig(EncoderConfig):
    """Settings of the linear baseline beside its encoder's.

    Attributes:
        unmentioned: as in `QueryConfig`.
        pooling: which locations tell a finding: all alike, their `mean`, or each by the softmax of what it says, the `peak`:
            a small finding is not averaged away.
    """

    unmentioned: float = Field(0.0, ge=0)
    pooling: Literal["mean", "peak"] = "mean"


@register
class Linear(AnswersAtOnce, HasEncoder):
    """An encoder's locations and one linear layer over P pathologies; class activation maps say where.

    Args:
        config: settings.
        vocabulary: P pathologies, the only prompts that it answers.
        preprocessing: of the images.
    """

    name = "linear"
    summary = (
        "Each report is read into facts; the model learns to tell from the whole image which findings are there. Neither "
        "texts nor places are learned from."
    )
    learns_from = "facts"
    open_prompts = False
    map_rules = ("class activation",)
    config_type = LinearConfig

    def __init__(self, config: LinearConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> None:
        super().__init__(config, vocabulary, preprocessing)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = config.make_encoder(preprocessing.size)
            self.exist = nn.Linear(self.encoder.width, 2 * len(vocabulary.pathologies))

    @classmethod
    def blank(
        cls, config: LinearConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]
    ) -> Linear:
        """Return a model to be filled."""
        return cls(config.model_copy(update={"weights": None}), vocabulary, preprocessing)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """There is one term."""
        return {"exist": 1.0}

    @property
    def absolute_maps(self) -> bool:
        """They are."""
        return True

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, P, 2) of images (B, 3, S, S), index 1 = present."""
        return self._logits(self.encoder(images).tokens)

    def _logits(self, tokens: Tensor) -> Tensor:
        if self.config.pooling == "mean":
            return cast("Tensor", self.exist(tokens.mean(1))).view(len(tokens), -1, 2)
        return self.exist.bias.view(-1, 2) + F.pad(self._adds(tokens).sum(-1)[..., None], (1, 0))

    def _adds(self, tokens: Tensor) -> Tensor:
        """Return what each of N locations (B, N, width) adds to margins (B, P, N); of a mean, N times that."""
        absent, present = self.exist.weight.view(-1, 2, self.encoder.width).unbind(1)
        said = upcast(tokens @ (present - absent).T).transpose(1, 2)
        return said if self.config.pooling == "mean" else said * said.softmax(-1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return `exist`: the cross-entropy over what reports state of each pathology."""
        logits = self(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            return {"exist": existence_loss(upcast(logits), existence_labels(batch.facts, 1), self.config.unmentioned)}

    @torch.inference_mode()
    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
    ) -> Answers:
        """Return scores, and maps `on_one_scale` where wanted, of images (B, 3, S, S), which are encoded once."""
        asked, columns = split_prompts(prompts, self.vocabulary)
        if asked:
            raise MedLIPError(
                f"{asked[0]!r} is not in the vocabulary, and method {self.name!r} reads no text. Ask for a pathology."
            )
        seen = self.encoder(images)
        scores = upcast(self._logits(seen.tokens))[:, columns].softmax(-1)[..., 1]
        if not maps:
            return Answers(scores)
        return Answers(scores, on_one_scale(self._adds(seen.tokens)[:, columns], scores).view(*scores.shape, *seen.grid))
