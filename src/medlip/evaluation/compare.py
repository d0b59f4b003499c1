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
from medlip.evaluation.metrics import Array, auroc_statistic, interval, mean_defined, number, paired_difference
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.published import published_table
from medlip.evaluation.zero_shot import SENSITIVITY

MEASURES = {
    "AUROC": ("zero_shot", "macro_auroc", "interval"),
    "AUPRC": ("zero_shot", "macro_auprc", "macro_auprc_interval"),
    "F1": ("zero_shot", "macro_f1", ""),
    "accuracy": ("zero_shot", "macro_accuracy", ""),
    "sensitivity at 0.9 specificity": ("zero_shot", f"macro_{SENSITIVITY}", ""),
    "Brier": ("zero_shot", "macro_brier", ""),
    "calibration error": ("zero_shot", "macro_calibration_error", ""),
    "pointing game": ("grounding", "pointing_game", "interval"),
    "contrast to noise": ("grounding", "contrast_to_noise", "contrast_interval"),
    "IoU": ("grounding", "iou", "iou_interval"),
    "Dice": ("grounding", "dice", "dice_interval"),
    "segmentation Dice, positives": ("segmentation", "dice_positives", "dice_positives_interval"),
    "segmentation Dice, all images": ("segmentation", "dice_all", "dice_all_interval"),
    "segmentation IoU, positives": ("segmentation", "iou", "iou_interval"),
}
"""Where a result has each measure, and its interval if it has one. Classification is the macro average."""

NAMED = 5
UNCORRECTED = "p-values are two-sided, of a paired bootstrap over patients, and not corrected for how many there are"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A result as `evaluate` wrote it to a folder.

    Attributes:
        name: its folder.
        result: what result.json holds.
        predictions: the scores of every image, None where they were not kept.
        cases: the best and the worst case of findings, if they were kept.
    """

    name: str
    result: Mapping[str, Any]
    predictions: Predictions | None
    cases: Sequence[Case] = ()

    @classmethod
    def load(cls, folder: Path) -> Evaluated:
        """Read a folder.

        Raises:
            MedLIPError: it holds no result, or a file is broken.
        """
        file = folder / RESULT
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            _ = result["protocol"]["hash"], result["zero_shot"], result["grounding"]
        except FileNotFoundError as error:
            raise MedLIPError(
                f"{folder}: no {RESULT} in it. Run: medlip evaluate RUN --data SOURCE --out {folder}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise MedLIPError(f"{file}: not the result of an evaluation ({error!r}). Evaluate again.") from error
        kept, shown = folder / PREDICTIONS, folder / CASES
        return cls(
            str(folder),
            result,
            Predictions.load(kept) if kept.exists() else None,
            load_cases(shown) if shown.exists() else (),
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
        `differences` to the first in macro AUROC and by class, each with interval and p; `quoted` tables; `notes`.

    Raises:
        MedLIPError: protocols, test images or labels differ; says in what. No published table of a name.
    """
    first = evaluated[0]
    for other in evaluated[1:]:
        _require_same_images(first, other)
        _require_same_protocol(first, other)
    tables = {name: published_table(name).model_dump(mode="json") for name in quoted}
    notes = [
        f"{entry.name}: its {PREDICTIONS} is not there, so no difference to it can be tested. Evaluate with --out."
        for entry in evaluated
        if entry.predictions is None and len(evaluated) > 1
    ]
    differences = [
        difference for other in evaluated[1:] for difference in _differences(first, other, resamples=resamples, seed=seed)
    ]
    return {
        "protocol": first.result["protocol"],
        "results": [_row(entry) for entry in evaluated],
        "differences": differences,
        "quoted": tables,
        "notes": [*notes, *([UNCORRECTED] if differences else [])],
    }


def _row(entry: Evaluated) -> dict[str, Any]:
    measures = {}
    for name, (part, key, ends) in MEASURES.items():
        found = entry.result.get(part) or {}
        measures[name] = {"value": found.get(key), "interval": found.get(ends) if ends else None}
    zero_shot = entry.result["zero_shot"] or {"per_class": {}}
    return {
        "name": entry.name,
        "run": entry.result.get("run"),
        "measures": measures,
        "per_class": {
            name: {"value": values["auroc"], "interval": values["interval"]}
            for name, values in zero_shot["per_class"].items()
        },
    }


def _differences(first: Evaluated, second: Evaluated, *, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    if first.predictions is None or second.predictions is None or not first.result["zero_shot"]:
        return
    reference, classes = first.predictions, first.predictions.classes
    in_macro = np.isin(classes, first.result["zero_shot"]["classes_in_macro"])
    columns = [list(second.predictions.classes).index(name) for name in classes]
    statistics = [
        auroc_statistic(scores, reference.labels) for scores in (reference.scores, second.predictions.scores[:, columns])
    ]

    def with_macro(c: int, weights: Array) -> Array:
        values = statistics[c](weights)
        return np.column_stack([values, mean_defined(values[:, in_macro])])

    found = paired_difference(
        lambda weights: with_macro(0, weights), lambda weights: with_macro(1, weights), reference.patients, resamples, seed
    )
    entries = [
        {"difference": number(value), "interval": interval(low, high), "p": number(p)}
        for value, low, high, p in zip(found.value, found.low, found.high, found.p, strict=True)
    ]
    per_class = dict(zip(classes, entries[:-1], strict=True))
    yield {"name": second.name, "to": first.name, "macro_auroc": entries[-1], "per_class": per_class}


def _require_same_protocol(first: Evaluated, second: Evaluated) -> None:
    one, other = first.result["protocol"], second.result["protocol"]
    if one["hash"] == other["hash"]:
        return
    fields = [key for key in {**one, **other} if key not in ("name", "hash") and one.get(key) != other.get(key)]
    what = "; ".join(_difference(key, one.get(key), other.get(key)) for key in fields) or "its hash"
    raise MedLIPError(
        f"{second.name} was evaluated under another protocol than {first.name}, so they can't share a column. They differ "
        f"in {what}. Compare results of one protocol at a time, or evaluate again."
    )


def _difference(key: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        more = ", …" if len(names) > NAMED else ""
        return f"{key} (" + ", ".join(f"{n}: {one.get(n)!r} and {other.get(n)!r}" for n in names[:NAMED]) + f"{more})"
    return f"{key} ({one!r} and {other!r})"


def _require_same_images(first: Evaluated, second: Evaluated) -> None:
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
