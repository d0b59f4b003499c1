"""`medlip transfer`: what a run's image encoder is worth once there are labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medlip.app.output import NOT_A_DEVICE, Answer, Data, Json, answers, table

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.methods import Method


def _show_protocols(wanted: bool) -> None:
    if wanted:
        from medlip.experiments.transfer_protocols import transfer_protocols

        print("\n".join(f"{name}  {entry.title}" for name, entry in transfer_protocols().items()))
        raise typer.Exit


@answers
def transfer(
    run: Annotated[
        str, typer.Argument(help="Folder of a trained run; with --untrained a recipe, name or file.", metavar="RUN")
    ],
    data: Data,
    protocol: Annotated[
        str, typer.Option(help="A named protocol, or a YAML file of your own.", metavar="NAME")
    ] = "linear-probe",
    classes: Annotated[
        str | None, typer.Option(help="Which labels, separated by commas; all by default.", metavar="A,B")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the labelled patients and of all that is drawn.")] = 0,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Take a recipe's encoder as it is before pre-training.")
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the recipe.", metavar="KEY=VALUE")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results; the same command goes on in it.", metavar="DIR")
    ] = None,
    list_protocols: Annotated[
        bool, typer.Option("--list-protocols", callback=_show_protocols, is_eager=True, help="List the named protocols.")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Learn from labels on a run's encoder. Probes, few shots, fine-tuning and segmentation with 1, 10, 100 % of labels."""
    from medlip.app.input import evaluation_store
    from medlip.data.prepare import SHARES
    from medlip.errors import MedLIPError
    from medlip.experiments.transfer import transfer as learn
    from medlip.experiments.transfer_protocols import load_transfer_protocol
    from medlip.training import load_run

    named = load_transfer_protocol(protocol)
    if changes and not untrained:
        raise MedLIPError("--set changes a recipe: it goes with --untrained alone. A trained run is what it is.")
    with evaluation_store(data, SHARES) as store:
        method = _untrained(run, changes or (), store) if untrained else load_run(run)
        wanted = classes.split(",") if classes else None
        result = learn(method, store, named, classes=wanted, seed=seed, out=out)
    for note in result["notes"]:
        print(note if note.startswith("WARNING") else f"note: {note}", file=sys.stderr)
    rows: list[list[object]] = [["labels", "images", "patients", result["levels"][0]["measure"], "95 % interval, or range"]]
    rows += [
        [
            level["level"],
            level["images"],
            level["patients"],
            level["value"],
            level.get("interval") or [level.get("lowest"), level.get("highest")],
        ]
        for level in result["levels"]
    ]
    return Answer(result, f"{named.name}: {named.title}\n{table(rows)}\n{NOT_A_DEVICE}")


def _untrained(recipe: str, changes: list[str] | tuple[()], store: Store) -> Method:
    from medlip.methods import build_method
    from medlip.training import load_recipe

    settings = load_recipe(recipe, changes)
    method = build_method(
        {"seed": settings.training.seed, **settings.method},
        settings.make_vocabulary(),
        settings.make_preprocessing(),
        lambda: (" ".join(sentences) for sentences in store.column("sentences")),
    )
    method.made_by = {"recipe": settings.model_dump(mode="json"), "seed": settings.training.seed, "data": None}
    return method
