"""Report text to facts."""

from medlip.reports.extract import extract_facts
from medlip.reports.facts import Fact, Presence, UncertainPolicy, fact_matrix, resolve
from medlip.reports.implied import implied_absent
from medlip.reports.radgraph import facts_from_radgraph
from medlip.reports.text import Section, Sentence, mirror_sides, sections, split_sentences

__all__ = [
    "Fact",
    "Presence",
    "Section",
    "Sentence",
    "UncertainPolicy",
    "extract_facts",
    "fact_matrix",
    "facts_from_radgraph",
    "implied_absent",
    "mirror_sides",
    "resolve",
    "sections",
    "split_sentences",
]
