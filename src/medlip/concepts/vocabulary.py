"""The vocabulary: every pathology and anatomy that a fact can name, matched by name and never by position."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medlip.errors import MedLIPError, first_problem

CATCH_ALL_ANATOMIES = frozenset({"unspecified", "other"})
ANYWHERE, BOTH_LUNGS = "unspecified", "lung_volumes"
DEFAULT = "default"  # what a vocabulary file extends by this name
OPPOSITE = {"left": "right", "right": "left"}

Cue = Literal[
    "absent", "absent_behind", "advice", "alternative", "artefact", "aside", "be", "both", "cause", "clause", "compares",
    "earlier", "either", "explains", "fresh", "limits", "nothing", "over", "refers", "shown", "silent", "there", "uncertain",
    "uncertain_behind", "weighs", "within",
]  # fmt: skip
Heading = Literal[
    "findings", "impression", "addendum", "indication", "history", "comparison", "technique", "examination",
    "recommendation", "notification",
]  # fmt: skip
Phrase = Annotated[str, Field(pattern=r"[\w?=&<>+]")]


class _Concept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    display: str = Field(min_length=1)
    synonyms: tuple[Phrase, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _told_by_name(cls, content: Any) -> Any:
        name = _named(content)
        return {**cls._defaults(name, name.replace("_", " ").strip()), **content} if name else content

    @classmethod
    def _defaults(cls, name: str, spelled: str) -> dict[str, Any]:
        """Return what a name tells of its concept, where nothing else is given."""
        return {"display": spelled[:1].upper() + spelled[1:]}

    @property
    def words(self) -> tuple[str, ...]:
        """Every word for the concept: its name, its display name and its synonyms."""
        return self.name, self.display, *self.synonyms


class Pathology(_Concept):
    """One thing that can be found: a disease, a sign, a device, or a normal statement.

    Attributes:
        name: identifier, as in the fact matrix.
        display: how a person reads it; by default the name.
        synonyms: other words for it, singular and in lower case.
        adjectives: words that say it of a place ("the joint space is narrowed").
        description: one to three sentences: what it is and how it looks on the image.
        kind: `abnormal`, `normal` ("clear", "intact") or `other` (the two catch-all columns).
        like: the pathology of the default vocabulary that it is read like, if its name is none of them: its place when
            none is said, whether it is a device, whether it shares the place of what it explains.
    """

    adjectives: tuple[Phrase, ...] = ()
    description: str = Field(min_length=1)
    kind: Literal["abnormal", "normal", "other"] = "abnormal"
    like: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Every word for it: its name, its display name, its synonyms and its adjectives."""
        return *super().words, *self.adjectives


class Anatomy(_Concept):
    """One place where something can be found. A name is enough: "left_knee" tells its side, its twin and its texts.

    Attributes:
        name: identifier, as in the fact matrix.
        display: how a person reads it; by default the name.
        synonyms: other words for it, singular and in lower case.
        side: the patient's side, `None` for what is on both or on neither; by default the one in the name.
        mirror: where a finding here lies after the image is mirrored: the twin on the other side, itself for unsided
            places, and the row that contains the place where the other side has no row of its own (one that has a twin, or
            is its own mirror). By default the name with the other side.
        text: the short form, as published: "It is located at {name}. ".
        long_text: one readable sentence that says where it is.
    """

    side: Literal["left", "right"] | None = None
    mirror: str
    text: str = Field(min_length=1)
    long_text: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check_sides(self) -> Anatomy:
        other = OPPOSITE.get(self.side or "")
        word = next((word for word in self.words if other in _fold(word).split()), None)
        if word:
            raise ValueError(
                f"it lies on the {self.side}, and its word {word!r} says {other}: correct one of them ({self.name!r})"
            )
        return self

    @classmethod
    def _defaults(cls, name: str, spelled: str) -> dict[str, Any]:
        parts = name.split("_")
        return super()._defaults(name, spelled) | {
            "side": next((part for part in parts if part in OPPOSITE), None),
            "mirror": "_".join(OPPOSITE.get(part, part) for part in parts),
            "text": f"It is located at {name}. ",
            "long_text": f"It is located at the {spelled}.",
        }


class Wording(BaseModel):
    """How reports say it, beyond the built-in words (`medlip/reports/words/*.yaml`); what is given here wins over them.

    Attributes:
        body_part: words for the whole of what the images show, where that is no chest ("knee", "knee joint"). A side alone
            is a side of it, and findings have no place in the chest that they are at unsaid.
        zones: words for the parts that organs are divided into, by the name of the zone ("medial": "medial", "inner"), so
            that "medial and lateral meniscus" is two places.
        cues: words that tell what a finding is said to be, by the kinds of `words/cues.yaml`.
        spelling: abbreviation or misspelling, and the one word that it is read as; capitals matter where it has any.
        sections: headings by the section that they open, as in `words/sections.yaml`; findings, impression and addendum are
            read, the others are not.
        openers: words that begin the description of an image, as in `words/sections.yaml`: where a full stop was lost, a
            capital there begins a sentence; behind a clinical question without a heading, the description begins with them.

    Raises:
        ValueError: a phrase has no word, a spelling or an opener more than one, or a key is none of these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_part: tuple[Phrase, ...] = ()
    zones: Mapping[str, tuple[Phrase, ...]] = {}
    cues: Mapping[Cue, tuple[Phrase, ...]] = {}
    spelling: Mapping[str, str] = {}
    sections: Mapping[Heading, tuple[Phrase, ...]] = {}
    openers: tuple[Phrase, ...] = ()

    @field_validator("spelling")
    @classmethod
    def _check_spelling(cls, spelling: Mapping[str, str]) -> Mapping[str, str]:
        for pair in spelling.items():
            if longer := next((said for said in pair if len(said.split()) != 1), None):
                raise ValueError(
                    f"{pair[0]!r}: {longer!r} is not one word: make an abbreviation of several a synonym of its concept"
                )
        return spelling

    @field_validator("openers")
    @classmethod
    def _check_openers(cls, openers: tuple[Phrase, ...]) -> tuple[Phrase, ...]:
        if longer := next((said for said in openers if len(said.split()) != 1), None):
            raise ValueError(f"{longer!r} is not one word: give the first word of the statement alone")
        return openers

    @property
    def phrases(self) -> tuple[tuple[str, str], ...]:
        """Each phrase of the zones and cues with the key that it stands under."""
        groups = ((f"{key}.{name}", said) for key in ("zones", "cues") for name, said in getattr(self, key).items())
        return tuple((key, phrase) for key, said in groups for phrase in said)


class Vocabulary(BaseModel):
    """An ordered set of pathologies (P) and anatomies (A); the order is that of the fact matrix (A, P).

    Attributes:
        pathologies: the columns.
        anatomies: the rows.
        overlapping_pathologies: groups of names; the first says nearly the same as each of the others, or contains it.
        overlapping_anatomies: likewise.
        wording: how reports are read beyond the built-in words.

    Raises:
        MedLIPError: (from `parse`) two concepts share a name, two meanings a word, a pathology is to be read like one that
            does not exist, or a mirror twin does not exist, lies on the same side, or doesn't lead back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    pathologies: tuple[Pathology, ...] = Field(min_length=1)
    anatomies: tuple[Anatomy, ...] = Field(min_length=1)
    overlapping_pathologies: tuple[tuple[str, ...], ...] = ()
    overlapping_anatomies: tuple[tuple[str, ...], ...] = ()
    wording: Wording = Wording()

    @model_validator(mode="after")
    def _check(self) -> Vocabulary:
        for kind, group in (("pathology", self.pathologies), ("anatomy", self.anatomies)):
            names = [concept.name for concept in group]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {kind} {twice[0]!r} is named twice: give every {kind} a name of its own")
        words = ((concept.name, word) for concept in (*self.pathologies, *self.anatomies) for word in concept.words)
        owners: dict[str, str] = {}
        for meaning, word in (*words, *self.wording.phrases):
            owner = owners.setdefault(_fold(word), meaning)
            if owner != meaning:
                raise ValueError(f"{word!r} is a word for both {owner!r} and {meaning!r}: leave it to one of them")
        for pathology in self.pathologies:
            if pathology.like and pathology.like not in default_vocabulary().pathology_index:
                raise ValueError(
                    f"pathology {pathology.name!r} is to be read like {pathology.like!r}, which the default vocabulary does "
                    f"not have: choose one of {', '.join(default_vocabulary().pathology_index)}"
                )
        sides = {anatomy.name: anatomy.side for anatomy in self.anatomies}
        for anatomy in self.anatomies:
            if anatomy.mirror not in sides:
                raise ValueError(f"anatomy {anatomy.name!r}: its mirror {anatomy.mirror!r} is no anatomy of the vocabulary")
            if anatomy.side and anatomy.side == sides[anatomy.mirror]:
                raise ValueError(
                    f"anatomy {anatomy.name!r} and its mirror {anatomy.mirror!r} are both {anatomy.side}: name its twin"
                )
        mirrors = {anatomy.name: anatomy.mirror for anatomy in self.anatomies}
        for name, mirror in mirrors.items():
            if mirrors[mirrors[mirror]] != mirror:
                raise ValueError(
                    f"anatomy {name!r}: its mirror {mirror!r} is neither its own mirror nor half of a pair: mirroring "
                    "twice doesn't lead back. Correct the mirror of one of them"
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

    def covers(self, whole: str, part: str) -> bool:
        """Return whether what is nowhere in `whole` isn't in `part` either.

        `unspecified` covers all; an organ of which no part was said ("pleural_unspec", and "lung_volumes" for both lungs)
        covers what overlaps it, one of one side what lies on that side.
        """
        if whole in (part, ANYWHERE):
            return True
        row, column = self.anatomy_index.get(whole), self.anatomy_index.get(part)
        if row is None or column is None or not (whole == BOTH_LUNGS or whole.endswith("_unspec")):
            return False
        side = self.anatomies[row].side
        return (
            part not in CATCH_ALL_ANATOMIES
            and bool(self.unfit_anatomies[row, column])
            and (side is None or side == self.anatomies[column].side)
        )

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
    def words_fingerprint(self) -> str:
        """Short hash of all that decides what is read from a report: names, words, and how they are read."""
        told = {"pathologies": {"__all__": {"description"}}, "anatomies": {"__all__": {"mirror", "text", "long_text"}}}
        content = self.model_dump_json(exclude={**told, "overlapping_pathologies": True, "overlapping_anatomies": True})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def _pathology_words(self) -> Mapping[str, Pathology]:
        return {_fold(word): pathology for pathology in self.pathologies for word in pathology.words}

    def find_pathology(self, text: str) -> Pathology | None:
        """Return the pathology that has `text` as name, display name or synonym, or None.

        Case, plural endings, `_` and `-` make no difference, nor does punctuation at either end.
        """
        return self._pathology_words.get(_fold(text)) or self._pathology_words.get(_fold(text.strip(" .,;:!?\"'")))

    def without_side(self, anatomy: str) -> str:
        """Return what an anatomy is called when its side isn't told: "pleural" of "left_pleural"; itself if it has none."""
        index = self.anatomy_index.get(anatomy)
        if index is None or self.anatomies[index].side is None:
            return anatomy
        parts = [part for part in anatomy.split("_") if part not in OPPOSITE]
        return "_".join(parts) or anatomy

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
            place, problem = first_problem(error)
            told = f"{place or 'vocabulary'}: {problem}{_hint(error.errors()[0], content)}"
            raise MedLIPError(f"{where}: {told}. See medlip/concepts/*.yaml for the form.") from error


def _hint(error: Any, content: Any) -> str:
    """Return what else helps to put right an error of validation: what is allowed, and which concept it is."""
    if error["type"] == "extra_forbidden":
        fields = _FIELDS.get(error["loc"][0], {}) if len(error["loc"]) > 1 else Vocabulary.model_fields
        return f": no such key, choose one of {', '.join(fields)}"
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        return ' (in YAML, yes, no, on and off need quotation marks: "no")'
    match error["loc"]:
        case ("pathologies" | "anatomies" as kind, int(number), *_) if name := _named(content[kind][number]):
            return f" (of {name!r})"
    return ""


_FIELDS: Mapping[Any, Mapping[str, Any]] = {
    "pathologies": Pathology.model_fields, "anatomies": Anatomy.model_fields, "wording": Wording.model_fields,
}  # fmt: skip


def _named(content: Any) -> str:
    """Return the name of a concept's plain data, "" where it has none."""
    name = content.get("name") if isinstance(content, Mapping) else None
    return name if isinstance(name, str) else ""


def _unfit(index: Mapping[str, int], groups: Sequence[Sequence[str]], catch_all: Sequence[bool]) -> NDArray[np.bool_]:
    unfit = np.eye(len(index), dtype=bool)
    for first, *others in groups:
        for other in others:
            unfit[index[first], index[other]] = unfit[index[other], index[first]] = True
    unfit[catch_all, :] = unfit[:, catch_all] = True
    return unfit


@lru_cache(maxsize=1024)  # every reading asks for the same names
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
    """Read a user's own vocabulary: one YAML file with `pathologies`, `anatomies` and `wording`.

    With `extends: default`, or `extends: FILE` beside it, it says only what it adds to that vocabulary: new concepts, behind
    those that are there, and more synonyms or other values for these. A word that it gives to a concept is taken from the
    synonyms of others.

    Raises:
        MedLIPError: the file or one that it extends is missing, not YAML, or not a vocabulary, or they extend one another.
    """
    return Vocabulary.parse(_content(Path(path), ()), str(path))


def _content(path: Path, above: tuple[Path, ...]) -> Any:
    """Return the content of a vocabulary file with that of what it extends; `above` are the files that extend it."""
    if path.resolve() in above:
        chain = " extends ".join(one.name for one in (*above[above.index(path.resolve()) :], path))
        raise MedLIPError(f"{path}: {chain}, a circle. Let one of them extend nothing, or default.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        by = f" ({above[-1].name} extends it)" if above else ""
        raise MedLIPError(f"{path}: not a readable YAML file{by} ({error}). Give the path of a vocabulary file.") from error
    if not isinstance(content, dict) or "extends" not in content:
        return content
    base = content.pop("extends")
    if base == DEFAULT:
        return _extended(default_vocabulary().model_dump(mode="json"), content, path)
    if not isinstance(base, str) or not (path.parent / base).is_file():
        raise MedLIPError(f"{path}: extends {base!r}, which is neither {DEFAULT} nor a vocabulary file beside it. Name one.")
    below = _content(path.parent / base, (*above, path.resolve()))
    return _extended(Vocabulary.parse(below, str(path.parent / base)).model_dump(mode="json"), content, path)


def _extended(base: dict[str, Any], own: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a vocabulary with what a file adds to it; what is wrong in the file is for `parse` to tell."""
    merged = {**base, **own}
    for kind in ("overlapping_pathologies", "overlapping_anatomies"):
        merged[kind] = _joined(base[kind], own.get(kind, []))
    merged["wording"] = _joined(base["wording"], own.get("wording", {}))
    owners = _owners(own)
    for kind in ("pathologies", "anatomies"):
        if isinstance(given := own.get(kind, []), list):
            merged[kind] = _added(base[kind], given, owners, f"{path}: {kind}")
    return merged


def _owners(own: Mapping[str, Any]) -> dict[str, str]:
    """Return the words that a file gives to concepts, zones and cues, each with its concept's name, "" for the others."""
    concepts = [one for kind in ("pathologies", "anatomies") for one in _listed(own, kind) if _named(one)]
    said = [(one.get(key), _named(one)) for one in concepts for key in ("name", "display")]
    said += [(word, _named(one)) for one in concepts for key in _WORDS for word in _listed(one, key)]
    wording = own.get("wording")
    groups = (wording.get(key) for key in ("zones", "cues")) if isinstance(wording, Mapping) else ()
    said += [(word, "") for group in groups if isinstance(group, Mapping) for key in group for word in _listed(group, key)]
    return {_fold(word): name for word, name in said if isinstance(word, str)}


_WORDS = ("synonyms", "adjectives")


def _added(base: list[Any], own: list[Any], owners: Mapping[str, str], where: str) -> list[Any]:
    """Return a vocabulary's concepts with a file's own.

    Of a concept that is there, synonyms are added, but for those that the file gives to another, and other values replaced.
    """
    names = [name for concept in own if (name := _named(concept))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise MedLIPError(f"{where}: {twice!r} is named twice. Say all of it in one place.")
    merged = {}
    for concept in base:
        name = concept["name"]
        left = {key: [word for word in _listed(concept, key) if owners.get(_fold(word), name) == name] for key in _WORDS}
        merged[name] = {key: value for key, value in {**concept, **left}.items() if key in concept}
    for concept in own:
        if (name := _named(concept)) in merged:
            words = {key: _joined(merged[name].get(key), concept[key]) for key in _WORDS if key in concept}
            merged[name] = {**merged[name], **concept, **words}
    return [*merged.values(), *(concept for concept in own if _named(concept) not in merged)]


def _listed(content: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of plain data, empty where something else stands there."""
    value = content.get(key)
    return value if isinstance(value, list) else []


def _joined(base: Any, own: Any) -> Any:
    """Return both lists as one, or both mappings, joined by key; anything else is the file's own."""
    if isinstance(base, list) and isinstance(own, list):
        return [*base, *(one for one in own if one not in base)]
    if isinstance(base, Mapping) and isinstance(own, Mapping):
        return {**base, **{key: _joined(base.get(key), value) for key, value in own.items()}}
    return own


def is_place(anatomy: str) -> bool:
    """Whether an anatomy says where something is."""
    return anatomy not in CATCH_ALL_ANATOMIES
