"""Results of several seeds side by side: the spread over trainings, which an interval over patients of one can't show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonprefix

from medlip.errors import MedLIPError
from medlip.evaluation.compare import (
    ComparedDifference,
    ComparedResult,
    Comparison,
    Evaluated,
    PairedDifference,
    map_rules_note,
    measure_titles,
    require_same_images,
    require_same_protocol,
)
from medlip.evaluation.published import published_table
from medlip.metrics import Estimate, over_seeds, p_of_no_mean
from medlip.training.recipe import recorded_recipe

BY_SEED = (
    "means over seeds (lowest to highest); differences are paired by seed, with the 95 % interval of their mean and its "
    "p-value (Student's t, two-sided, not corrected for how many there are)"
)
Seeds = Mapping[int, Evaluated]
Values = Mapping[str, Estimate]


class SeedEstimate(Estimate):
    """The mean of a number over seeds.

    Attributes:
        range: lowest and highest; None of one seed.
        seeds: for how many of them it is defined.
    """

    range: tuple[float, float] | None
    seeds: int


def compare_seeds(evaluated: Sequence[Evaluated], *, quoted: Sequence[str] = ()) -> Comparison:
    """Put recipes side by side, each by the mean over its seeds, with differences to the first that are paired by seed.

    Results of one recipe, its seed aside, form a row. The protocol's own seed (of whatever it draws, such as the patients
    that keep their labels) may differ between seeds, not within one.

    Args:
        evaluated: the results, in any order; the first one's recipe is what the others are compared to.
        quoted: names of published tables to go along.

    Returns:
        A comparison in which a result is a recipe: `name` is what its folders' names begin with, `run` holds the recipe,
        the data it was trained on and `seeds`, and its numbers are `SeedEstimate`s.

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
    return Comparison(
        protocol=reference.result.protocol,
        results=rows,
        differences=[_difference(name, other, names[0], first) for name, other in zip(names[1:], others, strict=True)],
        quoted={name: published_table(name) for name in quoted},
        notes=[*_notes(evaluated, groups, rows), BY_SEED],
    )


def _by_recipe(evaluated: Sequence[Evaluated]) -> list[Seeds]:
    """Return the results of each recipe by seed."""
    groups: dict[str, dict[int, Evaluated]] = {}
    for entry in evaluated:
        run = entry.result.run
        try:
            if run is None:
                raise KeyError("run")
            recipe, data, seed = run["recipe"], run["data"], run["seed"]
            assert isinstance(recipe, dict) and isinstance(recipe["training"], dict) and isinstance(seed, int)
            known = data.get("hash") if isinstance(data, dict) else None
            whole = recorded_recipe(recipe)
            key = json.dumps([{**whole, "training": {**whole["training"], "seed": None}}, known], sort_keys=True)
        except (KeyError, AssertionError) as error:
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


def _row(name: str, seeds: Seeds) -> ComparedResult:
    run = next(iter(seeds.values())).result.run or {}
    return ComparedResult(
        name=name,
        run={"recipe": run["recipe"], "data": run["data"], "seeds": list(seeds)},
        measures=_means([entry.estimates for entry in seeds.values()]),
        per_class={
            key: _means([entry.class_estimates.get(key, {}) for entry in seeds.values()])
            for key in next(iter(seeds.values())).class_estimates
        },
    )


def _means(of_seeds: Sequence[Values]) -> dict[str, Estimate]:
    means: dict[str, Estimate] = {}
    for key in of_seeds[0]:
        values = [each[key].value for each in of_seeds if key in each]
        spread = over_seeds([value for value in values if value is not None])
        several = spread is not None and len(spread.values) > 1
        means[key] = SeedEstimate(
            value=spread and spread.mean,
            chance=of_seeds[0][key].chance,
            range=(spread.low, spread.high) if spread and several else None,
            seeds=len(spread.values) if spread else 0,
        )
    return means


def _difference(name: str, other: Seeds, to: str, first: Seeds) -> ComparedDifference:
    pairs = [(first[seed], other[seed]) for seed in sorted(first.keys() & other.keys())]
    keys = pairs[0][0].class_estimates if pairs else {}
    return ComparedDifference(
        name=name,
        to=to,
        measures=_paired([(one.estimates, two.estimates) for one, two in pairs]),
        per_class={
            key: found
            for key in keys
            if (found := _paired([(a.class_estimates.get(key, {}), b.class_estimates.get(key, {})) for a, b in pairs]))
        },
    )


def _paired(pairs: Sequence[tuple[Values, Values]]) -> dict[str, PairedDifference]:
    differences = {}
    for key in pairs[0][0] if pairs else ():
        both = [(one[key].value, two[key].value) for one, two in pairs if key in one and key in two]
        values = [b - a for a, b in both if a is not None and b is not None]
        if spread := over_seeds(values):
            differences[key] = PairedDifference(
                value=spread.mean, interval=spread.interval, p=p_of_no_mean(values), seeds=len(values)
            )
    return differences


def _notes(evaluated: Sequence[Evaluated], groups: Sequence[Seeds], rows: Sequence[ComparedResult]) -> Iterator[str]:
    yield from map_rules_note(evaluated)
    first, *others = groups
    for row, other in zip(rows[1:], others, strict=True):
        shared = sorted(first.keys() & other.keys())
        if not shared:
            yield f"{row.name}: no seed in common with {rows[0].name}, so no difference to it can be paired"
        elif first.keys() != other.keys():
            yield f"{row.name}: differences are over the seeds {', '.join(map(str, shared))} alone, which both have"
    titles = measure_titles()
    for row, seeds in zip(rows, groups, strict=True):
        few = [
            titles[key] for key, one in row.measures.items() if isinstance(one, SeedEstimate) and 0 < one.seeds < len(seeds)
        ]
        if few:
            yield f"{row.name}: undefined with some of its seeds, and the mean of the others: {', '.join(few)}"
    drawn = sorted({entry.result.protocol.seed for entry in evaluated})
    if len(drawn) > 1:
        yield f"the protocol's own seed is {', '.join(map(str, drawn))}, along with the run's: the hash is that of the first"
