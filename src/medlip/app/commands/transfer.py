"""`medlip transfer`: what a run's image encoder is worth when there are labels to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medlip.about import DISCLAIMER
from medlip.app.answer import Answer
from medlip.app.options import Changes, Data, Device, Seed
from medlip.errors import MedLIPError
from medlip.tables import aligned

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.methods import Method


def _show_protocols(wanted: bool) -> None:
    if wanted:
        from medlip.experiments.transfer_protocols import transfer_protocols

        print("\n".join(f"{name}  {entry.title}" for name, entry in transfer_protocols().items()))
        raise typer.Exit


def transfer(
    run: Annotated[
        str,
        typer.Argument(
            help="A trained run, as for `medlip predict`; with --untrained, a recipe by name or file.", metavar="RUN"
        ),
    ],
    data: Data,
    protocol: Annotated[
        str, typer.Option("--protocol", help="A named protocol, or a YAML file of your own.", metavar="NAME")
    ] = "linear-probe",
    classes: Annotated[
        str | None, typer.Option("--classes", help="Labels to use, separated by commas. Default: all.", metavar="A,B")
    ] = None,
    seed: Seed = 0,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Use a recipe's image encoder as it is before pre-training.")
    ] = False,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results; the same command resumes in it.", metavar="DIR")
    ] = None,
    list_protocols: Annotated[
        bool,
        typer.Option("--list-protocols", callback=_show_protocols, is_eager=True, help="List the named protocols and exit."),
    ] = False,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(
            "--precision",
            help="Numerical precision, in place of the protocol's training.precision; of the features where only a probe is "
            "trained (default there: fp32).",
        ),
    ] = None,
) -> Answer:
    """Train on labels with a run's image encoder.

    Linear probes, few-shot learning, fine-tuning and segmentation, with 1, 10 and 100 % of the labels.
    """
    from medlip.app.input import evaluation_store
    from medlip.data.prepare import SHARES
    from medlip.experiments.transfer import transfer as learn
    from medlip.experiments.transfer_protocols import load_transfer_protocol
    from medlip.training import load_run

    named = load_transfer_protocol(protocol)
    if changes and not untrained:
        raise MedLIPError("--set changes a recipe, and a trained run has been made already: use it with --untrained.")
    with evaluation_store(data, SHARES) as store:
        method = (
            _untrained(run, [f"training.seed={seed}", *(changes or ())], store, device)
            if untrained
            else load_run(run, device)
        )
        wanted = classes.split(",") if classes else None
        result = learn(method, store, named, classes=wanted, seed=seed, precision=precision, out=out).model_dump(mode="json")
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
    return Answer(result, f"{named.name}: {named.title}\n{aligned(rows)}\n{DISCLAIMER}", notes=result["notes"])


def _untrained(recipe: str, changes: Sequence[str], store: Store, device: str) -> Method:
    from medlip.methods import build_method
    from medlip.nn.device import resolve_device
    from medlip.training import load_recipe

    settings = load_recipe(recipe, changes)
    vocabulary = settings.make_vocabulary()

    def reports() -> Sequence[str]:
        written = [" ".join(sentences) for sentences in store.column("sentences") if sentences]
        return written or [pathology.description for pathology in vocabulary.pathologies]  # the image encoder needs none

    method = build_method(
        {"seed": settings.training.seed, **settings.method}, vocabulary, settings.make_preprocessing(), reports
    )
    method.made_by = {"recipe": settings.model_dump(mode="json"), "seed": settings.training.seed, "data": None}
    return method.to(resolve_device(device))
