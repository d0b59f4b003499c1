"""Results of several seeds side by side: the spread over trainings, which an interval over patients of one can't show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from medlip.errors import MedLIPError
from medlip.evaluation.compare import MEASURES, Evaluated, require_same_images, require_same_protocol, value_at
from medlip.evaluation.metrics import over_seeds
from medlip.evaluation.published import published_table

BY_SEED = (
    "means over seeds (lowest to highest); differences are paired by seed, with the 95 % interval of their mean and its "
    "p-value (Student's t, two-sided, not corrected for how many there are)"
)
Seeds = Mapping[int, Evaluated]


def compare_seeds(evaluated: Sequence[Evaluated], *, quoted: Sequence[str] = ()) -> dict[str, Any]:
    """Put recipes side by side, each by the mean over its seeds, with differences to the first that are paired by seed.

    Results of one recipe, its seed aside, form a row. The protocol's own seed (which patients keep their labels) may differ
    between seeds, not within one.

    Args:
        evaluated: the results, in any order; the first one's recipe is what the others are compared to.
        quoted: names of published tables to go along.

    Returns:
        Plain data as of `compare`, but a row is a recipe: `name` is what its folders' names begin with, `seeds` lists them,
        and each measure has a `range` (lowest and highest) instead of an interval.

    Raises:
        MedLIPError: it is not known what trained a result, a recipe has a seed twice, or protocols, test images or labels
            differ.
    """
    first, *others = _by_recipe(evaluated)
    reference = next(iter(first.values()))
    for seeds in (first, *others):
        for seed, entry in seeds.items():
            require_same_protocol(reference, entry, but=("seed",))
            if seed in first:
                require_same_images(first[seed], entry)
                require_same_protocol(first[seed], entry)
    name = _name(first)
    differences = [{"name": _name(other), "to": name, **_differences(first, other)} for other in others]
    return {
        "protocol": reference.result["protocol"],
        "results": [_row(seeds) for seeds in (first, *others)],
        "differences": differences,
        "quoted": {name: published_table(name).model_dump(mode="json") for name in quoted},
        "notes": [
            *(
                f"{_name(other)}: no seed in common with {name}, so no difference to it can be paired"
                for other in others
                if not first.keys() & other.keys()
            ),
            BY_SEED,
        ],
    }


def _by_recipe(evaluated: Sequence[Evaluated]) -> list[Seeds]:
    """Return the results of each recipe by seed."""
    groups: dict[str, dict[int, Evaluated]] = {}
    for entry in evaluated:
        run = entry.result.get("run")
        if not run:
            raise MedLIPError(f"{entry.name}: not known which recipe and seed trained it (that is kept in a run's folder).")
        recipe = {**run["recipe"], "training": {**run["recipe"]["training"], "seed": None}}
        data = (run["data"] or {}).get("hash")
        seeds = groups.setdefault(json.dumps([recipe, data], sort_keys=True), {})
        if run["seed"] in seeds:
            raise MedLIPError(
                f"{entry.name} and {seeds[run['seed']].name} are of one recipe and one seed, {run['seed']}. Leave one out."
            )
        seeds[run["seed"]] = entry
    return [dict(sorted(seeds.items())) for seeds in groups.values()]


def _name(seeds: Seeds) -> str:
    names = [entry.name for entry in seeds.values()]
    return commonprefix(names).rstrip("-_./ ") or names[0]  # noqa: RUF071 (characters are meant)


def _numbers(entry: Evaluated) -> dict[str, dict[str, float | None]]:
    per_class = value_at(entry.result, "zero_shot/per_class") or {}
    return {
        "measures": {name: value_at(entry.result, value) for name, (value, _) in MEASURES.items()},
        "per_class": {name: values["auroc"] for name, values in per_class.items()},
    }


def _row(seeds: Seeds) -> dict[str, Any]:
    numbers = [_numbers(entry) for entry in seeds.values()]
    row: dict[str, Any] = {"name": f"{_name(seeds)} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})", "run": None}
    for kind, of_first in numbers[0].items():
        row[kind] = {}
        for name in of_first:
            spread = over_seeds([value for each in numbers if (value := each[kind].get(name)) is not None])
            row[kind][name] = {
                "value": spread and spread["mean"],
                "interval": None,
                "range": spread and [spread["low"], spread["high"]],
            }
    return row | {"seeds": list(seeds)}


def _differences(first: Seeds, other: Seeds) -> dict[str, Any]:
    pairs = [(_numbers(first[seed]), _numbers(other[seed])) for seed in sorted(first.keys() & other.keys())]
    found: dict[str, Any] = {"measures": {}, "per_class": {}}
    for kind, entries in found.items():
        for name in pairs[0][0][kind] if pairs else ():
            both = [(one[kind].get(name), two[kind].get(name)) for one, two in pairs]
            spread = over_seeds([b - a for a, b in both if a is not None and b is not None])
            if spread is not None:
                entries[name] = {"difference": spread["mean"], "interval": spread["interval"], "p": spread["p"]}
    return found
