"""Ablations: a recipe with one setting changed at a time, several seeds each, resumed where it stopped, in one table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.results import RESULT, Result
from medlip.evaluation.tasks import measures as all_measures
from medlip.files import write_atomic
from medlip.methods.base import method_config
from medlip.metrics import Measure, Spread, over_seeds
from medlip.parallel import cpu_count, process
from medlip.training import Recipe, fit, load_recipe, load_run
from medlip.training.fit import CHECKPOINT, MODEL
from medlip.training.recipe import parse_value

DEFAULT = "default"
MEASURES = ("zero_shot.macro_auroc", "grounding.pointing_game", "grounding.iou", "places.side")
"""What is tabulated unless other measures are asked for, each as TASK.MEASURE."""

Values = Mapping[str, float | None]
"""A value for each measure; None where it is undefined."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tabulated(_Part):
    """One measure of a variant.

    Attributes:
        spread: over seeds; None without a run in which it is defined.
        difference: to the default, paired by seed; None for the default itself, and without a pair.
    """

    spread: Spread | None
    difference: Spread | None = None


class AblationRow(_Part):
    """One variant.

    Attributes:
        variant: its settings that differ, "default" for none.
        runs: that came to an end.
        measures: by TASK.MEASURE.
    """

    variant: str
    runs: int
    measures: dict[str, Tabulated]


class FailedRun(_Part):
    """A run that did not come to an end, by its folder within the ablation's, and the reason."""

    run: str
    reason: str


class Ablation(_Part):
    """What each setting of a recipe is worth.

    Attributes:
        recipe: name or file.
        settings: changes that all runs share.
        data: hash of the data set.
        split: that was evaluated.
        rows: a variant each, the default first.
        failed: runs that did not come to an end.
    """

    recipe: str
    settings: list[str]
    data: str
    split: str
    rows: list[AblationRow]
    failed: list[FailedRun]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of an ablation.

    Attributes:
        variant: its settings that differ, "default" for none.
        seed: of training.
        recipe: name or file.
        settings: all changes to the recipe, as `load_recipe` takes them.
        store: the data.
        out: folder of the run.
        split: what is evaluated.
        measures: that are tabulated.
        device: to compute on.
        threads: of the networks.
    """

    variant: str
    seed: int
    recipe: str
    settings: tuple[str, ...]
    store: str
    out: Path
    split: str
    measures: tuple[str, ...]
    device: str
    threads: int


def variants(grid: Sequence[str], *, full: bool = False) -> list[tuple[str, ...]]:
    """Return the changes of every variant, none for the default itself, which comes first.

    Args:
        grid: "key=value,value…" for every factor, values as in YAML.
        full: every combination of all factors, instead of one factor at a time.

    Raises:
        MedLIPError: a factor without values.
    """
    factors = []
    for factor in grid:
        key, equals, values = factor.partition("=")
        if not (key and equals and values):
            raise MedLIPError(f"--grid {factor}: expected key=value,value, such as method.mask_ratio=0,0.5,0.75.")
        # One YAML list, so that a value may hold commas of its own: scale=[0.5,1],[0.8,1].
        factors.append(
            [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for value in parse_value(f"[{values}]")]
        )
    if full:
        return [(), *product(*factors)]
    return [(), *((change,) for factor in factors for change in factor)]


def ablate(
    recipe: str,
    store: Store,
    out: Path,
    grid: Sequence[str],
    *,
    settings: Sequence[str] = (),
    seeds: int = 3,
    split: str = "val",
    full: bool = False,
    jobs: int = 1,
    measures: Sequence[str] = MEASURES,
    device: str = "auto",
) -> Ablation:
    """Train and evaluate every variant of a recipe with every seed; what is done already is not done again.

    Args:
        recipe: name or file.
        store: the data, with the splits train, val and `split`.
        out: folder of the ablation: a folder for each run, and table.json and table.md.
        grid: the factors, see `variants`. A variant that comes to the same recipe as an earlier one is left out.
        settings: changes that all runs share.
        seeds: runs of every variant, with seeds 0, 1, …; differences to the default are paired by seed.
        split: what is evaluated; `val`, unless asked otherwise, since whoever picks a setting by the table tunes on it.
        full: every combination of the factors.
        jobs: runs at the same time; the cores are shared among them.
        measures: what is tabulated, each as TASK.MEASURE, such as "zero_shot.macro_auroc".
        device: to train and evaluate on, see `medlip.nn.device.resolve_device`.

    Raises:
        MedLIPError: a setting that no run can start with, a measure that no task has, or a split that the store lacks.
    """
    needed = list(dict.fromkeys(("train", "val", split)))
    missing = [name for name in needed if name not in store.splits]
    if missing:
        raise MedLIPError(
            f"{store.root}: an ablation needs the splits {', '.join(needed)}; it has {', '.join(store.splits)}, "
            f"but no {', '.join(missing)}. Evaluate another split, or prepare the data with all three."
        )
    _find_measures(measures)
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, cpu_count() // jobs)
    trials = [
        Trial(variant, seed, recipe, changes, store.root, folder, split, tuple(measures), device, threads)
        for variant, seed, changes, folder in _runs(recipe, out, grid, tuple(settings), seeds, full)
    ]
    workers = jobs if jobs > 1 else 0
    outcomes = list(process(_run, trials, "ablating", total=len(trials), workers=workers, chunk=1))
    results = {(outcome.item.variant, outcome.item.seed): outcome.value for outcome in outcomes if outcome.value is not None}
    answer = Ablation(
        recipe=recipe,
        settings=list(settings),
        data=store.hash,
        split=split,
        rows=[_row(variant, results, measures) for variant in dict.fromkeys(trial.variant for trial in trials)],
        failed=[
            FailedRun(run=str(outcome.item.out.relative_to(out)), reason=outcome.skipped)
            for outcome in outcomes
            if outcome.skipped
        ],
    )
    write_atomic(out / "table.json", answer.model_dump_json(indent=1).encode())
    write_atomic(out / "table.md", as_markdown(answer).encode())
    return answer


def as_markdown(answer: Ablation) -> str:
    """Return the table of an ablation: mean (lowest to highest) over seeds, and the paired difference with its interval."""
    found = _find_measures(answer.rows[0].measures)
    header = ["variant", "runs", *(cell for each in found.values() for cell in (each.title, f"{each.title}, difference"))]
    lines = [header, ["---"] * len(header)]
    for row in answer.rows:
        cells = [row.variant, str(row.runs)]
        for name in found:
            cells += [_spread(row.measures[name].spread, "{:.3f}"), _difference(row.measures[name].difference)]
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _find_measures(names: Sequence[str] | Mapping[str, object]) -> dict[str, Measure]:
    known = {f"{task}.{measure.name}": measure for task, measure in all_measures()}
    for name in names:
        if name not in known:
            raise MedLIPError(f"measure {name!r}: there is none of this name. Choose from: {', '.join(known)}.")
    return {name: known[name] for name in names}


def _spread(value: Spread | None, form: str) -> str:
    return f"{form} ({form} to {form})".format(value.mean, value.low, value.high) if value else ""


def _difference(value: Spread | None) -> str:
    spread = _spread(value, "{:+.3f}")
    return spread + "; 95 % {:+.3f} to {:+.3f}".format(*value.interval) if value and value.interval else spread


def _runs(
    recipe: str, out: Path, grid: Sequence[str], settings: tuple[str, ...], seeds: int, full: bool
) -> Iterator[tuple[str, int, tuple[str, ...], Path]]:
    """Yield variant, seed, all changes to the recipe, and folder of every run."""
    known: list[Any] = []
    for changes in variants(grid, full=full):
        made = load_recipe(recipe, [*settings, *changes])
        content = made.model_copy(update={"method": {**made.method, **method_config(made.method).model_dump()}})
        if content in known:
            continue
        known.append(content)
        name = ",".join(changes) or DEFAULT
        for seed in range(seeds):
            folder = out / name.replace("/", "_") / f"seed-{seed}"
            yield name, seed, (*settings, *changes, f"training.seed={seed}"), folder


def _run(trial: Trial) -> Values:
    """Train, evaluate, and keep the result; whichever of these is done is not done again."""
    file, store = trial.out / RESULT, Store.open(trial.store)
    recipe, train = load_recipe(trial.recipe, trial.settings), store.select("train")
    other = f"{trial.out}: holds a run of another recipe or other data. Give another folder."
    if file.exists():
        result = _load(file)
        if result.protocol.data != store.hash or not _made_by(result.run, recipe, train):
            raise MedLIPError(other)
        if result.split != trial.split:
            raise MedLIPError(
                f"{file}: of the split {result.split!r}, not {trial.split!r} as asked. Ask for {result.split}, or delete "
                "the file: the run is not trained anew."
            )
        return _values(result, trial.measures)
    trial.out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        with (trial.out / "log.txt").open("a") as log, redirect_stderr(log):
            if not (trial.out / MODEL).exists():
                resume = (trial.out / CHECKPOINT).exists()
                fit(recipe, train, trial.out, validation=store.select("val"), resume=resume, device=trial.device)
            method = load_run(trial.out, trial.device)
            if not _made_by(method.made_by, recipe, train):
                raise MedLIPError(other)
            result = evaluate(method, store, split=trial.split)
    finally:
        torch.set_num_threads(threads)
    result.save(file)
    (trial.out / CHECKPOINT).unlink(missing_ok=True)  # three times the size of the model, and needed no more
    values = _values(result, trial.measures)
    print(f"{trial.variant}, seed {trial.seed}: {values}", file=sys.stderr)
    return values


def _load(file: Path) -> Result:
    try:
        return Result.load(file)
    except MedLIPError as error:
        raise MedLIPError(f"{error} Delete the file and give the same command: the run is not trained anew.") from error


def _made_by(run: Mapping[str, Any] | None, recipe: Recipe, train: Store) -> bool:
    """Whether a run is one of this recipe on this data."""
    return run is not None and run["recipe"] == recipe.model_dump(mode="json") and run["data"]["hash"] == train.hash


def _values(result: Result, measures: Sequence[str]) -> Values:
    values: dict[str, float | None] = {}
    for name in measures:
        task, _, measure = name.partition(".")
        found = result.tasks.get(task)
        estimate = found.estimates.get(measure) if found else None
        values[name] = estimate.value if estimate else None
    return values


def _row(variant: str, results: Mapping[tuple[str, int], Values], measures: Sequence[str]) -> AblationRow:
    runs = {seed: values for (name, seed), values in sorted(results.items()) if name == variant}
    tabulated = {}
    for measure in measures:
        values = {seed: value for seed, found in runs.items() if (value := found[measure]) is not None}
        defaults = {seed: results[DEFAULT, seed][measure] for seed in values if (DEFAULT, seed) in results}
        pairs = [(value, defaults.get(seed)) for seed, value in values.items()]
        differences = [value - other for value, other in pairs if other is not None]
        tabulated[measure] = Tabulated(
            spread=over_seeds(list(values.values())),
            difference=over_seeds(differences) if variant != DEFAULT else None,
        )
    return AblationRow(variant=variant, runs=len(runs), measures=tabulated)
