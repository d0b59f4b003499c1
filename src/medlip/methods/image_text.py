"""What methods share that learn from images and whole reports: both encoders, their settings, and how they are built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from medlip.concepts import Vocabulary
from medlip.images.preprocessing import Preprocessing
from medlip.losses import info_nce, pooled_similarity, sentence_contrast, sigmoid_contrast
from medlip.methods.base import (
    SMALL_TEXT,
    Answers,
    AnswersAtOnce,
    EmbedsReports,
    HasEncoder,
    Pass,
    TextEncoderConfig,
    WhichMaps,
)
from medlip.methods.claims import Claims, Wrong, draw_wrong
from medlip.methods.texts import Form, PromptBank, Sides, draw_sentences, prompt_texts
from medlip.nn.gather import gather, gather_padded
from medlip.nn.report_encoder import WORDPIECE, Cut, EncodedReports, ReportEncoder
from medlip.nn.vision_encoder import vision_encoder
from medlip.settings import Requirement

if TYPE_CHECKING:
    from medlip.data.batch import Batch


NO_SENTENCE = -2
CENTERED = 20  # a frozen text encoder is centered on every so many-th claim


class ImageTextConfig(TextEncoderConfig):
    """Settings of both encoders.

    Attributes:
        backbone: timm model of the image encoder.
        stride: image pixels per location, a transformer's patch; None for the transformer's own, 16 for other backbones
            (third stage of a ResNet).
        depth: transformer blocks of the backbone; None for the model's own.
        weights: initial weights of the backbone: None, "timm", a package or a file, as `vision_encoder` takes them.
        text_encoder: a transformers model by name or folder, or "wordpiece": a small one from the training reports.
        report_vector: a report's state is that of its first token (`cls`), or the `mean` or maximum (`max`) over its words.
        max_tokens: where a report is cut.
        max_sentences: of a report, drawn anew each time; 0 for all.
        width: of the space that images and texts share.
        described: a pathology is asked for by its description beside its name; a text encoder that has seen few reports
            hardly knows a description's words.
        prompts: how a finding is asked for: in `several` published sentences, as `facts` are written, a sentence for it and
            one against it, or by the sentence for it alone (`present`), which is what to take where reports hardly ever
            deny what they don't find.
        texts: what is learned from: the sentences of the `report`, its `facts` as sentences ("There is no effusion."), or
            `both`.
        unit: images are told apart by whole `report`s, or by each `sentence` by itself, as they are asked for.
        apart: each sentence of a report is encoded by itself, as a question is, rather than in its report.
        freeze_text: the text encoder stays as it is; with `apart` each sentence is then encoded once.
        pooling: an image's similarity with a text is that of its `mean`, or the mean of its parts' cosines, weighed by
            their softmax (`similarity`), so that what a text says of a small part is not averaged away.
        pooling_temperature: of that softmax.
        contrast: the own text is told from all (`softmax`), or each pair is judged by itself (`sigmoid`).
        sigmoid_bias: of the judgement at the start; it is learned. SigLIP starts at -10, for batches of thousands.
        false_negatives: a text of another study that says what is true of an image, too: does it `count` as a negative, or
            the less, the more of it is known to be true (`attenuate`)?
        hard_negatives: an image is also told from so many wrong versions of its own text, with the other side, another zone
            or the opposite in one of its sentences.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {
        "pooling_temperature": Requirement("pooling=similarity", lambda config: config.pooling == "similarity"),
        "sigmoid_bias": Requirement("contrast=sigmoid", lambda config: config.contrast == "sigmoid"),
        **dict.fromkeys(SMALL_TEXT, Requirement("text_encoder=wordpiece", lambda config: config.text_encoder == WORDPIECE)),
    }

    backbone: str = "resnet50"
    stride: int | None = Field(None, gt=0)
    depth: int | None = Field(None, gt=0)
    weights: str | None = None
    text_encoder: str = WORDPIECE
    report_vector: Literal["cls", "mean", "max"] = "mean"
    max_tokens: int = Field(100, gt=2)
    max_sentences: int = Field(0, ge=0)
    width: int = Field(512, gt=0)
    described: bool = True
    prompts: Form = "several"
    texts: Literal["report", "facts", "both"] = "report"
    unit: Literal["report", "sentence"] = "report"
    apart: bool = False
    freeze_text: bool = False
    pooling: Literal["mean", "similarity"] = "mean"
    pooling_temperature: float = Field(0.1, gt=0)
    contrast: Literal["softmax", "sigmoid"] = "softmax"
    sigmoid_bias: float = -10.0
    false_negatives: Literal["count", "attenuate"] = "count"
    hard_negatives: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _frozen_text_was_trained(self) -> Self:
        if self.freeze_text and self.text_encoder == WORDPIECE:
            raise ValueError("freeze_text keeps a text encoder as it is: name a trained one as text_encoder")
        return self


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from of B studies.

    Attributes:
        reports: as sentences; a study without any takes no part.
        claims: (B, M) which claim each sentence makes, -1 for one in words of its own, -2 where there is none; None where
            that is not asked.
        made: bool (B, C), the claims of each study's facts; None where that is not asked.
        wrong: versions of each study's text that are wrong of its image.
    """

    reports: Sequence[Sequence[str]]
    claims: Tensor | None = None
    made: Tensor | None = None
    wrong: Sequence[Sequence[Wrong]] = ()


@dataclass(frozen=True, slots=True)
class TaughtTexts:
    """The texts that B images are told apart by, in the space that they share; M of each, whole reports or sentences.

    Attributes:
        vectors: (B, M, d), of length 1.
        real: bool (B, M), which are there.
        wrong: (B, N, d) wrong versions of an image's own texts; None where there are none.
        is_wrong: bool (B, N), which of these are there.
    """

    vectors: Tensor
    real: Tensor
    wrong: Tensor | None = None
    is_wrong: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SeenImages:
    """B images in the space that they share with reports.

    Attributes:
        whole: (B, d), of length 1.
        parts: (B, N, d) of each location, of length 1.
        grid: (h, w), h * w = N.
        raw: (B, N, d) of each location, as long as it is; None where that is not asked for.
    """

    whole: Tensor
    parts: Tensor
    grid: tuple[int, int]
    raw: Tensor | None = None


class ImageTextMethod(AnswersAtOnce, HasEncoder, EmbedsReports):
    """An image encoder and a report encoder that are trained together.

    An image is encoded once, and everything is answered from that: a method only says how it sees images (`see`), and what
    it makes of what it saw (`scores_of`, `maps_of`).

    Its maps are relative: they tell the places of one image from one another, not whether the finding is there. What each
    location adds to a pooled similarity (`pooling=similarity`), `on_one_scale`, was tried with three trained models on 274
    findings of phantoms and points no better: pointing game -0.007, -0.004 and 0, IoU +0.006, -0.015 and -0.007.

    Args:
        config: settings.
        vocabulary: what can be asked by name.
        preprocessing: of the images.
        text: the encoder of reports.
    """

    learns_from: Literal["facts", "sentences", ""] = "sentences"
    least_images = 2

    def __init__(
        self, config: ImageTextConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, text: ReportEncoder
    ) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self.text = text
        text.apart = config.apart
        self.claims = Claims(vocabulary)
        if config.texts == "facts":
            self.learns_from = "facts"
        if config.freeze_text and not text.frozen:
            text.freeze(self.claims.sentences[::CENTERED])
        self.bias = nn.Parameter(torch.tensor(config.sigmoid_bias)) if config.contrast == "sigmoid" else None
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
            words = reports if config.texts == "report" else lambda: [*reports(), *Claims(vocabulary).sentences * 2]
            text = config.make_text_encoder(config.text_encoder, words, config.max_tokens)
            return cls(config, vocabulary, preprocessing, text)

    @classmethod
    def blank(
        cls, config: ImageTextConfig, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]
    ) -> Self:
        """Return a model with the shapes of `state`, to be filled."""
        text = ReportEncoder.blank(state["text.about"], config.max_tokens)
        if config.freeze_text:
            text.freeze()
        return cls(config.model_copy(update={"weights": None}), vocabulary, preprocessing, text)

    def from_earlier(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a state dict of an earlier version as this model has it."""
        return self.encoder.from_earlier(state, "encoder.")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of a batch; in training a report may be a few of its sentences, drawn by its image's seed."""
        return self.loss_terms(batch.images, self.lesson(batch))

    def lesson(self, batch: Batch) -> Lesson:
        """Return what is learned from of each study."""
        config, facts = self.config, batch.facts if batch.host_facts is None else batch.host_facts
        written: Sequence[Sequence[str]] = [()] * len(batch)
        if config.texts != "report" or config.hard_negatives or config.false_negatives == "attenuate":
            made = self.claims.made_by(facts)
            written = self.claims.written(made)
        both = [[*own, *said] for own, said in zip(batch.sentences, written, strict=True)]
        seeds = batch.seeds.tolist()
        reports = self.draw({"report": batch.sentences, "facts": written, "both": both}[config.texts], seeds)
        wrong = draw_wrong(reports, both, config.hard_negatives, seeds) if config.hard_negatives else ()
        if config.false_negatives == "count":
            return Lesson(reports, wrong=wrong)
        rows = [torch.tensor([self.claims.index.get(sentence, -1) for sentence in report]) for report in reports]
        claims = pad(pad_sequence([row.long() for row in rows], True, NO_SENTENCE), (0, not any(reports)), value=NO_SENTENCE)
        claims, made = (values.to(batch.images.device, non_blocking=True) for values in (claims, made))
        return Lesson(reports, claims, made, wrong)

    def draw(self, reports: Sequence[Sequence[str]], seeds: Sequence[int]) -> Sequence[Sequence[str]]:
        """Return what is learned from of each study's sentences, in training a few of them, drawn by its seed."""
        return draw_sentences(reports, self.config.max_sentences, False, seeds) if self.training else reports

    def divide(self, parts: int) -> bool:
        """Encode images and reports in parts; they are still told from those of the whole batch.

        Gradients are those of the whole batch, unless batch normalization takes its statistics, which are then a part's.
        """
        self.encoder.parts = self.text.parts = parts
        return True

    @abstractmethod
    def loss_terms(self, images: Tensor, lesson: Lesson) -> dict[str, Tensor]:
        """Return the named loss terms, unweighted.

        Args:
            images: (B, 3, S, S).
            lesson: what is learned from of each image.
        """

    def similarity(self, seen: SeenImages, texts: Tensor) -> Tensor:
        """Return the similarity (B, T) of images and texts (T, d) of length 1, pooled as the settings say."""
        if self.config.pooling == "mean":
            return seen.whole @ texts.T
        return pooled_similarity(texts, seen.parts, self.config.pooling_temperature)

    def taught(self, lesson: Lesson, reports: Tensor | None = None) -> TaughtTexts:
        """Return the texts that images are told apart by, encoded.

        Args:
            lesson: what is learned from.
            reports: (B, d) its whole reports, of length 1, where they are encoded already.
        """
        whole = self.config.unit == "report"
        units = (
            [[tuple(report)] if any(report) else [] for report in lesson.reports]
            if whole
            else [[(sentence,) for sentence in report] for report in lesson.reports]
        )
        wrong = [[text.sentences if whole else (text.sentences[text.changed],) for text in texts] for texts in lesson.wrong]
        if whole and reports is not None:
            real = torch.tensor([bool(texts) for texts in units]).to(reports.device, non_blocking=True)[:, None]
            right = reports[:, None], real
        else:
            right = self._encoded(units)
        return TaughtTexts(*right, *(self._encoded(wrong, self.config.hard_negatives) if wrong else (None, None)))

    def _encoded(self, texts: Sequence[Sequence[tuple[str, ...]]], least: int = 1) -> tuple[Tensor, Tensor]:
        """Return vectors (B, M, d) of each study's texts, given as sentences, and which are there (B, M), M at `least`."""
        different = list(dict.fromkeys(text for some in texts for text in some)) or [()]
        places = {text: place for place, text in enumerate(different)}
        rows = [torch.tensor([places[text] for text in some] + [-1] * (least - len(some))) for some in texts]
        vectors = self.encode_reports(different)
        index = pad_sequence(rows, True, -1).to(vectors.device, non_blocking=True)
        return vectors[index.clamp(min=0)], index >= 0

    def contrast(
        self,
        seen: SeenImages,
        texts: TaughtTexts,
        lesson: Lesson,
        scale: float | Tensor,
        weights: Tensor | None = None,
        *,
        factors: Tensor | None = None,
        to_reports: float = 0.5,
    ) -> Tensor:
        """Return the contrast of images and texts, those of all processes.

        Args:
            seen: B images.
            texts: of each image.
            lesson: what the texts are.
            scale: of similarities.
            weights: (global B,) of all pairs, None for 1.
            factors: (global B,) that each image's logits are multiplied with, None for 1.
            to_reports: share of finding an image's text among all; the sigmoid contrast knows no such directions.
        """
        vectors, real = gather_padded(texts.vectors), gather_padded(texts.real)
        logits = gather(self.similarity(seen, vectors.flatten(0, 1))) * scale
        if factors is not None:
            logits = logits * factors[:, None]
        images = torch.arange(len(real), device=real.device)[:, None]
        owners = images.expand(real.shape).masked_fill(~real, -1).flatten()
        negatives = self.negatives(lesson, self.config.unit)
        logits, further = self._judged(logits), None
        if texts.wrong is not None and texts.is_wrong is not None:
            own = gather(self._judged(self._own(seen, texts.wrong) * scale))
            further = own.masked_fill(~gather(texts.is_wrong), -torch.inf)
        if self.config.contrast == "sigmoid":
            return sigmoid_contrast(logits, owners == images, weights, negatives=negatives, further=further)
        if self.config.unit == "sentence":
            return sentence_contrast(logits, owners, weights, to_reports=to_reports, negatives=negatives, further=further)
        return info_nce(logits, weights, real[:, 0], to_reports=to_reports, negatives=negatives, further=further)

    def _judged(self, logits: Tensor) -> Tensor:
        """Return logits with the bias of what judges each pair by itself."""
        return logits if self.bias is None else logits + self.bias

    def _own(self, seen: SeenImages, texts: Tensor) -> Tensor:
        """Return the similarity (B, N) of images and N texts (B, N, d) of their own."""
        every = torch.arange(len(texts), device=texts.device)
        return self.similarity(seen, texts.flatten(0, 1)).view(len(texts), *texts.shape[:2])[every, every]

    def negatives(self, lesson: Lesson, unit: Literal["report", "sentence"]) -> Tensor | None:
        """Return what each text counts as a negative of each image (global B, T): the share of it that may be wrong.

        Of a sentence that states a claim which the image's facts make, it is 0, else 1; of a report the mean over its
        sentences. A report in its own words is taken as the claims of its facts.
        """
        if lesson.made is None or lesson.claims is None:
            return None
        made, claims = gather(lesson.made), gather_padded(lesson.claims - NO_SENTENCE) + NO_SENTENCE
        if unit == "report" and self.config.texts == "report":
            values = made.float()
            return 1 - values @ values.T / values.sum(1).clamp(min=1)
        wrong = ~(made[:, claims.clamp(min=0)] & (claims >= 0))  # (B, R, M)
        if unit == "sentence":
            return wrong.flatten(1).float()
        real = claims != NO_SENTENCE
        return (wrong * real).sum(2) / real.sum(1).clamp(min=1)

    @abstractmethod
    def see(self, images: Tensor) -> SeenImages:
        """Return whole images (B, 3, S, S) and their parts in the shared space."""

    def probabilities(self, seen: SeenImages, prompts: Sequence[str], scale: float | Tensor) -> Tensor:
        """Return probabilities (B, C) by what speaks for and against each prompt, similarities times `scale`.

        It is the softmax over both; where nothing is asked for that speaks against, and pairs were judged one by one, that
        judgement.
        """
        positive, negative = self.embed_prompts(prompts)
        margins = (self.similarity(seen, positive) - self.similarity(seen, negative)) * scale
        if self.bias is not None and self.config.prompts == "present":
            margins = margins + self.bias
        return margins.sigmoid()

    @abstractmethod
    def scores_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) of each prompt."""

    @abstractmethod
    def maps_of(self, seen: SeenImages, prompts: Sequence[str]) -> Tensor:
        """Return a value in [0, 1] for each part and prompt, (B, N, C), on a scale of its own for each image and prompt."""

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

    def about_questions(self, questions: Sequence[str]) -> Sequence[str]:
        """Return how many questions are not read to their end; a denial is read as it stands."""
        lost = self.text.cut([text] for text in questions)
        return [lost.describe("questions")] if lost.lost else []

    def cut(self, reports: Iterable[Sequence[str]], *, training: bool = False) -> Cut:
        """Return what is lost beyond `max_tokens` of reports; of facts as sentences, where those are learned."""
        if training and self.config.texts == "facts":
            return self.text.cut(([claim] for claim in self.claims.sentences), what="facts as sentences")
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
        config = self.config
        return [prompt_texts(prompt, self.vocabulary, config.described, config.prompts) for prompt in prompts]

    def embed_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return what speaks for (C, d) and against (C, d) each prompt, its texts encoded as whole reports."""
        return self.prompts.embed("reports", self.sides(prompts), lambda texts: self.encode_reports([[t] for t in texts]))

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return `encoder`, and `networks`: image and text encoder."""
        reports = self.lesson(batch).reports
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
