"""`medlip convert`: a run's folder of any model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import TextBank, TextEncoder
from medlip.tables import aligned


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights that authors released (.pth), a model of the hub (hf://org/name@revision), a run, or its file.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, which is made.", metavar="RUN")],
    text_bank: TextBank = None,
    text_encoder: TextEncoder = None,
) -> Answer:
    """Make a run's folder of a released or downloaded model.

    The run then needs neither the hub nor a text encoder to answer for its vocabulary: text banks and preprocessing are kept
    with the weights.
    """
    from medlip.app.reading import ModelIdentity
    from medlip.training import load_run, save_run

    method = load_run(source, text_bank=text_bank, text_encoder=text_encoder)
    save_run(method, out)
    document = {"run": str(out), "model": asdict(ModelIdentity.of(method))}
    return Answer(document, aligned([["run", str(out)], *map(list, document["model"].items())]))  # type: ignore[attr-defined]
