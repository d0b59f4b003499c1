"""MedLIP: the house's own method, which joins the ideas of MeDSLIP and MLIP.

Facts say what is where: two streams, tied by where in the image the evidence for a finding lies. The report's own words say
more than facts do: its sentences are matched with patches by optimal transport, and the whole with the whole image. What the
two see is one set of locations.

    L = L_facts + lambda_match L_match + lambda_report L_report

L_facts are the terms of `MeDSLIP`, at the settings that were best in use; L_match and L_report are contrasts of images and
reports in both directions, in which a report that states nearly the same as an image's own counts little against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log, prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.losses import info_nce, learned_scale
from medlip.methods.base import (
    SMALL_TEXT,
    BenchSettings,
    MatchesSentences,
    Pass,
    SamplePicture,
    ShowsSamples,
    TextEncoderConfig,
    register,
    upcast,
)
from medlip.methods.medslip import MeDSLIP, MeDSLIPConfig, MeDSLIPOutput
from medlip.methods.queries import Located
from medlip.methods.texts import draw_sentences
from medlip.nn.disentangler import Gate
from medlip.nn.gather import gather, gather_padded
from medlip.nn.report_encoder import WORDPIECE, Cut, ReportEncoder
from medlip.nn.transport import TRAINING_TOLERANCE, sinkhorn, transport_similarity
from medlip.settings import Requirement

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.data.views import Views


class MedLIPConfig(MeDSLIPConfig, TextEncoderConfig):
    """Settings of MedLIP beside those of MeDSLIP, whose defaults are others here.

    Attributes:
        report_encoder: a transformers model by name or folder, or "wordpiece": a small one from the training reports.
        report_tokens: where a report is cut.
        max_sentences: of a report, drawn anew each time; 0 for all.
        shared_width: of the space that images and words share.
        temperature: of the contrast of images and reports at the start; it is learned.
        match_cells: locations along each side that are matched as one patch.
        match_temperature: of the contrast of matches.
        epsilon: entropy of the transport.
        relax: how much it costs to leave a sentence's mass unmatched; None: all of it is matched.
        lambda_match: weight of the match of sentences and patches; 0 leaves it out.
        lambda_report: weight of the contrast of images and reports; 0 leaves it out.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {
        **MeDSLIPConfig.needs,
        **dict.fromkeys(
            ("match_cells", "match_temperature", "epsilon", "relax"),
            Requirement("lambda_match above 0", lambda config: config.lambda_match > 0),
        ),
        "temperature": Requirement("lambda_report above 0", lambda config: config.lambda_report > 0),
        **dict.fromkeys(
            SMALL_TEXT, Requirement("report_encoder=wordpiece", lambda config: config.report_encoder == WORDPIECE)
        ),
    }

    stride: int = Field(8, gt=0)
    deepest: int | None = Field(16, gt=0)
    layers: int = Field(2, gt=0)
    gate: Gate = "normalized"
    prototype: Literal["mean", "random", "off"] = "off"
    icl: Literal["mentioned", "all", "scaled", "tied", "off"] = "tied"
    beta: float = Field(0.1, ge=0)
    unmentioned: float = Field(0.3, ge=0)
    anatomy_text: Literal["short", "long"] = "long"
    init: Literal["normal", "xavier"] = "xavier"
    report_encoder: str = WORDPIECE
    text_width: int = Field(128, gt=0, multiple_of=32)
    text_layers: int = Field(2, gt=0)
    report_tokens: int = Field(100, gt=2)
    max_sentences: int = Field(10, ge=0)
    shared_width: int = Field(128, gt=0)
    temperature: float = Field(0.07, ge=0.01, le=1)
    match_cells: int = Field(2, gt=0)
    match_temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    relax: float | None = Field(None, gt=0)
    lambda_match: float = Field(0.01, ge=0)
    lambda_report: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _learns_from_words(self) -> Self:
        if not self.lambda_match and not self.lambda_report:
            raise ValueError("lambda_match and lambda_report are both 0, so that no words are learned. Use name=medslip")
        return self


@register
class MedLIP(MeDSLIP, MatchesSentences, ShowsSamples):
    """Two streams of facts, and an encoder of reports whose sentences are matched with what both streams see.

    Args:
        config: settings.
        vocabulary: P pathologies and A anatomies, the queries.
        preprocessing: of the images.
        text: the encoder of reports.
        pathology_embeddings: (P, text width); None: encode the vocabulary's descriptions.
        anatomy_embeddings: (A, text width); None: encode the vocabulary's texts.
    """

    name = "medlip"
    summary = (
        "Each report is read into facts (what, where, present or absent), which the model learns to find, and to tie to "
        "where their evidence lies; and its sentences are matched with parts of the image by optimal transport."
    )
    config_type = MedLIPConfig
    least_images = 2
    bench = BenchSettings("resnet18", 16)
    released_names = ()

    def __init__(
        self,
        config: MedLIPConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        text: ReportEncoder,
        *,
        pathology_embeddings: Tensor | None = None,
        anatomy_embeddings: Tensor | None = None,
    ) -> None:
        super().__init__(
            config,
            vocabulary,
            preprocessing,
            pathology_embeddings=pathology_embeddings,
            anatomy_embeddings=anatomy_embeddings,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.text = text
            self.share = nn.Linear(2 * config.width, config.shared_width)
            self.share_sentence = nn.Linear(text.width, config.shared_width) if config.lambda_match else None
            self.share_report = nn.Linear(text.width, config.shared_width) if config.lambda_report else None
        self.log_scale = nn.Parameter(torch.tensor(-log(config.temperature))) if config.lambda_report else None

    @classmethod
    def build(
        cls,
        config: MedLIPConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        reports: Callable[[], Iterable[str]],
    ) -> Self:
        """Return an untrained model; the small text encoder takes its words from `reports`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            text = config.make_text_encoder(config.report_encoder, reports, config.report_tokens)
        return cls(config, vocabulary, preprocessing, text)

    @classmethod
    def blank(
        cls,
        config: MedLIPConfig,  # type: ignore[override]
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        state: Mapping[str, Tensor],
    ) -> Self:
        """Return a model with the shapes of `state`, to be filled."""
        return cls(
            config.model_copy(update={"weights": None}),
            vocabulary,
            preprocessing,
            ReportEncoder.blank(state["text.about"], config.report_tokens),
            pathology_embeddings=torch.zeros_like(state["banks.pathology.embeddings"]),
            anatomy_embeddings=torch.zeros_like(state["banks.anatomy.embeddings"]),
        )

    @property
    def has_reference(self) -> bool:
        """There is no plain form of what is learned from words."""
        return False

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Those of MeDSLIP, the match at lambda_match, the contrast of reports at lambda_report."""
        words = {"match": self.config.lambda_match, "report": self.config.lambda_report}
        return {**super().loss_weights, **{term: weight for term, weight in words.items() if weight}}

    @property
    def scale(self) -> Tensor:
        """What cosines of images and reports are multiplied with."""
        assert self.log_scale is not None
        return learned_scale(self.log_scale)

    def divide(self, parts: int) -> bool:
        """Encode images and reports in parts; they are still told from those of the whole batch."""
        self.encoder.parts = self.text.parts = parts
        return True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch; in training a report may be a few of its sentences, drawn by its image's seed."""
        reports = self.drawn_sentences(batch)
        return self.loss_terms(
            batch.images, batch.facts, reports, seeds=batch.seeds, host_facts=batch.host_facts, views=batch.views
        )

    def drawn_sentences(self, batch: Batch) -> Sequence[Sequence[str]]:
        """Return what is learned from of each report."""
        if not self.training:
            return batch.sentences
        return draw_sentences(batch.sentences, self.config.max_sentences, False, batch.seeds.tolist())

    def loss_terms(  # type: ignore[override]
        self,
        images: Tensor,
        adjacency: Tensor,
        reports: Sequence[Sequence[str]],
        *,
        seeds: Tensor | None = None,
        host_facts: Tensor | None = None,
        views: Views | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of the facts and of the words, unweighted.

        Args:
            images: (B, 3, S, S), or those of B studies.
            adjacency: (B, A, P) facts, as of `MeDSLIP.loss_terms`.
            reports: of each image or study, as sentences; a pair without any takes no part in the contrasts.
            seeds: as of `QueryMethod.loss_terms`.
            host_facts: likewise.
            views: likewise.
        """
        seen = self.see(images, views)
        terms = self.terms_of(seen, adjacency, {}, seeds=seeds, host_facts=host_facts)
        encoded = self.text(reports)
        places = self.shared(seen)
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            facts, real = gather(adjacency), gather_padded(encoded.real)
            present = real.any(1)
            negatives = _unlike(facts)
            if self.share_report is not None:
                whole = F.normalize(seen.mean(places), dim=-1)
                vectors = F.normalize(upcast(self.share_report(encoded.means)), dim=-1)
                logits = gather(whole) @ gather(vectors).T * self.scale
                terms["report"] = info_nce(logits, present=present, negatives=negatives)
            if self.share_sentence is not None:
                sentences = gather_padded(self._sentences(encoded.sentences, encoded.real))
                patches = self.patches(places, seen.grid)
                columns = seen.real(prod(self.patch_grid(seen.grid)))
                scores = gather(transport_similarity(sentences, patches, real, columns, **self._transport()))
                terms["match"] = info_nce(scores / self.config.match_temperature, present=present, negatives=negatives)
        return terms

    def shared(self, seen: Located) -> Tensor:
        """Return locations (B, N, d) in the space that images and words share, of what both streams see."""
        return upcast(self.share(torch.cat([*self.erased(seen).locations.values()], -1)))

    def patch_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the patches along each side of an image with such a grid of locations."""
        height, width = (-(-side // self.config.match_cells) for side in grid)
        return height, width

    def patches(self, places: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return patches (B, n, d), of length 1: means over squares of locations (B, N, d), those of each view apart."""
        each = places.reshape(-1, grid[0] * grid[1], places.shape[-1])
        planes = each.transpose(1, 2).reshape(len(each), -1, *grid)
        pooled = F.avg_pool2d(planes, self.config.match_cells, ceil_mode=True)
        return F.normalize(pooled.flatten(2).transpose(1, 2), dim=-1).reshape(len(places), -1, places.shape[-1])

    def image_vectors(self, seen: Located, output: MeDSLIPOutput) -> Tensor:
        """Return vectors of what the image says of every fact, and behind them of the image among words."""
        facts = super().image_vectors(seen, output)
        if self.share_report is None:
            return facts
        return torch.cat([facts, F.normalize(seen.mean(self.shared(seen)), dim=-1) * self.scale], 1)

    @torch.inference_mode()
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return vectors of the facts that are read from reports, and behind them of their words."""
        facts = super().embed_reports(reports)
        if self.share_report is None:
            return facts
        return torch.cat([facts, F.normalize(upcast(self.share_report(self.text(reports).means)), dim=-1)], 1)

    def cut(self, reports: Iterable[Sequence[str]], *, training: bool = False) -> Cut:
        """Return what is lost of reports that are longer than `report_tokens`."""
        return self.text.cut(reports, self.config.max_sentences if training else 0)

    @torch.inference_mode()
    def match(self, images: Tensor, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return which patches each sentence of an image's own report goes to, as `MatchesSentences.match` says."""
        if self.share_sentence is None:
            raise MedLIPError("this model matches no sentences: train with lambda_match above 0.")
        seen, encoded = self.see(images), self.text(reports)
        patches = self.patches(self.shared(seen), seen.grid)
        similarities = self._sentences(encoded.sentences, encoded.real) @ patches.transpose(1, 2)
        plans = sinkhorn(1 - similarities, rows=encoded.real, **self._transport()).plan
        return plans.view(*plans.shape[:2], *self.patch_grid(seen.grid))

    @torch.inference_mode()
    def sample_pictures(self, image: Tensor, sentences: Sequence[str]) -> list[SamplePicture]:
        """Return where each of several sentences goes."""
        return [] if self.share_sentence is None else self.plan_pictures(image, sentences)

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`, as of MeDSLIP, and `networks`: with the text encoder."""
        parts, reports = super().timed_parts(batch), self.drawn_sentences(batch)
        return {**parts, "networks": lambda: [*parts["encoder"](), self.text(reports).tokens]}

    def _sentences(self, sentences: Tensor, real: Tensor) -> Tensor:
        assert self.share_sentence is not None
        return F.normalize(upcast(self.share_sentence(sentences)), dim=-1) * real[..., None]

    def _transport(self) -> dict[str, Any]:
        config = self.config
        return {"epsilon": config.epsilon, "relax": config.relax, "max_iterations": 50, "tolerance": TRAINING_TOLERANCE}


def _unlike(facts: Tensor) -> Tensor:
    """Return how much each report counts as a negative of another's image, (B, B) in [0, 1], by their facts (B, A, P).

    It is 1 less the cosine of their sets of present pairs; two without any are the same.
    """
    stated = (facts == 1).flatten(1).float()
    unit = F.normalize(torch.cat([stated, (stated.sum(1, keepdim=True) == 0).float()], 1), dim=1)
    return (1 - unit @ unit.T).clamp(0, 1)
