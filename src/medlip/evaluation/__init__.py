"""How good a method is: one pass over the images, tasks that declare what they measure, results that name their protocol."""

from medlip.evaluation.driver import evaluate, retrieve
from medlip.evaluation.protocols import Protocol
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import Result
from medlip.evaluation.selection import EvaluationOptions
from medlip.evaluation.tasks import measure, measures, tasks

__all__ = [
    "EvaluationOptions",
    "EvaluationRecord",
    "Protocol",
    "Result",
    "evaluate",
    "measure",
    "measures",
    "retrieve",
    "tasks",
]
