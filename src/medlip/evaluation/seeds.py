"""Results of several seeds side by side: the spread over trainings, which an interval over patients of one can't show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from medlip.errors import MedLIPError
from medlip.evaluation.compare import MEASURES, Evaluated, require_same_images, require_same_protocol, value_at
from medlip.evaluation.published import published_table
from medlip.metrics.classification import over_seeds, p_of_no_mean

BY_SEED = (
    "means over seeds (lowest to highest); differences are paired by seed, with the 95 % interval of their mean and its "
    "p-value (Student's t, two-sided, not corrected for how many there are)"
)
Seeds = Mapping[int, Evaluated]
Numbers = dict[str, dict[str, float | None]]


def compare_seeds(evaluated: Sequence[Evaluated], *, quoted: Sequence[str] = ()) -> dict[str, Any]:
    """Put recipes side by side, each by the mean over its seeds, with differences to the first that are paired by seed.

    Results of one recipe, its seed aside, form a row. The protocol's own seed (of whatever it draws, such as the patients
    that keep their labels) may differ between seeds, not within one.

    Args:
        evaluated: the results, in any order; the first one's recipe is what the others are compared to.
        quoted: names of published tables to go along.

    Returns:
        Plain data as of `compare`, but a row is a recipe: `name` is what its folders' names begin with, `run` holds the
        recipe, the data it was trained on and `seeds`, and each measure has a `range` (lowest and highest; None of one seed)
        instead of an interval. A number says over how many `seeds` it is.

    Raises:
        MedLIPError: it is not known what trained a result, a recipe has a seed twice, or protocols, test images or labels
            differ.
    """
    groups = _by_recipe(evaluated)
    first, *others = groups
    reference = next(iter(first.values()))
    for seeds in groups:
        for seed, entry in seeds.items():
            require_same_protocol(reference, entry, but=("seed",))
            if seed in first:
                require_same_images(first[seed], entry)
                require_same_protocol(first[seed], entry)
    names = _names(groups)
    rows = [_row(name, seeds) for name, seeds in zip(names, groups, strict=True)]
    differences = [
        {"name": name, "to": names[0], **_differences(first, other)} for name, other in zip(names[1:], others, strict=True)
    ]
    return {
        "protocol": reference.result["protocol"],
        "results": rows,
        "differences": differences,
        "quoted": {name: published_table(name).model_dump(mode="json") for name in quoted},
        "notes": [*_notes(evaluated, groups, rows), BY_SEED],
    }


def _by_recipe(evaluated: Sequence[Evaluated]) -> list[Seeds]:
    """Return the results of each recipe by seed."""
    groups: dict[str, dict[int, Evaluated]] = {}
    for entry in evaluated:
        try:
            run = entry.result["run"]
            training = {**run["recipe"]["training"], "seed": None}
            key = json.dumps([{**run["recipe"], "training": training}, (run["data"] or {}).get("hash")], sort_keys=True)
            seed = run["seed"]
        except (KeyError, TypeError) as error:
            raise MedLIPError(
                f"{entry.name}: not known which recipe and seed trained it (that is kept in a run's folder)."
            ) from error
        seeds = groups.setdefault(key, {})
        if seed in seeds:
            raise MedLIPError(f"{entry.name} and {seeds[seed].name} are of one recipe and one seed, {seed}. Leave one out.")
        seeds[seed] = entry
    return [dict(sorted(seeds.items())) for seeds in groups.values()]


def _names(groups: Sequence[Seeds]) -> list[str]:
    """Return what the names of each recipe's folders begin with, up to a sign between words, or their first name."""
    folders = [[entry.name for entry in seeds.values()] for seeds in groups]
    begins = [re.sub(r"[-_./ ]+[^-_./ ]*$", "", commonprefix(names)) for names in folders]  # noqa: RUF071 (signs are meant)
    return [
        f"{begin if begin and begins.count(begin) == 1 and len(names) > 1 else names[0]} "
        f"({len(names)} seed{'s' if len(names) > 1 else ''})"
        for begin, names in zip(begins, folders, strict=True)
    ]


def _numbers(entry: Evaluated) -> Numbers:
    per_class = value_at(entry.result, "zero_shot/per_class") or {}
    return {
        "measures": {name: value_at(entry.result, value) for name, (value, _) in MEASURES.items()},
        "per_class": {name: values["auroc"] for name, values in per_class.items()},
    }


def _row(name: str, seeds: Seeds) -> dict[str, Any]:
    numbers = [_numbers(entry) for entry in seeds.values()]
    run = next(iter(seeds.values())).result["run"]
    row: dict[str, Any] = {"name": name, "run": {"recipe": run["recipe"], "data": run["data"], "seeds": list(seeds)}}
    for kind, of_first in numbers[0].items():
        row[kind] = {}
        for key in of_first:
            values = [value for each in numbers if (value := each[kind].get(key)) is not None]
            spread = over_seeds(values)
            row[kind][key] = {
                "value": spread and spread["mean"],
                "interval": None,
                "range": [spread["low"], spread["high"]] if spread and len(values) > 1 else None,
                "seeds": len(values),
            }
    return row


def _differences(first: Seeds, other: Seeds) -> dict[str, Any]:
    pairs = [(_numbers(first[seed]), _numbers(other[seed])) for seed in sorted(first.keys() & other.keys())]
    found: dict[str, Any] = {"measures": {}, "per_class": {}}
    for kind, entries in found.items():
        for name in pairs[0][0][kind] if pairs else ():
            both = [(one[kind].get(name), two[kind].get(name)) for one, two in pairs]
            values = [b - a for a, b in both if a is not None and b is not None]
            if spread := over_seeds(values):
                p = p_of_no_mean(values)
                entries[name] = {
                    "difference": spread["mean"], "interval": spread["interval"], "p": p, "seeds": len(values)
                }  # fmt: skip
    return found


def _notes(evaluated: Sequence[Evaluated], groups: Sequence[Seeds], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first, *others = groups
    for row, other in zip(rows[1:], others, strict=True):
        common = sorted(first.keys() & other.keys())
        if not common:
            yield f"{row['name']}: no seed in common with {rows[0]['name']}, so no difference to it can be paired"
        elif first.keys() != other.keys():
            yield f"{row['name']}: differences are over the seeds {', '.join(map(str, common))} alone, which both have"
    for row, seeds in zip(rows, groups, strict=True):
        few = [name for name, entry in row["measures"].items() if 0 < entry["seeds"] < len(seeds)]
        if few:
            yield f"{row['name']}: undefined with some of its seeds, and the mean of the others: {', '.join(few)}"
    drawn = sorted({entry.result["protocol"]["seed"] for entry in evaluated})
    if len(drawn) > 1:
        yield f"the protocol's own seed is {', '.join(map(str, drawn))}, along with the run's: the hash is that of the first"
