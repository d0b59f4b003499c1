"""Recipes: every experiment as data, found by name in this package and in plugins, or by path.

A recipe may build on another one: it names it under `base` and states what differs, section by section and key by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from medlip.concepts import Vocabulary, default_vocabulary, load_vocabulary
from medlip.errors import MedLIPError, did_you_mean, first_problem
from medlip.images.augment import Augment
from medlip.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from medlip.nn.device import Precision
from medlip.plugins import entry_points
from medlip.reports import UncertainPolicy
from medlip.settings import Requirement, SettingsModel


class ImageSection(SettingsModel):
    """The input: side of the square in pixels, and the normalisation."""

    size: int = Field(224, gt=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class FactsSection(SettingsModel):
    """What of the reports is learned from.

    Attributes:
        uncertain: what an uncertain fact counts as.
        implied: also learn the absences that normal statements imply ("clear lungs": no opacity).
    """

    uncertain: UncertainPolicy = "ignore"
    implied: bool = False


class DataSection(SettingsModel):
    """What of the studies is read.

    Attributes:
        views: `each` image by itself, with its study's report; or `set`: the views of a study together, its report once.
        most_views: of a study that are read together: the first, frontal ones before lateral ones before others.
        drop_view: probability that a view of a study is left out in training, anew in every epoch; one always stays.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {"most_views": Requirement("views=set", lambda data: data.views == "set")}

    views: Literal["each", "set"] = "each"
    most_views: int = Field(4, ge=1)
    drop_view: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _drops_from_sets_alone(self) -> DataSection:
        if self.drop_view and self.views != "set":
            raise ValueError(
                f"drop_view={self.drop_view} leaves views out of a study, and with views={self.views} every image is read "
                "by itself. Set data.views=set, or drop_view=0"
            )
        return self


_Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSection(SettingsModel):
    """The loop; the defaults are the published ones where there are any.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step and process.
        rest: what becomes of the images that an epoch leaves over beside whole batches: `drop` them, which are others in
            every epoch, or `keep` them as a last, smaller batch.
        lr: highest learning rate.
        final_lr: where the cosine ends, `lr` at most.
        warmup: steps of linear warm-up.
        weight_decay: of matrices and kernels; biases and other 1-D parameters have none.
        betas: of AdamW.
        clip: largest gradient norm; 0 for no clipping.
        precision: `bf16` and `fp16` compute the networks under autocast, fp16 with scaled losses; `fp32` does without;
            `auto` is bf16 where that is fast.
        seed: of initial weights, order, augmentation and dropout.
        checkpoint_minutes: how often the state is saved within an epoch; it is saved after every epoch anyway.
        keep: how many of the latest checkpoints stay in the run's folder.
        validation_images: images of the validation split whose losses are measured after every epoch; 0 for none.
        start_from: a run's folder or its model.safetensors, whose weights are the start; None for the method's own.
        ema: decay of a moving average of the weights, which is what is validated and saved; 0 for none.
        accumulate: parts in which a batch is worked through, to save memory; `batch_size` is that of the whole.
        checkpointing: compute the activations of each block again in the backward pass, to save memory.
        compile: compile the image encoder with `torch.compile`; without a compiler it is trained as it is.
        augment_on: where images are augmented: on the `host`, or on the `device` that trains.
        sync_batch_norm: take batch normalization's statistics over the batches of all processes.
        log_gradients: steps between two measurements of the gradient norm of each loss term; 0 for none.
        sample_maps: validation images of which maps are kept after every epoch, without the images themselves; 0 for none.
        balance: share of each named loss term in the encoder's gradient, to be held throughout; None for fixed weights.
        balance_every: steps between two adjustments of the balance.
        on_nan: `stop` at a batch whose loss is not finite, or `skip` it.
    """

    needs: ClassVar[Mapping[str, Requirement]] = {
        "balance_every": Requirement("balance", lambda training: training.balance is not None)
    }

    epochs: int = Field(100, gt=0)
    batch_size: int = Field(64, gt=0)
    rest: Literal["drop", "keep"] = "drop"
    lr: float = Field(1e-4, gt=0)
    final_lr: float = Field(1e-5, ge=0)
    warmup: int = Field(1000, ge=0)
    weight_decay: float = Field(0.02, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    clip: float = Field(0.0, ge=0)
    precision: Precision = "auto"
    seed: int = Field(0, ge=0, lt=1 << 63)
    checkpoint_minutes: float = Field(10.0, gt=0)
    keep: int = Field(1, ge=1)
    validation_images: int = Field(256, ge=0)
    start_from: str | None = None
    ema: float = Field(0.0, ge=0, lt=1)
    accumulate: int = Field(1, ge=1)
    checkpointing: bool = False
    compile: bool = False
    augment_on: Literal["host", "device"] = "host"
    sync_batch_norm: bool = False
    log_gradients: int = Field(0, ge=0)
    sample_maps: int = Field(0, ge=0)
    balance: dict[str, PositiveFloat] | None = None
    balance_every: int = Field(20, ge=1)
    on_nan: Literal["stop", "skip"] = "stop"

    @field_validator("balance")
    @classmethod
    def _has_terms_to_balance(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        if shares is not None and len(shares) < 2:
            raise ValueError("a share holds between terms: name two or more, such as {exist: 0.8, icl: 0.2}")
        return shares

    @model_validator(mode="after")
    def _parts_are_of_one_size(self) -> TrainingSection:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} can't be divided into accumulate={self.accumulate} equal parts. Change one"
            )
        return self

    @model_validator(mode="after")
    def _rates_fall(self) -> TrainingSection:
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr={self.final_lr} is above lr={self.lr}, and rates fall. Change one")
        return self


class FirstSection(SettingsModel):
    """A training that comes before, and whose weights are the start; it lies in RUN/first and has this one's seed.

    Attributes:
        recipe: its recipe, by name or path.
        data: what it learns from: a store or another source, such as `phantom:4000`.
        settings: what differs from its recipe, such as {image.size: 96}.
    """

    recipe: str
    data: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Recipe(SettingsModel):
    """One experiment.

    Attributes:
        method: `name` of the method and its settings.
        image: the input.
        augment: settings of `medlip.images.augment.Augment`, without the size.
        data: what of the studies is read.
        facts: what of the reports is learned from.
        training: the loop.
        first: a training that comes before; None for none.
        vocabulary: path of a vocabulary file; None for the published one.
    """

    method: dict[str, Any]
    image: ImageSection = ImageSection()
    augment: dict[str, Any] = Field(default_factory=dict)
    data: DataSection = DataSection()
    facts: FactsSection = FactsSection()
    training: TrainingSection = TrainingSection()
    first: FirstSection | None = None
    vocabulary: str | None = None

    @model_validator(mode="after")
    def _has_one_start(self) -> Recipe:
        if self.first and self.training.start_from:
            raise ValueError(f"training.start_from={self.training.start_from} and first both give the start. Set first=null")
        return self

    def load_first(self) -> Recipe | None:
        """Return the recipe of what comes first; None for nothing.

        Raises:
            MedLIPError: there is no such recipe, it has a training before itself, or a setting of it is not there.
        """
        if self.first is None:
            return None
        changes = {**self.first.settings, "training.seed": self.training.seed}
        recipe = load_recipe(self.first.recipe, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
        if recipe.first:
            raise MedLIPError(
                f"first.recipe={self.first.recipe}: something comes first in that recipe, too. Add first: null to "
                "first.settings."
            )
        return recipe

    def make_preprocessing(self) -> Preprocessing:
        """Return the preprocessing of the input."""
        return Preprocessing(**self.image.model_dump())

    def make_augment(self) -> Augment:
        """Return the augmentation of training images.

        Raises:
            MedLIPError: a setting is of another kind, or outside its range.
        """
        try:
            return _AUGMENT.validate_python({"size": self.image.size, **self.augment})
        except ValidationError as error:
            place, problem = first_problem(error)
            raise MedLIPError(f"augment.{place}: {problem}.") from error

    def make_vocabulary(self) -> Vocabulary:
        """Return the vocabulary."""
        return load_vocabulary(self.vocabulary) if self.vocabulary else default_vocabulary()


_FOLDERS = [Path(str(files("medlip") / "recipes"))]
_AUGMENT = TypeAdapter(Augment)
AUGMENT = tuple(name for name in Augment.__dataclass_fields__ if name != "size")


def register_recipes(folder: str | Path) -> None:
    """Make the YAML files of a folder known as recipes by their names; a plugin calls it."""
    if (path := Path(folder).resolve()) not in _FOLDERS:
        _FOLDERS.append(path)


def recipe_files() -> dict[str, Path]:
    """Return the files of all recipes that are known by name: of this package, then of plugins.

    Raises:
        MedLIPError: two recipes share a name, or a plugin's folder is missing.
    """
    for part in entry_points("medlip.recipes"):
        for path in part.__path__ if isinstance(part, ModuleType) else [str(part)]:
            register_recipes(path)
    found: dict[str, Path] = {}
    for folder in _FOLDERS:
        if not folder.is_dir():
            raise MedLIPError(f"{folder}: registered as a folder of recipes, but there is no such folder.")
        for file in sorted(folder.glob("*.yaml")):
            if file.stem in found:
                raise MedLIPError(f"recipe {file.stem!r}: both {found[file.stem]} and {file} have this name. Rename one.")
            found[file.stem] = file
    return found


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: of a known recipe ("medslip-phantom"), or the path of a YAML file.
        overrides: "section.key=value" changes, the value as in YAML. Each must do something beside the other settings; a
            recipe itself may state more, for what is switched off in it.

    Raises:
        MedLIPError: there is no such recipe, it builds on itself, it has an unknown key or a value out of range, or an
            override does nothing.
    """
    content = _resolve(find_recipe(name))
    for override in overrides:
        _override(content, override)
    recipe = parse_recipe(content, name)
    _require_effects(recipe, overrides)
    return recipe


def find_recipe(name: str, beside: Path | None = None) -> Path:
    """Return a recipe's file.

    Args:
        name: of a known recipe, or the path of a YAML file.
        beside: the folder that a relative path starts from; None for the current one.

    Raises:
        MedLIPError: there is no such recipe.
    """
    if name.endswith((".yaml", ".yml")):
        file = (beside or Path()) / name
        if not file.is_file():
            raise MedLIPError(f"recipe {file}: there is no such file.")
        return file
    known = recipe_files()
    if name not in known:
        raise MedLIPError(
            f"recipe {name!r}: there is no such recipe.{did_you_mean(name, known)} "
            f"Give a YAML file or one of: {', '.join(known)}."
        )
    return known[name]


def about_recipe(file: Path) -> str:
    """Return the first sentence of the comment that a recipe's file begins with."""
    comment: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].removesuffix(".")


def base_of(file: Path) -> str | None:
    """Return what a recipe's file builds on, as it names it."""
    base = _read(file).get("base")
    return None if base is None else str(base)


def _resolve(file: Path, trail: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe's file over what it builds on."""
    trail = (*trail, file.resolve())
    if trail[-1] in trail[:-1]:
        raise MedLIPError(f"recipe {file.stem}: builds on itself: {' -> '.join(each.stem for each in trail)}.")
    own = _read(file)
    base = own.pop("base", None)
    return own if base is None else _merge(_resolve(find_recipe(str(base), file.parent), trail), own)


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Put a recipe's own settings over those of its base; another method inherits no settings of the base's method."""
    merged = {**base, **own}
    for section in base.keys() & own.keys():
        ours, theirs = own[section], base[section]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            other_method = section == "method" and ours.get("name", theirs.get("name")) != theirs.get("name")
            merged[section] = ours if other_method else {**theirs, **ours}
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        content = parse_value(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"recipe {file}: not readable as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise MedLIPError(f"recipe {file}: expected sections ({', '.join(Recipe.model_fields)}), found something else.")
    return content


def parse_recipe(content: object, where: str) -> Recipe:
    """Validate a recipe given as plain data; `where` names it in errors.

    Raises:
        MedLIPError: names the first setting that is unknown or out of range.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        path, problem = first_problem(error)
        told = _unknown(path) if error.errors()[0]["type"] == "extra_forbidden" else f"{path}: {problem}."
        raise MedLIPError(f"recipe {where}: {told}") from error
    for name in recipe.augment:
        if name not in AUGMENT:
            raise MedLIPError(f"recipe {where}: {_unknown(f'augment.{name}')}")
    recipe.make_preprocessing()
    recipe.make_augment()
    return recipe


def recorded_recipe(recipe: Any) -> Any:
    """Return a recipe as data, as a run keeps it: settings that have come since stand at their defaults.

    What today's recipes can't hold (a setting that is no more, or no recipe at all) comes back as it is.
    """
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _unknown(path: str) -> str:
    """Say that there is no such setting, which one may be meant, and which there are beside it."""
    settings = {section: tuple(_settings(section)) for section in Recipe.model_fields}
    full = [f"{section}.{name}" for section, names in settings.items() for name in names]
    section, _, name = path.rpartition(".")
    elsewhere = [each for each in full if each.endswith(f".{name}")]
    meant = f" Did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(path, [*full, *settings])
    known = settings.get(section) or tuple(settings)
    return f"{path}: there is no such setting.{meant} Settings of {section or 'a recipe'}: {', '.join(known)}."


def _settings(section: str) -> Iterable[str]:
    """Return the names of a section's settings; none for a value, nor for a method, which has settings of its own."""
    if section == "augment":
        return AUGMENT
    kind = Recipe.model_fields[section].annotation
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each.model_fields
    return ()


class _Loader(yaml.SafeLoader):
    """YAML in which `off`, `on`, `no` and `yes` are words: settings have them as values."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_value(text: str) -> Any:
    """Read a value, or a whole recipe, from YAML."""
    return yaml.load(text, _Loader)


def parse_override(override: str) -> tuple[str, Any]:
    """Read "key=value", the value as in YAML.

    Raises:
        MedLIPError: there is no key, or no value, or the value is no YAML.
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise MedLIPError(f"--set {override}: expected key=value, such as training.epochs=5.")
    try:
        return path, parse_value(value)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise MedLIPError(f"--set {override}: the value is no YAML ({problem}). Check its brackets and quotes.") from error


def _require_effects(recipe: Recipe, overrides: Sequence[str]) -> None:
    paths = [override.partition("=")[0].partition(".") for override in overrides]
    sections = {section: _section(recipe, section) for section in {section for section, _, _ in paths}}
    for override, (section, _, name) in zip(overrides, paths, strict=True):
        settings = sections[section]
        if isinstance(settings, SettingsModel) and (missed := settings.missed(name)):
            raise MedLIPError(f"--set {override}: does nothing without {missed}. Set that as well, or leave {name} out.")


def _section(recipe: Recipe, name: str) -> object:
    if name != "method":
        return getattr(recipe, name)
    from medlip.methods.base import method_config  # brings in the networks

    return method_config(recipe.method)


def _override(content: dict[str, Any], override: str) -> None:
    path, value = parse_override(override)
    *sections, key = path.split(".")
    if sections[:2] == ["first", "settings"]:  # their names have dots
        sections, key = sections[:2], ".".join([*sections[2:], key])
        if key == "training.seed":
            raise MedLIPError(f"--set {override}: what comes first has the seed of the training behind it: training.seed.")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise MedLIPError(f"--set {override}: {section} is a value and has no key {key!r}.")
    content[key] = value
