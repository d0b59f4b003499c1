"""From the parts of a place ("base", "left") to its row of the fact matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from medlip.reports.lexicon import words


class _Rule(NamedTuple):
    row: str
    any: frozenset[str]
    needs: tuple[frozenset[str], ...]
    forbids: frozenset[str]
    exact: frozenset[str]

    def matches(self, parts: frozenset[str], whole: str) -> bool:
        return whole in self.exact or (
            not self.any.isdisjoint(parts)
            and self.forbids.isdisjoint(parts)
            and not any(group.isdisjoint(parts) for group in self.needs)
        )


@cache
def _rules() -> tuple[_Rule, ...]:
    return tuple(
        _Rule(
            rule["row"],
            frozenset(rule["any"]),
            tuple(frozenset(group) for group in rule.get("needs", ())),
            frozenset(rule.get("forbids", ())),
            frozenset(rule.get("exact", ())),
        )
        for rule in words("rows")
    )


@lru_cache(maxsize=65536)
def _row(whole: str) -> str:
    if whole == "unspecified":
        return whole
    parts = frozenset(whole.split("|"))
    return next((rule.row for rule in _rules() if rule.matches(parts, whole)), "other")


def row_of(parts: Sequence[str]) -> str:
    """Return the anatomy that the parts of a place name, in their order: the first rule of `words/rows.yaml` that matches.

    `("unspecified",)` stays what it is; a place that no rule knows is "other".
    """
    return _row("|".join(parts))
