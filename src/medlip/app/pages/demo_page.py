"""The demo's page: one self-contained HTML file that tells a person what was trained, how good it is, and shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from medlip.app.pages.pictures import jpeg, outline, paint, picture, with_cross
from medlip.app.pages.templates import fill_template
from medlip.app.reader import Reading
from medlip.concepts import Vocabulary
from medlip.data.store import Record
from medlip.evaluation.grounding import paint_boxes, peak

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Case:
    """One study of the test set with what the model read from its image, and pictures of its own with their captions."""

    record: Record
    reading: Reading
    pictures: Sequence[tuple[str, Image]] = ()


def render(
    metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]], cases: Sequence[Case], vocabulary: Vocabulary
) -> str:
    """Return the page as HTML.

    Args:
        metrics: what `metrics.json` holds: `zero_shot`, `grounding`, `n_images`, `seconds` and `made_by`.
        history: the lines of the run's `metrics.jsonl`.
        cases: studies to show, with masks; the matrix is that of the first with the most facts.
        vocabulary: gives names as people read them.
    """
    return fill_template("demo.html", **_context(metrics, history, cases, vocabulary))


def _context(
    metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]], cases: Sequence[Case], vocabulary: Vocabulary
) -> dict[str, Any]:
    demo = metrics["demo"]
    images, zero_shot = demo["images"], metrics["zero_shot"]
    return {
        "title": "MedLIP: from X-rays and reports to findings and their places",
        "lead": (
            f"A model learned from {images['train']:,} X-rays and their reports; no label, box or mask was ever shown to "
            f"it. Its image network started from {demo['start']}. On {metrics['n_images']:,} X-rays that it has never "
            "seen, it is asked what is there and where."
        ),
        "notice": (
            "The X-rays are phantoms, drawn by a program so that the truth is known to the pixel. The numbers say that "
            "the method works from end to end; they say nothing about patients."
        ),
        "tiles": list(_tiles(metrics)),
        "training": f"{demo['method']} Below, every loss by step, and as dots on validation images.",
        "settings": [(name, _text(value)) for name, value in demo["training"].items()],
        "charts": _charts(history),
        "classification": {
            "text": (
                "The model gets the name of a pathology and answers with a probability. AUROC is how often a "
                "positive image gets a higher one than a negative image: 0.5 is a coin, 1 is perfect. Thresholds for F1 and "
                "accuracy come from the validation images, never from these."
            ),
            "caption": (
                f"{metrics['n_images']:,} test images; intervals from {metrics['protocol']['resamples']:,} bootstrap "
                "samples of patients."
            ),
            "rows": list(_class_rows(zero_shot, vocabulary)),
        },
        "grounding": _grounding(metrics["grounding"], vocabulary),
        "cases_text": (
            "The first test studies that together show every finding once; none was picked by its result. "
            "Warm colours are where the model looks when it is asked for the finding; the cross is their maximum, a hit "
            "when it lies in the finding's box."
        ),
        "cases": [_case(case, vocabulary) for case in cases],
        "matrix": _matrix(cases, vocabulary),
        "matching": [_own_pictures(case) for case in cases if case.pictures],
        "command": demo["command"],
        "origin": [(name, _text(value)) for name, value in demo["origin"].items()],
        "version": metrics["versions"]["medlip"],
    }


def _tiles(metrics: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    zero_shot, grounding, demo = metrics["zero_shot"], metrics["grounding"], metrics["demo"]
    yield {
        "value": _number(zero_shot["macro_auroc"]),
        "label": "macro AUROC: is it there?",
        "beside": f"95 % interval {_interval(zero_shot['interval'])}; chance 0.500",
    }
    yield {
        "value": _number(grounding["pointing_game"]),
        "label": "pointing game: where is it?",
        "beside": f"95 % interval {_interval(grounding['interval'])}; chance {_number(grounding['chance'])}",
    }
    yield {
        "value": _number(grounding["iou"]),
        "label": "IoU of map and true mask",
        "beside": f"calling every pixel positive: {_number(grounding['all_ones_iou'])}",
    }
    yield {
        "value": _duration(metrics["seconds"]),
        "label": "from nothing to this page",
        "beside": demo["origin"]["Machine"],
    }


def _class_rows(zero_shot: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    yield {
        "name": "Macro average",
        "kind": "total",
        "positive": "",
        "range": _range(zero_shot["macro_auroc"], zero_shot["interval"]),
        "auroc": _number(zero_shot["macro_auroc"]),
        "interval": _interval(zero_shot["interval"]),
        "f1": _number(zero_shot["macro_f1"]),
        "accuracy": _number(zero_shot["macro_accuracy"]),
    }
    per_class = zero_shot["per_class"]
    for name in sorted(per_class, key=lambda name: -(per_class[name]["auroc"] or 0)):
        row, few = per_class[name], name not in zero_shot["classes_in_macro"]
        yield {
            "name": _display(name, vocabulary) + (" (not in the average)" if few else ""),
            "kind": "weak" if few else "",
            "positive": f"{row['positives']} of {row['n']}",
            "range": _range(row["auroc"], row["interval"]),
            "auroc": _number(row["auroc"]),
            "interval": _interval(row["interval"]),
            "f1": _number(row["f1"]),
            "accuracy": _number(row["accuracy"]),
        }


def _grounding(result: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    measures = (
        ("Pointing game", "pointing_game", "interval", "chance", "a random pixel"),
        ("Pointing game, released rule: any pixel of the cell", "pointing_game_any_pixel_of_cell", "", "", ""),
        ("Contrast to noise, 0 for a map that knows nothing", "contrast_to_noise", "contrast_interval", "", ""),
        ("IoU", "iou", "iou_interval", "all_ones_iou", "every pixel positive"),
        ("Dice", "dice", "dice_interval", "all_ones_dice", "every pixel positive"),
    )
    columns = {
        "Findings": "n",
        "Pointing game": "pointing_game",
        "Chance": "chance",
        "Contrast": "contrast_to_noise",
        "IoU": "iou",
        "All ones": "all_ones_iou",
        "Dice": "dice",
    }
    return {
        "text": (
            "Asked where a finding is, the model answers with a map over the image. Pointing game: is its maximum inside a "
            "box of the finding? Contrast to noise: how far does it stand out there? IoU and Dice: how well does the map, "
            "cut at a threshold from the validation images, cover the true mask?"
        ),
        "caption": f"{result['n']:,} present findings with a box or mask in the test images.",
        "rows": [
            {
                "name": name,
                "value": _number(result[key]),
                "interval": _interval(result[interval]) if interval else "",
                "baseline": _number(result[baseline]) if baseline else "",
                "what": what,
            }
            for name, key, interval, baseline, what in measures
        ],
        "columns": list(columns),
        "per_class": [
            {"name": _display(name, vocabulary), "values": [_number(row[key]) for key in columns.values()]}
            for name, row in sorted(result["per_class"].items(), key=lambda item: -item[1]["pointing_game"])
        ],
    }


def _case(case: Case, vocabulary: Vocabulary) -> dict[str, Any]:
    record = case.record
    height, width = record.image.shape
    names = list(dict.fromkeys(mask.pathology for mask in record.masks))
    shown = ", ".join(_display(name, vocabulary).lower() for name in names)
    return {
        "title": f"Study {record.study}",
        "image": jpeg(picture(record.image)),
        "alt": f"Chest X-ray of study {record.study}, with {shown}",
        "width": width,
        "height": height,
        "report": record.report,
        "findings": [_finding(case, name, vocabulary) for name in names],
    }


def _finding(case: Case, name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    record, reading = case.record, case.reading
    masks = [mask for mask in record.masks if mask.pathology == name]
    truth = np.any([mask.pixels for mask in masks], axis=0)
    boxes = [box for box in record.boxes if box.pathology == name]
    heat = reading.heat_map(name)
    top = peak(heat.astype(float))
    hit = top is not None and bool((paint_boxes(boxes, heat.shape) if boxes else truth)[top])
    found = next(finding for finding in reading.findings if finding.pathology == name)
    display = _display(name, vocabulary)
    places = {a.name: a.display for a in vocabulary.anatomies}
    where = " and ".join(dict.fromkeys(places[mask.anatomy].lower() for mask in masks if mask.anatomy in places))
    read_at = places[found.anatomies[0].anatomy].lower() if found.anatomies else ""
    return {
        "name": display,
        "text": f"Truth: {where or 'present'}. Model: {_percent(found.probability)}" + (f", {read_at}." if read_at else "."),
        "truth": jpeg(outline(record.image, truth)),
        "truth_alt": f"The X-ray with the true mask of {display.lower()} outlined",
        "heat": jpeg(with_cross(paint(record.image, heat), top)),
        "heat_alt": f"The X-ray with the model's heat map of {display.lower()}, a {'hit' if hit else 'miss'}",
        "hit": hit,
    }


def _own_pictures(case: Case) -> dict[str, Any]:
    figures = [{"text": text, "image": jpeg(shown)} for text, shown in case.pictures]
    return {"title": f"Study {case.record.study}", "figures": figures}


def _matrix(cases: Sequence[Case], vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return the matrix of the case with the most findings, cut to the findings and places of all cases."""
    known = [case for case in cases if case.reading.knows_places]
    if not known:
        return None
    case = max(known, key=lambda case: len(case.record.masks))
    truth = {(mask.anatomy, mask.pathology) for mask in case.record.masks}
    masks = [mask for other in cases for mask in other.record.masks]
    columns = [p for p in vocabulary.pathologies if any(mask.pathology == p.name for mask in masks)]
    rows = [a for a in vocabulary.anatomies if any(mask.anatomy == a.name for mask in masks)]
    pairs = case.reading.matrix()
    at = vocabulary.anatomy_index, vocabulary.pathology_index
    return {
        "text": (
            f"Study {case.record.study}: every cell is the model's probability, in percent and from the image alone, that "
            "the pathology of its column is in the anatomy of its row; the places of a pathology share its probability. "
            "Frames are the truth: what was drawn, and where."
        ),
        "columns": [pathology.display for pathology in columns],
        "rows": [
            {
                "name": anatomy.display,
                "cells": [
                    _cell(
                        float(pairs[at[0][anatomy.name], at[1][pathology.name]]),
                        (anatomy.name, pathology.name) in truth,
                        f"{pathology.display}, {anatomy.display}",
                    )
                    for pathology in columns
                ],
            }
            for anatomy in rows
        ],
    }


def _cell(probability: float, present: bool, name: str) -> dict[str, str]:
    return {
        "shade": f"{probability**0.5:.2f}",  # shared by its places, a probability is small: it must show all the same
        "text": f"{100 * probability:.0f}" if probability >= 0.005 else "·",
        "kind": " ".join(kind for kind, holds in (("present", present), ("likely", probability >= 0.4)) if holds),
        "title": f"{name}: model {_percent(probability)}, truth: {'present' if present else 'absent'}",
    }


def _charts(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One chart for the total and one for every named loss term."""
    learned = [line for line in history if "losses" in line]
    checked = [(line["step"], line["validation"]) for line in history if "validation" in line]
    steps = [line["step"] for line in learned]
    return [
        {
            "title": name.replace("_", " "),
            "note": f"from {values[0]:.2f} to {smooth(values)[-1]:.2f}",
            "svg": _line_chart(steps, values, [(step, terms[name]) for step, terms in checked], f"{name} loss by step"),
        }
        for name in learned[0]["losses"]
        for values in [[line["losses"][name] for line in learned]]
    ]


def smooth(values: Sequence[float]) -> list[float]:
    """Return running means over a twentieth of the series on either side."""
    reach = len(values) // 20
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def _line_chart(xs: Sequence[float], ys: Sequence[float], dots: Sequence[tuple[float, float]], title: str) -> str:
    width, height, left, right, top, bottom = 340, 170, 42, 8, 10, 24
    low, high = min([*ys, *(y for _, y in dots)]), max(ys)
    span = (high - low) or 1

    def across(x: float) -> str:
        return f"{left + x / xs[-1] * (width - left - right):.1f}"

    def down(y: float) -> str:
        return f"{top + (high - y) / span * (height - top - bottom):.1f}"

    grid = "".join(
        f'<path class="grid" d="M{left} {down(y)}H{width - right}"/>'
        f'<text x="{left - 6}" y="{down(y)}" dy="4" text-anchor="end">{y:.2f}</text>'
        for y in (low, low + span / 2, high)
    )
    lines = "".join(
        f'<polyline class="{kind}" points="{" ".join(f"{across(x)},{down(y)}" for x, y in zip(xs, values, strict=True))}"/>'
        for kind, values in (("raw", ys), ("smooth", smooth(ys)))
    )
    lines += "".join(f'<circle cx="{across(x)}" cy="{down(y)}" r="3"/>' for x, y in dots)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{grid}{lines}'
        f'<text x="{left}" y="{height - 6}">0</text>'
        f'<text x="{width - right}" y="{height - 6}" text-anchor="end">step {xs[-1]:,}</text></svg>'
    )


def _range(value: float | None, interval: Sequence[float] | None) -> str:
    """Draw a value and its interval on a line from 0 to 1, with chance as a mark at 0.5."""
    bar = (
        f'<rect x="{180 * interval[0]:.1f}" y="8.5" width="{180 * (interval[1] - interval[0]):.1f}" height="3" rx="1.5"/>'
        if interval
        else ""
    )
    dot = f'<circle cx="{180 * value:.1f}" cy="10" r="4.5"/>' if value is not None else ""
    return (
        '<svg viewBox="-6 0 192 20" aria-hidden="true" style="fill:var(--accent)"><path d="M0 10H180" stroke="var(--line)"/>'
        f'<path d="M90 2V18" stroke="var(--warm)" stroke-width="1.5" stroke-dasharray="2 2"/>{bar}{dot}</svg>'
    )


def _display(name: str, vocabulary: Vocabulary) -> str:
    pathology = vocabulary.find_pathology(name)
    return pathology.display if pathology else name


def _number(value: float | None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "undefined" if value is None or math.isnan(value) else f"{value:.3f}"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "undefined"


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
