"""Results side by side: one protocol, the same images, differences with intervals and p-values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medlip.errors import MedLIPError
from medlip.evaluation.basis import RESULT
from medlip.evaluation.cases import CASES, Case, load_cases
from medlip.evaluation.outcomes import OUTCOMES, Outcomes, load_outcomes
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.published import published_table
from medlip.evaluation.retrieval import MEDIAN_RANK, PRECISIONS, QUERIES, RECALLS
from medlip.evaluation.retrieval import RESULT as RETRIEVED
from medlip.evaluation.zero_shot import SENSITIVITY
from medlip.metrics.classification import (
    Array,
    Difference,
    Statistic,
    interval,
    mean_defined,
    mean_statistic,
    median_statistic,
    number,
    paired_difference,
    ranking_statistic,
)

MEASURES = {
    "AUROC": ("zero_shot/macro_auroc", "zero_shot/interval"),
    "AUPRC": ("zero_shot/macro_auprc", "zero_shot/macro_auprc_interval"),
    "F1": ("zero_shot/macro_f1", ""),
    "accuracy": ("zero_shot/macro_accuracy", ""),
    "sensitivity at 0.9 specificity": (f"zero_shot/macro_{SENSITIVITY}", ""),
    "Brier": ("zero_shot/macro_brier", ""),
    "calibration error": ("zero_shot/macro_calibration_error", ""),
    "pointing game": ("grounding/pointing_game", "grounding/interval"),
    "contrast to noise": ("grounding/contrast_to_noise", "grounding/contrast_interval"),
    "IoU": ("grounding/iou", "grounding/iou_interval"),
    "Dice": ("grounding/dice", "grounding/dice_interval"),
    "segmentation Dice, positives": ("segmentation/dice_positives", "segmentation/dice_positives_interval"),
    "segmentation Dice, all images": ("segmentation/dice_all", "segmentation/dice_all_interval"),
    "segmentation IoU, positives": ("segmentation/iou", "segmentation/iou_interval"),
    "first place named": ("places/first_place/value", "places/first_place/interval"),
    "side told": ("places/side/value", "places/side/interval"),
    **{
        f"{title}, {name.replace('_', ' ')}": (f"{way}/{name}/value", f"{way}/{name}/interval")
        for way, title in (("image_to_text", "image to report"), ("text_to_image", "report to image"))
        for name in (*(f"recall_at_{k}" for k in RECALLS), MEDIAN_RANK)
    },
    **{
        f"images by class, precision at {k}": (
            f"classes/mean/precision_at_{k}/value",
            f"classes/mean/precision_at_{k}/interval",
        )
        for k in PRECISIONS
    },
}
"""Where a result has each measure, and its interval if it has one. Classification is the macro average."""

NAMED = 5
UNCORRECTED = "p-values are two-sided, of a paired bootstrap over patients, and not corrected for how many there are"
RANKED = ("AUROC", "AUPRC")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A result as `evaluate`, `transfer` (one level) or `retrieve` wrote it to a folder.

    Attributes:
        name: its folder, or file.
        result: what the file holds.
        predictions: the scores of every image, None where they were not kept, or there are none.
        outcomes: what became of every case, by measure; None where that was not kept.
        cases: the best and the worst case of findings, if they were kept.
    """

    name: str
    result: Mapping[str, Any]
    predictions: Predictions | None
    outcomes: Mapping[str, Outcomes] | None = None
    cases: Sequence[Case] = ()

    @classmethod
    def load(cls, path: Path) -> Evaluated:
        """Read a folder's result, or the file of one: in a folder that holds an evaluation and a retrieval, the former.

        Raises:
            MedLIPError: it holds no result, or a file is broken.
        """
        file = next((path / name for name in (RESULT, RETRIEVED) if (path / name).exists()), path)
        folder = file.parent
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if "levels" in result:
                levels = sorted(str(each.parent) for each in folder.rglob(RESULT) if each != file)
                raise MedLIPError(
                    f"{path}: holds the levels of a transfer. Compare results of one level: {', '.join(levels)}"
                )
            retrieved = "image_to_text" in result
            _ = result["protocol"]["hash"], retrieved or (result["zero_shot"], result["grounding"])
        except (FileNotFoundError, IsADirectoryError) as error:
            raise MedLIPError(
                f"{path}: no {RESULT} and no {RETRIEVED} in it. Run: medlip evaluate RUN --data SOURCE --out {path}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise MedLIPError(f"{file}: not the result of an evaluation ({error!r}). Evaluate again.") from error
        kept, became, shown = folder / PREDICTIONS, folder / (QUERIES if retrieved else OUTCOMES), folder / CASES
        return cls(
            str(path),
            result,
            Predictions.load(kept) if kept.exists() and not retrieved else None,
            load_outcomes(became) if became.exists() else None,
            load_cases(shown) if shown.exists() and not retrieved else (),
        )


def compare(
    evaluated: Sequence[Evaluated], *, quoted: Sequence[str] = (), resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Put results of one protocol side by side, and test what each differs by from the first.

    Args:
        evaluated: the results; the first is what the others are compared to.
        quoted: names of published tables to go along; see `medlip.evaluation.published`.
        resamples: of the paired bootstrap.
        seed: of the paired bootstrap.

    Returns:
        Plain data: the `protocol`; `results`, with name, `run`, each of `MEASURES` with its interval, and AUROC `per_class`;
        `differences` to the first, in the `measures` that images or cases were kept of and in AUROC `per_class`, each with
        interval and p; `quoted` tables; `notes`.

    Raises:
        MedLIPError: protocols, test images or labels differ; says in what. No published table of a name.
    """
    first = evaluated[0]
    for other in evaluated[1:]:
        require_same_images(first, other)
        require_same_protocol(first, other)
    tables = {name: published_table(name).model_dump(mode="json") for name in quoted}
    differences = [_difference(first, other, resamples=resamples, seed=seed) for other in evaluated[1:]]
    return {
        "protocol": first.result["protocol"],
        "results": [_row(entry) for entry in evaluated],
        "differences": differences,
        "quoted": tables,
        "notes": [*_notes(evaluated, differences), UNCORRECTED] if differences else [],
    }


def _notes(evaluated: Sequence[Evaluated], differences: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in evaluated:
        retrieved = "image_to_text" in entry.result
        missing = [
            name
            for name, lacking in (
                (PREDICTIONS, entry.result.get("zero_shot") and entry.predictions is None),
                (QUERIES if retrieved else OUTCOMES, _has_cases(entry) and entry.outcomes is None),
            )
            if lacking
        ]
        if missing:
            yield (
                f"{entry.name}: no {' and no '.join(missing)} to test differences on. "
                f"{'Retrieve' if retrieved else 'Evaluate'} again, with a new --out"
            )
    for difference in differences:
        for name, entry in difference["measures"].items():
            if entry.get("left_out"):
                yield (
                    f"{difference['name']}: the difference in {name} leaves {entry['left_out']} cases out, for which it is "
                    "not defined for both"
                )
    shown = [name for name, (path, _) in MEASURES.items() if all(value_at(e.result, path) is not None for e in evaluated)]
    untested = [name for name in shown if not any(name in difference["measures"] for difference in differences)]
    if untested:
        yield f"no difference is tested in {', '.join(untested)}"


def value_at(result: Mapping[str, Any], path: str) -> Any:
    """Return what a result holds at a path such as "grounding/iou", None where there is nothing."""
    found: Any = result
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _has_cases(entry: Evaluated) -> bool:
    return any(value_at(entry.result, part) for part in ("grounding", "segmentation", "places", "image_to_text"))


def _row(entry: Evaluated) -> dict[str, Any]:
    per_class = value_at(entry.result, "zero_shot/per_class") or {}
    return {
        "name": entry.name,
        "run": entry.result.get("run"),
        "measures": {
            name: {"value": value_at(entry.result, value), "interval": value_at(entry.result, ends) if ends else None}
            for name, (value, ends) in MEASURES.items()
        },
        "per_class": {
            name: {"value": values["auroc"], "interval": values["interval"]} for name, values in per_class.items()
        },
    }


def _difference(first: Evaluated, second: Evaluated, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return by how much the second differs from the first in what both kept image by image, or case by case."""
    macro, per_class = _ranking_differences(first, second, resamples, seed)
    measures = macro | {
        name: difference
        for name, (path, _) in MEASURES.items()
        if (difference := _case_difference(first, second, path, resamples, seed))
    }
    return {"name": second.name, "to": first.name, "measures": measures, "per_class": per_class}


def _ranking_differences(
    first: Evaluated, second: Evaluated, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the differences in macro AUROC and AUPRC, and in AUROC by class; nothing where predictions were not kept."""
    if first.predictions is None or second.predictions is None or not first.result["zero_shot"]:
        return {}, {}
    reference, classes = first.predictions, first.predictions.classes
    in_macro = np.isin(classes, first.result["zero_shot"]["classes_in_macro"])
    columns = [list(second.predictions.classes).index(name) for name in classes]
    scores = reference.scores, second.predictions.scores[:, columns]

    def with_macro(statistic: Statistic) -> Statistic:
        def both(weights: Array) -> Array:
            values = statistic(weights)
            macro = [mean_defined(values[:, kind][:, in_macro]) for kind in range(len(RANKED))]
            return np.column_stack([values[:, 0], *macro])

        return both

    one, other = (with_macro(ranking_statistic(each, reference.labels)) for each in scores)
    entries = _entries(paired_difference(one, other, reference.patients, resamples, seed))
    of_classes, macro = entries[: len(classes)], entries[len(classes) :]
    return dict(zip(RANKED, macro, strict=True)), dict(zip(classes, of_classes, strict=True))


def _case_difference(first: Evaluated, second: Evaluated, path: str, resamples: int, seed: int) -> dict[str, Any] | None:
    """Return the difference in a mean (a median, of ranks) over the cases for which it is defined for both."""
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
    summary = median_statistic if MEDIAN_RANK in path else mean_statistic
    before, after = (summary(each.values[defined]) for each in (one, other))
    found = paired_difference(
        lambda weights: before(weights)[:, None],
        lambda weights: after(weights)[:, None],
        np.array(one.patients)[defined],
        resamples,
        seed,
    )
    (entry,) = _entries(found)
    return entry | {"left_out": int((~defined).sum())}


def _entries(found: Difference) -> list[dict[str, Any]]:
    return [
        {"difference": number(value), "interval": interval(low, high), "p": number(p)}
        for value, low, high, p in zip(found.value, found.low, found.high, found.p, strict=True)
    ]


def require_same_protocol(first: Evaluated, second: Evaluated, but: Sequence[str] = ()) -> None:
    """Refuse results that can't share a column; they may differ in the fields that `but` names.

    Raises:
        MedLIPError: they differ, says in what.
    """
    one, other = (
        {key: value for key, value in entry.result["protocol"].items() if key not in ("name", "hash", *but)}
        | {"level": entry.result.get("level"), "draw": entry.result.get("draw", 0)}
        for entry in (first, second)
    )
    fields = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if not fields:
        return
    what = "; ".join(_differ(key, one.get(key), other.get(key)) for key in fields)
    raise MedLIPError(
        f"{second.name} was evaluated under another protocol than {first.name}, so they can't share a column. They differ "
        f"in {what}. Compare results of one protocol at a time, or evaluate again."
    )


def _differ(key: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        more = ", …" if len(names) > NAMED else ""
        return f"{key} (" + ", ".join(f"{n}: {one.get(n)!r} and {other.get(n)!r}" for n in names[:NAMED]) + f"{more})"
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
            more = ", …" if len(alone) > NAMED else ""
            raise MedLIPError(
                f"{first.name} and {second.name} were evaluated on different test images: {len(alone)} are only in {where}: "
                f"{', '.join(alone[:NAMED])}{more}. Evaluate both on the same data and split."
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
