"""Facts {pathology, anatomy, present | absent | uncertain} and the matrix they are packed into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError

Presence = Literal["present", "absent", "uncertain"]
UncertainPolicy = Literal["ignore", "present", "absent"]
NOT_MENTIONED = -1
IGNORED = -2  # mentioned, but not to be learned from: never to be taken for "not mentioned"
_RANK: dict[Presence, int] = {"absent": 0, "uncertain": 1, "present": 2}


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement of a report, with the text that it was read from.

    Attributes:
        pathology: name in the vocabulary.
        anatomy: name in the vocabulary.
        presence: present, absent or uncertain.
        sentence: the sentence that states it, empty when unknown.
        start: offset of the finding's first character in the report, -1 when unknown.
        end: offset behind its last character, -1 when unknown.
    """

    pathology: str
    anatomy: str
    presence: Presence
    sentence: str = ""
    start: int = -1
    end: int = -1


def resolve(facts: Iterable[Fact], *, uncertain_hides_absent: bool = True) -> tuple[Fact, ...]:
    """Keep one fact a (pathology, anatomy): present wins over uncertain, uncertain over absent, else the first stands.

    Args:
        facts: mentions of one study.
        uncertain_hides_absent: False for facts from RadGraph, whose rule is that an uncertain mention takes nothing away: a
            pair that is absent in one place and uncertain in another keeps both.
    """
    kept: dict[tuple[str, str, bool], Fact] = {}
    for fact in facts:
        key = fact.pathology, fact.anatomy, fact.presence == "uncertain" and not uncertain_hides_absent
        before = kept.get(key)
        if before is None or _RANK[fact.presence] > _RANK[before.presence]:
            kept[key] = fact
    present = {key[:2] for key, fact in kept.items() if fact.presence == "present"}
    return tuple(fact for key, fact in kept.items() if fact.presence == "present" or key[:2] not in present)


def fact_matrix(
    facts: Iterable[Fact], vocabulary: Vocabulary, uncertain: UncertainPolicy = "ignore", *, ignored: int = NOT_MENTIONED
) -> NDArray[np.int8]:
    """Pack facts into the (A, P) matrix: 1 present, 0 absent, -1 not mentioned; on one pair present wins.

    Args:
        facts: facts of one study.
        vocabulary: gives rows and columns by name.
        uncertain: what an uncertain fact counts as; `ignore` leaves a cell that something else is stated of as it is.
        ignored: value of a cell of which only something ignored is stated: -1, or `IGNORED` to tell it from no mention.

    Raises:
        MedLIPError: a fact names what the vocabulary does not have, or the policy is unknown.
    """
    if uncertain not in get_args(UncertainPolicy):
        raise MedLIPError(f"uncertain={uncertain!r}: no such policy. Choose one of {', '.join(get_args(UncertainPolicy))}.")
    values = {"present": 1, "absent": 0, "uncertain": {"ignore": ignored, "present": 1, "absent": 0}[uncertain]}
    matrix = np.full((len(vocabulary.anatomies), len(vocabulary.pathologies)), NOT_MENTIONED, np.int8)
    for fact in facts:
        try:
            row, column = vocabulary.anatomy_index[fact.anatomy], vocabulary.pathology_index[fact.pathology]
        except KeyError as error:
            raise MedLIPError(
                f"the fact ({fact.pathology}, {fact.anatomy}) names {error.args[0]!r}, which the vocabulary does not have. "
                "Use the vocabulary that the facts were made with."
            ) from error
        value = values[fact.presence]
        if value > matrix[row, column] or matrix[row, column] == NOT_MENTIONED:
            matrix[row, column] = value
    return matrix
