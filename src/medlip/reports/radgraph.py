"""RadGraph graphs (Jain et al., 2021) to facts: the rules published with MedKLIP and MeDSLIP, cell for cell."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.reports.facts import Fact, Presence
from medlip.reports.lexicon import lemmas, words
from medlip.reports.places import row_of


def facts_from_radgraph(graph: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Return the facts of one study's graph: one for each observation at each anatomy that it is located at.

    Args:
        graph: {"text", "entities"} in RadGraph's own format (labels "OBS-DP", …) or the `radgraph` package's
        ("Observation::definitely
            present", …). Relations to entities that don't exist are passed over; `read_graph` tells them.

    Returns:
        All mentions. `fact_matrix` gives the published matrix of them; `resolve(facts, uncertain_hides_absent=False)` the
        published rule, where an uncertain mention takes no absent one away.

    Raises:
        MedLIPError: it is no graph.
    """
    return read_graph(graph).facts


class GraphReading(NamedTuple):
    """What a graph says, and what is odd about it: missing relation targets, words without a known lemma."""

    facts: tuple[Fact, ...]
    dangling: tuple[str, ...]
    unknown_words: tuple[str, ...]


def read_graph(graph: Mapping[str, Any]) -> GraphReading:
    """Return a graph's facts with what could not be understood in it; see `facts_from_radgraph`."""
    try:
        return _Graph(graph).reading()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MedLIPError(
            f"not a RadGraph graph ({type(error).__name__}: {error}). "
            'A study is {"text": …, "entities": {id: {"tokens", "label", "start_ix", "end_ix", "relations"}}}.'
        ) from error


class _Graph:
    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.text: str = graph["text"]
        self.entities: Mapping[str, Mapping[str, Any]] = graph["entities"]
        tokens = self.text.split(" ")
        self.starts = [0, *accumulate([len(token) + 1 for token in tokens])]
        self.stops = [i for i, token in enumerate(tokens) if token == "."]
        self.dangling: dict[str, None] = {}
        self.unknown: dict[str, None] = {}

    def reading(self) -> GraphReading:
        facts = tuple(self._facts())
        return GraphReading(facts, tuple(self.dangling), tuple(self.unknown))

    def _facts(self) -> Iterator[Fact]:
        kinds = _kinds()
        roots: dict[str, list[str]] = {}  # with their modifiers, in order
        modifiers: list[tuple[str, list[str]]] = []
        observations: list[tuple[Mapping[str, Any], Presence, list[str]]] = []
        for key, entity in self.entities.items():
            kind = kinds.get(entity["label"])
            if kind == "anatomy":
                if entity["relations"]:
                    modifiers.append((key, self._targets(key, entity)))
                else:
                    roots[key] = [key]
            elif kind:
                observations.append((entity, kind, self._targets(key, entity, "located_at")))
        root_of: dict[str, list[str]] = {root: [root] for root in roots}
        for key, targets in modifiers:
            for target in targets:
                if target in roots and self._sentence(target) == self._sentence(key):
                    roots[target].append(key)
                    root_of.setdefault(key, []).append(target)
        for entity, presence, targets in observations:
            if not entity["relations"]:
                yield self._fact(entity, "unspecified", presence)
            for target in targets:
                for root in root_of.get(target, ()):
                    if self._sentence(root) == bisect_left(self.stops, entity["start_ix"]):
                        yield self._fact(
                            entity, row_of([self.entities[key]["tokens"].lower() for key in roots[root]]), presence
                        )

    def _targets(self, key: str, entity: Mapping[str, Any], kind: str = "") -> list[str]:
        """Return the entities that relations (of a kind, or any) lead to, and take note of those that don't exist."""
        targets = []
        for relation, target in entity["relations"]:
            if target not in self.entities:
                self.dangling[f"{key} -> {target}"] = None
            elif not kind or relation == kind:
                targets.append(target)
        return targets

    def _sentence(self, key: str) -> int:
        return bisect_left(self.stops, self.entities[key]["start_ix"])

    def _fact(self, entity: Mapping[str, Any], row: str, presence: Presence) -> Fact:
        column, known = _column(entity["tokens"])
        if not known:
            self.unknown[entity["tokens"].lower()] = None
        first, last = entity["start_ix"], entity["end_ix"]
        if not 0 <= first <= last < len(self.starts) - 1:
            return Fact(column, row, presence)
        stop = bisect_left(self.stops, first)
        begin = self.starts[self.stops[stop - 1] + 1] if stop else 0
        end = self.starts[self.stops[stop] + 1] - 1 if stop < len(self.stops) else len(self.text)
        return Fact(column, row, presence, self.text[begin:end], self.starts[first], self.starts[last + 1] - 1)


@cache
def _kinds() -> Mapping[str, Any]:
    return {label: kind for kind, labels in words("radgraph")["labels"].items() for label in labels}


@lru_cache(maxsize=65536)
def _column(observation: str) -> tuple[str, bool]:
    """Return the column of an observation's words, and whether the lemma of each is known."""
    lemmas = [lemma(word) for word in observation.lower().split()]
    name = " ".join(word for word, _ in lemmas)
    table = _columns()
    return table.get(name, "tail_abnorm_obs"), name in table or all(known for _, known in lemmas)


@cache
def _columns() -> Mapping[str, str]:
    rules = words("radgraph")
    columns = {pathology.name: pathology.name for pathology in default_vocabulary().pathologies if pathology.kind != "other"}
    columns |= dict.fromkeys(rules["excluded"], "excluded_obs")
    for name, others in rules["same"].items():
        columns |= dict.fromkeys(others, columns.get(name, "tail_abnorm_obs"))
    return columns


def lemma(word: str) -> tuple[str, bool]:
    """Return a lower-case word's lemma and whether the table has it; another word loses its plural ending by rule."""
    known = lemmas().get(word)
    if known is not None:
        return known, True
    for ending, instead in (
        ("sses", "ss"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("ies", "y"),
        ("ss", "ss"),
        ("us", "us"),
        ("is", "is"),
        ("s", ""),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: len(word) - len(ending)] + instead, False
    return word, False
