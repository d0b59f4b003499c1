"""`medlip card` and `medlip push`: what a model is, and where others find it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import License, Results, Run


def card(run: Run, results: Results = None, license: License = None) -> Answer:
    """Print a model's card.

    It says what the model is, what made it, how good it was found to be and for whom, and what it is not for.
    """
    from medlip.app.model_card import ModelCard
    from medlip.training import load_run

    made = ModelCard.of(load_run(run), results or (), license)
    return Answer(made.to_dict(), made.render())


def push(
    run: Run,
    name: Annotated[str, typer.Argument(help="Model on the hub: organization and name.", metavar="ORG/NAME")],
    results: Results = None,
    license: License = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new model visible to its organization alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder that would be uploaded, and stop.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for what is uploaded. Default: temporary; ORG--NAME for --dry-run.", metavar="DIR"
        ),
    ] = None,
) -> Answer:
    """Upload a model to the Hugging Face hub, with its card.

    Weights, text banks, preprocessing and what made them are uploaded; fingerprints of training images are not.
    """
    from medlip.app.model_card import ModelCard
    from medlip.app.upload import check_name, prepared, upload
    from medlip.training import load_run

    check_name(name)
    method = load_run(run)
    made = ModelCard.of(method, results or (), license)
    if dry_run:
        out = out or Path(name.replace("/", "--"))
    with prepared(method, made.render(name), out) as folder:
        files = sorted(file.name for file in folder.iterdir())
        url = None if dry_run else upload(folder, name, private)
    document = {"model": name, "folder": out and str(out), "files": files, "url": url}
    where = f"written to {out}, nothing uploaded" if dry_run else f"uploaded to {url}"
    return Answer(document, f"{name}: {', '.join(files)}; {where}")
