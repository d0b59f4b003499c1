"""One evaluation: every image is decoded and encoded once, and every task gets its answers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from medlip.data.overlap import require_disjoint
from medlip.data.studies import contradictions
from medlip.data.views import Views
from medlip.errors import MedLIPError
from medlip.evaluation.outcomes import OUTCOMES, save_outcomes
from medlip.evaluation.provenance import hash_names, patients_rule, provenance
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import RESULT, Result
from medlip.evaluation.selection import (
    ON_REPORTED,
    Cohort,
    EvaluationOptions,
    Questions,
    Selection,
    canonical_prompts,
    choose_questions,
    select,
)
from medlip.evaluation.tasks.base import ImageBatch, Needs, Task, find_task, tasks
from medlip.methods.base import Answers, EmbedsReports, Method, ReadsViews, views_of
from medlip.metrics import INTERVALS
from medlip.parallel import track

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.evaluation.task_result import TaskResult

ON_TRAINED = "images of the split 'train', on which the method may have been trained, are among those evaluated"
UNASKED = "labels that were not asked for (name a class with its words to ask for it)"
RETRIEVED = "retrieval.json"
QUERIES = "queries.parquet"


def evaluate(
    method: Method,
    store: Store,
    options: EvaluationOptions | None = None,
    *,
    tasks: Sequence[str] | None = None,
    out: Path | None = None,
    **changes: object,
) -> Result:
    """Ask a method for every class that the data labels, and where it sees what the data has boxes or masks of.

    >>> evaluate(method, store, split="test", classes=["effusion"], seed=1)  # doctest: +SKIP

    Args:
        method: what is evaluated, on the device that it is on.
        store: the data.
        options: see `EvaluationOptions`; each can be given by its name instead.
        tasks: which tasks, by name; None for all but retrieval, and those that plugins add.
        out: a folder to write result.json and outcomes.parquet (of every case) into, beside what a task keeps:
            predictions.parquet (scores of every image) and, where there is grounding, cases.npz (images with their maps).
        changes: options by name.

    Returns:
        The result, with each task's own under the task's name; None where the data, or the method, has nothing for it.

    Raises:
        MedLIPError: there is no such task, split, class or listed image, nothing to evaluate, a patient is on both sides,
            `out` holds a result already, or the method gives NaN or can't answer a prompt.
    """
    return _evaluate(method, store, _changed(options, changes), _chosen(tasks), _Files(out, RESULT, OUTCOMES))


def retrieve(
    method: Method, store: Store, options: EvaluationOptions | None = None, *, out: Path | None = None, **changes: object
) -> Result:
    """Rank reports for every image, images for every report, and images for every class; see the task `retrieval`.

    Args:
        method: what is evaluated, on the device that it is on.
        store: the data. Images whose study has no report are left out of recall, and counted in the notes.
        options: see `EvaluationOptions`; each can be given by its name instead.
        out: a folder to write retrieval.json and queries.parquet (what became of every query) into.
        changes: options by name.

    Raises:
        MedLIPError: as of `evaluate`; or there are fewer than two reports, or than the `pool`.
    """
    return _evaluate(method, store, _changed(options, changes), [find_task("retrieval")], _Files(out, RETRIEVED, QUERIES))


@contextmanager
def inference(module: nn.Module) -> Iterator[torch.device]:
    """Run without gradients and dropout, on the module's device; what was in training is so again afterwards."""
    training = module.training
    parameter = next(module.parameters(), torch.empty(0))
    module.eval()
    try:
        with torch.inference_mode():
            yield parameter.device
    finally:
        module.train(training)


@dataclass(frozen=True, slots=True)
class _Files:
    """Where results are written: nowhere, if there is no folder."""

    folder: Path | None
    result: str
    outcomes: str


def _changed(options: EvaluationOptions | None, changes: Mapping[str, object]) -> EvaluationOptions:
    return replace(options or EvaluationOptions(), **changes)  # type: ignore[arg-type]  # refused there


def _chosen(names: Sequence[str] | None) -> list[type[Task]]:
    if names is None:
        return [task for task in tasks().values() if task.by_default]
    return [find_task(name) for name in dict.fromkeys(names)]


def _evaluate(
    method: Method, store: Store, options: EvaluationOptions, chosen: Sequence[type[Task]], files: _Files
) -> Result:
    start = perf_counter()
    if files.folder is not None and (files.folder / files.result).exists():
        raise MedLIPError(f"{files.folder}: holds a {files.result} already. Give another folder.")
    selection = select(store, options, method.vocabulary, views_of(method))
    questions = choose_questions(selection.evaluated, options)

    def make(cohort: Cohort, which: Callable[[type[Task]], bool]) -> dict[str, Task]:
        return {task.name: task(cohort, questions, options) for task in chosen if which(task)}

    evaluated = make(selection.evaluated, lambda task: True)
    tunes = any(task.tunes for task in chosen)
    tuned: Mapping[str, Task] = {}
    if options.on_reported:
        tuned = evaluated
    elif tunes and selection.tuning is not None:
        require_disjoint(
            {"evaluated": selection.evaluated.patients, "validation": selection.tuning.patients},
            "thresholds would be chosen on what is reported",
            "Give validation data of other patients.",
        )
        tuned = make(selection.tuning, lambda task: task.tunes)
    with inference(method):
        for task in evaluated.values():
            task.begin(method)
        ask_all(method, selection.evaluated, list(evaluated.values()), options, f"evaluating {selection.split}")
        if tuned and selection.tuning is not None and not options.on_reported:
            ask_all(method, selection.tuning, list(tuned.values()), options, "choosing thresholds")
    results = {name: task.result(tuned.get(name), selection.rule) for name, task in evaluated.items()}
    rules: dict[str, str] = {"intervals": INTERVALS} | patients_rule(selection.evaluated.store)
    for task in evaluated.values():
        rules |= task.rules()
    patients = selection.evaluated.patients
    about = provenance(method, selection.evaluated.store, _notes(selection, questions, options, evaluated, results))
    found = Result.model_validate(
        {
            "split": selection.split,
            "n_images": len(patients),
            "n_patients": len(set(patients)),
            "protocol": EvaluationRecord(
                name=_record_name(options, chosen),
                data=store.hash,
                split=selection.split,
                images=hash_names(selection.evaluated.ids),
                tuning=_tuning_name(selection, tunes),
                classes=canonical_prompts(questions.classes, method.vocabulary),
                findings=canonical_prompts(questions.findings, method.vocabulary) if _needs(evaluated.values()).maps else {},
                rules=rules,
                resamples=options.resamples,
                seed=options.seed,
                map_rule=method.map_rule if _needs(evaluated.values()).maps else "",
            ),
            **dict(about),
            **results,
            "seconds": perf_counter() - start,
        }
    )
    if files.folder is not None:
        files.folder.mkdir(parents=True, exist_ok=True)
        for task in evaluated.values():
            task.save(files.folder, tuned.get(task.name))
        cases = (task.cases(tuned.get(name)) for name, task in evaluated.items())
        save_outcomes(chain.from_iterable(cases), files.folder / files.outcomes)
        found.save(files.folder / files.result)
    return found


def ask_all(method: Method, cohort: Cohort, side: Sequence[Task], options: EvaluationOptions, description: str) -> None:
    """Go over the images of a side once: each is decoded once, and asked for all that any of its tasks wants."""
    needs = _needs(side)
    batches = _batches(cohort.studies, options.batch_size)
    for studies in track(batches, description, len(batches)):
        rows = range(cohort.studies[studies.start][0], cohort.studies[studies.stop - 1][-1] + 1)
        views = None if cohort.together is None else Views(cohort.together.kinds[studies.start : studies.stop])
        records = [cohort.store[row] for row in rows]
        prompts = list(dict.fromkeys(chain.from_iterable(task.prompts(records) for task in side)))
        images = method.preprocessing.of_images(record.image for record in records).to(method.device)
        answers = _ask(method, images, prompts, needs, views)
        batch = ImageBatch(rows, records, {prompt: column for column, prompt in enumerate(prompts)})
        for task in side:
            task.update(batch, answers)


def _batches(studies: Sequence[tuple[int, ...]], size: int) -> list[range]:
    """Return which studies are read at a time: until there are `size` images, and whole ones."""
    starts: list[int] = []
    for study, rows in enumerate(studies):
        if not starts or rows[-1] - studies[starts[-1]][0] >= size:
            starts.append(study)
    return [range(*ends) for ends in pairwise([*starts, len(studies)])]


def _ask(method: Method, images: Tensor, prompts: Sequence[str], needs: Needs, views: Views | None) -> Answers:
    """Return all answers on the CPU, what is said of a study beside each of its images.

    Of data without labels, regions and places there is nothing to ask but embeddings.
    """
    wanted = {"maps": needs.maps, "anatomies": needs.anatomies, "embeddings": needs.embeddings}
    if views is not None:
        answers = cast("ReadsViews", method).answer(images, prompts, **wanted, views=views).of_images(views.counts)
    elif prompts:
        answers = method.answer(images, prompts, **wanted)
    else:
        embeddings = method.embed_images(images) if needs.embeddings and isinstance(method, EmbedsReports) else None
        answers = Answers(images.new_zeros(len(images), 0), embeddings=embeddings)
    parts = (answers.maps, answers.anatomies, answers.embeddings)
    maps, anatomies, embeddings = (None if part is None else part.cpu() for part in parts)
    return Answers(answers.scores.cpu(), maps, anatomies, embeddings)


def _needs(side: Iterable[Task]) -> Needs:
    needs = Needs()
    for task in side:
        needs |= task.needs
    return needs


def _record_name(options: EvaluationOptions, chosen: Sequence[type[Task]]) -> str:
    if options.protocol is not None:
        return options.protocol.name
    if [task.name for task in chosen] == ["retrieval"]:
        return "image-text retrieval"
    return "zero-shot classification and grounding, thresholds from other patients"


def _tuning_name(selection: Selection, tunes: bool) -> str:
    if not tunes:
        return "nothing is tuned"
    return hash_names(selection.tuning.ids) if selection.tuning is not None else "half of the patients"


def _notes(
    selection: Selection,
    questions: Questions,
    options: EvaluationOptions,
    evaluated: Mapping[str, Task],
    results: Mapping[str, TaskResult | None],
) -> Iterator[str]:
    protocol, images = options.protocol, len(selection.evaluated)
    if protocol is not None and options.on_reported:
        yield f"{protocol.name}: thresholds are {ON_REPORTED}"
    if protocol is not None and protocol.images not in (None, images):
        yield f"{protocol.name}: its published split has {protocol.images:,} images, here are {images:,}: another test"
    if "train" in selection.evaluated.store.splits:
        yield ON_TRAINED
    if (together := selection.evaluated.together) is not None:
        yield (
            f"{len(together):,} studies of {images:,} images, whose views are read together: scores and places count once a "
            "study, maps once an image"
        )
        yield from (*together.notes, *contradictions(selection.evaluated.store, together))
    if questions.unasked:
        yield f"{UNASKED}: {', '.join(questions.unasked)}"
    told = [note for task in evaluated.values() for note in task.notes()]
    yield from told
    if not told and not any(results.values()):
        yield f"no result: nothing that {', '.join(evaluated)} counts is known of these {images:,} images"
