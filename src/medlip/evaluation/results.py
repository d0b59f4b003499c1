"""What an evaluation writes and reads back: typed, with a schema version, one shape for every task.

`docs/results.md` explains the file; `json_schema` gives its schema for other programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializeAsAny, ValidationError, create_model, model_validator

from medlip.errors import MedLIPError, first_problem
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.task_result import TaskResult
from medlip.evaluation.tasks import find_task, measures, tasks
from medlip.files import write_atomic

SCHEMA_VERSION = 2
"""Results without one are of version 1: every number stood beside its interval under names of its own."""

RESULT = "result.json"


class TrainingOverlap(BaseModel):
    """How much of what is evaluated the method was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int
    images: int


class TransferLevel(BaseModel):
    """Which part of a transfer a result is.

    Attributes:
        name: such as "10 %" or "4 shots".
        draw: which drawing of labelled patients.
        images: that were learned from.
        patients: whose they are.
        made_with: hashes of what it follows from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    draw: int = 0
    images: int | None = None
    patients: int | None = None
    made_with: dict[str, str] = {}


class Provenance(BaseModel):
    """What every result says of itself.

    Attributes:
        overlap: how much of what is evaluated the method was trained on; None where that is not known.
        run: recipe, seed, data and versions of the training; None where they are not known.
        versions: of what numbers depend on.
        notes: for people; that of an overlap begins with "WARNING".
        disclaimer: not a medical device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: TrainingOverlap | None = None
    run: dict[str, JsonValue] | None = None
    versions: dict[str, str] = {}
    notes: list[str] = []
    disclaimer: str = ""


class Result(Provenance):
    """What `evaluate` found, and under which conditions it holds.

    Each task's result stands at the top level under the task's name; None where the data or the method has nothing for it.

    >>> result["zero_shot"]["macro_auroc"].value  # doctest: +SKIP
    0.81

    Attributes:
        schema_version: of the file.
        split: that was evaluated.
        n_images: evaluated.
        n_patients: whose they are.
        seconds: that the evaluation took, by the clock on the wall.
        protocol: what the numbers are numbers of.
        level: of a transfer, None elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[TaskResult] | None] = Field(init=False)

    schema_version: int = SCHEMA_VERSION
    split: str
    n_images: int
    n_patients: int
    seconds: float | None = None
    protocol: EvaluationRecord
    level: TransferLevel | None = None

    @model_validator(mode="before")
    @classmethod
    def _typed_tasks(cls, content: object) -> object:
        """Read each task's part as that task's own model."""
        if not isinstance(content, Mapping):
            return content
        return {
            key: find_task(key).result_type.model_validate(value)
            if key not in cls.model_fields and isinstance(value, Mapping)
            else value
            for key, value in content.items()
        }

    def __getitem__(self, task: str) -> TaskResult:
        """Return what one task found.

        Raises:
            MedLIPError: it was not evaluated, or there was nothing for it; names the tasks that were.
        """
        if task not in self.tasks:
            raise MedLIPError(f"the result has nothing of {task}; it has {', '.join(self.tasks) or 'no task at all'}.")
        return self.tasks[task]

    @property
    def tasks(self) -> Mapping[str, TaskResult]:
        """What was found, by task; those that had nothing to evaluate aside."""
        return {name: found for name, found in self.__pydantic_extra__.items() if found is not None}

    def to_json(self) -> str:
        """Return the content of a result file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a result file.

        Raises:
            FileNotFoundError: there is none.
            MedLIPError: it is no result, or of another schema version.
        """
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes | str, where: str) -> Self:
        """Read the content of a result file; `where` names it in errors.

        Raises:
            MedLIPError: it is no result, or of another schema version.
        """
        try:
            plain = json.loads(content)
        except ValueError as error:
            raise MedLIPError(f"{where}: not the result of an evaluation ({error}). Evaluate again.") from error
        if not isinstance(plain, dict) or "protocol" not in plain:
            raise MedLIPError(f"{where}: not the result of an evaluation: it names no protocol. Evaluate again.")
        if plain.get("schema_version") != SCHEMA_VERSION:
            found = plain.get("schema_version", 1)
            raise MedLIPError(
                f"{where}: a result of schema version {found}; this MedLIP reads {SCHEMA_VERSION}. Evaluate the run again."
            )
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            place, problem = first_problem(error)
            raise MedLIPError(f"{where}: not the result of an evaluation ({place}: {problem}). Evaluate again.") from error


def json_schema() -> dict[str, JsonValue]:
    """Return the JSON schema of a result file, with the results of all tasks that are known here."""
    parts = {name: (task.result_type | None, None) for name, task in tasks().items()}
    model = create_model("Result", __base__=Result, **parts)  # type: ignore[call-overload]
    schema: dict[str, JsonValue] = model.model_json_schema(mode="serialization")
    return schema


def measures_table() -> str:
    """Return what each measure means, as a Markdown table for `docs/results.md`."""
    rows = [("estimate", "what it is", "better", "its chance is that of")]
    rows += [(f"`{task}.{each.name}`", each.title, each.better, each.chance or "-") for task, each in measures()]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|---|", *lines[1:]])
