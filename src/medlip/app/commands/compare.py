"""`medlip compare`: results side by side, as a table in the form that is asked for, and as a page with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.tables import Form


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="What evaluate, retrieve or transfer (one level) wrote with --out. The first is the reference.",
            metavar="DIR",
        ),
    ],
    form: Annotated[Form, typer.Option("--format", help="Format of the tables.")] = Form.text,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page with plots.", metavar="FILE")] = None,
    quoted: Annotated[
        list[str] | None,
        typer.Option("--quoted", help="Add a table of published numbers, such as nih-zero-shot.", metavar="NAME"),
    ] = None,
    by_seed: Annotated[
        bool,
        typer.Option("--over-seeds", help="Average over the seeds of each recipe, and pair differences by seed."),
    ] = False,
) -> Answer:
    """Compare results of one protocol side by side.

    Tests how each result differs from the first on the same images.
    """
    from medlip.app.pages.compare_page import render_page
    from medlip.evaluation.compare import Evaluated
    from medlip.evaluation.compare import compare as compare_results
    from medlip.evaluation.seeds import compare_seeds
    from medlip.evaluation.tables import write_comparison

    evaluated = [Evaluated.load(folder) for folder in folders]
    document = (compare_seeds if by_seed else compare_results)(evaluated, quoted=quoted or ())
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render_page(document, evaluated), encoding="utf-8")
    text = write_comparison(document, form)
    return Answer(document, f"{text}\nPage: {html}" if html and form is Form.text else text)
