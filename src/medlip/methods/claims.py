"""Facts as sentences: what a study's facts claim, said one way, and the same said wrongly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import CATCH_ALL_ANATOMIES
from medlip.reports import mirror_sides
from medlip.reports.facts import IGNORED

PRESENT, ABSENT, PLACED = "There is {}.", "There is no {}.", "There is {} in the {}."

_ZONES = ("upper", "mid", "lower")
_ZONE = re.compile(rf"\b({'|'.join(_ZONES)})\b", re.IGNORECASE)
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_IN = re.compile(r"\b(in|at) the\b")
_IS, _IS_NO = re.compile(r"^There is (?!no\b)(?:an? )?"), re.compile(r"^There is no (?:evidence of )?")


class Claims:
    """Every claim that facts can make, a sentence each, C in all.

    A pathology is there ("There is edema."), or is not ("There is no edema."), or is in a place ("There is edema in the left
    lung."); what is normal is said of its place alone ("Normal heart.").

    Args:
        vocabulary: of the facts; its catch-all columns claim nothing, and its catch-all rows no place.

    Attributes:
        sentences: C.
        index: of each sentence.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        places = [
            (row, _place(a.display)) for row, a in enumerate(vocabulary.anatomies) if a.name not in CATCH_ALL_ANATOMIES
        ]
        names = [p.display.lower() for p in vocabulary.pathologies]
        self._found = [column for column, p in enumerate(vocabulary.pathologies) if p.kind == "abnormal"]
        placed = {
            (row, column): PLACED.format(names[column], place)
            if pathology.kind == "abnormal"
            else f"{pathology.display} {place}."
            for row, place in places
            for column, pathology in enumerate(vocabulary.pathologies)
            if pathology.kind != "other"
        }
        self._rows, self._columns = (list(indices) for indices in zip(*placed, strict=True))
        said = [form.format(names[column]) for form in (PRESENT, ABSENT) for column in self._found]
        self.sentences: tuple[str, ...] = (*said, *placed.values())
        self.index = {sentence: claim for claim, sentence in reversed([*enumerate(self.sentences)])}

    def made_by(self, facts: Tensor) -> Tensor:
        """Return which claims facts (B, A, P) make, bool (B, C).

        A pathology is absent where it is so somewhere, and nowhere present or uncertain.
        """
        present = facts == 1
        there = present.any(1)
        absent = (facts == 0).any(1) & ~there & ~(facts == IGNORED).any(1)
        return torch.cat([there[:, self._found], absent[:, self._found], present[:, self._rows, self._columns]], 1)

    def written(self, made: Tensor) -> list[list[str]]:
        """Return the sentences of claims that are made, bool (B, C)."""
        return [[self.sentences[claim] for claim in row.nonzero()[:, 0].tolist()] for row in made.cpu()]


def _place(display: str) -> str:
    """Return an anatomy's name inside a sentence, without a remark behind a comma ("Hilum, side not given")."""
    return display.split(",")[0].lower()


def wrong_versions(sentence: str) -> list[str]:
    """Return what a sentence would say wrongly: on the other side, in another zone of the lung, or the opposite.

    What names both sides or two zones, or begins in another way than facts do, has no such version; nor has what names a
    place an opposite, for no fact says that something is not in a place, so that the words alone would tell.

    >>> wrong_versions("There is opacity in the left lower lung zone.")[0]
    'There is opacity in the right lower lung zone.'
    """
    versions = []
    if len(_SIDE.findall(sentence)) == 1:
        versions.append(mirror_sides(sentence))
    if len(zone := _ZONE.findall(sentence)) == 1:
        versions += [_ZONE.sub(other, sentence) for other in _ZONES if other != zone[0].lower()]
    if _IN.search(sentence):
        return versions
    if _IS_NO.search(sentence):
        versions.append(_IS_NO.sub("There is ", sentence))
    elif _IS.search(sentence):
        versions.append(_IS.sub("There is no ", sentence))
    return versions


class Wrong(NamedTuple):
    """A text that is wrong of an image.

    Attributes:
        sentences: of it.
        changed: index of the one that makes it wrong.
    """

    sentences: tuple[str, ...]
    changed: int


def draw_wrong(
    reports: Sequence[Sequence[str]], said: Sequence[Sequence[str]], count: int, seeds: Sequence[int]
) -> list[list[Wrong]]:
    """Return up to `count` wrong versions of each report, a sentence of it changed in each, drawn by its seed.

    Args:
        reports: what is learned from, as sentences.
        said: all that is known to be said of each study: no version says that.
        count: at most, of each.
        seeds: of each.
    """
    drawn = []
    for report, known, seed in zip(reports, said, seeds, strict=True):
        true, random = {*report, *known}, Random(seed)
        changes = [
            (place, wrong)
            for place, sentence in enumerate(report)
            for wrong in wrong_versions(sentence)
            if wrong not in true
        ]
        chosen = random.sample(changes, min(count, len(changes)))
        drawn.append([Wrong((*report[:place], wrong, *report[place + 1 :]), place) for place, wrong in chosen])
    return drawn
