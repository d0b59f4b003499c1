"""MeDSLIP: dual-stream pre-training on facts (arXiv 2403.10635).

One stream asks the image for pathologies, the other for anatomies; the pairs that a report states tie them together:
L = L_exist + alpha * L_ProtoCL + beta * L_ICL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medlip.losses import existence_labels, existence_loss, icl_loss, pair_loss, protocl_loss
from medlip.methods.base import BenchSettings, HasReference, HasStreams, Pass, register, upcast
from medlip.methods.queries import (
    CONTRAST,
    EVERYTHING,
    Contributions,
    Located,
    PresentQueries,
    Queries,
    QueryConfig,
    QueryMethod,
)
from medlip.methods.released import RELEASED_BACKBONE, released_decoder
from medlip.nn.disentangler import Disentangler, Gate
from medlip.nn.erasure import Erasure
from medlip.nn.gather import alone, summed
from medlip.nn.place_field import HARMONICS, PlaceField, waves
from medlip.nn.query_decoder import Columns, QueryDecoder
from medlip.reports.facts import IGNORED, NOT_MENTIONED
from medlip.settings import Requirement

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.data.views import Views
    from medlip.nn.query_decoder import Attention, DecoderLayer


STREAMS = ("pathology", "anatomy")
SIDES = ("left", "right", None)
RARE = -4.0  # the logit that a pair starts from: few of thousands are there


class MeDSLIPConfig(QueryConfig):
    """Settings of MeDSLIP beside those of all query methods; the defaults are the published ones.

    Attributes:
        gate: the disentangler's; `off` leaves one stream for both.
        prototype: what ProtoCL, weighted by `alpha`, pulls a present query to: the `mean` of its partners, one at `random`,
            or `off`.
        icl: pairs that ICL learns from: those `mentioned` as published, `all` (unmentioned ones count as absent), or `off`;
            `scaled`: all, as products over the root of the width with a learned bias, in proportion to the pairs stated.
            Places are then ranked by it. `tied`: the same, and an anatomy is also told by where in the image the evidence
            for a finding lies, see `PlaceField`; in training, for a finding that any report of the batch states.
        icl_unmentioned: weight of unmentioned pairs with `scaled` and `tied`.
        icl_other_side: of those among them that mirror a stated one: a finding that is on one side, asked of the other;
            None: as `icl_unmentioned`.
        anatomy_existence: weight of the anatomies' L_exist beside that of the pathologies; 1 as published.
        beta: weight of ICL; 0 leaves it out.
        erase: what is taken out of a stream, linearly and with the least change, see `Erasure`: `side` takes the side of
            each finding, given that finding, out of the pathology stream.
        erase_memory: training images that what is erased rests on, about. Twice as many leave less of it, as long as the
            weights of that many images ago are like the present ones; nothing is erased in the first half as many.
        positions: let the anatomy stream know where in the image each location lies.
        symmetric: let the pathology stream read, at each location, the mean of what an image and its mirror image show
            there: left and right look alike to it, but for what lies around a finding. The encoder sees all images twice.
        pooled: weight of L_exist as a linear layer tells it from the mean over locations of each stream; 0 leaves it out.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {
        **dict.fromkeys(
            CONTRAST, Requirement("prototype other than off, and alpha above 0", lambda config: config.contrasts)
        ),
        "alpha": Requirement("prototype other than off", lambda config: config.prototype != "off"),
        "prototype": Requirement("alpha above 0", lambda config: config.alpha > 0),
        "beta": Requirement("icl other than off", lambda config: config.icl != "off"),
        "icl": Requirement("beta above 0", lambda config: config.beta > 0),
        **dict.fromkeys(
            ("icl_unmentioned", "icl_other_side"),
            Requirement("icl=scaled or icl=tied, and beta above 0", lambda config: config.pairs in ("scaled", "tied")),
        ),
        "erase_memory": Requirement("erase=side", lambda config: config.erase != "off"),
    }

    gate: Gate = "linear"
    prototype: Literal["mean", "random", "off"] = "mean"
    icl: Literal["mentioned", "all", "scaled", "tied", "off"] = "mentioned"
    icl_unmentioned: float = Field(1.0, ge=0)
    icl_other_side: float | None = Field(None, ge=0)
    anatomy_existence: float = Field(1.0, ge=0)
    beta: float = Field(1.0, ge=0)
    erase: Literal["off", "side"] = "off"
    erase_memory: int = Field(2000, gt=0)
    positions: bool = False
    symmetric: bool = False
    pooled: float = Field(0.0, ge=0)

    @property
    def contrasts(self) -> bool:
        """Whether there is a ProtoCL."""
        return self.prototype != "off" and self.alpha > 0

    @property
    def pairs(self) -> Literal["mentioned", "all", "scaled", "tied", "off"]:
        """The pairs that there is an ICL of."""
        return self.icl if self.beta else "off"


@dataclass(frozen=True, slots=True)
class MeDSLIPOutput:
    """What the model reads from B images with P pathology and A anatomy queries at N locations.

    Attributes:
        pathology: what the pathology queries read.
        anatomy: what the anatomy queries read.
    """

    pathology: Queries
    anatomy: Queries

    @property
    def logits_pathology(self) -> Tensor:
        """(B, P, 2) existence, index 1 = present."""
        return self.pathology.logits

    @property
    def logits_anatomy(self) -> Tensor:
        """(B, A, 2)."""
        return self.anatomy.logits

    @property
    def states_pathology(self) -> Tensor:
        """(B, P, width)."""
        return self.pathology.states

    @property
    def states_anatomy(self) -> Tensor:
        """(B, A, width)."""
        return self.anatomy.states

    @property
    def attention_pathology(self) -> Tensor | None:
        """(layers, B, P, N) cross-attention averaged over heads, None where not asked for."""
        return self.pathology.attention

    @property
    def attention_anatomy(self) -> Tensor | None:
        """(layers, B, A, N)."""
        return self.anatomy.attention

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), h * w = N."""
        return self.pathology.grid


@register
class MeDSLIP(QueryMethod, HasStreams, HasReference):
    """The two-stream model.

    Args:
        config: settings.
        vocabulary: P pathologies and A anatomies, the queries.
        preprocessing: of the images.
        pathology_embeddings: (P, text width); None: encode the vocabulary's descriptions.
        anatomy_embeddings: (A, text width); None: encode the vocabulary's texts.
    """

    name = "medslip"
    summary = (
        "Each report is read into facts (what, where, present or absent); the model learns to find them in the image, and "
        "to tie what it finds to where it lies."
    )
    config_type = MeDSLIPConfig
    bench = BenchSettings(settings={"layers": 4})
    released_names = (
        *RELEASED_BACKBONE,
        (r"mask_generator\.", "disentangler.mask."),
        (r"res_l1_(pathology|anatomy)\.", r"project.\1.0."),
        (r"res_l2_(pathology|anatomy)\.", r"project.\1.2."),
        (r"pathology_embedding_layer\.", "embed."),
        (r"decoder_(?:pathology|anatomy)\.norm\.", "norm."),
        *released_decoder(r"decoder_(pathology|anatomy)\.", r"decode.\1."),
        (r"cl_fc_(pathology|anatomy)\.", r"contrast.\1."),
        (r"classifier_(pathology|anatomy)\.", r"exist.\1."),
    )

    def make_parts(self, config: MeDSLIPConfig, features: int) -> tuple[nn.Module, ...]:
        """Make the parts that stand on image features (B, N, features)."""
        width = config.width
        self.disentangler = Disentangler(features, config.gate)
        self.project = _per_stream(
            lambda: nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width)),
            shared=config.gate == "off",
        )
        self.embed = nn.Linear(self.text_width, width)
        self.decode = _per_stream(
            lambda: QueryDecoder(width, config.layers, config.heads, config.feedforward, config.dropout)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.exist = _per_stream(lambda: nn.Linear(width, 2))
        contrast = _per_stream(lambda: nn.Linear(width, self.text_width))  # always drawn: other weights are the same without
        self.contrast: nn.ModuleDict | None
        self.register_module("contrast", contrast if config.contrasts else None)
        bias = nn.Parameter(torch.tensor(RARE)) if config.pairs in ("scaled", "tied") else None
        self.pair_bias: nn.Parameter | None
        self.register_parameter("pair_bias", bias)
        self.field: PlaceField | None
        self.register_module("field", PlaceField(self.text_width) if config.pairs == "tied" else None)
        self.erase: Erasure | None
        findings = len(self.vocabulary.pathologies)
        erase = Erasure(width, findings, config.erase_memory) if config.erase == "side" else None
        self.register_module("erase", erase)
        sides = torch.tensor([SIDES.index(anatomy.side) for anatomy in self.vocabulary.anatomies])
        self.register_buffer("sides", F.one_hot(sides, len(SIDES)), persistent=False)
        self.register_buffer("mirror", torch.tensor(self.vocabulary.mirror_index), persistent=False)
        self.position: nn.Linear | None
        self.tell: nn.ModuleDict | None
        with torch.random.fork_rng(devices=[]):  # other weights are the same without
            self.register_module("position", nn.Linear(HARMONICS**2, features) if config.positions else None)
            tell = {stream: nn.Linear(width, 2 * len(self.texts(stream))) for stream in STREAMS} if config.pooled else None
            self.register_module("tell", nn.ModuleDict(tell) if tell else None)
        return self.disentangler, self.project, self.embed, self.decode, self.exist, contrast

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """L_exist at 1 (of anatomies at `anatomy_existence`), ProtoCL at alpha, ICL at beta; of means at `pooled`."""
        config = self.config
        weights = {"exist_pathology": 1.0, "exist_anatomy": config.anatomy_existence}
        if config.contrasts:
            weights |= {f"protocl_{stream}": config.alpha for stream in STREAMS}
        if config.pairs != "off":
            weights["icl"] = config.beta
        if config.pooled:
            weights |= {"pooled_pathology": config.pooled, "pooled_anatomy": config.pooled * config.anatomy_existence}
        return weights

    def see_each(self, images: Tensor) -> Located:
        """Encode images (B, 3, S, S), and divide what is seen among the streams."""
        return self._encode(images)[1]

    def read_seen(self, seen: Located, need_attention: bool = True, asked: Tensor | None = None) -> MeDSLIPOutput:
        """Read with P and A queries and those of open questions, as `QueryMethod.read_seen` says."""
        read, seen = {}, self.erased(seen)
        for stream in STREAMS:
            decoder = cast("QueryDecoder", self.decode[stream])
            read[stream] = Queries.decode(
                decoder,
                self.norm,
                cast("nn.Linear", self.exist[stream]),
                self.opening(stream, decoder, seen.locations[stream].shape[0], asked),
                seen,
                stream,
                dropout=self.dropout,
                need_attention=need_attention or (self.field is not None and stream == "pathology"),
            )
            if self.tell is not None and need_attention:
                read[stream] = replace(read[stream], told=self._told(stream, seen, read[stream].logits.shape[1]))
        return MeDSLIPOutput(**read)

    def _told(self, stream: str, seen: Located, count: int) -> Contributions:
        """Return what each location adds to the margins that are told from the mean; nothing to those of open questions."""
        assert self.tell is not None
        absent, present = cast("nn.Linear", self.tell[stream]).weight.view(len(self.texts(stream)), 2, -1).unbind(1)
        margin, values, real = present - absent, seen.locations[stream], seen.real()
        shares = values.new_full(values.shape[:2], 1 / values.shape[1]) if real is None else real / real.sum(1, keepdim=True)

        def adds(images: slice, columns: Columns) -> Tensor:
            known = margin @ (upcast(values[images]) * shares[images, :, None]).transpose(1, 2)
            return F.pad(known, (0, 0, 0, count - len(margin)))[:, columns]

        return Contributions(adds, count)

    def loss_terms(
        self,
        images: Tensor,
        adjacency: Tensor,
        negatives_pathology: Tensor | None = None,
        negatives_anatomy: Tensor | None = None,
        *,
        seeds: Tensor | None = None,
        host_facts: Tensor | None = None,
        views: Views | None = None,
    ) -> dict[str, Tensor]:
        """Return the five terms (fewer where the settings switch some off), unweighted.

        Args:
            images: (B, 3, S, S), or those of B studies.
            adjacency: (B, A, P): 1 present, 0 absent, -1 not mentioned, -2 to be ignored; left unchanged.
            negatives_pathology: (B, P, 1 + n) anatomies that pathology queries are told from, slot 0 ignored; drawn if None.
            negatives_anatomy: (B, A, 1 + n) pathologies, likewise.
            seeds: as of `QueryMethod.loss_terms`.
            host_facts: likewise.
            views: likewise.
        """
        given = {"pathology": negatives_pathology, "anatomy": negatives_anatomy}
        return self.terms_of(self.see(images, views), adjacency, given, seeds=seeds, host_facts=host_facts)

    def terms_of(
        self,
        seen: Located,
        adjacency: Tensor,
        negatives: Mapping[str, Tensor | None],
        *,
        seeds: Tensor | None = None,
        host_facts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of images that were seen; `negatives` by stream, drawn if None, the rest as of `loss_terms`."""
        if self.erase is not None and self.training:
            self.erase.observe(seen.mean(seen.locations["pathology"]), self.sides_of(adjacency))
        output = self.read_seen(seen, need_attention=False)
        tie = self._tie_stated(output, adjacency, host_facts)
        with torch.autocast(adjacency.device.type, enabled=False):  # losses are small, and exact
            present = self.present_queries(adjacency, seeds, host_facts) if self.contrast is not None else {}
            terms = self._loss_terms(output, tie, adjacency, negatives, present)
            return terms if self.tell is None else {**terms, **self._pooled_terms(seen, adjacency)}

    def _pooled_terms(self, seen: Located, adjacency: Tensor) -> dict[str, Tensor]:
        assert self.tell is not None
        terms = {}
        for (stream, values), dim in zip(self.pooled(seen).items(), (1, 2), strict=True):
            logits = self.tell[stream](upcast(values)).unflatten(1, (-1, 2))
            terms[f"pooled_{stream}"] = existence_loss(logits, existence_labels(adjacency, dim), self.config.unmentioned)
        return terms

    def about_training(self, images: int) -> Sequence[str]:
        """Say that nothing will be erased in so short a training."""
        memory = self.config.erase_memory
        if self.erase is None or 2 * images >= memory:
            return ()
        return [
            f"method.erase=side: nothing is erased in a training of {images:,} images, since the first {memory // 2:,} are "
            "only remembered. Lower method.erase_memory, or train longer"
        ]

    def erased(self, seen: Located) -> Located:
        """Return what is read of images that were seen: without what is erased of the pathology stream."""
        if self.erase is None:
            return seen
        return replace(seen, locations={**seen.locations, "pathology": self.erase(seen.locations["pathology"])})

    def pooled(self, seen: Located) -> dict[str, Tensor]:
        """Return the mean (B, width) over locations of what each stream reads."""
        return {stream: seen.mean(values) for stream, values in self.erased(seen).locations.items()}

    def sides_of(self, adjacency: Tensor) -> Tensor:
        """Return which findings are on the left, 1, or on the right, 0, alone, of facts (B, A, P): (B, P), else NaN."""
        sides = self.get_buffer("sides").to(torch.float32)
        present, uncertain = (torch.einsum("bap,as->sbp", (adjacency == value).float(), sides) > 0 for value in (1, IGNORED))
        left, right, neither = present
        alone = (left ^ right) & ~neither & ~uncertain.any(0)
        labels: Tensor = left.float().masked_fill(~alone, torch.nan)
        return labels

    def _loss_terms(
        self,
        output: MeDSLIPOutput,
        tie: Tensor | None,
        adjacency: Tensor,
        given: Mapping[str, Tensor | None],
        present: Mapping[str, PresentQueries],
    ) -> dict[str, Tensor]:
        config = self.config
        answers = self.streams_of(output)
        states = {stream: upcast(read.states) for stream, read in answers.items()}
        logits = {stream: upcast(read.logits) for stream, read in answers.items()}
        by_query = {"pathology": adjacency.transpose(1, 2), "anatomy": adjacency}  # (B, q, partners)
        terms = {
            f"exist_{stream}": existence_loss(logits[stream], existence_labels(by_query[stream], 2), config.unmentioned)
            for stream in STREAMS
        }
        if self.contrast is not None:
            for stream, other in zip(STREAMS, reversed(STREAMS), strict=True):
                queries, negatives = present[stream], given.get(stream)
                terms[f"protocl_{stream}"] = protocl_loss(
                    self.contrast[stream](queries.of(self.dropout(self.contrasted(states[stream])))),
                    self.texts(other),
                    queries.partners,
                    self.negatives(stream, queries) if negatives is None else queries.of(negatives)[:, 1:],
                    queries.positives() if config.prototype == "random" else None,
                    self.contrast_scale,
                )
        if self.pair_bias is not None:
            terms["icl"] = pair_loss(self._pairs(**states, tie=tie), adjacency, self._pair_weights(adjacency))
        elif config.pairs != "off":
            terms["icl"] = icl_loss(states["anatomy"], states["pathology"], adjacency, float(config.pairs == "all"))
        return terms

    def _pair_weights(self, adjacency: Tensor) -> float | Tensor:
        """Return at which weight pairs, or each of them (B, A, P), count as absent where they are not mentioned."""
        config = self.config
        if config.icl_other_side is None:
            return float(config.icl_unmentioned)
        mirrored = adjacency.index_select(1, self.get_buffer("mirror")) == 1
        return torch.where(mirrored, config.icl_other_side, config.icl_unmentioned)

    def negatives(self, stream: str, queries: PresentQueries) -> Tensor:
        """Draw what present queries of a stream are told from: (R, n) indices of the other stream's concepts."""
        return queries.negatives(self.get_buffer(f"unfit_{stream}"), self.config.negatives)

    @property
    def has_reference(self) -> bool:
        """Whether there is a plain form: there is none of tied places, several views, or what keeps the streams apart."""
        return self.field is None and self.view_embedding is None and self.erase is None and self.tell is None

    def reference_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by plain decoders and losses."""
        return _plain_losses(self, batch)

    def pathology_queries(self, output: MeDSLIPOutput) -> Queries:
        """Return what the pathologies' queries read."""
        return output.pathology

    def streams_of(self, output: MeDSLIPOutput) -> Mapping[str, Queries]:
        """Return what both streams' queries read."""
        return {"pathology": output.pathology, "anatomy": output.anatomy}

    def places(self, output: MeDSLIPOutput, columns: Sequence[int]) -> Tensor:
        """Return the probability (B, C, A) that each of C queries is present in each anatomy.

        The probability that it is present is shared out over the anatomies by what ProtoCL trains (softmax of z . t) times
        the probability that there is anything in the anatomy at all. ICL's pair probability has seen mentioned pairs alone,
        and ranks the others at random; it stands in where ProtoCL is off. Where it is `scaled` it has seen all pairs, and
        the softmax of its logits over anatomies shares the probability out.
        """
        states = output.states_pathology[:, columns]
        if self.pair_bias is not None:
            logits = self._pairs(states, output.states_anatomy, self._tie(output, columns)).transpose(1, 2)
            return output.pathology.present[:, columns, None] * logits.softmax(-1)
        if self.contrast is None:
            pairs: Tensor = states @ output.states_anatomy.transpose(1, 2)
            return pairs.sigmoid()
        likely = self.likeness(states, cast("nn.Linear", self.contrast["pathology"]), "anatomy").log_softmax(-1)
        occupied = output.logits_anatomy.log_softmax(-1)[:, None, :, 1]
        shares: Tensor = (likely + occupied).softmax(-1)
        return output.pathology.present[:, columns, None] * shares

    def _pairs(self, pathology: Tensor, anatomy: Tensor, tie: Tensor | None) -> Tensor:
        """Return logits (B, A, C) of pairs, of states (B, C, width) and (B, A, width), and what ties them (B, A, C)."""
        assert self.pair_bias is not None
        logits: Tensor = anatomy @ pathology.transpose(1, 2) * self.config.width**-0.5 + self.pair_bias
        return logits if tie is None else logits + upcast(tie)

    def _tie_stated(self, output: MeDSLIPOutput, adjacency: Tensor, host_facts: Tensor | None) -> Tensor | None:
        """Return `_tie` for the findings that any report of a batch states, 0 for others, (B, A, P); None if not tied."""
        if self.field is None:
            return None
        if not alone():  # which findings others state is known on the device, not here: all are worked out
            stated = summed((adjacency == 1).flatten(0, 1).any(0).float()) > 0
            return cast("Tensor", self._tie(output, EVERYTHING)) * stated
        known = adjacency if host_facts is None else host_facts  # the host counts them without asking an accelerator
        columns = (known == 1).flatten(0, 1).any(0).nonzero()[:, 0].to(adjacency.device, non_blocking=True)
        tie = cast("Tensor", self._tie(output, columns))
        return tie.new_zeros(adjacency.shape).index_copy(2, columns, tie)

    def _tie(self, output: MeDSLIPOutput, columns: Columns) -> Tensor | None:
        """Return how well each of C findings lies where each anatomy does, (B, A, C); None where the two are not tied."""
        if self.field is None:
            return None
        evidence = output.pathology.frontal_contributions(columns)
        with torch.autocast(evidence.device.type, enabled=False):
            return cast("Tensor", self.field(upcast(evidence), self.texts("anatomy"), output.grid))

    @torch.inference_mode()
    def streams(self, images: Tensor) -> dict[str, Tensor]:
        """Return each stream's representation of images, before any query: the mean over locations of what it reads.

        Returns:
            {"pathology": (B, width), "anatomy": (B, width)}, and the features that the gate divides, pooled likewise:
            {"encoder": (B, features)}. Queries' states are no part of it: what they stand for is known from their order.
        """
        features, seen = self._encode(images)
        return {"encoder": features.mean(1), **self.pooled(seen)}

    @torch.inference_mode()
    def stream_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return where the queries of each stream look: cross-attention, {"pathology": (B, P, h, w), "anatomy": …}."""
        streams = self.streams_of(self(images))
        return {name: read.maps("attention", range(read.logits.shape[1])) for name, read in streams.items()}

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`: the backbone, the mask and the projections of both streams."""
        return {"encoder": lambda: list(self.see(batch.images, batch.views).locations.values())}

    def _encode(self, images: Tensor) -> tuple[Tensor, Located]:
        """Return features (B, N, features) of images, and what each stream reads of them: its share, projected."""
        symmetric = self.config.symmetric
        encoded = self.encoder(torch.cat([images, images.flip(-1)]) if symmetric else images)
        features, grid = encoded.tokens, encoded.grid
        shares = dict(zip(STREAMS, self.disentangler(features), strict=True))
        if symmetric:
            features, shares["anatomy"] = _straight(features), _straight(shares["anatomy"])
        if self.position is not None:
            shares["anatomy"] = shares["anatomy"] + self.position(waves(grid, HARMONICS, features))
        locations = {stream: self.project[stream](share) for stream, share in shares.items()}
        if symmetric:
            straight, mirrored = torch.unflatten(locations["pathology"], 0, (2, -1))
            locations["pathology"] = (straight + torch.unflatten(mirrored, 1, grid).flip(2).flatten(1, 2)) / 2
        return features, Located(locations, grid)


def _straight(values: Tensor) -> Tensor:
    """Return what is of images, of values (2 B, ...) of them and of their mirror images."""
    return torch.unflatten(values, 0, (2, -1))[0]


def _per_stream(make: Any, shared: bool = False) -> nn.ModuleDict:
    first = make()
    return nn.ModuleDict({"pathology": first, "anatomy": first if shared else make()})


# --- the plain form, which the fast one is held against ---


def _plain_losses(model: MeDSLIP, batch: Batch) -> dict[str, Tensor]:
    """Return the losses of a batch by decoders and losses as plain as they can be written; partners are the model's draws.

    Every layer projects its own keys and values, attention weights of all heads and layers are kept, prototypes are built
    from (B, queries, partners, text width) tensors, pairs from (B, A, P, width), and losses go through the batch row by row.
    The image encoder, the gate and the projections of both streams are the model's own.
    """
    config, facts = model.config, batch.facts
    by_query = {"pathology": facts.transpose(1, 2), "anatomy": facts}
    seen = model.see(batch.images)
    read = {stream: _plain_read(model, stream, upcast(seen.locations[stream])) for stream in by_query}
    states = {stream: values for stream, (values, _) in read.items()}
    terms = {}
    for stream, matrix in by_query.items():
        logits = cast("nn.Linear", model.exist[stream])(model.dropout(states[stream]))
        terms[f"exist_{stream}"] = _plain_existence(logits, existence_labels(matrix, 2), config.unmentioned)
    if model.contrast is not None:
        present = model.present_queries(facts, batch.seeds, batch.host_facts)
        for stream, other in (("pathology", "anatomy"), ("anatomy", "pathology")):
            projected = model.contrast[stream](model.dropout(model.contrasted(states[stream])))
            terms[f"protocl_{stream}"] = _plain_prototypes(model, stream, projected, model.texts(other), present[stream])
    if config.pairs != "off":
        terms["icl"] = _plain_pairs(model, states, facts)
    return terms


def _plain_read(model: MeDSLIP, stream: str, locations: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return states (B, q, width) and the attention (B, heads, q, N) of every layer."""
    decoder = cast("QueryDecoder", model.decode[stream])
    states: Tensor = model.embed(model.texts(stream)).expand(len(locations), -1, -1)
    kept = []
    for layer in cast("list[DecoderLayer]", list(decoder.layers)):
        normed = layer.norm1(states)
        mixed, _ = _plain_attention(layer.self_attention, normed, normed)
        states = states + layer.dropout(mixed)
        read, weights = _plain_attention(layer.cross_attention, layer.norm2(states), locations)
        states = states + layer.dropout(read)
        kept.append(weights)
        hidden = layer.dropout(layer.linear1(layer.norm3(states)).relu())
        states = states + layer.dropout(layer.linear2(hidden))
    return model.norm(states), kept


def _plain_attention(attention: Attention, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    width, heads = asking.shape[-1], attention.heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query, key, value = (
        F.linear(values, weight[part * width : (part + 1) * width], bias[part * width : (part + 1) * width])
        .view(*values.shape[:2], heads, width // heads)
        .transpose(1, 2)
        for part, values in enumerate((asking, asked, asked))
    )
    weights = (query @ key.transpose(2, 3) / (width // heads) ** 0.5).softmax(-1)
    read: Tensor = attention.out_proj((attention.dropout(weights) @ value).transpose(1, 2).flatten(2))
    return read, weights


def _plain_existence(logits: Tensor, labels: Tensor, unmentioned: float) -> Tensor:
    costs, weight = logits.new_zeros(()), logits.new_zeros(())
    for row, stated in zip(logits, labels, strict=True):
        weights = (stated >= 0).to(row.dtype) + unmentioned * (stated == NOT_MENTIONED)
        costs = costs + (F.cross_entropy(row, stated.clamp(min=0).long(), reduction="none") * weights).sum()
        weight = weight + weights.sum()
    return costs / weight.clamp(min=torch.finfo(logits.dtype).tiny)


def _plain_prototypes(model: MeDSLIP, stream: str, states: Tensor, texts: Tensor, present: PresentQueries) -> Tensor:
    """Return the contrast of states (B, q, d) with prototypes that are built of texts (k, d)."""
    scale = model.contrast_scale
    if scale.normalize:
        states, texts = F.normalize(states, dim=-1), F.normalize(texts, dim=-1)
    shape = states.shape[:2]
    partners = torch.zeros(*shape, len(texts), dtype=torch.bool, device=states.device)
    positives = present.partners
    if model.config.prototype == "random":
        positives = F.one_hot(present.positives(), len(texts)).bool()
    partners[present.images, present.queries] = positives
    negatives = torch.full((*shape, model.config.negatives), -1, device=states.device)
    drawn = model.negatives(stream, present)
    negatives[present.images, present.queries, : drawn.shape[1]] = drawn
    expanded = texts.expand(*shape, -1, -1)  # (B, q, k, d)
    prototypes = (expanded * partners[..., None]).sum(2) / partners.sum(2).clamp(min=1)[..., None]
    costs = states.new_zeros(())
    for row, prototype, others, stated in zip(states, prototypes, negatives, partners.any(2), strict=True):
        candidates = torch.cat([prototype[:, None], texts[others.clamp(min=0)]], 1)  # (q, 1 + n, d)
        logits = (candidates * row[:, None]).sum(-1) / scale.temperature
        barred = torch.cat([torch.zeros_like(others[:, :1], dtype=torch.bool), others < 0], 1)
        costs = costs - (logits.masked_fill(barred, float("-inf")).log_softmax(1)[:, 0] * stated).sum()
    return costs / partners.any(2).sum().clamp(min=1)


def _plain_pairs(model: MeDSLIP, states: Mapping[str, Tensor], facts: Tensor) -> Tensor:
    config = model.config
    logits = (states["anatomy"][:, :, None] * states["pathology"][:, None]).sum(-1)  # of (B, A, P, width)
    unmentioned = other_side = float(config.icl == "all")
    if model.pair_bias is not None:
        logits, unmentioned = logits * config.width**-0.5 + model.pair_bias, config.icl_unmentioned
        other_side = unmentioned if config.icl_other_side is None else config.icl_other_side
    costs, weight = logits.new_zeros(()), logits.new_zeros(())
    for row, stated in zip(logits, facts, strict=True):
        mirrored = stated[list(model.vocabulary.mirror_index)] == 1
        absent = unmentioned * ~mirrored + other_side * mirrored
        weights = (stated >= 0).to(row.dtype) + absent * (stated == NOT_MENTIONED)
        targets = stated.clamp(min=0).to(row.dtype)
        costs = costs + (F.binary_cross_entropy_with_logits(row, targets, reduction="none") * weights).sum()
        weight = weight + ((stated >= 0).sum() if model.pair_bias is not None else weights.sum())
    return costs / weight.clamp(min=1e-30)
