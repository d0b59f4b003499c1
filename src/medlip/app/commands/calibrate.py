"""`medlip calibrate`: probabilities that hold and thresholds that are stated, from data beside the training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medlip.app.answer import Answer
from medlip.app.options import Data, Device, Precision, Run
from medlip.errors import MedLIPError
from medlip.tables import Table, count, ends, number, write_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medlip.evaluation.calibration import Calibration
    from medlip.metrics import Estimate


def calibrate(
    run: Run,
    data: Data,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split to calibrate on. Default: val if present, otherwise test.", metavar="NAME"),
    ] = None,
    truth: Annotated[
        Literal["auto", "labels", "reports"],
        typer.Option("--truth", help="What counts as the truth; auto is labels if there are any, otherwise reports."),
    ] = "auto",
    curve: Annotated[
        Literal["auto", "platt", "isotonic"],
        typer.Option("--curve", help="From score to probability; auto is isotonic for findings with many images."),
    ] = "auto",
    at: Annotated[
        str,
        typer.Option("--at", help="Thresholds to use by default: sensitivity=X or specificity=X.", metavar="POINT"),
    ] = "specificity=0.9",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write. Default: calibration.json in the run's folder.", metavar="FILE"),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Calibrate a run's probabilities, and choose thresholds.

    For each finding, a curve from the model's score to a probability, thresholds for any sensitivity or specificity, and how
    far its side is known, on data that the run wasn't trained on. `medlip predict` then uses them.
    """
    from medlip.app.input import evaluation_store
    from medlip.evaluation.calibration import OperatingPoint
    from medlip.evaluation.calibration import calibrate as measure
    from medlip.nn.device import autocast
    from medlip.training import load_run
    from medlip.training.load import CALIBRATION

    point = OperatingPoint.parse(at)
    method = load_run(run, device)
    if out is None and method.folder is None:
        raise MedLIPError(
            f"{run}: is no run's folder to keep {CALIBRATION} in. Give --out FILE, or convert it to a run first."
        )
    with evaluation_store(data) as store, autocast(method.device, precision):
        found = measure(method, store, split=split, truth=None if truth == "auto" else truth, kind=curve, at=point)
    file = out or Path(method.folder or "", CALIBRATION)
    file.parent.mkdir(parents=True, exist_ok=True)
    found.save(file)
    return Answer(found, f"{write_tables(calibration_tables(found))}\n\nCalibration: {file}", notes=found.notes)


def calibration_tables(found: Calibration) -> Iterator[Table]:
    """Yield the tables of a calibration: what its findings gained, and what is known of places."""
    calibrated = {name: one for name, one in found.findings.items() if one.curve is not None}
    yield Table(
        f"{found.images:,} images of {', '.join(found.sources)} ({found.split}), {found.patients:,} patients",
        ["finding", "images", "positives", "curve", "calibration error", "after", f"threshold for {found.at}",
         "sensitivity", "specificity"],
        [
            [name, count(one.images), count(one.positives), one.curve.kind if one.curve else "",
             _value(one.calibration_error_before), _value(one.calibration_error_after),
             number(found.threshold(name)), _with_ends(one.sensitivity), _with_ends(one.specificity)]
            for name, one in calibrated.items()
        ],
        "; ".join(f"{name} is not calibrated: {one.reason}" for name, one in found.findings.items() if one.reason),
    )  # fmt: skip
    places = [("side", found.side, "0.500"), ("first place", found.first_place, _value(found.from_memory))]
    rows = [[title, _value(one), ends(one.interval), prior, count(one.n)] for title, one, prior in places if one and one.n]
    sides = sorted({reason for name in found.findings if (reason := found.no_side(name))})
    if rows:
        yield Table(
            "", ["what is known of places", "right", "95 % interval", "without looking", "n"], rows,
            f"No side will be named: {'; '.join(sides)}." if sides else "",
        )  # fmt: skip


def _value(one: Estimate | None) -> str:
    return number(None if one is None else one.value)


def _with_ends(one: Estimate | None) -> str:
    return number(None) if one is None else f"{number(one.value)} ({ends(one.interval)})"
