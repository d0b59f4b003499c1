"""`medlip predict`: what a run reads from X-rays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.answer import Answer, warn_named, warn_skipped
from medlip.app.options import Device, Precision, Run
from medlip.app.output import describe_reading


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM files.", metavar="IMAGE")],
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="A finding, by name or described; repeatable.", metavar="TEXT")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for heat maps over the images; what is in it stays.", metavar="DIR")
    ] = None,
    places_above: Annotated[
        float,
        typer.Option("--places-above", help="Leave out less probable anatomies.", min=0, max=1, metavar="P"),
    ] = 0.01,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Read X-rays with a run: findings, anatomies and heat maps.

    With --json, prints a list with an entry for each image, in order. Images that can't be read are skipped; their entry
    says why. Files that declare themselves to be something other than a frontal chest X-ray are read too, with a
    warning.
    """
    from medlip.app.predict import predict_all
    from medlip.app.reader import Reader
    from medlip.nn.device import autocast
    from medlip.parallel import track

    reader = Reader.open(run, device)
    with autocast(reader.method.device, precision):
        entries = list(track(predict_all(reader, images, ask or (), out, places_above), "reading images", len(images)))
    bad = [str(entry["error"]) for entry in entries if "error" in entry]
    failure = f"no image could be read; the first: {bad[0]}" if len(bad) == len(entries) else ""
    if not failure:
        warn_skipped("images were", bad)
        others = [f"{entry['image']}: {entry['not_frontal']}" for entry in entries if entry.get("not_frontal")]
        warn_named("images are not frontal chest X-rays, so their findings mean little", others)
    return Answer(entries, "\n\n".join(map(describe_reading, entries)), failure=failure)
