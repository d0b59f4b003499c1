"""The demo's page: one self-contained HTML file that tells a person what was trained, how good it is, and shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from medlip.about import DISCLAIMER
from medlip.app.pages.curves import Curve, Panel, draw, smooth
from medlip.app.pages.pictures import jpeg, legend, outline, paint, picture, with_cross
from medlip.app.pages.templates import fill_template
from medlip.evaluation.regions import paint_boxes
from medlip.evaluation.results import Result
from medlip.evaluation.tables import result_tables_by_task
from medlip.evaluation.tasks import find_task, task_measures
from medlip.metrics import peak
from medlip.tables import Table, ends, number

if TYPE_CHECKING:
    from PIL.Image import Image

    from medlip.app.reading import Reading
    from medlip.concepts import Vocabulary
    from medlip.data.store import Record


class DemoFacts(BaseModel):
    """What made a demo's result, for people.

    Attributes:
        command: as it was given.
        images: how many there are of each split.
        method: how it learns.
        start: which weights its image network started from.
        training: settings and counts by name.
        origin: seeds, machine, versions by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    images: dict[str, int]
    method: str
    start: str
    training: dict[str, str]
    origin: dict[str, str]


class DemoResult(Result):
    """The result of the demo's evaluation, with the `seconds` of the whole demo, and what made it."""

    demo: DemoFacts


@dataclass(frozen=True, slots=True)
class ShownStudy:
    """One study of the test set with what the model read from its image, and pictures of its own with their captions."""

    record: Record
    reading: Reading
    pictures: Sequence[tuple[str, Image]] = ()


class LogLine(BaseModel):
    """A line of a run's `metrics.jsonl`: a step with every named loss term in training, in validation, or neither."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    losses: dict[str, float] = {}
    validation: dict[str, float] = {}


def render(result: DemoResult, history: Sequence[LogLine], studies: Sequence[ShownStudy], vocabulary: Vocabulary) -> str:
    """Return the page as HTML.

    Args:
        result: what `metrics.json` holds.
        history: the lines of the run's `metrics.jsonl`.
        studies: to show, with masks; the matrix is that of the first with the most facts.
        vocabulary: gives names as people read them.
    """
    demo = result.demo
    return fill_template(
        "demo.html",
        title="MedLIP: from X-rays and reports to findings and their places",
        lead=(
            f"A model learned from {demo.images['train']:,} X-rays and their reports; no label, box or mask was ever shown "
            f"to it. Its image network started from {demo.start}. On {result.n_images:,} X-rays that it has never seen, it "
            "is asked what is there and where."
        ),
        notice=(
            "The X-rays are phantoms, drawn by a program so that the truth is known to the pixel. The numbers say that the "
            "method works from end to end; they say nothing about patients."
        ),
        tiles=list(_tiles(result)),
        training=f"{demo.method} Below, every loss by step, and as dots on validation images.",
        settings=demo.training,
        charts=_loss_curves(history),
        tasks=list(_sections(result)),
        studies=[_study(study, vocabulary) for study in studies],
        legend=legend(all(study.reading.absolute_maps for study in studies)),
        matrix=_matrix(studies, vocabulary),
        matching=[
            {"title": f"Study {study.record.study}", "figures": [(text, jpeg(shown)) for text, shown in study.pictures]}
            for study in studies
            if study.pictures
        ],
        command=demo.command,
        origin=demo.origin,
        version=result.versions["medlip"],
        disclaimer=DISCLAIMER,
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that stands large on the page."""

    value: str
    label: str
    beside: str


@dataclass(frozen=True, slots=True)
class PageSection:
    """What a task found: its question, its tables, and what chance means in them."""

    name: str
    title: str
    question: str
    tables: Sequence[Table]
    chances: str


def _tiles(result: DemoResult) -> Iterator[Tile]:
    """Yield the first measure of every task, and how long it all took."""
    for name, found in result.tasks.items():
        first = task_measures(name)[0]
        one = found.estimates.get(first.name)
        if one is None or one.value is None:
            continue
        beside = [f"95 % interval {ends(one.interval)}"] if one.interval else []
        beside += [f"chance {number(one.chance)}"] if one.chance is not None else []
        yield Tile(number(one.value), f"{first.title}: {find_task(name).title}", "; ".join(beside))
    minutes, seconds = divmod(round(result.seconds or 0), 60)
    duration = f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
    yield Tile(duration, "from nothing to this page", result.demo.origin["Machine"])


def _sections(result: DemoResult) -> Iterator[PageSection]:
    by_task = result_tables_by_task(result)
    for name, found in by_task.items():
        task = find_task(name)
        question = (task.__doc__ or "").strip().split("\n")[0]
        chances = [f"{each.title}: {each.chance}" for each in task_measures(name) if each.chance]
        yield PageSection(name, task.title, question, found, "; ".join(chances))


def _loss_curves(history: Sequence[LogLine]) -> str:
    """Draw every named term of the loss by step, with dots on validation images."""
    learned = [line for line in history if line.losses]
    checked = [line for line in history if line.validation]
    steps = [line.step for line in learned]
    panels = []
    for name in learned[0].losses if learned else ():
        values = [line.losses[name] for line in learned]
        curves = [Curve("", steps, values, "faint"), Curve("training, running mean", steps, smooth(values))]
        if dots := [(line.step, line.validation[name]) for line in checked if name in line.validation]:
            curves.append(Curve("validation", [step for step, _ in dots], [value for _, value in dots], "o"))
        panels.append(Panel(name.replace("_", " "), curves))
    return draw(panels, "losses") if panels else ""


def _study(study: ShownStudy, vocabulary: Vocabulary) -> dict[str, object]:
    record = study.record
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
        "findings": [_finding(study, name, vocabulary) for name in names],
    }


def _finding(study: ShownStudy, name: str, vocabulary: Vocabulary) -> dict[str, object]:
    record, reading = study.record, study.reading
    masks = [mask for mask in record.masks if mask.pathology == name]
    truth = np.any([mask.pixels for mask in masks], axis=0)
    boxes = [box for box in record.boxes if box.pathology == name]
    heat = reading.heat_map(name)
    top = peak(heat.astype(float))
    hit = top is not None and bool((paint_boxes(boxes, heat.shape) if boxes else truth)[top])
    found = reading.finding(name)
    display = _display(name, vocabulary)
    anatomies = {anatomy.name: anatomy.display for anatomy in vocabulary.anatomies}
    where = " and ".join(dict.fromkeys(anatomies[mask.anatomy].lower() for mask in masks if mask.anatomy in anatomies))
    model = f"Model: {100 * found.probability:.0f} %"
    if found.anatomies:
        best = found.anatomies[0]
        model += f", {anatomies[best.anatomy].lower()} {100 * best.probability:.0f} %"
    elif reading.places_above is not None:
        model += f", no place at {100 * reading.places_above:g} % or above"
    return {
        "name": display,
        "text": f"Truth: {where or 'present'}. {model}.",
        "truth": jpeg(outline(record.image, truth)),
        "truth_alt": f"The X-ray with the true mask of {display.lower()} outlined",
        "heat": jpeg(with_cross(paint(record.image, heat), top)),
        "heat_alt": f"The X-ray with the model's heat map of {display.lower()}, a {'hit' if hit else 'miss'}",
        "hit": hit,
    }


def _matrix(studies: Sequence[ShownStudy], vocabulary: Vocabulary) -> dict[str, object] | None:
    """Return the matrix of the study with the most findings, cut to the findings and anatomies of all shown."""
    known = [study for study in studies if study.reading.knows_places]
    if not known:
        return None
    study = max(known, key=lambda each: len(each.record.masks))
    truth = {(mask.anatomy, mask.pathology) for mask in study.record.masks}
    masks = [mask for other in studies for mask in other.record.masks]
    columns = [p for p in vocabulary.pathologies if any(mask.pathology == p.name for mask in masks)]
    rows = [a for a in vocabulary.anatomies if any(mask.anatomy == a.name for mask in masks)]
    pairs, above = study.reading.matrix().to_numpy(), study.reading.places_above or 0.0
    at = vocabulary.anatomy_index, vocabulary.pathology_index
    return {
        "text": (
            f"Study {study.record.study}: every cell is the model's probability, in percent and from the image alone, that "
            "the pathology of its column is in the anatomy of its row; the anatomies of a pathology share its probability. "
            f"Below {100 * above:g} % there is a dot. Frames are the truth: what was drawn, and where."
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
                        above,
                    )
                    for pathology in columns
                ],
            }
            for anatomy in rows
        ],
    }


def _cell(probability: float, present: bool, name: str, above: float) -> dict[str, str]:
    return {
        "shade": f"{probability**0.5:.2f}",  # shared by its anatomies, a probability is small: it must show all the same
        "text": f"{100 * probability:.0f}" if probability >= above else "·",
        "kind": " ".join(kind for kind, holds in (("present", present), ("likely", probability >= 0.4)) if holds),
        "title": f"{name}: model {100 * probability:.0f} %, truth: {'present' if present else 'absent'}",
    }


def _display(name: str, vocabulary: Vocabulary) -> str:
    pathology = vocabulary.find_pathology(name)
    return pathology.display if pathology else name
