"""Results side by side: one protocol, the same images, differences with intervals and p-values.

Which numbers there are is read from the measures that tasks declare: none is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, SerializeAsAny

from medlip.errors import MedLIPError, name_some
from medlip.evaluation.cases import CASES, Case, load_cases
from medlip.evaluation.driver import QUERIES, RETRIEVED
from medlip.evaluation.outcomes import OUTCOMES, Outcomes, load_outcomes
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.published import PublishedTable, published_table
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import RESULT, Result
from medlip.evaluation.tasks import find_task, measures
from medlip.evaluation.tasks.zero_shot import RANKINGS, ZeroShot, ZeroShotResult
from medlip.metrics import (
    Difference,
    Estimate,
    Measure,
    Statistic,
    carriers_of_classes,
    carriers_of_mean,
    interval,
    mean_defined,
    mean_statistic,
    median_statistic,
    number,
    paired_difference,
    ranking_statistic,
)

NAMED = 5
UNCORRECTED = "p-values are two-sided, of a paired bootstrap over patients, and not corrected for how many there are"
FILES = ((RESULT, OUTCOMES), (RETRIEVED, QUERIES))
"""The files that hold a result, each with the one that holds what became of its cases."""


class PairedDifference(BaseModel):
    """By how much a result differs from the reference.

    Attributes:
        value: the result less the reference.
        interval: 95 % interval of it.
        p: two-sided p-value of no difference.
        left_out: cases for which the measure isn't defined for both.
        seeds: over how many seeds it is the mean; None of a difference between two results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    left_out: int = 0
    seeds: int | None = None


class ComparedResult(BaseModel):
    """One result, or the mean over the seeds of one recipe.

    Attributes:
        name: its folder, or file.
        run: what trained it, None where that is not known.
        measures: its estimates by "task.measure".
        per_class: the same by class: by "task.measure", then by the name of the class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    run: dict[str, JsonValue] | None
    measures: dict[str, SerializeAsAny[Estimate]]
    per_class: dict[str, dict[str, SerializeAsAny[Estimate]]]


class ComparedDifference(BaseModel):
    """What one result differs by from the first.

    Attributes:
        name: the result.
        to: the reference.
        measures: differences by "task.measure", of what images or cases were kept of.
        per_class: the same by class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    to: str
    measures: dict[str, PairedDifference]
    per_class: dict[str, dict[str, PairedDifference]]


class Comparison(BaseModel):
    """Results of one protocol side by side.

    Attributes:
        protocol: that all of them were made under.
        results: in the order given; the first is the reference.
        differences: of each of the others to it.
        quoted: published tables that go along, by name.
        notes: for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: EvaluationRecord
    results: list[ComparedResult]
    differences: list[ComparedDifference]
    quoted: dict[str, PublishedTable]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A result as `evaluate`, `retrieve` or `transfer` (one level) wrote it to a folder.

    Attributes:
        name: its folder, or file.
        result: what the file holds.
        predictions: the scores of every image, None where they were not kept, or there are none.
        outcomes: what became of every case, by "task/measure"; None where that was not kept.
        outcomes_file: where it belongs.
        cases: the best and the worst case of findings, if they were kept.
    """

    name: str
    result: Result
    predictions: Predictions | None = None
    outcomes: Mapping[str, Outcomes] | None = None
    outcomes_file: str = OUTCOMES
    cases: Sequence[Case] = ()

    @classmethod
    def load(cls, path: Path) -> Evaluated:
        """Read a folder's result, or the file of one: in a folder that holds an evaluation and a retrieval, the former.

        Raises:
            MedLIPError: it holds no result, or a file is broken.
        """
        file = next((path / name for name, _ in FILES if (path / name).exists()), path)
        folder = file.parent
        _refuse_levels(file, path)
        try:
            result = Result.load(file)
        except (FileNotFoundError, IsADirectoryError) as error:
            names = " and no ".join(name for name, _ in FILES)
            raise MedLIPError(f"{path}: no {names} in it. Run: medlip evaluate RUN --data SOURCE --out {path}") from error
        became = dict(FILES).get(file.name, OUTCOMES)
        evaluation = file.name != RETRIEVED
        kept, shown = folder / PREDICTIONS, folder / CASES
        return cls(
            str(path),
            result,
            Predictions.load(kept) if evaluation and kept.exists() else None,
            load_outcomes(folder / became) if (folder / became).exists() else None,
            became,
            load_cases(shown) if evaluation and shown.exists() else (),
        )

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Every estimate of the result by "task.measure", in the order in which tasks declare them."""
        found = self.result.tasks
        return {
            key: found[task].estimates[measure.name]
            for key, (task, measure) in measures_by_key().items()
            if task in found and measure.name in found[task].estimates
        }

    @property
    def class_estimates(self) -> dict[str, dict[str, Estimate]]:
        """The same by class: by "task.measure", then by class."""
        found = self.result.tasks
        by_class = {
            key: {
                name: own.estimates[measure.class_name]
                for name, own in found[task].per_class.items()
                if measure.class_name in own.estimates
            }
            for key, (task, measure) in measures_by_key().items()
            if task in found
        }
        return {key: classes for key, classes in by_class.items() if classes}


def measures_by_key() -> dict[str, tuple[str, Measure]]:
    """Return all measures with their tasks by "task.measure", in the order of tables."""
    return {f"{task}.{measure.name}": (task, measure) for task, measure in measures()}


def measure_titles() -> dict[str, str]:
    """Return what people call each measure, by "task.measure"."""
    return {
        key: f"{measure.title} ({find_task(task).title}{f', {measure.unit}' if measure.unit else ''})"
        for key, (task, measure) in measures_by_key().items()
    }


def compare(
    evaluated: Sequence[Evaluated], *, quoted: Sequence[str] = (), resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Put results of one protocol side by side, and test what each differs by from the first.

    Args:
        evaluated: the results; the first is what the others are compared to.
        quoted: names of published tables to go along; see `medlip.evaluation.published`.
        resamples: of the paired bootstrap.
        seed: of the paired bootstrap.

    Raises:
        MedLIPError: protocols, test images or labels differ; says in what. No published table of a name.
    """
    first = evaluated[0]
    for other in evaluated[1:]:
        require_same_images(first, other)
        require_same_protocol(first, other)
    differences = [_difference(first, other, resamples, seed) for other in evaluated[1:]]
    return Comparison(
        protocol=first.result.protocol,
        results=[
            ComparedResult(name=e.name, run=e.result.run, measures=e.estimates, per_class=e.class_estimates)
            for e in evaluated
        ],
        differences=differences,
        quoted={name: published_table(name) for name in quoted},
        notes=[*_notes(evaluated, differences), UNCORRECTED] if differences else [],
    )


def map_rules_note(evaluated: Sequence[Evaluated]) -> Iterator[str]:
    """Say how each makes its maps, where that isn't the same for all."""
    rules = {entry.name: entry.result.protocol.map_rule for entry in evaluated if entry.result.protocol.map_rule}
    if len(set(rules.values())) > 1:
        yield f"maps are made by different rules: {'; '.join(f'{name}: {rule}' for name, rule in rules.items())}"


def _notes(evaluated: Sequence[Evaluated], differences: Sequence[ComparedDifference]) -> Iterator[str]:
    titles = measure_titles()
    yield from map_rules_note(evaluated)
    for entry in evaluated:
        lacking = [PREDICTIONS] if ZeroShot.name in entry.result.tasks and entry.predictions is None else []
        lacking += [entry.outcomes_file] if entry.outcomes is None and set(entry.result.tasks) - {ZeroShot.name} else []
        if lacking:
            yield f"{entry.name}: no {' and no '.join(lacking)} to test differences on. Evaluate again, with a new --out"
    for difference in differences:
        for key, change in difference.measures.items():
            if change.left_out:
                yield (
                    f"{difference.name}: the difference in {titles[key]} leaves out {change.left_out} cases for which it is "
                    "not defined for both"
                )
    estimates = [entry.estimates for entry in evaluated]
    shown = [key for key in titles if all(key in each and each[key].value is not None for each in estimates)]
    untested = [titles[key] for key in shown if not any(key in difference.measures for difference in differences)]
    if untested:
        yield f"no difference is tested in {', '.join(untested)}"


def _difference(first: Evaluated, second: Evaluated, resamples: int, seed: int) -> ComparedDifference:
    """Return by how much the second differs from the first in what both kept image by image, or case by case."""
    of_images, per_class = _ranking_differences(first, second, resamples, seed)
    of_cases = {
        key: found
        for key, (task, measure) in measures_by_key().items()
        if (found := _case_difference(first, second, task, measure, resamples, seed))
    }
    return ComparedDifference(name=second.name, to=first.name, measures=of_images | of_cases, per_class=per_class)


def _ranking_differences(
    first: Evaluated, second: Evaluated, resamples: int, seed: int
) -> tuple[dict[str, PairedDifference], dict[str, dict[str, PairedDifference]]]:
    """Return the differences in what scores of images rank by, and by class in the first of these measures."""
    found = first.result.tasks.get(ZeroShot.name)
    if first.predictions is None or second.predictions is None or not isinstance(found, ZeroShotResult):
        return {}, {}
    reference, classes = first.predictions, first.predictions.classes
    in_macro = np.isin(classes, found.classes_in_macro)
    columns = [list(second.predictions.classes).index(name) for name in classes]
    scores = reference.scores, second.predictions.scores[:, columns]

    def with_macro(statistic: Statistic) -> Statistic:
        def both(weights: np.ndarray) -> np.ndarray:
            values = statistic(weights)
            macro = [mean_defined(values[:, kind][:, in_macro]) for kind in range(len(RANKINGS))]
            return np.column_stack([values[:, 0], *macro])

        return both

    one, other = (with_macro(ranking_statistic(each, reference.labels)) for each in scores)
    labels, patients = reference.labels, reference.patients
    macro_carriers = carriers_of_mean(labels[:, in_macro], patients)
    carriers = [*carriers_of_classes(labels, patients), *[macro_carriers] * len(RANKINGS)]
    entries = _entries(paired_difference(one, other, patients, resamples, seed, carriers=carriers))
    of_classes, macro = entries[: len(classes)], entries[len(classes) :]
    keys = [f"{ZeroShot.name}.{name}" for name in RANKINGS]
    return dict(zip(keys, macro, strict=True)), {keys[0]: dict(zip(classes, of_classes, strict=True))}


def _case_difference(
    first: Evaluated, second: Evaluated, task: str, measure: Measure, resamples: int, seed: int
) -> PairedDifference | None:
    """Return the difference in a mean (or median) over the cases for which it is defined for both."""
    path = f"{task}/{measure.name}"
    one, other = ((entry.outcomes or {}).get(path) for entry in (first, second))
    if one is None or other is None:
        return None
    if (one.findings, one.patients) != (other.findings, other.patients):
        raise MedLIPError(
            f"{first.name} and {second.name} kept {path} of different cases, though under one protocol. Evaluate both again."
        )
    defined = ~np.isnan(one.values) & ~np.isnan(other.values)
    if not defined.any():
        return None
    summary = median_statistic if measure.summary == "median" else mean_statistic
    before, after = (summary(each.values[defined]) for each in (one, other))
    found = paired_difference(
        lambda weights: before(weights)[:, None],
        lambda weights: after(weights)[:, None],
        np.array(one.patients)[defined],
        resamples,
        seed,
    )
    (entry,) = _entries(found)
    return entry.model_copy(update={"left_out": int((~defined).sum())})


def _entries(found: Difference) -> list[PairedDifference]:
    return [
        PairedDifference(value=number(value), interval=interval(low, high), p=number(p))
        for value, low, high, p in zip(found.value, found.low, found.high, found.p, strict=True)
    ]


def _refuse_levels(file: Path, path: Path) -> None:
    """Refuse the summary of a transfer, which holds several levels; names the folders of each."""
    levels = sorted(str(each.parent) for each in file.parent.rglob(RESULT) if each != file) if file.name == RESULT else []
    if levels:
        raise MedLIPError(f"{path}: holds the levels of a transfer. Compare results of one level: {', '.join(levels)}")


def require_same_protocol(first: Evaluated, second: Evaluated, but: Sequence[str] = ()) -> None:
    """Refuse results that can't share a column; they may differ in the fields that `but` names.

    Raises:
        MedLIPError: they differ, says in what.
    """
    one, other = (
        {
            **entry.result.protocol.model_dump(exclude={"name", "hash", "map_rule", *but}),
            "level": entry.result.level and entry.result.level.name,
            "draw": entry.result.level.draw if entry.result.level else 0,
        }
        for entry in (first, second)
    )
    fields = [key for key in one if one[key] != other[key]]
    if not fields:
        return
    what = "; ".join(_differ(key, one[key], other[key]) for key in fields)
    raise MedLIPError(
        f"{second.name} was evaluated under another protocol than {first.name}, so they can't share a column. They differ "
        f"in {what}. Compare results of one protocol at a time, or evaluate again."
    )


def _differ(key: str, one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return f"{key} ({name_some([f'{n}: {one.get(n)!r} and {other.get(n)!r}' for n in names], NAMED)})"
    return f"{key} ({one!r} and {other!r})"


def require_same_images(first: Evaluated, second: Evaluated) -> None:
    """Refuse results whose predictions, where they were kept, are of other images, or of images with other labels.

    Raises:
        MedLIPError: they are, says which.
    """
    one, other = first.predictions, second.predictions
    if one is None or other is None:
        return
    for here, there, where in ((one, other, first.name), (other, one, second.name)):
        known = set(there.ids)
        alone = [name for name in here.ids if name not in known]
        if alone:
            raise MedLIPError(
                f"{first.name} and {second.name} were evaluated on different test images: {len(alone)} are only in {where}: "
                f"{name_some(alone, NAMED)}. Evaluate both on the same data and split."
            )
    if list(one.ids) != list(other.ids):
        raise MedLIPError(f"{first.name} and {second.name} have the same images in another order. Evaluate both again.")
    if set(one.classes) == set(other.classes):
        columns = [list(other.classes).index(name) for name in one.classes]
        labels = other.labels[:, columns]
        differ = np.argwhere((one.labels != labels) & ~(np.isnan(one.labels) & np.isnan(labels)))
        if len(differ):
            image, c = differ[0]
            raise MedLIPError(
                f"{first.name} and {second.name} have {len(differ)} different labels; the first is of the image "
                f"{one.ids[image]!r} and the class {one.classes[c]!r}. Evaluate both on the same data."
            )
