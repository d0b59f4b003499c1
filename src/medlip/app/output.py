"""What a command answers: one JSON document for machines, or text for people; never both."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

P = ParamSpec("P")

NOT_A_DEVICE = "Research software, not a medical device: not for use on patients."
SHOWN = 8
SKIPPED = 3  # exit code

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Data = Annotated[str, typer.Option("--data", help="A prepared store, or phantom:N, openi:DIR, nih:DIR.", metavar="SOURCE")]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command.

    Attributes:
        document: plain data, what `--json` prints.
        text: the same for a person.
        problem: what went wrong with a part of the work, "" for nothing; the command then ends with exit code 1.
        skipped: what was left out of work that is done otherwise, "" for nothing; the exit code is then 3.
    """

    document: Any
    text: str
    problem: str = ""
    skipped: str = ""


def answers(command: Callable[P, Answer]) -> Callable[P, None]:
    """Make a command of a function that takes `as_json` and returns its `Answer`.

    With `--json`, whatever else is printed on the way goes to stderr, so that stdout holds the document alone.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs["as_json"])
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            answer = command(*args, **kwargs)
        print(to_json(answer.document) if as_json else answer.text)
        if answer.problem:
            print(f"error: {answer.problem}", file=sys.stderr)
            raise typer.Exit(1)
        if answer.skipped:
            print(f"note: {answer.skipped}", file=sys.stderr)
            raise typer.Exit(SKIPPED)

    return run


def to_json(document: Any) -> str:
    """Write plain data as JSON that any parser takes: NaN and infinity become null, paths become text."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def table(rows: Sequence[Sequence[object]]) -> str:
    """Align rows in columns, the first to the left and the rest to the right; floats get three decimals."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def describe_results(result: Mapping[str, Any]) -> str:
    """Return the result of an evaluation as text for a person."""
    zero_shot, grounding, segmentation = (result.get(part) for part in ("zero_shot", "grounding", "segmentation"))
    parts = [note for note in result.get("notes", ()) if note.startswith("WARNING")]
    parts += [f"{result['n_images']:,} images of the split {result['split']}, {result['n_patients']:,} patients"]
    if zero_shot:
        rows: list[list[Any]] = [["zero-shot AUROC (chance 0.5)", "value", "95 % interval", "positives", "F1", "accuracy"]]
        rows.append(["macro average", zero_shot["macro_auroc"], zero_shot["interval"], None, zero_shot["macro_f1"],
                     zero_shot["macro_accuracy"]])  # fmt: skip
        rows += [
            [name, row["auroc"], row["interval"], row["positives"], row["f1"], row["accuracy"]]
            for name, row in zero_shot["per_class"].items()
        ]
        parts += [table(rows), f"Thresholds: {zero_shot['threshold_rule']}."]
    if grounding:
        parts.append(
            table(
                [
                    [f"grounding, {grounding['n']:,} findings", "value", "95 % interval", "without a model"],
                    ["pointing game", grounding["pointing_game"], grounding["interval"], grounding["chance"]],
                    ["contrast to noise", grounding["contrast_to_noise"], grounding["contrast_interval"], 0.0],
                    ["IoU", grounding["iou"], grounding["iou_interval"], grounding["all_ones_iou"]],
                    ["Dice", grounding["dice"], grounding["dice_interval"], grounding["all_ones_dice"]],
                ]
            )
        )
    if segmentation:
        counted = f"{segmentation['n_positives']:,} positives, {segmentation['n_negatives']:,} negatives"
        rows = [
            [f"segmentation, {counted}", "value", "95 % interval", "all pixels", "no pixel"],
            ["Dice over positives", *_segmented(segmentation, "dice_positives"), 0.0],
            ["Dice over all", *_segmented(segmentation, "dice_all"), segmentation["all_empty_dice_all"]],
            ["IoU over positives", *_segmented(segmentation, "iou"), 0.0],
        ]
        parts.append(table(rows))
    if places := result.get("places"):
        rows = [["where a finding is said to be", "value", "95 % interval", "chance", "findings"]]
        for key, title in (("first_place", "first place named is right"), ("side", "side is right")):
            if entry := places[key]:
                rows.append([title, entry["value"], entry["interval"], entry["chance"], entry["n"]])
        parts.append(table(rows))
    return "\n\n".join([*parts, NOT_A_DEVICE])


def describe_retrieval(result: Mapping[str, Any]) -> str:
    """Return the result of a retrieval as text for a person."""
    parts = [note for note in result["notes"] if note.startswith("WARNING")]
    parts.append(
        f"{result['n_images']:,} images of the split {result['split']}, {result['n_patients']:,} patients; "
        f"{result['n_reports']:,} reports to tell apart"
    )
    rows: list[list[Any]] = [["retrieval", "value", "95 % interval", "chance"]]
    for key, direction in (("image_to_text", "image to report"), ("text_to_image", "report to image")):
        numbers = ((name, entry) for name, entry in result[key].items() if isinstance(entry, Mapping))
        rows += [
            [f"{direction}, {name.replace('_', ' ')}", entry["value"], entry["interval"], entry["chance"]]
            for name, entry in numbers
        ]
    parts.append(table(rows))
    if classes := result["classes"]:
        every = [classes["mean"], *classes["per_class"].values()]
        measures = [name for name in every[-1] if name.startswith("precision")]
        measures = [name for name in measures if any(row[name]["value"] is not None for row in every)]
        rows = [["images by class", *(cell for name in measures for cell in (name.replace("_", " "), "95 % interval")),
                 "chance", "positives"]]  # fmt: skip
        for name, row in {"mean": classes["mean"], **classes["per_class"]}.items():
            cells = (cell for measure in measures for cell in (row[measure]["value"], row[measure]["interval"]))
            rows.append([name, *cells, row["precision_at_5"]["chance"], row.get("positives")])
        parts.append(table(rows))
    return "\n\n".join([*parts, NOT_A_DEVICE])


def describe_reading(entry: Mapping[str, Any]) -> str:
    """Return what was read from one image, as `medlip predict` has it, as text for a person."""
    if "error" in entry:
        return f"{entry['image']}\n  not read: {entry['error']}"
    rows = [
        [finding["pathology"], finding["probability"], ", ".join(place["anatomy"] for place in finding["anatomies"][:2])]
        for finding in entry["findings"][:SHOWN]
    ] + [[question["text"], question["probability"], "(asked)"] for question in entry["asked"]]
    return f"{entry['image']}\n{table(rows)}\n{NOT_A_DEVICE}"


def _segmented(result: Mapping[str, Any], name: str) -> list[Any]:
    return [result[name], result[f"{name}_interval"], result[f"all_ones_{name}"]]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
