"""The seam: what training, evaluation, export and the apps know of a method, and how one is saved."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.nn.image_encoder import ImageEncoder
from medlip.nn.pairs import at_least_float32
from medlip.nn.patch_encoder import PatchEncoder

if TYPE_CHECKING:
    from medlip.data.batch import Batch
    from medlip.data.overlap import Fingerprints


Encoder = ImageEncoder | PatchEncoder


@dataclass(frozen=True, slots=True)
class Answers:
    """What a method says of B images that are asked for C prompts; None for what was not asked for.

    Attributes:
        scores: (B, C) probability of each prompt.
        maps: (B, C, h, w), non-negative: where each prompt is seen.
        anatomies: (B, C, A) probability of each prompt in each anatomy of the vocabulary.
        embeddings: (B, d), for dot products with embedded reports.
    """

    scores: Tensor
    maps: Tensor | None = None
    anatomies: Tensor | None = None
    embeddings: Tensor | None = None


class MethodConfig(BaseModel):
    """Settings of a method; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Method(nn.Module, ABC):
    """A pre-training method.

    Attributes:
        name: in recipes and saved models.
        summary: how it learns, in a sentence or two for a reader of results.
        config_type: its settings.
        config: the settings it was made with.
        encoder: of the images.
        vocabulary: the concepts it knows by name.
        preprocessing: how images become its input; it travels with the weights.
        loss_weights: factor of every named loss term in the total.
        seen: fingerprints of what it was trained on, None where that is not known.
        made_by: recipe, seed, data and versions of its training, None where they are not known.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_type: ClassVar[type[MethodConfig]]
    encoder: Encoder
    seen: Fingerprints | None = None
    made_by: Mapping[str, Any] | None = None

    def __init__(self, config: MethodConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.config: Any = config
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing

    @property
    @abstractmethod
    def loss_weights(self) -> Mapping[str, float]:
        """Factor of every named loss term in the total."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named, unweighted loss terms of a batch."""

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C) of each of C prompts for images (B, 3, S, S).

        A prompt is a pathology of the vocabulary (name, display name or synonym) or any text. What an image gets depends
        neither on the other images of the batch nor on the other prompts.
        """

    @abstractmethod
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return maps (B, C, h, w), non-negative: where in each image each prompt is seen."""

    def answer(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        maps: bool = False,
        anatomies: bool = False,
        embeddings: bool = False,
    ) -> Answers:
        """Return all that is wanted of images (B, 3, S, S) at once; methods override it to encode each image only once.

        Each part is what the verb of its own gives: `score`, `localise`, `score_anatomies`, `embed_images`.
        """
        return Answers(
            self.score(images, prompts),
            self.localise(images, prompts) if maps else None,
            self.score_anatomies(images, prompts) if anatomies and isinstance(self, TellsPlaces) else None,
            self.embed_images(images) if embeddings else None,
        )

    @abstractmethod
    def embed_images(self, images: Tensor) -> Tensor:
        """Return vectors (B, d) of images (B, 3, S, S): the higher the dot product with a report's, the better they fit.

        For use, not for training. Products compare within one method alone.
        """

    @abstractmethod
    def embed_reports(self, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return vectors (R, d) of reports for `embed_images`, each given as its sentences; a report may have none."""

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
    @abstractmethod
    def blank(cls, config: Any, vocabulary: Vocabulary, preprocessing: Preprocessing, state: Mapping[str, Tensor]) -> Method:
        """Return a method with the shapes of `state` whose weights are still to be filled in: no encoder, no download."""


class TellsPlaces(ABC):
    """A method that says in which anatomy a finding lies."""

    @abstractmethod
    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability (B, C, A) that each prompt is present in each anatomy."""


MethodType = TypeVar("MethodType", bound=type[Method])
_METHODS: dict[str, type[Method]] = {}
_MODULES = ("convirt", "gloria", "medklip", "medslip", "mlip")


def register(method: MethodType) -> MethodType:
    """Make a method known by its `name` (class decorator)."""
    _METHODS[method.name] = method
    return method


def _methods() -> dict[str, type[Method]]:
    for module in _MODULES:
        import_module(f"medlip.methods.{module}")
    return _METHODS


def method_names(able: str = "") -> tuple[str, ...]:
    """Return the names of all methods, or of those that have the verb `able`, such as "streams"."""
    return tuple(sorted(name for name, method in _methods().items() if not able or hasattr(method, able)))


def _method(name: str) -> type[Method]:
    try:
        return _methods()[name]
    except KeyError:
        raise MedLIPError(f"method {name!r} is unknown. Choose one of: {', '.join(method_names())}.") from None


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
    method = _method(str(settings.get("name", "")))
    return method.build(method_config(settings), vocabulary, preprocessing, reports)


def method_config(settings: Mapping[str, Any]) -> MethodConfig:
    """Return all settings of a method, given its `name` and those that differ from the defaults.

    Raises:
        MedLIPError: an unknown method or setting, or a value out of range.
    """
    return parse_config(_method(str(settings.get("name", ""))), settings)


def parse_config(method: type[Method], settings: Mapping[str, Any]) -> MethodConfig:
    """Validate the settings of a method, `name` aside."""
    try:
        return method.config_type.model_validate({key: value for key, value in settings.items() if key != "name"})
    except ValidationError as error:
        first = error.errors()[0]
        raise MedLIPError(
            f"method.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}. "
            f"Settings of {method.name}: {', '.join(method.config_type.model_fields)}."
        ) from error


def save_method(method: Method, path: Path, **extra: Any) -> None:
    """Write a method to ONE safetensors file: weights, text banks, settings, vocabulary and preprocessing; atomically.

    Args:
        method: what to save.
        path: the file.
        extra: plain data to keep along, such as the recipe.
    """
    about = {
        "method": {"name": method.name, **method.config.model_dump(mode="json")},
        "vocabulary": method.vocabulary.model_dump(mode="json"),
        "preprocessing": method.preprocessing.to_dict(),
        **extra,
    }
    write_safetensors(method.state_dict(), path, {"medlip": json.dumps(about)})


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors so that `path` is at every moment either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # Copies, since the format refuses tensors that share memory, as shared layers do.
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(copies, partial, dict(metadata))
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises:
        MedLIPError: no such file, or not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
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
    kind = _method(about["method"]["name"])
    vocabulary = Vocabulary.parse(about["vocabulary"], str(path))
    preprocessing = Preprocessing.from_dict(about["preprocessing"])
    method = kind.blank(parse_config(kind, about["method"]), vocabulary, preprocessing, state)
    load_strict(method, state, str(path))
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


def initialise(module: nn.Module, init: str) -> None:
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
