"""How good a method is: metrics with intervals over patients, grounding, and results that name their protocol."""

from medlip.evaluation.protocol import Protocol
from medlip.evaluation.retrieval import retrieve
from medlip.evaluation.run import evaluate
from medlip.metrics.classification import auprc, auroc, best_threshold, bootstrap

__all__ = ["Protocol", "auprc", "auroc", "best_threshold", "bootstrap", "evaluate", "retrieve"]
