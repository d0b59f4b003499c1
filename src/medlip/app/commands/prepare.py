"""`medlip prepare`: data sets into a store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated
from warnings import warn

import typer

from medlip.app.answer import Answer
from medlip.app.options import Address, Engine, Vocabulary, Workers
from medlip.errors import MedLIPError, MedLIPWarning
from medlip.tables import aligned


def prepare(
    sources: Annotated[
        list[str], typer.Argument(help="openi:DIR, nih:DIR, phantom:N … (`medlip data list`).", metavar="SOURCE")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the store; the same command resumes in it.", metavar="STORE")
    ],
    image_size: Annotated[
        int, typer.Option("--image-size", help="Shorter side of the stored images in pixels.", min=1, metavar="PIXELS")
    ] = 256,
    views: Annotated[
        str,
        typer.Option("--views", help="Views to keep: some of frontal, lateral, other and unknown, or all.", metavar="KINDS"),
    ] = "frontal,unknown",
    draw_splits: Annotated[
        str | None,
        typer.Option(
            "--draw-splits",
            help="Split the patients anew, whatever the source says, in these shares, such as 0.8,0.1,0.1.",
            metavar="TRAIN,VAL,TEST",
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Prepare all studies of these sources again, not only what changed.")
    ] = False,
    vocabulary: Vocabulary = None,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
) -> Answer:
    """Read data sets into a store of images, reports and facts.

    Resizes every image and extracts the facts of every report once, for training and evaluation. Images and studies that
    can't be read are skipped; STORE/skipped.csv names them with the reason.
    """
    from medlip.concepts import load_vocabulary
    from medlip.data.prepare import SHARES, SKIPPED
    from medlip.data.prepare import prepare as prepare_store
    from medlip.parallel import using

    own = load_vocabulary(vocabulary) if vocabulary else None
    shares = SHARES if draw_splits is None else _shares(draw_splits, SHARES)
    with using(engine, address):
        summary = prepare_store(
            sources, out, size=image_size, views=views, shares=shares, draw_splits=draw_splits is not None, workers=workers,
            vocabulary=own, rebuild=rebuild,
        )  # fmt: skip
    splits = ", ".join(f"{count:,} {split}" for split, count in summary["splits"].items())
    counts = summary["counts"]
    views_found = ", ".join(
        f"{count:,} {name.removeprefix('view ')}" for name, count in counts.items() if name.startswith("view ") and count
    )
    lines = [
        aligned([["images found", f"{summary['found']:,}"], *([what, f"{n:,}"] for what, n in summary["account"].items())]),
        f"{out}: {summary['images']:,} images ({splits}; {views_found}), {counts['facts']:,} facts, "
        f"{counts['boxes']:,} boxes, {counts['masks']:,} masks; "
        f"{counts['without_report']:,} of {counts['studies']:,} studies have no report.",
        *summary["remarks"],
    ]
    notes = list(summary["notes"])
    if skipped := summary["skipped"]:
        notes.append(f"{skipped:,} images or studies were skipped: {out / SKIPPED} says which and why.")
    for note in notes:
        warn(note, MedLIPWarning, stacklevel=1)
    return Answer(summary, "\n".join(lines))


def _shares(text: str, splits: Iterable[str]) -> dict[str, float]:
    """Return the shares of splits that `--draw-splits` asks for."""
    try:
        return dict(zip(splits, map(float, text.split(",")), strict=True))
    except ValueError:
        raise MedLIPError(
            f"--draw-splits {text}: not three numbers. Give the shares of train, val and test, such as 0.8,0.1,0.1."
        ) from None
