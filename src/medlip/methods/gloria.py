"""GLoRIA: contrast of whole images and reports, and of words and the regions they attend to (Huang et al., ICCV 2021).

L = L_global + lambda L_local, each a contrast in both directions. The factors 4, 5 and 10 of the authors' code are those of
the attention, of the sum over words and of all similarities. Both levels read one stage of the backbone, where GLoRIA takes
its fourth for the image and its third for the regions; words and regions are compared at length 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from medlip.methods.base import register, upcast
from medlip.methods.contrastive import contrastive_loss
from medlip.methods.image_text import ImageTextConfig, ImageTextMethod
from medlip.methods.texts import prompt_name, prompt_texts
from medlip.nn.gather import gather, gather_padded
from medlip.nn.report_encoder import pool
from medlip.nn.word_region import attention_similarity

if TYPE_CHECKING:
    from medlip.concepts import Vocabulary
    from medlip.images.preprocessing import Preprocessing
    from medlip.nn.report_encoder import EncodedReports, ReportEncoder


class GLoRIAConfig(ImageTextConfig):
    """Settings of GLoRIA beside those of the encoders; the defaults are the published ones, but for the text encoder.

    Attributes:
        attention: factor of word-region similarities before the softmax over regions.
        words: factor of the cosines before the log-sum over words; the larger, the more the best word counts alone.
        scale: factor of the similarities of whole images and reports, and of the log-sum, in the contrasts.
        lambda_local: weight of the local term.
    """

    attention: float = Field(4.0, gt=0)
    words: float = Field(5.0, gt=0)
    scale: float = Field(10.0, gt=0)
    lambda_local: float = Field(1.0, gt=0)


@register
class GLoRIA(ImageTextMethod):
    """Two encoders, with a linear projection for the whole and one for the parts each.

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    name = "gloria"
    summary = (
        "The model learns to tell an image's own report from the others', as a whole and by the regions that each of its "
        "words attends to."
    )
    config_type = GLoRIAConfig

    def __init__(
        self, config: GLoRIAConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing, text)
        self.project = nn.Linear(self.encoder.width, config.width)
        self.project_region = nn.Linear(self.encoder.width, config.width)
        self.project_report = nn.Linear(text.width, config.width)
        self.project_word = nn.Linear(text.width, config.width)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The global contrast at 1, the local one at lambda_local."""
        return {"global": 1.0, "local": self.config.lambda_local}

    def loss_terms(self, images: Tensor, reports: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Return both terms for images (B, 3, S, S) and their reports, given as sentences; one without any is left out."""
        config = self.config
        pooled, regions = self._encode_images(images)
        encoded = self.text(reports)
        wholes, (words, real) = self._whole(encoded), self._words(encoded)
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            present = gather(real.any(1))
            logits = config.scale * gather(pooled) @ gather(wholes).T
            terms = {"global": contrastive_loss(logits, present=present)}
            words, real = gather_padded(words), gather_padded(real)
            logits = gather(local_logits(words, regions, real, config.attention, config.words, config.scale))
            return terms | {"local": contrastive_loss(logits, present=present)}

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C): softmax over what speaks for and against each prompt.

        A text's similarity is the mean of its global and its local one, as published; that of the words is their mean, so
        that long and short texts compare.
        """
        config = self.config
        pooled, regions = self._encode_images(images)
        positive, negative = self.prompts.embed(prompts, self.vocabulary, self._embed_texts)
        local = {}
        for prompt in set(prompts):
            words, real, side = self.prompts.keep("words", prompt, self._ask)
            logits = local_logits(words, regions, real, config.attention, config.words)
            local[prompt] = (logits - real.sum(1).log()) / config.words @ side
        similarities = (pooled @ (positive - negative).T + torch.stack([local[prompt] for prompt in prompts], 1)) / 2
        scores: Tensor = (config.scale * similarities).sigmoid()
        return scores

    @torch.inference_mode()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1]: (1 + cosine) / 2 of each region and the words of each prompt's name."""
        spoken = [
            ["There is", prompt_name(prompt, self.vocabulary), "."] for prompt in prompts
        ]  # the name as reports say it
        names = normalize(upcast(self.project_word(self.text(spoken).sentences[:, 1])), dim=-1)
        _, regions = self._encode_images(images)
        maps = (1 + regions @ names.T).clamp(min=0) / 2
        return maps.transpose(1, 2).reshape(len(images), len(prompts), *self.encoder.grid)

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Return whole images (B, d), of length 1; their regions have no part in it."""
        return self._encode_images(images)[0]

    @torch.inference_mode()
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1; their words have no part in it."""
        return self._whole(self.text(reports))

    def _encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return whole images (B, d) and their regions (B, N, d), of length 1."""
        features = self.encoder(images)
        whole, regions = self.project(features.mean(1)), self.project_region(features)
        return normalize(upcast(whole), dim=-1), normalize(upcast(regions), dim=-1)

    def _whole(self, encoded: EncodedReports) -> Tensor:
        return normalize(upcast(self.project_report(self.report_vectors(encoded))), dim=-1)

    def _words(self, encoded: EncodedReports) -> tuple[Tensor, Tensor]:
        """Return words (B, M, d) of length 1, each the mean of its pieces, and which are there (B, M)."""
        words, real = pool(encoded.tokens, encoded.words, max(1, int(encoded.words.max()) + 1))
        return normalize(upcast(self.project_word(words)), dim=-1) * real[..., None], real

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self._whole(self.text([[text] for text in texts]))

    def _ask(self, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return words (T, M, d) of the texts for and against a prompt, which are there, and each text's signed share."""
        positive, negative = prompt_texts(prompt, self.vocabulary, self.config.described)
        words, real = self._words(self.text([[text] for text in positive + negative]))
        side = [1 / len(positive)] * len(positive) + [-1 / len(negative)] * len(negative)
        return words, real, torch.tensor(side, device=words.device)


def local_logits(
    words: Tensor, regions: Tensor, real: Tensor, attention: float = 4.0, sharpness: float = 5.0, scale: float = 1.0
) -> Tensor:
    """Return scale log sum_m exp(sharpness cos(context_m, word_m)) of every image and report, as the authors' code has it.

    Args:
        words: (R, M, d) of R reports, of length 1.
        regions: (I, N, d) of I images, of length 1.
        real: bool (R, M), words that are there.
        attention: factor before the softmax over regions that makes a word's context.
        sharpness: factor of the cosines.
        scale: factor of the result.

    Returns:
        (I, R); 0 for a report without words.
    """
    similarity = attention_similarity(words, regions, real, temperature=1 / attention, sharpness=1 / sharpness)
    return scale * sharpness * similarity


def reference_local_loss(
    words: Tensor, regions: Tensor, real: Tensor, attention: float, sharpness: float, scale: float
) -> Tensor:
    """Return the local loss word by word: the mean of both directions' cross-entropies; every report has a word."""
    logits = regions.new_zeros(len(regions), len(words))
    for i, image in enumerate(regions):
        for j, report in enumerate(words):
            total = regions.new_zeros(())
            for word in report[real[j]]:
                context = (attention * image @ word).softmax(0) @ image
                total = total + (sharpness * F.cosine_similarity(context, word, dim=0)).exp()
            logits[i, j] = scale * total.log()
    pairs = torch.arange(len(words))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
