"""What methods share that learn from images and whole reports: both encoders, their settings, and how they are built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import (
    Answers,
    AnswersAtOnce,
    EmbedsReports,
    HasEncoder,
    MethodConfig,
    Pass,
    WhichMaps,
)
from medlip.methods.texts import PromptBank, Sides, draw_sentences, prompt_texts
from medlip.nn.report_encoder import WORDPIECE, Cut, EncodedReports, ReportEncoder, build_report_encoder
from medlip.nn.vision_encoder import vision_encoder

if TYPE_CHECKING:
    from medlip.data.batch import Batch


class ImageTextConfig(MethodConfig):
    """Settings of both encoders.

    Attributes:
        backbone: timm model of the image encoder.
        stride: image pixels per location, a transformer's patch; None for the transformer's own, 16 for other backbones
            (third stage of a ResNet).
        depth: transformer blocks of the backbone; None for the model's own.
        weights: initial weights of the backbone: None, "timm", a package or a file, as `vision_encoder` takes them.
        text_encoder: a transformers model by name or folder, or "wordpiece": a small one from the training reports.
        text_width: of the small text encoder.
        text_layers: of the small text encoder.
        text_vocabulary: word pieces of the small text encoder.
        report_vector: a report's state is that of its first token (`cls`), or the `mean` or maximum (`max`) over its words.
        max_tokens: where a report is cut.
        max_sentences: of a report, drawn anew each time; 0 for all.
        width: of the space that images and texts share.
        described: a pathology is asked for by its description beside its name; a text encoder that has seen few reports
            hardly knows a description's words.
    """

    backbone: str = "resnet50"
    stride: int | None = Field(None, gt=0)
    depth: int | None = Field(None, gt=0)
    weights: str | None = None
    text_encoder: str = WORDPIECE
    text_width: int = Field(256, gt=0, multiple_of=32)
    text_layers: int = Field(4, gt=0)
    text_vocabulary: int = Field(4000, gt=10)
    report_vector: Literal["cls", "mean", "max"] = "mean"
    max_tokens: int = Field(100, gt=2)
    max_sentences: int = Field(0, ge=0)
    width: int = Field(512, gt=0)
    described: bool = True


@dataclass(frozen=True, slots=True)
class SeenImages:
    """B images in the space that they share with reports.

    Attributes:
        whole: (B, d), of length 1.
        parts: (B, N, d) of each location, of length 1.
        grid: (h, w), h * w = N.
    """

    whole: Tensor
    parts: Tensor
    grid: tuple[int, int]


class ImageTextMethod(AnswersAtOnce, HasEncoder, EmbedsReports):
    """An image encoder and a report encoder that are trained together.

    An image is encoded once, and everything is answered from that: a method only says how it sees images (`see`), and what
    it makes of what it saw (`scores_of`, `maps_of`).

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    learns_from = "sentences"
    least_images = 2

    def __init__(
        self, config: ImageTextConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self.text = text
        self.encoder = vision_encoder(
            config.backbone,
            config.stride,
            image_size=preprocessing.size,
            depth=config.depth,
            weights=config.weights,
            freeze_statistics=config.weights is not None,
        )
        self.prompts = PromptBank()
        self.register_load_state_dict_post_hook(_forget_prompts)  # type: ignore[no-untyped-call]

    @classmethod
    def build(
        cls,
        config: ImageTextConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        reports: Callable[[], Iterable[str]],
    ) -> Self:
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
        cls, config: ImageTextConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]
    ) -> Self:
        """Return a model with the shapes of `state`, to be filled."""
        text = ReportEncoder.blank(state["text.about"], config.max_tokens)
        return cls(config.model_copy(update={"weights": None}), vocabulary, preprocessing, text)

    def from_earlier(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a state dict of an earlier version as this model has it."""
        return self.encoder.from_earlier(state, "encoder.")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch; in training a report may be a few of its sentences, drawn by its image's seed."""
        return self.loss_terms(batch.images, self.drawn_sentences(batch))

    def drawn_sentences(self, batch: Batch) -> Sequence[Sequence[str]]:
        """Return what is learned from of each report."""
        if not self.training:
            return batch.sentences
        return draw_sentences(batch.sentences, self.config.max_sentences, False, batch.seeds.tolist())

    def divide(self, parts: int) -> bool:
        """Encode images and reports in parts; they are still told from those of the whole batch.

        Gradients are those of the whole batch, unless batch normalization takes its statistics, which are then a part's.
        """
        self.encoder.parts = self.text.parts = parts
        return True

    @abstractmethod
    def loss_terms(self, images: Tensor, reports: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            reports: of each image, as sentences; a pair without any takes no part.
        """

    @abstractmethod
    def see(self, images: Tensor) -> SeenImages:
        """Return whole images (B, 3, S, S) and their parts in the shared space."""

    @abstractmethod
    def scores_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) of each prompt."""

    @abstractmethod
    def maps_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return a value in [0, 1] for each part and prompt, (B, N, C)."""

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
        """Return all that is wanted of images (B, 3, S, S), which are encoded once; no method of this kind tells places."""
        seen = self.see(images)
        return Answers(
            self.scores_of(seen, prompts) if prompts else seen.whole.new_zeros(len(seen.whole), 0),
            self._on_grid(seen, prompts) if maps else None,
            None,
            seen.whole if embeddings else None,
        )

    @torch.inference_mode()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1] of where each prompt is seen, as `maps_of` has it."""
        return self._on_grid(self.see(images), prompts)

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Return whole images (B, d), of length 1."""
        return self.see(images).whole

    @torch.inference_mode()
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1."""
        return self.encode_reports(reports)

    def cut(self, reports: Iterable[Sequence[str]], *, training: bool = False) -> Cut:
        """Return what is lost of reports that are longer than `max_tokens`."""
        return self.text.cut(reports, self.config.max_sentences if training else 0)

    @abstractmethod
    def encode_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1, as they are trained."""

    def _on_grid(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        if not prompts:
            return seen.parts.new_zeros(len(seen.parts), 0, *seen.grid)
        return self.maps_of(seen, prompts).transpose(1, 2).reshape(len(seen.parts), len(prompts), *seen.grid)

    def sides(self, prompts: Sequence[str]) -> list[Sides]:
        """Return the texts that speak for and against each prompt."""
        return [prompt_texts(prompt, self.vocabulary, self.config.described) for prompt in prompts]

    def embed_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return what speaks for (C, d) and against (C, d) each prompt, its texts encoded as whole reports."""
        return self.prompts.embed("reports", self.sides(prompts), lambda texts: self.encode_reports([[t] for t in texts]))

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`, and `networks`: image and text encoder."""
        reports = self.drawn_sentences(batch)
        networks = {"networks": lambda: [self.encoder(batch.images).tokens, self.text(reports).tokens]}
        return {**super().timed_parts(batch), **networks}

    def report_vectors(self, encoded: EncodedReports) -> Tensor:
        """Return what stands for each report, (B, text width), before any projection.

        The maximum is over the sums of the last four layers; it is 0 for a report without words.
        """
        if self.config.report_vector == "max":
            words = (encoded.words >= 0)[..., None]
            highest = encoded.tokens.masked_fill(~words, torch.finfo(encoded.tokens.dtype).min).amax(1)
            return highest.masked_fill(~words.any(1), 0)
        return encoded.means if self.config.report_vector == "mean" else encoded.reports

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.prompts.clear()  # other weights, or another device
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and use; embedded prompts are forgotten, for the text encoder may change."""
        self.prompts.clear()
        return super().train(mode)


def _forget_prompts(module: ImageTextMethod, keys: object) -> None:
    module.prompts.clear()
