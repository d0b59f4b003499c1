"""`medlip reproduce`: the papers' tables for a model, on the data sets at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Device, Seed, TextBank, TextEncoder, Workers

PAGE, LATEX = "reproduction.html", "reproduction.tex"


def reproduce(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="Folders of data sets in their own layout, or with such folders; prepared stores; NAME:DIR.",
            metavar="FOLDER",
        ),
    ],
    model: Annotated[str, typer.Option("--model", help="A model, as for `medlip predict`.", metavar="SOURCE")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the results; the same command resumes in it.", metavar="DIR")
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Kind of tables: zero-shot, grounding, few-shot, linear, fine-tuned or segmentation; repeatable. "
            "Default: all.",
            metavar="KIND",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Train so long instead of as the protocols say, for a trial.", min=1, metavar="N"),
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    device: Device = "auto",
    text_bank: TextBank = None,
    text_encoder: TextEncoder = None,
) -> Answer:
    """Fill the papers' tables for a model.

    Zero-shot, few-shot and fine-tuned classification, grounding and segmentation, on the data sets that the folders hold, by
    their named protocols, beside the published figures, which are marked as quoted. Says what is missing, and where to get
    it. Writes tables as a page, in LaTeX and as JSON.
    """
    from medlip.app.pages.templates import fill_template
    from medlip.experiments.reproduction import Shortcuts, find_sets, reproduction_tables
    from medlip.experiments.reproduction import reproduce as measure
    from medlip.tables import Form, write_tables
    from medlip.training import load_run

    sets = find_sets(folders)
    method = load_run(model, device, text_bank=text_bank, text_encoder=text_encoder)
    shortcuts = Shortcuts(epochs=epochs, workers=workers)
    found = measure(method, sets, out, kinds=only or (), seed=seed, shortcuts=shortcuts)  # type: ignore[arg-type]  # refused there
    tables = list(reproduction_tables(found))
    measured = [table for table in found.tables if not table.missing]
    page = fill_template(
        "show.html",
        title=f"The papers' tables for {found.model[0]}",
        lead=[
            "The first row of each table was measured here. All others are quoted from the literature, not measured here."
        ],
        tables=tables,
        extra="",
        items=[],
        made_by=[f"Model {' '.join(found.model)}.", *(f"{name}: {source}" for name, source in found.sets.items())],
        disclaimer=found.disclaimer,
    )
    (out / PAGE).write_text(page, encoding="utf-8")
    (out / LATEX).write_text(write_tables(tables, Form.latex) + "\n", encoding="utf-8")
    text = f"{write_tables(tables)}\n\nPage: {out / PAGE}\nLaTeX: {out / LATEX}"
    failure = "" if measured else "no table could be filled; the tables say why"
    return Answer(found, text, failure=failure)
