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

from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation.compare import value_at
from medlip.evaluation.run import evaluate
from medlip.files import write_atomic
from medlip.methods.base import method_config
from medlip.metrics.classification import over_seeds
from medlip.parallel import cpu_count, process
from medlip.training import fit, load_recipe, load_run
from medlip.training.fit import CHECKPOINT, MODEL
from medlip.training.recipe import parse_value

DEFAULT = "default"
RESULT = "result.json"
MEASURES = {
    "macro_auroc": "zero_shot/macro_auroc",
    "pointing_game": "grounding/pointing_game",
    "iou": "grounding/iou",
    "side": "places/side/value",
}


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
        threads: of the networks.
    """

    variant: str
    seed: int
    recipe: str
    settings: tuple[str, ...]
    store: str
    out: Path
    split: str
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
    split: str = "test",
    full: bool = False,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train and evaluate every variant of a recipe with every seed; what is done already is not done again.

    Args:
        recipe: name or file.
        store: the data, with the splits train, val and `split`.
        out: folder of the ablation: a folder for each run, and table.json and table.md.
        grid: the factors, see `variants`. A variant that comes to the same recipe as an earlier one is left out.
        settings: changes that all runs share.
        seeds: runs of every variant, with seeds 0, 1, …; differences to the default are paired by seed.
        split: what is evaluated.
        full: every combination of the factors.
        jobs: runs at the same time; the cores are shared among them.

    Returns:
        `rows`: for each variant its runs, and of each measure and its difference to the default the `values` by seed, their
        mean, lowest and highest, and from two seeds on the 95 % `interval` of the mean (Student's t); `failed`: runs that
        did not come to an end, with the reason.

    Raises:
        MedLIPError: a setting that no run can start with, or a split that the store doesn't have.
    """
    missing = [name for name in ("train", "val", split) if name not in store.splits]
    if missing:
        raise MedLIPError(
            f"{store.root}: an ablation needs the splits train, val and {split}; it has {', '.join(store.splits)}, "
            f"but no {', '.join(missing)}. Evaluate another split, or prepare the data with all three."
        )
    out.mkdir(parents=True, exist_ok=True)
    trials = list(_trials(recipe, store, out, grid, tuple(settings), seeds, split, full, max(1, cpu_count() // jobs)))
    workers = jobs if jobs > 1 else 0
    outcomes = list(process(_run, trials, "ablating", total=len(trials), workers=workers, chunk=1))
    failed = [
        {"run": str(outcome.item.out.relative_to(out)), "reason": outcome.skipped} for outcome in outcomes if outcome.skipped
    ]
    results = {(outcome.item.variant, outcome.item.seed): outcome.value for outcome in outcomes if outcome.value is not None}
    rows = [_row(variant, results) for variant in dict.fromkeys(trial.variant for trial in trials)]
    answer = {
        "recipe": recipe,
        "settings": list(settings),
        "data": store.hash,
        "split": split,
        "rows": rows,
        "failed": failed,
    }
    (out / "table.json").write_text(json.dumps(answer, indent=1))
    (out / "table.md").write_text(as_markdown(answer))
    return answer


def as_markdown(answer: Mapping[str, Any]) -> str:
    """Return the table of an ablation: mean (lowest to highest) over seeds, and the paired difference with its interval."""
    header = ["variant", "runs", *(f"{name}, difference" if d else name for name in MEASURES for d in (False, True))]
    lines = [header, ["---"] * len(header)]
    for row in answer["rows"]:
        cells = [row["variant"], str(row["runs"])]
        for name in MEASURES:
            cells += [_spread(row.get(name), "{:.3f}"), _difference(row.get(f"{name}_difference"))]
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _spread(value: Mapping[str, float] | None, form: str) -> str:
    if value is None:
        return ""
    return f"{form} ({form} to {form})".format(value["mean"], value["low"], value["high"])


def _difference(value: Mapping[str, Any] | None) -> str:
    spread = _spread(value, "{:+.3f}")
    return spread + "; 95 % {:+.3f} to {:+.3f}".format(*value["interval"]) if value and value["interval"] else spread


def _trials(
    recipe: str,
    store: Store,
    out: Path,
    grid: Sequence[str],
    settings: tuple[str, ...],
    seeds: int,
    split: str,
    full: bool,
    threads: int,
) -> Iterator[Trial]:
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
            yield Trial(
                name, seed, recipe, (*settings, *changes, f"training.seed={seed}"), store.root, folder, split, threads
            )


def _run(trial: Trial) -> dict[str, float | None]:
    """Train, evaluate, and keep the result; whichever of these is done is not done again."""
    file = trial.out / RESULT
    recipe = load_recipe(trial.recipe, trial.settings)
    store = Store.open(trial.store)
    made_with = {"recipe": recipe.model_dump(mode="json"), "data": store.hash, "split": trial.split}
    other = f"{trial.out}: holds a run of another recipe or other data. Give another folder."
    if file.exists():
        known = json.loads(file.read_text())
        if known["made_with"] != made_with:
            raise MedLIPError(other)
        return _measures(known)
    train = store.select("train")
    trial.out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        with (trial.out / "log.txt").open("a") as log, redirect_stderr(log):
            if not (trial.out / MODEL).exists():
                resume = (trial.out / CHECKPOINT).exists()
                fit(recipe, train, trial.out, validation=store.select("val"), resume=resume)
            method = load_run(trial.out)
            by = method.made_by
            if by is None or (by["recipe"], by["data"]["hash"]) != (made_with["recipe"], train.hash):
                raise MedLIPError(other)
            result = evaluate(method, store, split=trial.split)
    finally:
        torch.set_num_threads(threads)
    write_atomic(file, json.dumps({"made_with": made_with, **result}, indent=1).encode())
    (trial.out / CHECKPOINT).unlink(missing_ok=True)  # three times the size of the model, and needed no more
    print(f"{trial.variant}, seed {trial.seed}: {_measures(result)}", file=sys.stderr)
    return _measures(result)


def _measures(result: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value_at(result, path) for name, path in MEASURES.items()}


def _row(variant: str, results: Mapping[tuple[str, int], Mapping[str, float | None]]) -> dict[str, Any]:
    seeds = sorted(seed for name, seed in results if name == variant)
    row: dict[str, Any] = {"variant": variant, "runs": len(seeds)}
    for name in MEASURES:
        values = {seed: value for seed in seeds if (value := results[variant, seed][name]) is not None}
        row[name] = over_seeds(list(values.values()))
        if variant != DEFAULT:
            defaults = {seed: results[DEFAULT, seed][name] for seed in seeds if (DEFAULT, seed) in results}
            pairs = [(value, defaults.get(seed)) for seed, value in values.items()]
            row[f"{name}_difference"] = over_seeds([value - other for value, other in pairs if other is not None])
    return row
