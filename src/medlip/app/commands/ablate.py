"""`medlip ablate`: what each setting of a recipe contributes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.about import DISCLAIMER
from medlip.app.answer import Answer, warn_skipped
from medlip.app.options import Changes, Data, Device, RecipeName


def ablate(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs; the same command resumes in it.", metavar="DIR")],
    grid: Annotated[
        list[str], typer.Option("--grid", help="A setting and the values to try; repeatable.", metavar="KEY=VALUE,VALUE")
    ],
    changes: Changes = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each variant, with seeds 0, 1, …", min=1, metavar="N")] = 3,
    full: Annotated[bool, typer.Option("--full", help="Try every combination instead of one setting at a time.")] = False,
    split: Annotated[
        str,
        typer.Option("--split", help="Split to evaluate. Choose settings on val, not on test.", metavar="NAME"),
    ] = "val",
    workers: Annotated[int, typer.Option("--workers", help="Runs to train at a time.", min=1, metavar="N")] = 1,
    device: Device = "auto",
) -> Answer:
    """Train and compare variants of a recipe.

    Differences from the recipe as it is are paired by seed. Finished runs are not repeated.
    """
    from medlip.app.input import training_store
    from medlip.experiments.ablation import ablate as run
    from medlip.experiments.ablation import as_markdown

    store = training_store(data, out)
    result = run(
        recipe, store, out, grid, settings=changes or (), seeds=seeds, split=split, full=full, jobs=workers, device=device
    )
    failed = [f"{entry.run}: {entry.reason}" for entry in result.failed]
    failure = "" if any(row.runs for row in result.rows) else f"every run failed; the first: {failed[0]}"
    if not failure:
        warn_skipped("runs failed and were", failed)
    return Answer(result, f"Evaluated on the split {result.split}:\n\n{as_markdown(result)}\n{DISCLAIMER}", failure=failure)
