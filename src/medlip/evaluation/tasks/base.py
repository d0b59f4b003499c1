"""The seam of the tasks: what the driver, tables and comparisons know of one, and the registry of tasks and measures.

A task object stands for one side of an evaluation: the evaluated images, or those that thresholds are chosen on. The driver
hands it every batch once (`update`), then asks for its numbers (`result`) and for what became of every case (`cases`).

A measure from outside is a function with a declaration:

    @measure("grounding", Measure("coverage", "share of the finding above the mean"))
    def coverage(heat, region):
        return float((heat > heat.mean())[region].mean())

Importing its module is enough; an installed package names the module under the entry point group "medlip.measures".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from medlip.errors import MedLIPError
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.task_result import TaskResult
from medlip.metrics import Measure
from medlip.plugins import entry_points

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions
    from medlip.methods.base import Answers, Method

ENTRY_POINTS = "medlip.measures"
_MODULES = (
    "zero_shot", "grounding", "maps", "segmentation", "places", "anatomies", "retrieval", "faithfulness", "paraphrases",
    "mirroring", "dependence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task asks of a method beside the scores of its prompts."""

    maps: bool = False
    anatomies: bool = False
    embeddings: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.maps or other.maps, self.anatomies or other.anatomies, self.embeddings or other.embeddings)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """B images of a cohort.

    Attributes:
        rows: their places in the cohort, (B,).
        records: (B,), decoded.
        columns: each prompt's column in the method's answers.
    """

    rows: range
    records: Sequence[Record]
    columns: Mapping[str, int]

    def columns_of(self, prompts: Iterable[str]) -> list[int]:
        """Return the columns of some prompts, in their order."""
        return [self.columns[prompt] for prompt in prompts]


class Task(ABC):
    """One question of an evaluation, such as whether findings are where the maps say.

    Attributes:
        name: its key in results, such as "grounding".
        title: for people.
        measures: what it computes, in the order of tables.
        result_type: of its result.
        tunes: chooses thresholds, and so looks at the images kept for that as well.
        by_default: is evaluated unless others are named.
        extensible: what a measure from outside is called with, for people; "" where it takes none.
        needs: of the method; a task that the data has nothing for needs nothing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    result_type: ClassVar[type[TaskResult]] = TaskResult
    tunes: ClassVar[bool] = False
    by_default: ClassVar[bool] = True
    extensible: ClassVar[str] = ""
    needs: Needs = Needs()

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        """Set up for the images of one side.

        Args:
            cohort: the images, by their columns.
            questions: which classes and findings are asked for, and how.
            options: of the evaluation.
        """
        self.cohort, self.questions, self.options = cohort, questions, options

    def begin(self, method: Method) -> None:
        """Ask the method what concerns no single image, such as the vectors of reports."""
        return

    @abstractmethod
    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return what is to be asked of a batch."""

    @abstractmethod
    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Take in what a method says of a batch; every image comes once, in order.

        Args:
            batch: the images.
            answers: on the CPU, a column each prompt that any task asks; see `ImageBatch.columns`.
        """

    @abstractmethod
    def result(self, tuned_on: Self | None, rule: str) -> TaskResult | None:
        """Return the numbers; None where there is nothing to evaluate.

        Args:
            tuned_on: the task on the images that thresholds are chosen on; None for a seeded half of its own patients,
                whose other half then counts alone in what depends on thresholds.
            rule: how thresholds are chosen, for people.
        """

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return what became of every case that a mean is over, for paired comparisons."""
        return ()

    def rules(self) -> Mapping[str, str]:
        """Return decision rules and metrics by name, for the record of the evaluation."""
        return {}

    def notes(self) -> Iterable[str]:
        """Return what a reader of the result must know."""
        return ()

    def save(self, folder: Path, tuned_on: Self | None) -> None:
        """Write what is kept beside the result, if anything."""
        return


TaskType = TypeVar("TaskType", bound=type[Task])
MeasureFunction = TypeVar("MeasureFunction", bound=Callable[..., float])


@dataclass(frozen=True, slots=True)
class AddedMeasure:
    """A measure that isn't its task's own: the declaration, and the function that computes it."""

    task: str
    measure: Measure
    function: Callable[..., float]


_TASKS: dict[str, type[Task]] = {}
_ADDED: dict[tuple[str, str], AddedMeasure] = {}


def register_task(task: TaskType) -> TaskType:
    """Make a task known by its `name` (class decorator)."""
    _TASKS[task.name] = task
    return task


def measure(task: str, about: Measure) -> Callable[[MeasureFunction], MeasureFunction]:
    """Add a measure to a task (decorator of its function).

    What the function is called with depends on the task:

    - "zero_shot": scores (N,) and labels (N,), 1 or 0, of the images with a known label of one class that has both;
      reported by class and as the mean over classes.
    - "grounding": the map, enlarged to the image (H, W), and where the finding is, boolean (H, W): its mask, else the union
      of its boxes; reported as the mean over cases with its interval.

    It returns a number, NaN where it isn't defined.

    Args:
        task: name of the task.
        about: what the number means.
    """

    def add(function: MeasureFunction) -> MeasureFunction:
        _ADDED[task, about.name] = AddedMeasure(task, about, function)
        return function

    return add


def remove_measure(task: str, name: str) -> None:
    """Take an added measure away again."""
    del _ADDED[task, name]


def tasks() -> Mapping[str, type[Task]]:
    """Return all tasks by name, in the order of results."""
    _load()
    own = {name: place for place, name in enumerate(_MODULES)}
    return {name: _TASKS[name] for name in sorted(_TASKS, key=lambda name: own.get(name, len(own)))}


def find_task(name: str) -> type[Task]:
    """Return one task.

    Raises:
        MedLIPError: there is none of this name; names those there are.
    """
    known = tasks()
    if name not in known:
        raise MedLIPError(f"there is no task {name!r}. There are: {', '.join(known)}; others come with their plugin.")
    return known[name]


def added_measures(task: str) -> tuple[AddedMeasure, ...]:
    """Return the measures that other modules added to a task.

    Raises:
        MedLIPError: one is named like a measure of the task's own, or the task takes none.
    """
    own, added = find_task(task), tuple(entry for entry in _ADDED.values() if entry.task == task)
    for entry in added:
        where = f"measure {entry.measure.name!r} of {entry.function.__module__}"
        if not own.extensible:
            able = ", ".join(name for name, other in tasks().items() if other.extensible)
            raise MedLIPError(f"{where}: the task {task} takes no further measures. Tasks that do: {able}.")
        if entry.measure.name in {each.name for each in own.measures} | set(own.result_type.model_fields):
            raise MedLIPError(f"{where}: the task {task} has that name already. Give the measure another.")
    return added


def task_measures(task: str) -> tuple[Measure, ...]:
    """Return all measures of a task: its own, then those added to it."""
    return (*find_task(task).measures, *(entry.measure for entry in added_measures(task)))


def measures() -> tuple[tuple[str, Measure], ...]:
    """Return the measures of all tasks, each with the name of its task, in the order of tables."""
    for task, name in _ADDED:
        if task not in tasks():
            raise MedLIPError(f"measure {name!r}: there is no task {task!r}. There are: {', '.join(tasks())}.")
    return tuple((name, each) for name in tasks() for each in task_measures(name))


@cache
def _load() -> None:
    """Import the package's own tasks, then what installed packages add."""
    for module in _MODULES:
        import_module(f"medlip.evaluation.tasks.{module}")
    for _ in entry_points(ENTRY_POINTS):  # a module adds its measures and tasks by being imported
        pass
