"""MedKLIP: queries of described pathologies read the image for whether and where (arXiv 2301.02228).

L = L_exist + alpha * L_position. It is the one stream from which MeDSLIP grew: no disentangler and no anatomy queries. The
position of a present pathology is one of its anatomies, drawn at random, told from anatomies where it is not present.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medlip.losses import existence_labels, existence_loss, protocl_loss
from medlip.methods.base import Pass, register, upcast
from medlip.methods.queries import Located, Queries, QueryConfig, QueryMethod
from medlip.methods.released import RELEASED_BACKBONE, released_decoder
from medlip.nn.query_decoder import QueryDecoder

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.data.views import Views


class MedKLIPConfig(QueryConfig):
    """Settings of MedKLIP: those of all query methods; `alpha` weighs the position contrast."""


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
    released_names = (
        *RELEASED_BACKBONE,
        (r"res_l1\.", "project.0."),
        (r"res_l2\.", "project.2."),
        (r"disease_embedding_layer\.", "embed."),
        (r"decoder\.norm\.", "norm."),
        *released_decoder(r"decoder\.", "decode."),
        (r"cl_fc\.", "position."),
        (r"classifier\.", "exist."),
    )

    def make_parts(self, config: MedKLIPConfig, features: int) -> tuple[nn.Module, ...]:
        """Make the parts that stand on image features (B, N, features)."""
        width = config.width
        self.project = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
        self.embed = nn.Linear(self.text_width, width)
        self.decode = QueryDecoder(width, config.layers, config.heads, config.feedforward, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.exist = nn.Linear(width, 2)
        position = nn.Linear(width, self.text_width)  # always drawn: other weights are the same without
        self.position: nn.Linear | None
        self.register_module("position", position if config.alpha else None)
        return self.project, self.embed, self.decode, self.exist, position

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """L_exist at 1, L_position at alpha."""
        return {"exist": 1.0} | ({"position": self.config.alpha} if self.config.alpha else {})

    def see_each(self, images: Tensor) -> Located:
        """Encode images (B, 3, S, S)."""
        seen = self.encoder(images)
        return Located({"pathology": self.project(seen.tokens)}, seen.grid)

    def read_seen(self, seen: Located, need_attention: bool = True, asked: Tensor | None = None) -> Queries:
        """Read with P queries and those of open questions, as `QueryMethod.read_seen` says."""
        (locations,) = seen.locations.values()
        return Queries.decode(
            self.decode,
            self.norm,
            self.exist,
            self.opening("pathology", self.decode, locations.shape[0], asked),
            seen,
            "pathology",
            dropout=self.dropout,
            need_attention=need_attention,
        )

    def loss_terms(
        self,
        images: Tensor,
        adjacency: Tensor,
        *,
        seeds: Tensor | None = None,
        host_facts: Tensor | None = None,
        views: Views | None = None,
    ) -> dict[str, Tensor]:
        """Return both terms, unweighted, as `QueryMethod.loss_terms` says."""
        config = self.config
        output = self(images, need_attention=False, views=views)
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            labels = existence_labels(adjacency, 1)
            terms = {"exist": existence_loss(upcast(output.logits), labels, config.unmentioned)}
            if self.position is not None:
                present = self.present_queries(adjacency, seeds, host_facts)["pathology"]
                terms["position"] = protocl_loss(
                    self.position(present.of(self.dropout(self.contrasted(upcast(output.states))))),
                    self.texts("anatomy"),
                    present.partners,
                    present.negatives(self.get_buffer("unfit_pathology"), config.negatives),
                    present.positives(),
                    self.contrast_scale,
                )
        return terms

    def pathology_queries(self, output: Queries) -> Queries:
        """Return what was read: there are no other queries."""
        return output

    def places(self, output: Queries, columns: Sequence[int]) -> Tensor:
        """Return the probability (B, C, A) that each of C queries is present in each anatomy.

        The probability that it is present is shared out over the anatomies by what the position contrast trains, evenly
        where `alpha` is 0.
        """
        present = output.present[:, columns, None]
        if self.position is None:
            count = len(self.vocabulary.anatomies)
            return (present / count).expand(-1, -1, count)
        likely = self.likeness(output.states[:, columns], self.position, "anatomy")
        return present * likely.softmax(-1)

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`, and `networks`: backbone and query decoder."""
        networks = {"networks": lambda: [self(batch.images, need_attention=False, views=batch.views).states]}
        return {**super().timed_parts(batch), **networks}
