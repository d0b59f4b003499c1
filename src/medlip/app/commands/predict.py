"""`medlip predict`: what a model reads from X-rays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medlip.app.answer import NAMED, Answer, warn_named, warn_skipped
from medlip.app.options import Batch, Device, Json, Precision, Run, TextBank, TextEncoder, Workers
from medlip.app.output import describe_reading, to_json

FEW = 32  # images that are decoded before processes would have started


def predict(
    run: Run,
    images: Annotated[
        list[str],
        typer.Argument(
            help="PNG, JPEG, TIFF or DICOM files, folders with them, patterns, or - for a list on stdin.", metavar="IMAGE"
        ),
    ],
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="A finding, by name or described; repeatable.", metavar="TEXT")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for heat maps of the images; what is in it stays.", metavar="DIR")
    ] = None,
    maps: Annotated[
        Literal["png", "npz", "none"],
        typer.Option(
            "--maps", help="Maps in --out: png, over the images, of likely findings; npz, numbers, of all findings."
        ),
    ] = "png",
    scale: Annotated[
        Literal["absolute", "relative"],
        typer.Option("--scale", help="Colours of overlays: probabilities, or each map by its own minimum and maximum."),
    ] = "absolute",
    table: Annotated[
        Path | None, typer.Option("--table", help="CSV file for probabilities, a row per image.", metavar="FILE")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="Read the images together, as the views of one study: what each shows, in order, such as PA,lateral.",
            metavar="VIEWS",
        ),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON document per image, as soon as it is read.")
    ] = False,
    places_above: Annotated[
        float,
        typer.Option("--places-above", help="Leave out less probable anatomies.", min=0, max=1, metavar="P"),
    ] = 0.01,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="Thresholds of a calibrated run: sensitivity=X or specificity=X. Default: as calibrated.",
            metavar="POINT",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Skip images that don't look like a sound frontal chest X-ray.")
    ] = False,
    batch: Batch = 16,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    text_bank: TextBank = None,
    text_encoder: TextEncoder = None,
    as_json: Json = False,
) -> Answer:
    """Read X-rays with a model: findings, anatomies and heat maps.

    With --json, prints a list with an entry for each image, in order. Images that can't be read are skipped; their entry
    says why. An image that looks or says to be something other than a frontal chest X-ray, or is a poor one, is read with a
    warning; with --strict it is skipped.
    """
    from medlip.app.image_arguments import ImageArguments
    from medlip.app.predict import predict_all
    from medlip.app.reader import Reader
    from medlip.nn.device import autocast
    from medlip.parallel import cpu_count, track

    if jsonl and as_json:
        raise typer.BadParameter("--json prints one document and --jsonl one per image: choose one of them.")
    if maps == "npz" and out is None:
        raise typer.BadParameter("--maps npz needs a folder for them: give --out DIR.")
    if study is not None and strict:
        raise typer.BadParameter("--study reads lateral views, which --strict refuses: choose one of them.")
    reader = Reader.open(run, device, at=at, text_bank=text_bank, text_encoder=text_encoder)
    found = ImageArguments(images)
    every = iter(found)
    first = list(islice(every, FEW + 1))
    few = len(first) <= FEW
    if workers is None:
        workers = 0 if few else cpu_count()
    entries = predict_all(
        reader,
        chain(first, every),
        ask or (),
        out,
        places_above,
        maps=maps,
        scale=scale,
        table=table,
        strict=strict,
        batch_size=batch,
        workers=workers,
        views=None if study is None else [view.strip() for view in study.split(",")],
    )
    if as_json or not sys.stdout.isatty():  # results that scroll by are progress themselves
        entries = track(entries, "reading images", len(first) if few else found.count)
    tally = _Tally()
    kept: list[dict[str, Any]] = []
    with autocast(reader.method.device, precision):
        for entry in tally.over(entries):
            if as_json:
                kept.append(entry)
            elif jsonl:
                print(to_json(entry, indent=None), flush=True)
            else:
                print(("\n" if tally.read + tally.skipped.total > 1 else "") + describe_reading(entry), flush=True)
    for missing in found.empty:
        tally.skipped.add(missing)
    failure = f"no image could be read; the first: {tally.skipped.first[0]}" if not tally.read else ""
    if not failure:
        warn_skipped("images were", tally.skipped.first, tally.skipped.total)
        others = "images may be no sound frontal chest X-rays, so their findings mean little"
        warn_named(others, tally.doubted.first, tally.doubted.total)
    notes = [f"{found.others:,} other files in the folders are no images"] if found.others else []
    return Answer(kept, "", notes=notes, failure=failure)


class _Named:
    """How many there were, and the first of them."""

    def __init__(self) -> None:
        self.total, self.first = 0, list[str]()

    def add(self, name: str) -> None:
        self.total += 1
        self.first += [name] if self.total <= NAMED else []


class _Tally:
    """What became of the images of a stream."""

    def __init__(self) -> None:
        self.read, self.skipped, self.doubted = 0, _Named(), _Named()

    def over(self, entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            if "error" in entry:
                self.skipped.add(str(entry["error"]))
            else:
                self.read += 1
                if entry["doubts"]:
                    self.doubted.add(f"{entry['image']}: {'; '.join(entry['doubts'])}")
            yield entry
