"""`medlip prepare`: data sets into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlip.app.output import Answer, Json, answers


@answers
def prepare(
    sources: Annotated[
        list[str], typer.Argument(help="openi:DIR, nih:DIR, phantom:N … (see: medlip data list).", metavar="SOURCE...")
    ],
    out: Annotated[Path, typer.Option("--out", help="The store's folder; the same command goes on in it.", metavar="STORE")],
    size: Annotated[int, typer.Option(help="Short side of the stored images in pixels.")] = 256,
    views: Annotated[str, typer.Option(help="frontal (unknown ones are kept), or all.")] = "frontal",
    vocabulary: Annotated[Path | None, typer.Option(help="A vocabulary of your own.", metavar="YAML")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core unless given.")] = None,
    as_json: Json = False,
) -> Answer:
    """Read and shrink images once, extract facts from reports once, into a store to train and evaluate on.

    What can't be read is named with its reason in STORE/skipped.csv, and the rest goes on. Exit code: 0 when all was
    prepared, 3 when the store is good but something was skipped, 1 when there is no store.
    """
    from medlip.concepts import load_vocabulary
    from medlip.data.prepare import SKIPPED
    from medlip.data.prepare import prepare as prepare_store

    own = load_vocabulary(vocabulary) if vocabulary else None
    summary = prepare_store(sources, out, size=size, views=views, workers=workers, vocabulary=own)
    splits = ", ".join(f"{count:,} {split}" for split, count in summary["splits"].items())
    counts = summary["counts"]
    views_found = ", ".join(
        f"{count:,} {name.removeprefix('view ')}" for name, count in counts.items() if name.startswith("view ")
    )
    lines = [
        f"{out}: {summary['images']:,} images ({splits}), {summary['added']:,} of them new; "
        f"{counts['facts']:,} facts, {counts['boxes']:,} boxes, {counts['masks']:,} masks.",
        f"Views: {views_found}; {summary['lateral']:,} lateral ones were left out.",
        f"{summary['already']:,} studies were there already; {counts['without_report']:,} have no report.",
        f"{summary['skipped']:,} images or studies were skipped.",
    ]
    skipped = (
        f"{summary['skipped']:,} images or studies were skipped: {out / SKIPPED} says why." if summary["skipped"] else ""
    )
    return Answer(summary, "\n".join(lines), skipped=skipped)
