"""What methods share that learn from images and whole reports: both encoders, their settings, and how they are built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import Method, MethodConfig
from medlip.methods.texts import PromptBank, draw_sentences
from medlip.nn.patch_encoder import PatchEncoder
from medlip.nn.report_encoder import WORDPIECE, EncodedReports, ReportEncoder, build_report_encoder

if TYPE_CHECKING:
    from medlip.data.batch import Batch


class ImageTextConfig(MethodConfig):
    """Settings of both encoders.

    Attributes:
        backbone: timm model of the image encoder.
        patch: image pixels per location; None for a transformer's own, 16 for other backbones (third stage of a ResNet).
        depth: transformer blocks of the backbone; None for the model's own.
        weights: initial weights of the backbone: None, "timm", a package or a file, as `ImageEncoder` takes them.
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
        seed: of initial weights.
    """

    backbone: str = "resnet50"
    patch: int | None = Field(None, gt=0)
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
    seed: int = 0


class ImageTextMethod(Method):
    """An image encoder and a report encoder that are trained together.

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    encoder: PatchEncoder

    def __init__(
        self, config: ImageTextConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self.text = text
        self.encoder = PatchEncoder(
            config.backbone, preprocessing.size, patch=config.patch, depth=config.depth, weights=config.weights
        )
        self.prompts = PromptBank(config.described)
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

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch; in training a report may be a few of its sentences, drawn with the batch's seed."""
        reports: Sequence[Sequence[str]] = batch.sentences
        if self.training:
            generator = torch.Generator().manual_seed(batch.seed)
            reports = draw_sentences(reports, self.config.max_sentences, False, generator)
        return self.loss_terms(batch.images, reports)

    @abstractmethod
    def loss_terms(self, images: Tensor, reports: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            reports: of each image, as sentences; a pair without any takes no part.
        """

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
