"""`medlip pretrain`: a recipe and a store to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medlip.app.answer import Answer
from medlip.app.options import Changes, Data, Device, RecipeName
from medlip.errors import MedLIPError

if TYPE_CHECKING:
    from medlip.data.store import Store


def pretrain(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.", metavar="RUN")],
    changes: Changes = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Random seed, in place of the recipe's training.seed.", metavar="N")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it takes (size, memory, time) after a few steps; write nothing."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="With --resume, train for more epochs than the run was begun for."),
    ] = False,
    without: Annotated[
        Path | None,
        typer.Option("--without", help="Leave out images with these pairs (`medlip data hold-out`).", metavar="FILE"),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option("--precision", help="Numerical precision, in place of the recipe's training.precision."),
    ] = None,
) -> Answer:
    """Pre-train a model on images and reports.

    Trains on the train split of SOURCE and logs the losses of its val split after every epoch.
    """
    from medlip.app.input import evaluation_store, training_store
    from medlip.data.prepare import SHARES
    from medlip.methods.base import method_config
    from medlip.training import fit, load_recipe

    shortcuts = {"training.seed": seed, "training.precision": precision}
    settings = load_recipe(
        recipe, [*(changes or ()), *(f"{key}={value}" for key, value in shortcuts.items() if value is not None)]
    )
    for each in filter(None, (settings, None if resume else settings.load_first())):
        method_config(each.method)  # a mistyped setting is found before the data are prepared

    def split(store: Store) -> Store:
        train = store.select("train")
        if not without:
            return train
        from medlip.experiments.composition import read_pairs, without_pairs

        if settings.make_augment().mirror:
            raise MedLIPError("a mirrored image may show a held-out pair: with --without, add --set augment.mirror=0.")
        if settings.first:
            raise MedLIPError("what comes first may show a held-out pair: with --without, add --set first=null.")
        return without_pairs(train, read_pairs(without, store.vocabulary))

    if dry_run:
        from medlip.training.dry_run import dry_run as try_steps

        with evaluation_store(data, SHARES) as prepared:
            found = try_steps(settings, split(prepared), device)
        return Answer(found.to_dict(), found.describe(), notes=found.notes)
    store = training_store(data, out)
    train, validation = split(store), store.select("val") if "val" in store.splits else None
    summary = fit(settings, train, out, validation=validation, resume=resume, extend=extend, device=device)
    text = f"{out}: {summary['steps']:,} steps in {summary['seconds']:.0f} s"
    if summary["images_per_second"] is not None and summary["data_wait_share"] is not None:
        waited = 100 * summary["data_wait_share"]
        text += f", {summary['images_per_second']:.3g} images/s, {waited:.0f} % of the time waiting for images"
    return Answer(summary, f"{text}.")
