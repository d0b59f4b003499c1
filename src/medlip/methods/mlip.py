"""MLIP: masked contrastive learning with sentence-patch transport (arXiv 2401.01591).

L = L_MCL + lambda_l L_SPM + lambda_r L_MIP: a contrast of masked images and reports in which a sample weighs by how much of
its meaning the mask left, a match of sentences and patches by optimal transport, and the prediction of what the mask hides.
No code of the paper is published; what completes it is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Method, MethodConfig, register
from medlip.methods.contrastive import (
    attention_integrity,
    contrastive_loss,
    normalised_weights,
    position_integrity,
    reconstruction_integrity,
    similarity_integrity,
)
from medlip.methods.texts import PromptBank, draw_sentences
from medlip.nn.gather import gather, gather_padded
from medlip.nn.image_decoder import ImageDecoder, join_patches, patch_pixels, prediction_errors
from medlip.nn.patch_encoder import PatchEncoder, draw_visible, visible_map
from medlip.nn.report_encoder import WORDPIECE, EncodedReports, ReportEncoder, build_report_encoder
from medlip.nn.transport import sinkhorn, transport_similarity
from medlip.nn.word_region import attention_similarity

if TYPE_CHECKING:
    from medlip.data.batch import Batch

TRAINING_TOLERANCE = 1e-3
"""Marginal error of a plan in training, far below what a plan of 50 iterations would be read for."""


class MLIPConfig(MethodConfig):
    """Settings of MLIP; the defaults are the paper's where it states them.

    Attributes:
        backbone: timm model; a `vit_…` computes visible patches alone, any other one gives its locations as patches.
        patch: side of a patch in pixels; None for the model's own, 16 for other backbones.
        depth: transformer blocks of the backbone; None for the model's own.
        weights: initial weights of the backbone: None, "timm", a package or a file, as `ImageEncoder` takes them.
        text_encoder: a transformers model by name or folder, or "wordpiece": a small one from the training reports.
        text_width: of the small text encoder.
        text_layers: of the small text encoder.
        text_vocabulary: word pieces of the small text encoder.
        report_vector: a report's state is that of its first token (`cls`), or the `mean` over its words, which a text
            encoder from scratch learns far sooner.
        max_tokens: where a report is cut.
        max_sentences: of a report, drawn anew each time; 0 for all.
        shuffle: sentences come in random order in training.
        width: of the space that images and texts share.
        mask_ratio: share of the patches that is hidden in training.
        temperature: of the contrast at the start; it is learned.
        integrity: what tells how much of a report's meaning a masked image still holds; `off` weighs all alike.
        integrity_temperature: of the weights; the lower, the more they differ.
        integrity_floor: smallest weight.
        local: how sentences and patches are matched: by `transport` over the whole batch, by transport in the own `pair`
            alone, by word-region `attention`, or not (`off`).
        local_temperature: of the local contrast.
        epsilon: entropy of the transport.
        relax: None for balanced transport; else how much it costs to leave a sentence's mass unmatched.
        transport_gradient: take the `plan` as a constant, or go back through the `iterations`.
        transport_iterations: at most.
        lambda_local: weight of the local term.
        lambda_reconstruction: weight of masked image prediction; 0 leaves the decoder out.
        decoder_width: of the image decoder.
        decoder_layers: of the image decoder.
        decoder_heads: of the image decoder.
        normalise_pixels: predict patches at mean 0 and variance 1.
        described: a pathology is asked for by its description beside its name; a text encoder that has seen few reports
            hardly knows a description's words.
        seed: of initial weights.
    """

    backbone: str = "vit_base_patch16_224"
    patch: int | None = Field(None, gt=0)
    depth: int | None = Field(None, gt=0)
    weights: str | None = None
    text_encoder: str = WORDPIECE
    text_width: int = Field(256, gt=0, multiple_of=32)
    text_layers: int = Field(4, gt=0)
    text_vocabulary: int = Field(4000, gt=10)
    report_vector: Literal["cls", "mean"] = "cls"
    max_tokens: int = Field(100, gt=2)
    max_sentences: int = Field(10, ge=0)
    shuffle: bool = True
    width: int = Field(256, gt=0)
    mask_ratio: float = Field(0.75, ge=0, lt=1)
    temperature: float = Field(0.07, gt=0)
    integrity: Literal["similarity", "position", "attention", "reconstruction", "off"] = "similarity"
    integrity_temperature: float = Field(0.5, gt=0)
    integrity_floor: float = Field(0.1, gt=0, le=1)
    local: Literal["transport", "pair", "attention", "off"] = "transport"
    local_temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    relax: float | None = Field(None, gt=0)
    transport_gradient: Literal["plan", "iterations"] = "plan"
    transport_iterations: int = Field(50, gt=0)
    lambda_local: float = Field(1.0, ge=0)
    lambda_reconstruction: float = Field(1.0, ge=0)
    decoder_width: int = Field(512, gt=0)
    decoder_layers: int = Field(4, gt=0)
    decoder_heads: int = Field(16, gt=0)
    normalise_pixels: bool = False
    described: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MLIPTexts:
    """Texts in the shared space, all of length 1.

    Attributes:
        reports: (B, d).
        sentences: (B, M, d), 0 where there is none.
        real: bool (B, M).
    """

    reports: Tensor
    sentences: Tensor
    real: Tensor


@register
class MLIP(Method):
    """Masked image encoder, text encoder, and an image decoder.

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    name = "mlip"
    summary = (
        "Parts of every image are hidden. The model learns to tell an image's own report from the others', to match "
        "sentences with patches by optimal transport, and to predict what is hidden."
    )
    config_type = MLIPConfig

    def __init__(
        self, config: MLIPConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self.text = text
        self.encoder = PatchEncoder(
            config.backbone, preprocessing.size, patch=config.patch, depth=config.depth, weights=config.weights
        )
        self.project = nn.Linear(self.encoder.width, config.width)
        self.project_report = nn.Linear(text.width, config.width)
        self.project_sentence = nn.Linear(text.width, config.width)
        self.log_scale = nn.Parameter(torch.tensor(-log(config.temperature)))
        self.decoder: ImageDecoder | None = None
        if config.lambda_reconstruction and config.mask_ratio:
            self.decoder = ImageDecoder(
                self.encoder.width,
                self.encoder.grid[0],
                self.encoder.patch,
                config.decoder_width,
                config.decoder_layers,
                config.decoder_heads,
            )
        elif config.integrity == "reconstruction":
            raise MedLIPError(
                "method.integrity=reconstruction needs the image decoder: set method.lambda_reconstruction and "
                "method.mask_ratio above 0, or choose another estimator."
            )
        if config.integrity == "position":
            self.importance = nn.Parameter(torch.zeros(self.encoder.patches))
            self.importance_bias = nn.Parameter(torch.zeros(()))
        self.prompts = PromptBank(config.described)

    @classmethod
    def build(
        cls,
        config: MLIPConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        reports: Callable[[], Iterable[str]],
    ) -> MLIP:
        """Return an untrained model; the small text encoder takes its words from `reports`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            text = build_report_encoder(
                config.text_encoder,
                reports,
                config.max_tokens,
                width=config.text_width,
                layers=config.text_layers,
                vocabulary=config.text_vocabulary,
            )
            return cls(config, vocabulary, preprocessing, text)

    @classmethod
    def blank(
        cls, config: MLIPConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]
    ) -> MLIP:
        """Return a model with the shapes of `state`, to be filled."""
        text = ReportEncoder.blank(state["text.about"], config.max_tokens)
        return cls(config.model_copy(update={"weights": None}), vocabulary, preprocessing, text)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The global contrast at 1, the local term at lambda_local, the prediction at lambda_reconstruction."""
        return {"global": 1.0, "local": self.config.lambda_local, "reconstruction": self.config.lambda_reconstruction}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch (fewer where the settings switch some off)."""
        generator = torch.Generator().manual_seed(batch.seed)
        reports: Sequence[Sequence[str]] = batch.sentences
        if self.training:
            reports = draw_sentences(reports, self.config.max_sentences, self.config.shuffle, generator)
        return self.loss_terms(batch.images, reports, generator=generator)

    def loss_terms(
        self,
        images: Tensor,
        reports: Sequence[Sequence[str]],
        visible: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            reports: of each image, as sentences; a pair without any takes no part in the contrasts.
            visible: (B, n) patches that stay visible; drawn if None.
            generator: draws them; None: one seeded with the settings' seed.
        """
        config = self.config
        if visible is None and config.mask_ratio:
            generator = generator or torch.Generator().manual_seed(config.seed)
            visible = draw_visible(len(images), self.encoder.patches, config.mask_ratio, generator).to(images.device)
        tokens = self.encoder(images, visible)
        patches, texts = self.project(tokens), self.encode_texts(reports)
        predicted = self.decoder(tokens, visible) if self.decoder is not None and visible is not None else None
        full = (
            self._full_patches(images) if config.integrity in ("similarity", "attention") and visible is not None else None
        )
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            return self._loss_terms(images, visible, patches, texts, predicted, full)

    def _loss_terms(
        self,
        images: Tensor,
        visible: Tensor | None,
        patches: Tensor,
        texts: MLIPTexts,
        predicted: Tensor | None,
        full: Tensor | None,
    ) -> dict[str, Tensor]:
        config = self.config
        patches = _exact(patches)
        pooled = normalize(patches.mean(1), dim=-1)
        errors = None
        if predicted is not None and visible is not None:
            errors = prediction_errors(_exact(predicted), images, visible, self.encoder.patch, config.normalise_pixels)
        scores = self._integrity(visible, pooled, texts, full, errors)
        weights = None if scores is None else normalised_weights(scores.detach(), config.integrity_floor)
        paired = gather(texts.real.any(1))

        logits = gather(pooled) @ gather(texts.reports).T * self.log_scale.exp().clamp(1, 100)
        if config.integrity == "position" and scores is not None:
            logits = logits * (scores / scores.mean())[:, None]  # what trains the scores
        terms = {"global": contrastive_loss(logits, weights, paired)}
        if config.local != "off":
            terms["local"] = self._local(normalize(patches, dim=-1), texts, weights, paired)
        if errors is not None:
            terms["reconstruction"] = errors.mean()
        return terms

    def _local(self, patches: Tensor, texts: MLIPTexts, weights: Tensor | None, paired: Tensor) -> Tensor:
        config = self.config
        if config.local == "pair":
            similarities = texts.sentences @ patches.transpose(1, 2)
            with torch.set_grad_enabled(config.transport_gradient == "iterations"):
                plans = self._plans(similarities, texts.real)
            costs = gather((plans * (1 - similarities)).sum((1, 2)))[paired]
            factors = torch.ones_like(costs) if weights is None else weights[paired]
            return (factors * costs).sum() / factors.sum().clamp(min=1e-6)
        sentences, real = gather_padded(texts.sentences), gather_padded(texts.real)
        if config.local == "attention":
            scores = attention_similarity(sentences, patches, real)
        else:
            scores = transport_similarity(
                sentences,
                patches,
                real,
                epsilon=config.epsilon,
                relax=config.relax,
                gradient=config.transport_gradient,
                max_iterations=config.transport_iterations,
                tolerance=TRAINING_TOLERANCE,
            )
        return contrastive_loss(gather(scores) / config.local_temperature, weights, paired)

    def _plans(self, similarities: Tensor, real: Tensor) -> Tensor:
        config = self.config
        return sinkhorn(
            1 - similarities,
            rows=real,
            epsilon=config.epsilon,
            relax=config.relax,
            max_iterations=config.transport_iterations,
            tolerance=TRAINING_TOLERANCE,
            gradient=config.transport_gradient,
        ).plan

    def _integrity(
        self, visible: Tensor | None, pooled: Tensor, texts: MLIPTexts, full: Tensor | None, errors: Tensor | None
    ) -> Tensor | None:
        """Return the semantic integrity of every masked image of the global batch, None where all weigh alike."""
        config = self.config
        if visible is None or config.integrity == "off":
            return None
        temperature = config.integrity_temperature
        if config.integrity == "reconstruction":
            assert errors is not None
            return reconstruction_integrity(gather(errors), temperature)
        if config.integrity == "similarity":
            assert full is not None
            whole = normalize(full.mean(1), dim=-1)
            masked_cosines, full_cosines = (gather((image * texts.reports).sum(1)) for image in (pooled, whole))
            return similarity_integrity(masked_cosines, full_cosines, temperature)
        shown = visible_map(visible, self.encoder.patches)
        if config.integrity == "position":
            return gather(position_integrity(shown, self.importance, self.importance_bias))
        assert full is not None
        cosines = torch.einsum("bnd,bd->bn", normalize(full, dim=-1), texts.reports)
        return gather(attention_integrity(cosines, shown, temperature))

    @torch.no_grad()
    def _full_patches(self, images: Tensor) -> Tensor:
        return _exact(self.project(self.encoder(images)))

    def encode_texts(self, reports: Sequence[Sequence[str]]) -> MLIPTexts:
        """Encode reports, given as sentences."""
        encoded: EncodedReports = self.text(reports)
        return MLIPTexts(
            normalize(
                _exact(self.project_report(encoded.means if self.config.report_vector == "mean" else encoded.reports)),
                dim=-1,
            ),
            normalize(_exact(self.project_sentence(encoded.sentences)), dim=-1) * encoded.real[..., None],
            encoded.real,
        )

    def encode_patches(self, images: Tensor) -> Tensor:
        """Return every patch of images (B, 3, S, S) in the shared space, of length 1: (B, N, d)."""
        return normalize(_exact(self.project(self.encoder(images))), dim=-1)

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C): softmax over what speaks for and against each prompt."""
        pooled = normalize(_exact(self.project(self.encoder(images))).mean(1), dim=-1)
        positive, negative = self.prompts.embed(prompts, self.vocabulary, self._embed_reports)
        return ((pooled @ (positive - negative).T) * self.log_scale.exp().clamp(1, 100)).sigmoid()

    @torch.inference_mode()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return how much more every patch is like what speaks for a prompt than like what speaks against it: (B, C, h, w).

        The difference of two cosines, moved from [-2, 2] to [0, 1]. What speaks for it alone says less: some patches are
        similar to any words.
        """
        embed = self._embed_reports if self.config.local == "off" else self._embed_sentences
        positive, negative = self.prompts.embed(prompts, self.vocabulary, embed)
        maps = (2 + self.encode_patches(images) @ (positive - negative).T) / 4
        return maps.transpose(1, 2).reshape(len(images), len(prompts), *self.encoder.grid)

    @torch.inference_mode()
    def match(self, images: Tensor, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return which patches each sentence of an image's own report goes to.

        Returns:
            Transport plans (B, M, h, w), 0 for sentences that are not there; a plan sums to 1 (to less where unbalanced).
        """
        texts = self.encode_texts(reports)
        plans = self._plans(texts.sentences @ self.encode_patches(images).transpose(1, 2), texts.real)
        return plans.view(*plans.shape[:2], *self.encoder.grid)

    @torch.inference_mode()
    def hide_and_predict(self, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Hide patches of images (B, 3, S, S) as in training, and predict every patch from the visible ones.

        Predictions of patches at mean 0 and variance 1 are given each patch's own brightness and contrast.

        Returns:
            Which pixels were hidden, bool (B, S, S), and grey values (B, S, S) as before normalisation, in [0, 1] mostly.

        Raises:
            MedLIPError: the model was trained without a decoder.
        """
        if self.decoder is None:
            raise MedLIPError("this model has no image decoder: train with lambda_reconstruction and mask_ratio above 0.")
        patch, patches = self.encoder.patch, self.encoder.patches
        generator = torch.Generator().manual_seed(seed)
        visible = draw_visible(len(images), patches, self.config.mask_ratio, generator).to(images.device)
        predicted = _exact(self.decoder(self.encoder(images, visible), visible))
        if self.config.normalise_pixels:
            target = patch_pixels(images, patch)
            predicted = predicted * target.std(2, keepdim=True) + target.mean(2, keepdim=True)
        hidden = ~visible_map(visible, patches)[..., None].expand(-1, -1, patch * patch)
        mean, std = (sum(values) / 3 for values in (self.preprocessing.mean, self.preprocessing.std))
        grey = join_patches(predicted, patch) * std + mean
        return join_patches(hidden, patch), grey

    def _embed_reports(self, texts: Sequence[str]) -> Tensor:
        return self.encode_texts([[text] for text in texts]).reports

    def _embed_sentences(self, texts: Sequence[str]) -> Tensor:
        return self.encode_texts([[text] for text in texts]).sentences[:, 0]

    def train(self, mode: bool = True) -> MLIP:
        """Switch between training and use; embedded prompts are forgotten, for the text encoder may change."""
        self.prompts.clear()
        return super().train(mode)


def _exact(values: Tensor) -> Tensor:
    """At least float32: what autocast computed in half precision is compared in full."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
