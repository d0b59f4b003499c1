"""GLoRIA: contrast of whole images and reports, and of words and the regions they attend to (Huang et al., ICCV 2021).

L = L_global + lambda L_local, each a contrast in both directions. The factors 4, 5 and 10 of the authors' code are those of
the attention, of the sum over words and of all similarities. Both levels read one stage of the backbone, where GLoRIA takes
its fourth for the image and its third for the regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from medlip.losses import info_nce, local_logits
from medlip.methods.base import register, upcast
from medlip.methods.image_text import ImageTextConfig, ImageTextMethod, Lesson, SeenImages
from medlip.methods.texts import Sides, prompt_name
from medlip.nn.gather import gather, gather_padded
from medlip.nn.report_encoder import pool

if TYPE_CHECKING:
    from medlip.concepts import Vocabulary
    from medlip.images.preprocessing import Preprocessing
    from medlip.nn.report_encoder import EncodedReports, ReportEncoder


class GLoRIAConfig(ImageTextConfig):
    """Settings of GLoRIA beside those of the encoders; the defaults are the published ones, but for the text encoder.

    Attributes:
        attends: `regions`: a word attends by a softmax over regions, words and regions at length 1, as the paper writes it;
            `words_first`: by one over the report's words and then one over regions, words and regions as long as they are,
            as the authors' code does.
        attention: factor of word-region similarities before the softmax over regions.
        words: factor of the cosines before the log-sum over words; the larger, the more the best word counts alone.
        scale: factor of the similarities of whole images and reports, and of the log-sum, in the contrasts.
        lambda_local: weight of the local term.
    """

    attends: Literal["regions", "words_first"] = "regions"
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
        # Where the similarity of a whole is that of its regions, it has no projection of its own.
        self.project = nn.Linear(self.encoder.width, config.width) if config.pooling == "mean" else None
        self.project_region = nn.Linear(self.encoder.width, config.width)
        self.project_report = nn.Linear(text.width, config.width)
        self.project_word = nn.Linear(text.width, config.width)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The global contrast at 1, the local one at lambda_local."""
        return {"global": 1.0, "local": self.config.lambda_local}

    def loss_terms(self, images: Tensor, lesson: Lesson) -> dict[str, Tensor]:
        """Return both terms for images (B, 3, S, S) and their texts; one without any is left out."""
        config = self.config
        seen = self.see(images)
        encoded = self.text(lesson.reports)
        texts, (words, real) = self.taught(lesson, self._whole(encoded)), self._words(encoded)
        with torch.autocast(images.device.type, enabled=False):  # losses are small, and exact
            terms = {"global": self.contrast(seen, texts, lesson, config.scale)}
            words, real = gather_padded(words), gather_padded(real)
            logits = gather(self._local(words, seen, real) * config.scale)
            return terms | {"local": info_nce(logits, present=real.any(1), negatives=self.negatives(lesson, "report"))}

    def see(self, images: Tensor) -> SeenImages:
        """Return whole images and their regions."""
        features = self.encoder(images)
        regions = self.project_region(features.tokens)
        whole = regions.mean(1) if self.project is None else self.project(features.tokens.mean(1))
        regions = upcast(regions)
        return SeenImages(normalize(upcast(whole), dim=-1), normalize(regions, dim=-1), features.grid, regions)

    def scores_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C): softmax over what speaks for and against each prompt.

        A text's similarity is the mean of its global and its local one, as published; that of the words is their mean, so
        that long and short texts compare.
        """
        config, sides = self.config, self.sides(prompts)
        positive, negative = self.embed_prompts(prompts)
        local = {}
        for texts in set(sides):
            words, real, share = self.prompts.keep("words", texts, self._words_of)
            local[texts] = (self._local(words, seen, real) - real.sum(1).log()) / config.words @ share
        whole = self.similarity(seen, positive) - self.similarity(seen, negative)
        similarities = (whole + torch.stack([local[texts] for texts in sides], 1)) / 2
        scores: Tensor = (config.scale * similarities).sigmoid()
        return scores

    def maps_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return (1 + cosine) / 2 of each region and the words of each prompt's name, (B, N, C).

        Where whole texts were compared with regions (`pooling=similarity`), of each region and what speaks for the prompt.
        """
        if self.config.pooling == "similarity":
            return (1 + seen.parts @ self.embed_prompts(prompts)[0].T).clamp(min=0) / 2
        # The name as reports say it.
        spoken = [["There is", prompt_name(prompt, self.vocabulary), "."] for prompt in prompts]
        names = normalize(upcast(self.project_word(self.text(spoken).sentences[:, 1])), dim=-1)
        return (1 + seen.parts @ names.T).clamp(min=0) / 2

    def encode_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return whole reports (R, d), of length 1; their words have no part in it."""
        return self._whole(self.text(reports))

    def _whole(self, encoded: EncodedReports) -> Tensor:
        return normalize(upcast(self.project_report(self.report_vectors(encoded))), dim=-1)

    def _words(self, encoded: EncodedReports) -> tuple[Tensor, Tensor]:
        """Return words (B, M, d), each the mean of its pieces (of length 1 unless words attend first), and which are."""
        words, real = pool(encoded.tokens, encoded.words, max(1, encoded.most_words))
        words = upcast(self.project_word(words))
        if self.config.attends == "regions":
            words = normalize(words, dim=-1)
        return words * real[..., None], real

    def _local(self, words: Tensor, seen: SeenImages, real: Tensor) -> Tensor:
        """Return the log-sums (B, R) of images and the words (R, M, d) of R texts."""
        config, words_first = self.config, self.config.attends == "words_first"
        regions = seen.raw if words_first and seen.raw is not None else seen.parts
        return local_logits(words, regions, real, config.attention, config.words, words_first=words_first)

    def _words_of(self, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
        """Return words (T, M, d) of the texts for and against a prompt, which are there, and each text's signed share."""
        positive, negative = sides
        words, real = self._words(self.text([[text] for text in positive + negative]))
        shares = [1 / len(positive) for _ in positive] + [-1 / len(negative) for _ in negative]
        return words, real, torch.tensor(shares, device=words.device)
