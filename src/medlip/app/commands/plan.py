"""`medlip plan`: what a training will take on accelerators that are not at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Changes, RecipeName


def plan(
    recipe: RecipeName,
    gpus: Annotated[int, typer.Option("--gpus", help="Accelerators that train together.", min=1, metavar="N")] = 1,
    gpu: Annotated[
        str,
        typer.Option("--gpu", help="Their kind: h100, h200, a100, l40s, l4, or here for this processor.", metavar="KIND"),
    ] = "h100",
    pairs: Annotated[int, typer.Option("--pairs", help="Images with reports.", min=1, metavar="N")] = 370_000,
    price: Annotated[
        float | None, typer.Option("--price", help="US dollars per hour of one accelerator.", min=0, metavar="X")
    ] = None,
    changes: Changes = None,
) -> Answer:
    """Estimate time, memory and cost of a training.

    Counts the operations of a training step on this machine's processor, and says what they take elsewhere.
    """
    from medlip.training import load_recipe
    from medlip.training.plan import plan as work_out

    found = work_out(load_recipe(recipe, changes or ()), recipe, gpus=gpus, gpu=gpu, pairs=pairs, price=price)
    return Answer(found.to_dict(), found.describe())
