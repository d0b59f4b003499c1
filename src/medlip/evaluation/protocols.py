"""Named protocols: data set, split, classes with their prompts, and where thresholds come from, frozen and under a name.

Every data set has two forms. `NAME-sound` chooses thresholds on validation data. `NAME-medklip` chooses them on the reported
images themselves, as much published work does: its F1, accuracy, IoU and Dice are optimistic; it is there to be comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medlip.errors import MedLIPError, first_problem

Thresholds = Literal["validation", "test"]
FORMS: Mapping[str, Thresholds] = {"sound": "validation", "medklip": "test"}


class Protocol(BaseModel):
    """How a data set is evaluated.

    Attributes:
        name: such as "nih-sound".
        title: what it is, for people.
        classes: the prompt of each label: a name of the vocabulary, or any text.
        split: which is evaluated.
        thresholds: chosen on "validation" data, or on the reported "test" images themselves.
        images: how many images the published split has, None where that is not told.
        ask: what grounding asks for: "classes" by their prompts, or the "phrases" that came with the boxes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    classes: Mapping[str, str]
    split: str = "test"
    thresholds: Thresholds = "validation"
    images: int | None = None
    ask: Literal["classes", "phrases"] = "classes"


@cache
def named_protocols() -> Mapping[str, Protocol]:
    """Return all protocols of the package by name."""
    content = yaml.safe_load((files("medlip.evaluation") / "protocols.yaml").read_text(encoding="utf-8"))
    return {
        f"{name}-{form}": parse_protocol({"name": f"{name}-{form}", "thresholds": thresholds, **entry}, name)
        for name, entry in content.items()
        for form, thresholds in FORMS.items()
    }


def load_protocol(name: str) -> Protocol:
    """Return a protocol of the package, or one of your own from a YAML file.

    Raises:
        MedLIPError: there is none of this name, or the file is broken or has a class without a prompt.
    """
    own = read_own(name, "name, title and classes")
    if own is not None:
        return parse_protocol(own, name)
    if name not in named_protocols():
        raise MedLIPError(f"no protocol {name!r}. There are: {', '.join(named_protocols())}; or give a YAML file.")
    return named_protocols()[name]


def parse_protocol(content: Mapping[str, object], where: str) -> Protocol:
    """Validate a protocol given as plain data; `where` names it in errors.

    Raises:
        MedLIPError: a class has no prompt, a key is unknown, or a value is of another kind.
    """
    classes = content.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise MedLIPError(f"{where}: it has no classes. Give each label of the data with its prompt.")
    lacking = [str(name) for name, prompt in classes.items() if not (isinstance(prompt, str) and prompt.strip())]
    if lacking:
        raise MedLIPError(
            f"{where}: no prompt for {', '.join(map(repr, lacking))}. Give each class a vocabulary's name or a description."
        )
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise MedLIPError(f"{where}: {place}: {problem}.") from error


def read_own(name: str, expected: str) -> Mapping[str, object] | None:
    """Return the content of a user's protocol, or None where `name` names none of their YAML files.

    Args:
        name: of a protocol; one that ends in .yaml or .yml is a file.
        expected: what such a file holds, for people.

    Raises:
        MedLIPError: there is no such file, or it is not YAML of that kind.
    """
    if not name.endswith((".yaml", ".yml")):
        return None
    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MedLIPError(f"{name}: there is no such file.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"{name}: not readable as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise MedLIPError(f"{name}: expected {expected}, found something else.")
    return content


def read_split_list(path: Path) -> list[str]:
    """Return the images that a file names, one a line; empty lines and those that begin with # don't count.

    Raises:
        MedLIPError: there is no such file, it isn't text, or it names nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise MedLIPError(f"{path}: not readable as a list of images ({error}).") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise MedLIPError(f"{path}: names no image. Give one image or study a line.")
    return names
