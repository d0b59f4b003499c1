"""`medlip export`: a model as one file for other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from medlip.app.answer import Answer
from medlip.app.options import Run


def export(
    run: Run,
    format: Annotated[
        Literal["onnx", "torch-export"], typer.Option("--format", help="Of the file; onnx needs medlip[onnx].")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file: *.onnx, or *.pt2 for torch-export.", metavar="FILE")],
) -> Answer:
    """Export a model for other runtimes, as ONNX or by torch.export.

    Images and embedded questions in, probabilities, maps and places out, for any number of images. Its answers are compared
    with the model's own before it is kept; `medlip predict FILE` reads with it.
    """
    from medlip.app.reading import ModelIdentity
    from medlip.methods import export_method
    from medlip.training import load_run

    method = load_run(run)
    difference = export_method(method, out, format)
    document = {"file": str(out), "format": format, "difference": difference, "model": asdict(ModelIdentity.of(method))}
    return Answer(document, f"{out}: answers differ by {difference:.1g} at most from those of {method.name}")
