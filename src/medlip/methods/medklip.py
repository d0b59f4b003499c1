"""MedKLIP: queries of described pathologies read the image for whether and where (arXiv 2301.02228).

L = L_exist + alpha * L_position. It is the one stream from which MeDSLIP grew: no disentangler and no anatomy queries. The
position of a present pathology is one of its anatomies, drawn at random, told from anatomies where it is not present.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medlip.methods.base import register, upcast
from medlip.methods.medslip_losses import draw_negatives, draw_positive, existence_labels, existence_loss, protocl_loss
from medlip.methods.queries import QueryConfig, QueryMethod
from medlip.nn import QueryDecoder
from medlip.nn.dropout import Dropout

if TYPE_CHECKING:
    from medlip.data.batch import Batch


class MedKLIPConfig(QueryConfig):
    """Settings of MedKLIP: those of all query methods; `alpha` weighs the position contrast, and 0 leaves it out."""


@dataclass(frozen=True, slots=True)
class MedKLIPOutput:
    """What the model reads from B images with P queries at N locations.

    Attributes:
        logits: (B, P, 2) existence, index 1 = present.
        states: (B, P, width).
        attention: (layers, B, P, N) cross-attention averaged over heads, None where not asked for.
        grid: (h, w), h * w = N.
    """

    logits: Tensor
    states: Tensor
    attention: Tensor | None
    grid: tuple[int, int]


@register
class MedKLIP(QueryMethod):
    """The one-stream model.

    Args:
        config: settings.
        vocabulary: P pathologies, the queries, and A anatomies, the positions.
        preprocessing: of the images.
        pathology_embeddings: (P, text width); None: encode the vocabulary's descriptions.
        anatomy_embeddings: (A, text width); None: encode the vocabulary's texts.
    """

    name = "medklip"
    summary = (
        "Each report is read into facts (what, where, present or absent); the model learns to find what is described in the "
        "image, and to name its place."
    )
    config_type = MedKLIPConfig

    def make_parts(self, config: MedKLIPConfig, features: int) -> tuple[nn.Module, ...]:
        """Make the parts that stand on image features (B, N, features)."""
        width = config.width
        self.project = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
        self.embed = nn.Linear(self.text_width, width)
        self.decode = QueryDecoder(width, config.layers, config.heads, config.feedforward, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.exist = nn.Linear(width, 2)
        self.position = nn.Linear(width, self.text_width)
        return self.project, self.embed, self.decode, self.exist, self.position

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """L_exist at 1, L_position at alpha."""
        return {"exist": 1.0, "position": self.config.alpha}

    def forward(self, images: Tensor, need_attention: bool = True, asked: Tensor | None = None) -> MedKLIPOutput:
        """Read images (B, 3, S, S).

        Args:
            images: preprocessed.
            need_attention: also give the attention maps (slower).
            asked: (n, text width) embeddings of open questions, which stand behind the vocabulary's pathologies.
        """
        features, grid = self.encoder(images)
        texts, mask = self.questions(asked)
        decoded, attention = self.decode(self.embed(texts), self.project(features), mask=mask, need_attention=need_attention)
        states = self.norm(decoded)
        return MedKLIPOutput(self.exist(self.dropout(states)), states, attention, grid)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return both terms of a batch; positions are drawn with its seed."""
        return self.loss_terms(batch.images, batch.facts, torch.Generator().manual_seed(batch.seed))

    def loss_terms(self, images: Tensor, adjacency: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            adjacency: (B, A, P): 1 present, 0 absent, -1 not mentioned, -2 to be ignored; left unchanged.
            generator: draws the positions; None: one seeded with the settings' seed.
        """
        config = self.config
        output = self(images, need_attention=False)
        generator = generator or torch.Generator().manual_seed(config.seed)
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            labels = existence_labels(adjacency, 1)
            terms = {"exist": existence_loss(upcast(output.logits), labels, config.unmentioned)}
            if config.alpha:
                present = adjacency.transpose(1, 2) == 1  # (B, P, A)
                rows = present.any(2)
                present = present[rows]
                terms["position"] = protocl_loss(
                    self.position(self.dropout(upcast(output.states))[rows]),
                    self.texts("anatomy"),
                    present,
                    draw_negatives(present, self.get_buffer("unfit_pathology"), config.negatives, generator),
                    draw_positive(present, generator),
                )
        return terms

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) that each prompt is present."""
        output, columns = self._ask(images, prompts)
        return output.logits[:, columns].softmax(-1)[..., 1]

    @torch.inference_mode()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return where each prompt's query looks: cross-attention averaged over layers and heads, (B, C, h, w)."""
        output, columns = self._ask(images, prompts, need_attention=True)
        assert output.attention is not None
        maps = output.attention[:, :, columns].mean(0)
        return maps.view(*maps.shape[:2], *output.grid)

    @torch.inference_mode()
    def score_places(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the probability (B, C) that each prompt is present, and that it is in each anatomy, (B, C, A).

        The second is the first, shared out over the anatomies by what the position contrast trains, evenly where `alpha` is
        0.
        """
        output, columns = self._ask(images, prompts)
        present = output.logits[:, columns].softmax(-1)[..., 1:]
        likely = self.position(output.states[:, columns]) @ self.texts("anatomy").T
        return present[..., 0], present * (likely if self.config.alpha else torch.zeros_like(likely)).softmax(-1)

    def _ask(self, images: Tensor, prompts: Sequence[str], need_attention: bool = False) -> tuple[MedKLIPOutput, list[int]]:
        """Read images with the vocabulary's queries and an extra one for each open prompt; and each prompt's column."""
        asked, columns = self.place(prompts)
        return self(images, need_attention, asked), columns
