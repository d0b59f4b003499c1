"""`medlip evaluate`: how well a run recognizes findings and localizes them, without labels to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Data, Device, Precision, Run, Split
from medlip.app.output import describe_results


def _show_protocols(wanted: bool) -> None:
    if wanted:
        from medlip.evaluation.protocols import named_protocols

        width = max(map(len, named_protocols()))
        print("\n".join(f"{name.ljust(width)}  {entry.title}" for name, entry in named_protocols().items()))
        raise typer.Exit


def evaluate(
    run: Run,
    data: Data,
    split: Split = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="A named protocol, or a YAML file of your own.", metavar="NAME")
    ] = None,
    split_list: Annotated[
        Path | None, typer.Option("--split-list", help="Evaluate only the images listed in a file.", metavar="FILE")
    ] = None,
    list_protocols: Annotated[
        bool,
        typer.Option("--list-protocols", callback=_show_protocols, is_eager=True, help="List the named protocols and exit."),
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Evaluate this task alone: zero_shot, grounding, maps, places, faithfulness …; repeatable.",
            metavar="NAME",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the result and the scores of every image.", metavar="DIR")
    ] = None,
    map_rule: Annotated[
        str | None,
        typer.Option(
            "--map-rule",
            help="What maps are made of, if not as the run's recipe says: contribution, gradient or attention.",
            metavar="RULE",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Evaluate a run zero-shot: classification and localization.

    Every number comes with a 95 % interval over patients and what chance gives.
    """
    from medlip.app.input import evaluation_store
    from medlip.evaluation import evaluate as measure
    from medlip.evaluation.protocols import load_protocol, read_split_list
    from medlip.nn.device import autocast
    from medlip.training import load_run

    named = load_protocol(protocol) if protocol else None
    listed = read_split_list(split_list) if split_list else None
    method = load_run(run, device)
    if map_rule is not None:
        method.choose_map_rule(map_rule)
    with evaluation_store(data) as store, autocast(method.device, precision):
        result = measure(method, store, split=split, protocol=named, images=listed, tasks=tasks, out=out)
    return Answer(result, describe_results(result), notes=result.notes)
