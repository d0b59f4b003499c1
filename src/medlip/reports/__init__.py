"""Report text to facts."""

from medlip.reports.facts import Fact, Presence, UncertainPolicy, fact_matrix, resolve

__all__ = ["Fact", "Presence", "UncertainPolicy", "fact_matrix", "resolve"]
