"""The grammar laid open: the rules that facts are read by (`words/rules.yaml`), and how each fact of a report was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple, get_args

from medlip.reports.extract import Traced
from medlip.reports.lexicon import words

Part = Literal["presence", "place", "reading"]


class Rule(NamedTuple):
    """A kind of statement that the grammar knows.

    Attributes:
        part: what it decides: a fact's presence, its place, or what is read at all.
        name: as `Traced` names it.
        says: what it says, in a few words.
        example: a text that is read by it.
        facts: the facts of the example, as "pathology@anatomy" and + (present), - (absent) or ? (uncertain).
    """

    part: Part
    name: str
    says: str
    example: str
    facts: str


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules, in the order of `words/rules.yaml`."""
    table = words("rules")
    return tuple(Rule(part, name, **rule) for part in get_args(Part) for name, rule in table[part].items())


def explained(traced: Iterable[Traced]) -> str:
    """Return for the terminal how each fact was read: section, sentence, clause, cue and rules."""
    says: Mapping[tuple[str, str], str] = {(rule.part, rule.name): rule.says for rule in rules()}
    shown = []
    for one in traced:
        lines = [f"{one.fact.pathology} @ {one.fact.anatomy}: {one.fact.presence}"]
        lines.append(f"  section   {one.section}")
        lines.append(f"  sentence  {' '.join(one.fact.sentence.split())}")
        if one.clause != one.fact.sentence:
            lines.append(f"  clause    {one.clause}")
        lines.append(f"  cue       {one.cue or 'none'}")
        lines.append(f"  presence  {one.presence_rule}: {says['presence', one.presence_rule]}")
        lines.append(f"  place     {one.place_rule}: {says['place', one.place_rule]}")
        shown.append("\n".join(lines))
    return "\n\n".join(shown) or "No fact was read."
