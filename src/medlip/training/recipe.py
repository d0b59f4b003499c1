"""Recipes: every experiment as data, found by name in the package or by path."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medlip.concepts import Vocabulary, default_vocabulary, load_vocabulary
from medlip.errors import MedLIPError
from medlip.images.augment import Augment
from medlip.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from medlip.reports import UncertainPolicy


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageSection(_Section):
    """The input: side of the square in pixels, and the normalisation."""

    size: int = Field(224, gt=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class FactsSection(_Section):
    """What of the reports is learned from.

    Attributes:
        uncertain: what an uncertain fact counts as.
        implied: also learn the absences that normal statements imply ("clear lungs": no opacity).
    """

    uncertain: UncertainPolicy = "ignore"
    implied: bool = False


class TrainingSection(_Section):
    """The loop; the defaults are the published ones where there are any.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step and process.
        lr: highest learning rate.
        final_lr: where the cosine ends.
        warmup: steps of linear warm-up.
        weight_decay: of matrices and kernels; biases and other 1-D parameters have none.
        betas: of AdamW.
        clip: largest gradient norm; 0 for no clipping.
        precision: `bf16` computes the networks under autocast, `fp32` does without.
        seed: of initial weights, order, augmentation and dropout.
        checkpoint_minutes: how often the state is saved within an epoch; it is saved after every epoch anyway.
        validation_images: images of the validation split whose losses are measured after every epoch; 0 for none.
    """

    epochs: int = Field(100, gt=0)
    batch_size: int = Field(64, gt=0)
    lr: float = Field(1e-4, gt=0)
    final_lr: float = Field(1e-5, ge=0)
    warmup: int = Field(1000, ge=0)
    weight_decay: float = Field(0.02, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(0.0, ge=0)
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    checkpoint_minutes: float = Field(10.0, gt=0)
    validation_images: int = Field(256, ge=0)


class Recipe(_Section):
    """One experiment.

    Attributes:
        method: `name` of the method and its settings.
        image: the input.
        augment: settings of `medlip.images.augment.Augment`, without the size.
        facts: what of the reports is learned from.
        training: the loop.
        vocabulary: path of a vocabulary file; None for the published one.
    """

    method: dict[str, Any]
    image: ImageSection = ImageSection()
    augment: dict[str, Any] = {}
    facts: FactsSection = FactsSection()
    training: TrainingSection = TrainingSection()
    vocabulary: str | None = None

    def make_preprocessing(self) -> Preprocessing:
        """Return the preprocessing of the input."""
        return Preprocessing(**self.image.model_dump())

    def make_augment(self) -> Augment:
        """Return the augmentation of training images.

        Raises:
            MedLIPError: an unknown setting, or a value out of range.
        """
        try:
            return Augment(size=self.image.size, **self.augment)
        except TypeError as error:
            raise MedLIPError(
                f"recipe: augment: {error}. Its settings: {', '.join(Augment.__dataclass_fields__)}."
            ) from error

    def make_vocabulary(self) -> Vocabulary:
        """Return the vocabulary."""
        return load_vocabulary(self.vocabulary) if self.vocabulary else default_vocabulary()


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    return tuple(
        sorted(Path(str(entry)).stem for entry in (files("medlip") / "recipes").iterdir() if str(entry).endswith(".yaml"))
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: of a recipe in the package ("medslip-phantom"), or the path of a YAML file.
        overrides: "section.key=value" changes, the value as in YAML.

    Raises:
        MedLIPError: there is no such recipe, or it has an unknown key or a value out of range.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else files("medlip") / "recipes" / f"{name}.yaml"
    if not file.is_file():
        raise MedLIPError(f"recipe {name!r}: no such recipe. Give a YAML file or one of: {', '.join(recipe_names())}.")
    try:
        content = parse_value(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"recipe {name}: not readable as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise MedLIPError(f"recipe {name}: expected sections ({', '.join(Recipe.model_fields)}), found something else.")
    for override in overrides:
        _override(content, override)
    return parse_recipe(content, name)


def parse_recipe(content: Any, where: str) -> Recipe:
    """Validate a recipe given as plain data; `where` names it in errors."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MedLIPError(f"recipe {where}: {place}: {first['msg']}. See medlip/recipes for examples.") from error


class _Loader(yaml.SafeLoader):
    """YAML in which `off`, `on`, `no` and `yes` are words: settings have them as values."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_value(text: str) -> Any:
    """Read a value, or a whole recipe, from YAML."""
    return yaml.load(text, _Loader)


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise MedLIPError(f"--set {override}: expected key=value, such as training.epochs=5.")
    *sections, key = path.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise MedLIPError(f"--set {override}: {section} is a value and has no key {key!r}.")
    content[key] = parse_value(value)
