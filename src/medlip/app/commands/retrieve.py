"""`medlip retrieve`: how well a run finds reports by X-ray and X-rays by report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Data, Device, Precision, Run, Split
from medlip.app.output import describe_results


def retrieve(
    run: Run,
    data: Data,
    split: Split = None,
    pool: Annotated[
        int | None,
        typer.Option("--pool", help="Number of reports to tell apart, drawn at random. Default: all.", min=2, metavar="N"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the result.", metavar="DIR")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Evaluate retrieval between X-rays and reports.

    Recall of reports by X-ray and of X-rays by report, and precision of X-rays by class, each with a 95 % interval over
    patients and what chance gives.
    """
    from medlip.app.input import evaluation_store
    from medlip.evaluation import retrieve as measure
    from medlip.nn.device import autocast
    from medlip.training import load_run

    method = load_run(run, device)
    with evaluation_store(data) as store, autocast(method.device, precision):
        result = measure(method, store, split=split, pool=pool, out=out)
    return Answer(result, describe_results(result), notes=result.notes)
