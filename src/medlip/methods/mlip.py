"""MLIP: masked contrastive learning with sentence-patch transport (arXiv 2401.01591).

L = L_MCL + lambda_l L_SPM + lambda_r L_MIP: a contrast of masked images and reports in which a sample weighs by how much of
its meaning the mask left, a match of sentences and patches by optimal transport, and the prediction of what the mask hides.
No code of the paper is published; what completes it is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, log, prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, pad

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.losses import (
    attention_integrity,
    attention_similarity,
    info_nce,
    learned_scale,
    normalized_weights,
    position_integrity,
    prediction_errors,
    reconstruction_integrity,
    similarity_integrity,
    true_integrity,
)
from medlip.losses.means import weighted_mean
from medlip.methods.base import (
    BenchSettings,
    MatchesSentences,
    Pass,
    PredictsPatches,
    SamplePicture,
    ShowsSamples,
    register,
    upcast,
)
from medlip.methods.image_text import ImageTextConfig, ImageTextMethod, Lesson, SeenImages, TaughtTexts
from medlip.methods.texts import AGAINST_SENTENCES, Sides, add_distractors, draw_sentences, is_sentence
from medlip.nn.draws import branch, image_seeds, uniform
from medlip.nn.gather import gather, gather_padded
from medlip.nn.image_decoder import ImageDecoder
from medlip.nn.patches import draw_visible, join_patches, patch_pixels, visible_map
from medlip.nn.report_encoder import EncodedReports, ReportEncoder
from medlip.nn.transport import TRAINING_TOLERANCE, sinkhorn, transport_similarity
from medlip.settings import Requirement

if TYPE_CHECKING:
    from medlip.data.batch import Batch


class MLIPConfig(ImageTextConfig):
    """Settings of MLIP beside those of the encoders; the defaults are the paper's where it states them.

    Attributes:
        backbone: as for the encoders; a `vit_…` computes visible patches alone.
        report_vector: as for the encoders; a text encoder from scratch learns `mean` far sooner than the paper's `cls`.
        max_sentences: as for the encoders.
        width: as for the encoders.
        shuffle: sentences come in random order in training.
        distractors: share of a report's sentences in training that describe nothing visible and are put in on purpose, to
            measure what they cost.
        mask_ratio: share of the patches that is hidden in training.
        temperature: of the contrast at the start; it is learned.
        integrity: what tells how much of a report's meaning a masked image still holds; `off` weighs all alike. `truth` is
            the share of its findings' masks that stays visible: what the others estimate, for data that have masks.
        integrity_temperature: of the weights; the lower, the more they differ.
        integrity_floor: smallest weight.
        local: how sentences and patches are matched: by `transport` over the whole batch, by transport in the own `pair`
            alone, by word-region `attention`, or not (`off`).
        local_temperature: of the local contrast.
        epsilon: entropy of the transport.
        relax: None for balanced transport; else how much it costs to leave a sentence's mass unmatched.
        background: the cosine of one more row, to which patches go that are less like any sentence; None for no such row.
            With `relax`, so that it may take more than a sentence's share, and `local=transport`.
        transport_gradient: take the `plan` as a constant, or go back through the `iterations`.
        transport_iterations: at most.
        lambda_local: weight of the local term; 0 leaves it out.
        lambda_reconstruction: weight of masked image prediction; 0 leaves the decoder out.
        decoder_width: of the image decoder, a multiple of its heads.
        decoder_layers: of the image decoder.
        decoder_heads: of the image decoder.
        normalize_pixels: predict patches at mean 0 and variance 1.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {
        **ImageTextConfig.needs,
        "local": Requirement("lambda_local above 0", lambda config: config.matches),
        "lambda_local": Requirement("local other than off", lambda config: config.matches),
        **dict.fromkeys(
            ("local_temperature", "epsilon", "relax", "transport_gradient", "transport_iterations"),
            Requirement("local other than off, and lambda_local above 0", lambda config: config.matches),
        ),
        **dict.fromkeys(
            ("integrity", "lambda_reconstruction"), Requirement("mask_ratio above 0", lambda config: config.mask_ratio > 0)
        ),
        **dict.fromkeys(
            ("integrity_temperature", "integrity_floor"),
            Requirement(
                "mask_ratio above 0, and integrity other than off",
                lambda config: config.mask_ratio > 0 and config.integrity != "off",
            ),
        ),
        **dict.fromkeys(
            ("decoder_width", "decoder_layers", "decoder_heads", "normalize_pixels"),
            Requirement("lambda_reconstruction and mask_ratio above 0", lambda config: config.predicts),
        ),
    }

    backbone: str = "vit_base_patch16_224"
    report_vector: Literal["cls", "mean", "max"] = "cls"
    max_sentences: int = Field(10, ge=0)
    width: int = Field(256, gt=0)
    shuffle: bool = True
    distractors: float = Field(0.0, ge=0, lt=1)
    mask_ratio: float = Field(0.75, ge=0, lt=1)
    temperature: float = Field(0.07, ge=0.01, le=1)
    integrity: Literal["similarity", "position", "attention", "reconstruction", "truth", "off"] = "similarity"
    integrity_temperature: float = Field(0.5, gt=0)
    integrity_floor: float = Field(0.1, gt=0, le=1)
    local: Literal["transport", "pair", "attention", "off"] = "transport"
    local_temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    relax: float | None = Field(None, gt=0)
    background: float | None = Field(None, ge=-1, le=1)
    transport_gradient: Literal["plan", "iterations"] = "plan"
    transport_iterations: int = Field(50, gt=0)
    lambda_local: float = Field(1.0, ge=0)
    lambda_reconstruction: float = Field(1.0, ge=0)
    decoder_width: int = Field(512, gt=0)
    decoder_layers: int = Field(4, gt=0)
    decoder_heads: int = Field(16, gt=0)
    normalize_pixels: bool = False

    @model_validator(mode="after")
    def _decoder_can_be_made(self) -> MLIPConfig:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(f"decoder_width={self.decoder_width} is no multiple of decoder_heads={self.decoder_heads}")
        if self.integrity == "reconstruction" and not self.predicts:
            raise ValueError(
                "integrity=reconstruction needs the image decoder: set lambda_reconstruction and mask_ratio above 0, or "
                "choose another estimator"
            )
        return self

    @model_validator(mode="after")
    def _background_can_grow(self) -> MLIPConfig:
        if self.background is not None and self.local != "transport":
            raise ValueError(f"local={self.local} knows no background, which is a row of local=transport")
        if self.background is not None and self.relax is None:
            raise ValueError(
                "background without relax takes the share of one sentence, whatever is there. Set relax, say 0.1"
            )
        return self

    @property
    def predicts(self) -> bool:
        """Whether hidden patches are predicted."""
        return self.lambda_reconstruction > 0 and self.mask_ratio > 0

    @property
    def matches(self) -> bool:
        """Whether sentences are matched with patches."""
        return self.local != "off" and self.lambda_local > 0

    @property
    def compares(self) -> bool:
        """Whether the whole image is looked at beside the masked one."""
        return self.integrity in ("similarity", "attention") and self.mask_ratio > 0


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
class MLIP(ImageTextMethod, MatchesSentences, PredictsPatches, ShowsSamples):
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
    bench = BenchSettings("vit_small_patch16_224", 12, {"text_width": 384, "text_layers": 6})

    def __init__(
        self, config: MLIPConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing, text)
        # What a setting leaves unused is not made: data parallelism waits for the gradient of every parameter.
        self.project = nn.Linear(self.encoder.width, config.width)
        self.project_report = nn.Linear(text.width, config.width)
        self.project_sentence = nn.Linear(text.width, config.width) if config.matches else None
        self.log_scale = nn.Parameter(torch.tensor(-log(config.temperature)))
        self.decoder: ImageDecoder | None = None
        self.patches = prod(self.encoder.patch_grid(preprocessing.size))
        if config.predicts:
            self.decoder = ImageDecoder(
                self.encoder.width,
                isqrt(self.patches),
                self.encoder.stride,
                config.decoder_width,
                config.decoder_layers,
                config.decoder_heads,
            )
        self.needs_masks = config.integrity == "truth" and config.mask_ratio > 0
        if config.integrity == "position" and config.mask_ratio:
            self.importance = nn.Parameter(torch.zeros(self.patches))
            self.importance_bias = nn.Parameter(torch.zeros(()))

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The global contrast at 1, the local term at lambda_local, the prediction at lambda_reconstruction."""
        config, weights = self.config, {"global": 1.0}
        if config.matches:
            weights["local"] = config.lambda_local
        if config.predicts:
            weights["reconstruction"] = config.lambda_reconstruction
        return weights

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with."""
        return learned_scale(self.log_scale)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch (fewer where the settings switch some off)."""
        regions = self._regions(batch) if self.needs_masks else None
        return self.loss_terms(batch.images, self.lesson(batch), seeds=batch.seeds, regions=regions)

    def _regions(self, batch: Batch) -> Tensor:
        """Return the share of each patch in the findings of its image (B, N), each finding's mask counting alike."""
        side = isqrt(self.patches)
        shares = torch.zeros(len(batch), self.patches)
        for image, masks in enumerate(batch.masks):
            painted = [torch.from_numpy(mask.pixels) for mask in masks if mask.pathology and mask.pixels.any()]
            if painted:
                areas = adaptive_avg_pool2d(torch.stack(painted).float()[:, None], side).flatten(1)
                shares[image] = (areas / areas.sum(1, keepdim=True)).mean(0)
        return shares.to(batch.images.device, non_blocking=True)

    def draw(self, reports: Sequence[Sequence[str]], seeds: Sequence[int]) -> Sequence[Sequence[str]]:
        """Return what is learned from of each study's sentences, with the distractors that are put in."""
        if not self.training:
            return reports
        config = self.config
        drawn = draw_sentences(reports, config.max_sentences, config.shuffle, seeds)
        return add_distractors(drawn, config.distractors, seeds)

    def loss_terms(
        self,
        images: Tensor,
        lesson: Lesson,
        visible: Tensor | None = None,
        *,
        seeds: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            lesson: what is learned from of each image; a pair without any text takes no part in the contrasts.
            visible: (B, n) patches that stay visible; drawn if None.
            seeds: int64 (B,), of that draw; None: those that follow from the settings' seed.
            regions: (B, N) shares of the patches in the findings, with `integrity=truth`.
        """
        config = self.config
        if visible is None and config.mask_ratio:
            visible = self._draw_visible(images, image_seeds(config.seed, len(images)) if seeds is None else seeds)
        tokens = self.encoder(images, visible).tokens
        patches, texts = self.project(tokens), self.encode_texts(lesson.reports)
        taught = self.taught(lesson, texts.reports)
        predicted = self.decoder(tokens, visible) if self.decoder is not None and visible is not None else None
        full = self._full_patches(images) if config.compares else None
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            return self._loss_terms(images, lesson, visible, patches, texts, taught, predicted, full, regions)

    def _draw_visible(self, images: Tensor, seeds: Tensor) -> Tensor:
        keys = uniform(branch(seeds.to(images.device, non_blocking=True), 0), self.patches)
        return draw_visible(keys, self.config.mask_ratio)

    def _loss_terms(
        self,
        images: Tensor,
        lesson: Lesson,
        visible: Tensor | None,
        patches: Tensor,
        texts: MLIPTexts,
        taught: TaughtTexts,
        predicted: Tensor | None,
        full: Tensor | None,
        regions: Tensor | None,
    ) -> dict[str, Tensor]:
        config = self.config
        patches = upcast(patches)
        seen = SeenImages(normalize(patches.mean(1), dim=-1), normalize(patches, dim=-1), (1, patches.shape[1]))
        errors = None
        if predicted is not None and visible is not None:
            errors = prediction_errors(upcast(predicted), images, visible, self.encoder.stride, config.normalize_pixels)
        scores = self._integrity(visible, seen.whole, texts, full, errors, regions)
        weights = None if scores is None else normalized_weights(scores.detach(), config.integrity_floor)
        factors = None
        if config.integrity == "position" and scores is not None:
            # What trains the scores; with mean and floor like the weights, or a sample could be silenced here.
            factors = normalized_weights(scores, config.integrity_floor)
        terms = {"global": self.contrast(seen, taught, lesson, self.scale, weights, factors=factors)}
        if config.matches:
            terms["local"] = self._local(seen, texts, weights, lesson)
        if errors is not None:
            terms["reconstruction"] = weighted_mean(errors, torch.ones_like(errors))
        return terms

    def _local(self, seen: SeenImages, texts: MLIPTexts, weights: Tensor | None, lesson: Lesson) -> Tensor:
        config, patches, paired = self.config, seen.parts, gather(texts.real.any(1))
        if config.local == "pair":
            plans, costs = self._plans(texts.sentences, patches, texts.real)
            costs = gather((plans * costs).sum((1, 2)))
            factors = paired.to(costs.dtype) if weights is None else weights * paired
            return (factors * costs).sum() / factors.sum().clamp(min=1e-6)
        sentences, real = gather_padded(texts.sentences), gather_padded(texts.real)
        if config.local == "attention":
            scores = attention_similarity(sentences, patches, real)
        else:
            scores = transport_similarity(*self._with_background(sentences, patches, real), **self._transport())
        negatives = self.negatives(lesson, "report")
        return info_nce(gather(scores) / config.local_temperature, weights, paired, negatives=negatives)

    def _with_background(self, sentences: Tensor, patches: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sentences (R, M, d), patches (I, N, d) and which sentences are there, with the row of the background."""
        if (level := self.config.background) is None:
            return sentences, patches, real
        row = pad(torch.full_like(sentences[:, :1, :1], level), (sentences.shape[2], 0))
        return (
            torch.cat([pad(sentences, (0, 1)), row], 1),
            pad(patches, (0, 1), value=1.0),
            torch.cat([real, real.any(1, keepdim=True)], 1),
        )

    def _plans(self, sentences: Tensor, patches: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the plans (B, M, N) of each image's sentences, without what goes to the background, and what they cost."""
        rows, columns, there = self._with_background(sentences, patches, real)
        costs = 1 - rows @ columns.transpose(1, 2)
        plans = sinkhorn(costs, rows=there, **self._transport()).plan
        return plans[:, : sentences.shape[1]], costs[:, : sentences.shape[1]]

    def _transport(self) -> dict[str, Any]:
        config = self.config
        return {
            "epsilon": config.epsilon,
            "relax": config.relax,
            "gradient": config.transport_gradient,
            "max_iterations": config.transport_iterations,
            "tolerance": TRAINING_TOLERANCE,
        }

    def _integrity(
        self,
        visible: Tensor | None,
        pooled: Tensor,
        texts: MLIPTexts,
        full: Tensor | None,
        errors: Tensor | None,
        regions: Tensor | None,
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
        shown = visible_map(visible, self.patches)
        if config.integrity == "truth":
            assert regions is not None
            return gather(true_integrity(regions, shown))
        if config.integrity == "position":
            return gather(position_integrity(shown, self.importance, self.importance_bias))
        assert full is not None
        cosines = torch.einsum("bnd,bd->bn", normalize(full, dim=-1), texts.reports)
        return gather(attention_integrity(cosines, shown, temperature))

    @torch.no_grad()
    def _full_patches(self, images: Tensor) -> Tensor:
        return upcast(self.project(self.encoder(images).tokens))

    def encode_texts(self, reports: Sequence[Sequence[str]]) -> MLIPTexts:
        """Encode reports, given as sentences; without a local term all sentence vectors are 0."""
        encoded: EncodedReports = self.text(reports)
        vectors = normalize(upcast(self.project_report(self.report_vectors(encoded))), dim=-1)
        if self.project_sentence is None:
            return MLIPTexts(vectors, vectors.new_zeros(*encoded.real.shape, vectors.shape[1]), encoded.real)
        sentences = normalize(upcast(self.project_sentence(encoded.sentences)), dim=-1)
        return MLIPTexts(vectors, sentences * encoded.real[..., None], encoded.real)

    def encode_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1."""
        return self.encode_texts(reports).reports

    def see(self, images: Tensor) -> SeenImages:
        """Return whole images, none of their patches hidden, and their patches."""
        features = self.encoder(images)
        patches = upcast(self.project(features.tokens))
        return SeenImages(normalize(patches.mean(1), dim=-1), normalize(patches, dim=-1), features.grid)

    def scores_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C): softmax over what speaks for and against each prompt."""
        return self.probabilities(seen, prompts, self.scale)

    def maps_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return where each prompt is seen, (B, N, C) in [0, 1].

        For a finding: how much more a patch is like what speaks for it than like what speaks against it, a difference of two
        cosines moved from [-2, 2] to [0, 1]. (Where whole reports were compared, what speaks for it alone says less: some
        patches are similar to any words.)
        For a whole sentence: the share of each patch that the transport plan gives to it, beside the sentences against it.
        """
        sides = self.sides(prompts)
        if self.config.matches and self.config.unit == "report":
            positive, negative = self.prompts.embed("sentences", sides, self._embed_sentences)
        else:
            positive, negative = self.embed_prompts(prompts)
        maps = (2 + seen.parts @ (positive - negative).T) / 4
        for column, prompt in enumerate(prompts):
            if self.config.matches and is_sentence(prompt, self.vocabulary):
                (rows,) = self.prompts.keep("each sentence", sides[column], self._each_sentence)
                sentences = rows.expand(len(seen.parts), -1, -1)
                there = torch.ones(sentences.shape[:2], dtype=torch.bool, device=rows.device)
                plans, _ = self._plans(sentences, seen.parts, there)
                maps[..., column] = (plans[:, 0] * seen.parts.shape[1]).clamp(0, 1)
        return maps

    @torch.inference_mode()
    def match(self, images: Tensor, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return which patches each sentence of an image's own report goes to, beside the report's other sentences.

        Returns:
            Transport plans (B, M, h, w), 0 for sentences that are not there; each plan sums to 1, each patch to 1 / N, less
            what goes to the background where there is one. The only sentence of a report gets all the rest of every patch.

        Raises:
            MedLIPError: the model was trained without a local term.
        """
        if not self.config.matches:
            raise MedLIPError("this model matches no sentences: train with local=transport, pair or attention.")
        texts, seen = self.encode_texts(reports), self.see(images)
        plans, _ = self._plans(texts.sentences, seen.parts, texts.real)
        return plans.view(*plans.shape[:2], *seen.grid)

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
        patch, patches = self.encoder.stride, self.patches
        visible = self._draw_visible(images, image_seeds(seed, len(images)))
        predicted = upcast(self.decoder(self.encoder(images, visible).tokens, visible))
        if self.config.normalize_pixels:
            target = patch_pixels(images, patch)
            predicted = predicted * target.std(2, keepdim=True) + target.mean(2, keepdim=True)
        hidden = ~visible_map(visible, patches)[..., None].expand(-1, -1, patch * patch)
        return join_patches(hidden, patch), self._grey(join_patches(predicted, patch))

    def _grey(self, values: Tensor) -> Tensor:
        """Return grey values in [0, 1] of normalized ones, their mean over the channels."""
        mean, std = (sum(values) / 3 for values in (self.preprocessing.mean, self.preprocessing.std))
        return values * std + mean

    @torch.inference_mode()
    def sample_pictures(self, image: Tensor, sentences: Sequence[str]) -> list[SamplePicture]:
        """Return what is predicted of hidden patches, and where each of several sentences goes."""
        pictures = []
        if self.decoder is not None:
            hidden, predicted = (values[0] for values in self.hide_and_predict(image[None]))
            grey = self._grey(image.mean(0))
            pictures += [
                SamplePicture("Hidden", "image", grey.masked_fill(hidden, 0).cpu()),
                SamplePicture("Predicted", "image", torch.where(hidden, predicted, grey).cpu()),
            ]
        return pictures + (self.plan_pictures(image, sentences) if self.config.matches else [])

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`, on whole images, and two more parts of the step.

        `trained_networks`: image encoder (on visible patches), text encoder and image decoder; `networks`: these, and the
        pass of the full image that the estimator of semantic integrity takes.
        """
        images, reports = batch.images, self.lesson(batch).reports
        visible = self._draw_visible(images, batch.seeds) if self.config.mask_ratio else None

        def trained_networks() -> list[Tensor]:
            tokens = self.encoder(images, visible).tokens
            encoded = self.text(reports)
            predicted = [] if self.decoder is None or visible is None else [self.decoder(tokens, visible)]
            return [tokens, encoded.sentences, encoded.reports, *predicted]

        def networks() -> list[Tensor]:
            if self.config.compares:
                with torch.no_grad():
                    self.encoder(images)
            return trained_networks()

        return {**super().timed_parts(batch), "networks": networks, "trained_networks": trained_networks}

    def _embed_sentences(self, texts: Sequence[str]) -> Tensor:
        return self.encode_texts([[text] for text in texts]).sentences[:, 0]

    def _each_sentence(self, sides: Sides) -> tuple[Tensor]:
        """Return vectors (1 + n, d) of a sentence and of those against it, which some plan is to be shared with."""
        speaks_for, against = sides
        return (self._embed_sentences([*speaks_for, *(against or AGAINST_SENTENCES)]),)
