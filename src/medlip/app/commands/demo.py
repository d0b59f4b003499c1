"""`medlip demo`: the whole pipeline on synthetic X-rays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Device
from medlip.app.output import describe_results

METHOD = "medlip"


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo; the same command resumes in it.", metavar="DIR")],
    method: Annotated[str, typer.Option("--method", help="Any with a recipe NAME-phantom.", metavar="NAME")] = METHOD,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller images: about a minute.")] = False,
    device: Device = "auto",
) -> Answer:
    """Run the whole pipeline on synthetic X-rays.

    Generates X-rays with reports, pre-trains on them, evaluates on patients that were held out, and writes DIR/report.html.
    """
    from medlip.app.demo import FULL, QUICK, phantom_recipe, run_demo

    scale = replace(QUICK if quick else FULL, recipe=phantom_recipe(method))
    asked = "" if method == METHOD else f" --method {method}"
    metrics = run_demo(out, scale, f"medlip demo --out {out}{asked}" + (" --quick" if quick else ""), device)
    files = {"report": out / "report.html", "run": out / "run"}
    found = f"Report: {files['report']}\nRun:    {files['run']}\nTry it: medlip serve {files['run']}"
    text = f"{describe_results(metrics)}\n\n{found}"
    return Answer({**metrics.model_dump(mode="json"), **files}, text, notes=metrics.notes)
