"""The seam: what training, evaluation, export and the apps know of a method, and how one is saved.

A method is a `Method`. What only some methods can do is declared by a mixin beside it, which whoever needs it asks for with
`isinstance(method, TheMixin)`; nobody asks for a method by its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError, first_problem
from medlip.files import share_with_group, writing
from medlip.images.preprocessing import Preprocessing
from medlip.nn.device import device_of
from medlip.nn.pairs import at_least_float32
from medlip.nn.parts import Recomputing
from medlip.nn.report_encoder import Cut, ReportEncoder, build_report_encoder
from medlip.plugins import entry_points
from medlip.settings import SettingsModel

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.data.overlap import Fingerprints
    from medlip.data.views import ViewKind, Views
    from medlip.nn.vision_encoder import VisionEncoder

_DENIAL = re.compile(
    r"\W*(?:(?:is|are|was|there)\s+)*(?:no|not|without|absence\s+of|negative\s+for|free\s+of)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a method says of B images that are asked for C prompts; None for what was not asked for.

    Attributes:
        scores: (B, C) probability of each prompt.
        maps: (B, C, h, w), non-negative: where each prompt is seen.
        anatomies: (B, C, A) probability of each prompt in each anatomy of the vocabulary.
        embeddings: (B, d), for dot products with embedded reports.
        draw: gives the maps (n, h, w) of one of the images for n of the prompts, from what was seen already; where maps were
            to be drawn later, and can be.
    """

    scores: Tensor
    maps: Tensor | None = None
    anatomies: Tensor | None = None
    embeddings: Tensor | None = None
    draw: Callable[[int, Sequence[int]], Tensor] | None = None

    def maps_of(self, image: int, columns: Sequence[int]) -> Tensor | None:
        """Return the maps (n, h, w) of one image for n of the prompts; None where none were asked for."""
        if self.maps is not None:
            return self.maps[image, list(columns)]
        return None if self.draw is None else self.draw(image, columns)

    def of_images(self, counts: Sequence[int]) -> Answers:
        """Return answers about studies of so many images each by image: what is said of a study stands beside each of them.

        Maps, which are of images already, stay.
        """
        counted = torch.tensor(counts, device=self.scores.device)

        def repeated(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(counted, 0)

        scores = self.scores.repeat_interleave(counted, 0)
        return Answers(scores, self.maps, repeated(self.anatomies), repeated(self.embeddings))


Pass = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What of a method is usually timed.

    Attributes:
        backbone: of the image encoder.
        batch: images a step.
        settings: of the method, beside backbone and seed.
    """

    backbone: str = "resnet50"
    batch: int = 8
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model was loaded from.

    Attributes:
        name: of a model of the hub, "org/name", or of a folder or file, without the folders that it lies in.
        version: the hub's revision (hash of a commit), "released" for the authors' weights from a file, else the version of
            MedLIP that trained it; "" where that is not known.
    """

    name: str
    version: str


CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"
"""The text encoder of MedKLIP and MeDSLIP as published."""

WhichMaps = bool | Literal["later"]
"""Whether maps are wanted: all of them now, or `later`, some of them and drawn when they are looked at."""

RENAMED_SETTINGS = {"patch": "stride", "standardise": "standardize", "normalise_pixels": "normalize_pixels"}
"""Settings by the names that they had in earlier versions, which saved runs and recipes may have still."""


class MethodConfig(SettingsModel):
    """Settings of a method; an unknown one is an error, and one under its earlier name (`RENAMED_SETTINGS`) is read.

    Attributes:
        seed: of initial weights, and of what is drawn without a batch.
    """

    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, settings: Any) -> Any:
        if not isinstance(settings, Mapping):
            return settings
        renamed = {}
        for name, value in settings.items():
            new = RENAMED_SETTINGS.get(name, name)
            today = name if name in cls.model_fields or new not in cls.model_fields else new
            if today != name and today in settings:
                raise ValueError(f"{name} is the earlier name of {today}: give one of them")
            renamed[today] = value
        return renamed


class EncoderConfig(MethodConfig):
    """Settings of an image encoder, for methods that learn from facts.

    Attributes:
        backbone: timm model.
        stride: image pixels per location (16: third stage of a ResNet).
        deepest: stride of the deepest stage in use, merged into the grid of `stride`; None: no deeper than that grid.
        weights: initial weights of the backbone: None, "timm", a package or a file, as `vision_encoder` takes them.
    """

    backbone: str = "resnet50"
    stride: int = Field(16, gt=0)
    deepest: int | None = Field(None, gt=0)
    weights: str | None = None

    def make_encoder(self, image_size: int) -> VisionEncoder:
        """Return the encoder of images of that side, in pixels."""
        from medlip.nn.vision_encoder import vision_encoder  # brings in timm, which takes seconds to import

        return vision_encoder(self.backbone, self.stride, image_size=image_size, deepest=self.deepest, weights=self.weights)


SMALL_TEXT = ("text_width", "text_layers", "text_vocabulary")
"""Settings that a text encoder by name has of its own."""


class TextEncoderConfig(MethodConfig):
    """Settings of a small text encoder that is made from the training reports.

    Attributes:
        text_width: of its states.
        text_layers: of it.
        text_vocabulary: word pieces at most.
    """

    text_width: int = Field(256, gt=0, multiple_of=32)
    text_layers: int = Field(4, gt=0)
    text_vocabulary: int = Field(4000, gt=10)

    def make_text_encoder(self, name: str, reports: Callable[[], Iterable[str]], max_tokens: int) -> ReportEncoder:
        """Return the encoder of that name: a trained one, or a small one whose words are from `reports`."""
        return build_report_encoder(
            name,
            reports,
            max_tokens,
            width=self.text_width,
            layers=self.text_layers,
            vocabulary=self.text_vocabulary,
        )


class Method(nn.Module, ABC):
    """A pre-training method.

    One of your own needs a `name`, `losses`, `score` and `localise`, is made by `cls(config, vocabulary, preprocessing)`,
    and is made known by `@register`, in a package with an entry point in the group `medlip.methods`. It is then trained,
    resumed, saved, loaded, evaluated and read with as any other. Settings beyond the seed are fields of a `MethodConfig` of
    its own, named as `config_type`. The mixins of this module declare what else it can do; one that is made from more than
    these three arguments overrides `build` and `blank`.

    Attributes:
        name: in recipes and saved models.
        summary: how it learns, in a sentence or two for a reader of results.
        config_type: its settings.
        config: the settings it was made with.
        vocabulary: the concepts it knows by name.
        preprocessing: how images become its input; it travels with the weights.
        open_prompts: whether it can be asked for any text, rather than for pathologies of its vocabulary alone.
        map_rules: by which its maps can be made; the first, where nothing else is chosen.
        bench: what of it is usually timed.
        learns_from: what of reports it can't do without: "facts", "sentences", or "" for neither.
        least_images: that a step takes; 2 where images are told from one another.
        needs_masks: whether it learns from masks of the findings.
        seen: fingerprints of what it was trained on, None where that is not known.
        made_by: recipe, seed, data and versions of its training, None where they are not known.
        origin: where it was loaded from, None of one that was made here.
        folder: of the run that it was loaded from, with what is kept beside the weights; None where there is none.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    bench: ClassVar[BenchSettings] = BenchSettings()
    learns_from: Literal["facts", "sentences", ""] = ""
    least_images: ClassVar[int] = 1
    needs_masks: bool = False
    open_prompts: ClassVar[bool] = True
    map_rules: ClassVar[tuple[str, ...]] = ("as the method gives it",)
    config_type: ClassVar[type[MethodConfig]] = MethodConfig
    seen: Fingerprints | None = None
    made_by: Mapping[str, Any] | None = None
    origin: Origin | None = None
    folder: Path | None = None

    def __init__(self, config: MethodConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.config: Any = config
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self._map_rule = self.map_rules[0]

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named, unweighted loss terms of a batch; what is drawn for an image follows from its seed alone."""

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) of each of C prompts for images (B, 3, S, S), without gradients.

        A prompt is a pathology of the vocabulary (name, display name or synonym) or any text; a method that can't answer one
        raises a `MedLIPError`. What an image gets depends neither on the other images of the batch nor on the other prompts.
        """

    @abstractmethod
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return maps (B, C, h, w), non-negative, without gradients: where in each image each prompt is seen."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Factor of every loss term in the total, by name of those there are; 1 for all unless a method says otherwise."""
        return defaultdict(lambda: 1.0)

    def divide(self, parts: int) -> bool:
        """Encode a batch in parts, to save memory, from now on.

        Returns:
            Whether the losses are still those of the whole batch. A method that doesn't divide batches itself returns False;
            training then takes the mean of the parts' losses, which do for losses that compare nothing within a batch.
        """
        return False

    def timed_parts(self, batch: Batch) -> Mapping[str, Pass]:
        """Return by name the forward passes beside which a training step on a batch is timed.

        `encoder` is the image encoder on whole images; a method may count what always follows it in, and add passes of its
        own. One without an encoder has none.
        """
        if not isinstance(self, HasEncoder):
            return {}
        encoder = self.encoder
        return {"encoder": lambda: [encoder(batch.images).tokens]}

    def recompute(self) -> None:
        """Compute activations again in the backward pass, to save memory, in all networks that can, from now on."""
        for part in self.modules():
            if isinstance(part, Recomputing):
                part.recompute()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return device_of(self)

    @property
    def fingerprint(self) -> str:
        """Hash of its weights and text banks: the same model has the same one wherever it lies, and no other model has."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def map_rule(self) -> str:
        """By which rule its maps are made."""
        return self._map_rule

    @property
    def absolute_maps(self) -> bool:
        """Whether maps are on one scale from 0 to 1 for all images and prompts, rather than each on its own."""
        return False

    def choose_map_rule(self, rule: str) -> None:
        """Make maps by one of `map_rules` from now on.

        Raises:
            MedLIPError: the method has no such rule.
        """
        if rule not in self.map_rules:
            rules = " or ".join(self.map_rules)
            raise MedLIPError(f"method {self.name!r} makes no maps by the rule {rule!r}. Choose {rules}.")
        self._map_rule = rule

    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
    ) -> Answers:
        """Return all that is wanted of images (B, 3, S, S) at once; methods override it to encode each image only once.

        Each part is what the verb of its own gives: `score`, `localise`, `score_anatomies`, `embed_images`. Parts that the
        method has no verb for are None. A method that can't draw maps `later` gives them now.
        """
        return Answers(
            self.score(images, prompts),
            self.localise(images, prompts) if maps else None,
            self.score_anatomies(images, prompts) if anatomies and isinstance(self, TellsPlaces) else None,
            self.embed_images(images) if embeddings and isinstance(self, EmbedsReports) else None,
        )

    @classmethod
    def build(
        cls,
        config: Any,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        reports: Callable[[], Iterable[str]],
    ) -> Method:
        """Return an untrained method; one that trains a text encoder from scratch takes its words from `reports`."""
        return cls(config, vocabulary, preprocessing)

    @classmethod
    def blank(cls, config: Any, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]) -> Method:
        """Return a method with the shapes of `state` whose weights are still to be filled in: no encoder, no download."""
        return cls(config, vocabulary, preprocessing)

    def from_earlier(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a state dict that an earlier version may have saved under today's names, without what is no longer kept."""
        return state

    def about_training(self, images: int) -> Sequence[str]:
        """Return what to know of a training that sees so many images in all, each as often as it comes, for people."""
        return ()


class AnswersAtOnce(Method):
    """A method that works everything out of one look at the images: it says what it is in `answer`, and the verbs follow."""

    @abstractmethod
    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
    ) -> Answers:
        """Return all that is wanted of images (B, 3, S, S), without gradients, as `Method.answer` says."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) of each prompt."""
        return self.answer(images, prompts).scores

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return where in each image each prompt is seen, (B, C, h, w), by the chosen `map_rule`."""
        found = self.answer(images, prompts, maps=True).maps
        assert found is not None
        return found


class HasEncoder(ABC):
    """A method with an image encoder that can be taken out of it and trained on.

    Attributes:
        encoder: of the images.
    """

    encoder: VisionEncoder


class HasReleasedWeights(ABC):
    """A method whose authors released weights, under names of their own; `load_released` reads their files."""

    @classmethod
    @abstractmethod
    def is_released(cls, names: Iterable[str]) -> bool:
        """Whether tensors of these names, without the "module." of distributed training, are such weights."""

    @classmethod
    @abstractmethod
    def from_released(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        pathology_embeddings: Tensor,
        anatomy_embeddings: Tensor,
        vocabulary: Vocabulary | None = None,
        image_size: int = 224,
        text_encoder: str = CLINICAL_BERT,
    ) -> Method:
        """Make a model of such weights, in evaluation mode.

        Args:
            state_dict: tensors or arrays by released name, with or without the "module." of distributed training.
            pathology_embeddings: (P, text width), of the descriptions that the weights were trained with, in the order of
                the vocabulary; they are not part of the release.
            anatomy_embeddings: (A, text width), likewise.
            vocabulary: names of the queries; the published one by default.
            image_size: side of the input, pixels.
            text_encoder: what the embeddings were made with, and open questions will be.

        Raises:
            MedLIPError: a tensor is missing, unknown or of another shape, or the backbone can't be told.
        """


class HasGraph(ABC):
    """A method whose answers one graph computes, from images and embedded texts: it can be exported."""

    @abstractmethod
    def graph(self) -> tuple[nn.Module, int]:
        """Return the graph, and the width W of its texts.

        The graph takes images (B, 3, S, S) and embeddings (n, W) of open questions as the text encoder gives them, n > 0,
        and gives probabilities (B, P + n), maps (B, P + n, h, w) and places (B, P + n, A), of the vocabulary's P
        pathologies first.

        Raises:
            MedLIPError: the maps are made by a rule that needs more than a forward pass.
        """


class EmbedsReports(ABC):
    """A method that puts images and reports into one space: what retrieval needs."""

    @abstractmethod
    def embed_images(self, images: Tensor) -> Tensor:
        """Return vectors (B, d) of images (B, 3, S, S): the higher the dot product with a report's, the better they fit.

        For use, not for training. Products compare within one method alone.
        """

    @abstractmethod
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return vectors (R, d) of reports for `embed_images`, each given as its sentences; a report may have none."""

    def cut(self, reports: Iterable[Sequence[str]], *, training: bool = False) -> Cut | None:
        """Return what is lost of reports that are longer than the method reads; None from one that reads them whole.

        Args:
            reports: given as sentences.
            training: count what a training step reads, in place of what `embed_reports` does.
        """
        return None

    def about_questions(self, questions: Sequence[str]) -> Sequence[str]:
        """Return what to know of how questions are read, for people: which deny what they are answered for."""
        denied = [f"{text!r}" for text in questions if _DENIAL.match(text)]
        told = "asked for what isn't there, and answered by how likely what is named is there"
        return [f"{told}: {', '.join(denied)}"] if denied else []


class TellsPlaces(ABC):
    """A method that says in which anatomy a finding lies."""

    @abstractmethod
    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C, A) that each prompt is present in each anatomy of the vocabulary."""


def views_of(method: object) -> tuple[ViewKind, ...]:
    """Return the kinds of views that a method was trained to read together; none, where it reads image by image."""
    return method.views if isinstance(method, ReadsViews) else ()


class ReadsViews(Method):
    """A method that can read the views of a study together, if its settings say so (`views` of them, kinds of views)."""

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The kinds of views that it was trained to read together; none, where it reads image by image."""
        return tuple(self.config.views)

    @abstractmethod
    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: WhichMaps = False,
        anatomies: bool = False,
        embeddings: bool = False,
        views: Views | None = None,
    ) -> Answers:
        """Return all that is wanted of V images (V, 3, S, S) of B studies, as `Method.answer` says.

        Maps are (V, C, h, w), of every image, on one scale for all images of a study; all else is of the B studies. Without
        `views`, each image is a study, and frontal.

        Raises:
            MedLIPError: there is a view of a kind that it was not trained on.
        """


class HasStreams(ABC):
    """A method with a representation of images for each factor: pathology (what) and anatomy (where)."""

    @abstractmethod
    def streams(self, images: Tensor) -> dict[str, Tensor]:
        """Return representations of images before any query looks at them.

        Returns:
            {"pathology": (B, d), "anatomy": (B, d), "encoder": (B, e)}, the last of them that of the image before its
            streams.
        """

    @abstractmethod
    def stream_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return where the queries of each stream look: {"pathology": (B, P, h, w), "anatomy": (B, A, h, w)}."""


class HasAttention(ABC):
    """A method whose queries attend to locations."""

    @abstractmethod
    def attention(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return how queries attend to locations of images (B, 3, S, S), by stream, layer and head: (B, q, N), rows of 1."""


class MatchesSentences(ABC):
    """A method that says which patches of an image each sentence of its report goes to."""

    @abstractmethod
    def match(self, images: Tensor, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return transport plans (B, M, h, w), 0 for sentences that are not there; the plan of a whole report sums to 1.

        Raises:
            MedLIPError: the model was trained without such a match.
        """

    def plan_pictures(self, image: Tensor, sentences: Sequence[str]) -> list[SamplePicture]:
        """Return where each of several sentences goes in an image (3, S, S); none of one alone, which gets every patch."""
        if len(sentences) < 2:
            return []
        plans = self.match(image[None], [sentences])[0].float().cpu()
        return [SamplePicture(text, "map", plan) for text, plan in zip(sentences, plans, strict=True) if plan.any()]


class PredictsPatches(ABC):
    """A method that predicts hidden patches of an image."""

    @abstractmethod
    def hide_and_predict(self, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Hide patches of images (B, 3, S, S) as in training, and predict every patch from the visible ones.

        Returns:
            Which pixels were hidden, bool (B, S, S), and grey values (B, S, S) as before normalization, in [0, 1] mostly.

        Raises:
            MedLIPError: the model was trained without predicting.
        """


@dataclass(frozen=True, slots=True)
class SamplePicture:
    """What a method shows of an image.

    Attributes:
        caption: what it is, in a few words.
        kind: an `image` of grey values in [0, 1], or a `map` to be laid over the X-ray.
        values: (h, w), on the CPU.
    """

    caption: str
    kind: Literal["image", "map"]
    values: Tensor


class ShowsSamples(ABC):
    """A method with pictures of its own, beyond findings and their maps."""

    @abstractmethod
    def sample_pictures(self, image: Tensor, sentences: Sequence[str]) -> list[SamplePicture]:
        """Return pictures of an image (3, S, S) with its report's sentences; none where there is nothing to show."""


class HasReference(ABC):
    """A method whose losses are also written plainly: what its fast ones are held against, in numbers and in time."""

    @property
    def has_reference(self) -> bool:
        """Whether they are with its settings."""
        return True

    @abstractmethod
    def reference_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `losses` returns, but for rounding, in the plainest form."""


def on_one_scale(adds: Tensor, present: Tensor) -> Tensor:
    """Return maps (B, C, N) of what locations add to findings, on one scale for all images and findings.

    The location that adds most has the finding's probability; one that adds nothing, or speaks against it, has 0.

    Args:
        adds: (B, C, N), what each location adds to the logit of each finding.
        present: (B, C), the probability of each finding.
    """
    adds = upcast(adds).clamp(min=0)
    most = adds.amax(-1, keepdim=True).clamp(min=torch.finfo(adds.dtype).tiny)
    return upcast(present)[..., None] * adds / most


def pair_matrix(method: Method, images: Tensor) -> Tensor:
    """Return the fact matrix read back from images: probabilities (B, A, P) of each pathology in each anatomy.

    Raises:
        MedLIPError: the method doesn't say where its findings lie.
    """
    if not isinstance(method, TellsPlaces):
        raise MedLIPError(f"method {method.name!r} doesn't say where its findings lie: there is no matrix to read.")
    return method.score_anatomies(images, [p.name for p in method.vocabulary.pathologies]).transpose(1, 2)


MethodType = TypeVar("MethodType", bound=type[Method])
GROUP = "medlip.methods"
"""Entry points by which other packages offer a method: each names its class."""

BUILT_IN = {
    "convirt": "medlip.methods.convirt",
    "gloria": "medlip.methods.gloria",
    "linear": "medlip.methods.linear",
    "medklip": "medlip.methods.medklip",
    "medlip": "medlip.methods.medlip",
    "medslip": "medlip.methods.medslip",
    "mlip": "medlip.methods.mlip",
}
_METHODS: dict[str, type[Method]] = {}


def register(method: MethodType) -> MethodType:
    """Make a method known by its `name` (class decorator).

    Raises:
        MedLIPError: another method has that name.
    """
    known = _METHODS.setdefault(method.name, method)
    if (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
        raise MedLIPError(
            f"method {method.name!r}: both {known.__module__}.{known.__qualname__} and {method.__module__}."
            f"{method.__qualname__} have this name. Give one of them another."
        )
    _METHODS[method.name] = method
    return method


def method_names(able: type | None = None) -> tuple[str, ...]:
    """Return the names of all methods, or of those that have a mixin, such as `HasStreams`."""
    for module in BUILT_IN.values():
        import_module(module)
    _load_plugins()
    return tuple(sorted(name for name, method in _METHODS.items() if able is None or issubclass(method, able)))


def method_type(name: str) -> type[Method]:
    """Return the method of that name.

    Raises:
        MedLIPError: there is none.
    """
    if name in BUILT_IN:
        import_module(BUILT_IN[name])
    elif name not in _METHODS:
        _load_plugins()
    try:
        return _METHODS[name]
    except KeyError:
        raise MedLIPError(f"method {name!r} is unknown. Choose one of: {', '.join(method_names())}.") from None


def _load_plugins() -> None:
    for found in entry_points(GROUP):
        if isinstance(found, type) and issubclass(found, Method):
            register(found)


def build_method(
    settings: Mapping[str, Any],
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    reports: Callable[[], Iterable[str]] = tuple,
) -> Method:
    """Build an untrained method.

    Args:
        settings: {"name": …, setting: value …}.
        vocabulary: the concepts.
        preprocessing: of the images.
        reports: gives the training reports, to methods that make a text encoder of them.

    Raises:
        MedLIPError: an unknown method or setting, or a value out of range.
    """
    from medlip.nn.cpu import optimize_for_cpu

    method = method_type(str(settings.get("name", "")))
    return optimize_for_cpu(method.build(method_config(settings), vocabulary, preprocessing, reports))


def method_config(settings: Mapping[str, Any]) -> MethodConfig:
    """Return all settings of a method, given its `name` and those that differ from the defaults.

    Raises:
        MedLIPError: an unknown method or setting, or a value out of range.
    """
    return parse_config(method_type(str(settings.get("name", ""))), settings)


def parse_config(method: type[Method], settings: Mapping[str, Any]) -> MethodConfig:
    """Validate the settings of a method, `name` aside."""
    try:
        return method.config_type.model_validate({key: value for key, value in settings.items() if key != "name"})
    except ValidationError as error:
        place, problem = first_problem(error)
        known = ", ".join(method.config_type.model_fields)
        raise MedLIPError(f"method{place and '.'}{place}: {problem}. Settings of {method.name}: {known}.") from error


def describe_method(method: Method) -> dict[str, object]:
    """Return what a saved model needs beside its weights, as plain data: settings, vocabulary and preprocessing."""
    return {
        "method": {"name": method.name, **method.config.model_dump(mode="json")},
        "vocabulary": method.vocabulary.model_dump(mode="json"),
        "preprocessing": method.preprocessing.to_dict(),
    }


def split_prompts(prompts: Sequence[str], vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """Return the prompts that name no pathology, each once, and the column that answers each prompt.

    Columns are those of the vocabulary's pathologies, with one behind them for each of the others.
    """
    known = [vocabulary.find_pathology(prompt) for prompt in prompts]
    asked = list(dict.fromkeys(prompt for prompt, name in zip(prompts, known, strict=True) if name is None))
    first = len(vocabulary.pathologies)
    columns = [
        vocabulary.pathology_index[name.name] if name else first + asked.index(prompt)
        for prompt, name in zip(prompts, known, strict=True)
    ]
    return asked, columns


def save_method(method: Method, path: Path, **extra: Any) -> None:
    """Write a method to ONE safetensors file: weights, text banks, settings, vocabulary and preprocessing; atomically.

    Args:
        method: what to save.
        path: the file.
        extra: plain data to keep along, such as the recipe.
    """
    about = json.dumps({**describe_method(method), **extra})
    write_safetensors(method.state_dict(), path, {"medlip": about})


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors so that `path` is at every moment either the old file or the whole new one.

    Raises:
        MedLIPError: the file can't be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    # Copies, since the format refuses tensors that share memory, as shared layers do.
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(copies, partial, dict(metadata))
            except SafetensorError as error:  # what goes wrong with the file, it wraps up
                raise OSError(str(error)) from error
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            share_with_group(partial)
            partial.replace(path)
    finally:
        with suppress(OSError):  # half a file only takes up room
            partial.unlink()


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises:
        MedLIPError: no such file, or not a whole safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file alone.

    Raises:
        MedLIPError: as `read_safetensors` does.
    """
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise MedLIPError(f"{path}: not a readable safetensors file ({error}). Is it a trained run?") from error


def load_method(path: Path) -> Method:
    """Load what `save_method` wrote, ready for use (evaluation mode).

    Raises:
        MedLIPError: the file can't be read, was not written by MedLIP, or doesn't fit its own settings.
    """
    state, metadata = read_safetensors(path)
    if "medlip" not in metadata:
        raise MedLIPError(
            f"{path}: these weights carry no MedLIP settings. Load released weights with MeDSLIP.from_released(…)."
        )
    about = json.loads(metadata["medlip"])
    kind = method_type(about["method"]["name"])
    vocabulary = Vocabulary.parse(about["vocabulary"], str(path))
    preprocessing = Preprocessing.from_dict(about["preprocessing"])
    from medlip.nn.cpu import optimize_for_cpu

    method = optimize_for_cpu(kind.blank(parse_config(kind, about["method"]), vocabulary, preprocessing, state))
    load_strict(method, method.from_earlier(state), str(path))
    return method.eval()


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict strictly: every tensor of either side must be there, in the same shape.

    Raises:
        MedLIPError: names the first tensors that don't fit.
    """
    wanted = module.state_dict()
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unknown or misshapen:
        what = "; ".join(
            f"{len(names)} {label}: {', '.join(names[:3])}"
            for label, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
            if names
        )
        raise MedLIPError(f"{where}: the weights don't fit the model ({what}). Use the settings they were made with.")
    module.load_state_dict(state)


def initialize(module: nn.Module, init: str) -> None:
    """Draw every linear weight anew: `normal` from N(0, 0.02), `xavier` to keep the scale of what passes through."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2 and name.endswith("weight"):
            if init == "normal":
                nn.init.normal_(parameter, 0, 0.02)
            else:
                nn.init.xavier_uniform_(parameter)


def upcast(values: Tensor) -> Tensor:
    """At least float32: what autocast computed in half precision is compared in full."""
    return values.to(at_least_float32(values.dtype))
