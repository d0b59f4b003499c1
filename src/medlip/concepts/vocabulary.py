"""The vocabulary: every pathology and anatomy that a fact can name, matched by name and never by position."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medlip.errors import MedLIPError

CATCH_ALL_ANATOMIES = frozenset({"unspecified", "other"})


class _Concept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    display: str = Field(min_length=1)
    synonyms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Every word for the concept: its name, its display name and its synonyms."""
        return self.name, self.display, *self.synonyms


class Pathology(_Concept):
    """One thing that can be found: a disease, a sign, a device, or a normal statement.

    Attributes:
        name: identifier, as in the fact matrix.
        display: how a person reads it.
        synonyms: other words for it, singular and in lower case.
        description: one to three sentences: what it is and how it looks on a chest X-ray.
        kind: `abnormal`, `normal` ("clear", "intact") or `other` (the two catch-all columns).
    """

    description: str = Field(min_length=1)
    kind: Literal["abnormal", "normal", "other"] = "abnormal"


class Anatomy(_Concept):
    """One place where something can be found.

    Attributes:
        name: identifier, as in the fact matrix.
        display: how a person reads it.
        synonyms: other words for it, singular and in lower case.
        side: the patient's side, `None` for what is on both or on neither.
        mirror: where a finding here lies after the image is mirrored: the twin on the other side, itself for unsided
            places, and the row that contains the place where the other side has no row of its own.
        text: the short form, as published: "It is located at {name}. ".
        long_text: one readable sentence that says where it is.
    """

    side: Literal["left", "right"] | None = None
    mirror: str
    text: str = Field(min_length=1)
    long_text: str = Field(min_length=1)


class Vocabulary(BaseModel):
    """An ordered set of pathologies (P) and anatomies (A); the order is that of the fact matrix (A, P).

    Attributes:
        pathologies: the columns.
        anatomies: the rows.
        overlapping_pathologies: groups of names; the first says nearly the same as each of the others, or contains it.
        overlapping_anatomies: likewise.

    Raises:
        MedLIPError: (from `parse`) two concepts share a name, two pathologies a word, or a mirror twin does not exist or
            lies on the same side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    pathologies: tuple[Pathology, ...] = Field(min_length=1)
    anatomies: tuple[Anatomy, ...] = Field(min_length=1)
    overlapping_pathologies: tuple[tuple[str, ...], ...] = ()
    overlapping_anatomies: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Vocabulary:
        for kind, concepts in (("pathology", self.pathologies), ("anatomy", self.anatomies)):
            names = [concept.name for concept in concepts]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {kind} {twice[0]!r} is named twice: give every {kind} a name of its own")
        owners: dict[str, str] = {}
        for pathology in self.pathologies:
            for word in pathology.words:
                owner = owners.setdefault(_fold(word), pathology.name)
                if owner != pathology.name:
                    raise ValueError(
                        f"{word!r} is a word for both {owner!r} and {pathology.name!r}: leave it to one of them"
                    )
        sides = {anatomy.name: anatomy.side for anatomy in self.anatomies}
        for anatomy in self.anatomies:
            if anatomy.mirror not in sides:
                raise ValueError(f"anatomy {anatomy.name!r}: its mirror {anatomy.mirror!r} is no anatomy of the vocabulary")
            if anatomy.side and anatomy.side == sides[anatomy.mirror]:
                raise ValueError(
                    f"anatomy {anatomy.name!r} and its mirror {anatomy.mirror!r} are both {anatomy.side}: name its twin"
                )
        for groups, known in (
            (self.overlapping_pathologies, {pathology.name for pathology in self.pathologies}),
            (self.overlapping_anatomies, set(sides)),
        ):
            unknown = sorted({name for group in groups for name in group} - known)
            if unknown:
                raise ValueError(f"overlaps: {unknown[0]!r} is not in the vocabulary: correct the name or leave it out")
        return self

    @cached_property
    def pathology_index(self) -> Mapping[str, int]:
        """Column of each pathology by name."""
        return {pathology.name: i for i, pathology in enumerate(self.pathologies)}

    @cached_property
    def anatomy_index(self) -> Mapping[str, int]:
        """Row of each anatomy by name."""
        return {anatomy.name: i for i, anatomy in enumerate(self.anatomies)}

    @cached_property
    def mirror_index(self) -> tuple[int, ...]:
        """Row that each anatomy's facts move to when the image is mirrored."""
        return tuple(self.anatomy_index[anatomy.mirror] for anatomy in self.anatomies)

    @cached_property
    def unfit_anatomies(self) -> NDArray[np.bool_]:
        """(A, A) symmetric: True where one anatomy is no fair negative for the other: itself, overlaps, catch-alls."""
        catch_all = [name in CATCH_ALL_ANATOMIES for name in self.anatomy_index]
        return _unfit(self.anatomy_index, self.overlapping_anatomies, catch_all)

    @cached_property
    def unfit_pathologies(self) -> NDArray[np.bool_]:
        """(P, P) symmetric: True where one pathology is no fair negative for the other."""
        catch_all = [pathology.kind == "other" for pathology in self.pathologies]
        return _unfit(self.pathology_index, self.overlapping_pathologies, catch_all)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of names and their order: two vocabularies with the same one are interchangeable."""
        names = [[concept.name for concept in group] for group in (self.pathologies, self.anatomies)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]

    @cached_property
    def _pathology_words(self) -> Mapping[str, Pathology]:
        return {_fold(word): pathology for pathology in self.pathologies for word in pathology.words}

    def find_pathology(self, text: str) -> Pathology | None:
        """Return the pathology that has `text` as name, display name or synonym, or None.

        Case, plural endings, `_` and `-` make no difference.
        """
        return self._pathology_words.get(_fold(text))

    def require_same(self, other: Vocabulary, where: str) -> None:
        """Raise unless both vocabularies name the same concepts in the same order.

        Raises:
            MedLIPError: names the first concepts in which `other`, found at `where`, differs.
        """
        if self.fingerprint == other.fingerprint:
            return
        for kind, mine, theirs in (
            ("pathologies", self.pathology_index, other.pathology_index),
            ("anatomies", self.anatomy_index, other.anatomy_index),
        ):
            missing, extra = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
            if missing or extra or list(mine) != list(theirs):
                what = "; ".join(
                    f"{label} {names[:5]}" for label, names in (("missing", missing), ("unknown", extra)) if names
                )
                raise MedLIPError(
                    f"{where}: its {kind} differ from the vocabulary in use ({what or 'the same names in another order'}). "
                    "Use the vocabulary that it was made with."
                )

    @classmethod
    def parse(cls, content: Any, where: str) -> Vocabulary:
        """Build a vocabulary from plain data ({"pathologies": [...], "anatomies": [...]}); `where` names it in errors."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "vocabulary"
            raise MedLIPError(
                f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}. See medlip/concepts/*.yaml for the form."
            ) from error


def _unfit(index: Mapping[str, int], groups: Sequence[Sequence[str]], catch_all: Sequence[bool]) -> NDArray[np.bool_]:
    unfit = np.eye(len(index), dtype=bool)
    for first, *others in groups:
        for other in others:
            unfit[index[first], index[other]] = unfit[index[other], index[first]] = True
    unfit[catch_all, :] = unfit[:, catch_all] = True
    return unfit


def _fold(text: str) -> str:
    words = " ".join(text.lower().replace("_", " ").replace("-", " ").split())
    return re.sub(r"(?<=ss)es\b|(?<=[^isu])s\b", "", re.sub(r"ies\b", "y", words))


@lru_cache(maxsize=1)
def default_vocabulary() -> Vocabulary:
    """Return the 75 pathologies and 51 anatomies of the published fact matrix, in its order."""
    folder = files("medlip.concepts")
    content = {name: yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8")) for name in ("pathologies", "anatomies")}
    content.update(yaml.safe_load((folder / "overlaps.yaml").read_text("utf-8")))
    return Vocabulary.parse(content, "medlip/concepts")


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Read a user's own vocabulary: one YAML file with `pathologies` and `anatomies`.

    Raises:
        MedLIPError: the file is missing, not YAML, or not a vocabulary.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedLIPError(f"{path}: not a readable YAML file ({error}). Give the path of a vocabulary file.") from error
    return Vocabulary.parse(content, str(path))


def is_place(anatomy: str) -> bool:
    """Whether an anatomy says where something is."""
    return anatomy not in CATCH_ALL_ANATOMIES
