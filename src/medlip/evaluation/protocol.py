"""What a number is a number of: results under one protocol can stand in one column, others can't."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from medlip.errors import MedLIPError


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything that a result depends on beside the method: frozen, named, hashed.

    Attributes:
        name: for people; the hash tells protocols apart.
        data: hash of the data set.
        split: name of the evaluated split.
        images: hash of the evaluated images' names, in order.
        tuning: hash of the images that thresholds are chosen on, or how they are taken from the evaluated ones.
        classes: each class with its prompt as resolved: the name of a pathology, or the text itself.
        findings: the same for what is located.
        rules: decision rules and metrics by name.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of the half that thresholds are chosen on.
    """

    name: str
    data: str
    split: str
    images: str
    tuning: str
    classes: Mapping[str, str]
    findings: Mapping[str, str]
    rules: Mapping[str, str]
    resamples: int
    seed: int

    @property
    def hash(self) -> str:
        """Short hash over all but the name."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a result file."""
        return {"name": self.name, "hash": self.hash} | {k: v for k, v in asdict(self).items() if k != "name"}


def read_own(name: str, expected: str) -> Mapping[str, Any] | None:
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
