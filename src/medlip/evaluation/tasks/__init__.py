"""The tasks of an evaluation, a file each, and their registry."""

from medlip.evaluation.tasks.base import (
    AddedMeasure,
    ImageBatch,
    Needs,
    Task,
    added_measures,
    find_task,
    measure,
    measures,
    register_task,
    remove_measure,
    task_measures,
    tasks,
)

__all__ = [
    "AddedMeasure",
    "ImageBatch",
    "Needs",
    "Task",
    "added_measures",
    "find_task",
    "measure",
    "measures",
    "register_task",
    "remove_measure",
    "task_measures",
    "tasks",
]
