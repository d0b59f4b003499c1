"""What normal statements entail: "clear lungs" have no consolidation. A step of its own, never taken unasked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports.facts import Fact
from medlip.reports.lexicon import words


def implied_absent(facts: Iterable[Fact], vocabulary: Vocabulary | None = None) -> tuple[Fact, ...]:
    """Return the absent facts that the normal statements of one report entail, by the table `words/implied.yaml`.

    A pathology that the report calls present or uncertain anywhere is not entailed to be absent, nor is a pair that it
    states. Each fact carries the sentence and span of the statement that entails it.

    Args:
        facts: all facts of one report.
        vocabulary: its names limit what is returned; the default's by default.

    Returns:
        The additional facts alone, each (pathology, anatomy) once.
    """
    facts = tuple(facts)
    vocabulary = vocabulary or default_vocabulary()
    stated = {(fact.pathology, fact.anatomy) for fact in facts}
    found = {fact.pathology for fact in facts if fact.presence != "absent"}
    implied: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        for pathology, anatomy in _table().get((fact.pathology, fact.anatomy, fact.presence), ()):
            pair = (pathology, anatomy)
            if pathology in found or pair in stated or pair in implied:
                continue
            if pathology in vocabulary.pathology_index and anatomy in vocabulary.anatomy_index:
                implied[pair] = replace(fact, pathology=pathology, anatomy=anatomy, presence="absent")
    return tuple(implied.values())


@cache
def _table() -> Mapping[tuple[str, str, str], Sequence[tuple[str, str]]]:
    """Return the entailed (pathology, anatomy) by the statement (pathology, anatomy, presence) that entails them."""
    return {
        (pathology, anatomy, rule["presence"]): [
            (absent, place if place != "same" else anatomy)
            for place, pathologies in rule["absent"].items()
            for absent in pathologies
        ]
        for rule in words("implied")
        for pathology in rule["says"]
        for anatomy in rule["of"]
    }
