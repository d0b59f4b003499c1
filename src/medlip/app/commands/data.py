"""`medlip data`: which data sets are read, whether a folder is complete, what two of them share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medlip.app.output import Answer, Json, answers

data = typer.Typer(help="Data sets: which are read, what a folder holds, what two of them share.", no_args_is_help=True)

SOURCE = "NAME:DIR, phantom:N, or a prepared store."


@data.command("list")
@answers
def list_sets(as_json: Json = False) -> Answer:
    """List the data sets: where to get each, under which licence, and what its folder must hold."""
    from medlip.data.sources import data_sets

    document = {name: entry.model_dump(exclude={"reader", "optional"}) for name, entry in data_sets().items()}
    paragraphs = [
        f"{name}:{'FILE' if name == 'csv' else 'DIR'}  {entry.title}\n  from {entry.where}\n  {entry.licence}\n"
        + "\n".join(f"  - {line}" for line in entry.layout)
        for name, entry in data_sets().items()
    ]
    return Answer(document, "\n\n".join([*paragraphs, "phantom:N  N phantom chests, made here; phantom:N@SEED for others"]))


@data.command()
@answers
def check(source: Annotated[str, typer.Argument(help=SOURCE, metavar="SOURCE")], as_json: Json = False) -> Answer:
    """Count what a source holds and name what is missing; compare a store with its hashes."""
    from medlip.data.check import check as check_source

    found = check_source(source)
    missing = found.get("missing", 0)
    problem = f"{source}: {missing:,} image files are missing, the first {found['missing_first'][0]}." if missing else ""
    return Answer(found, _lines(found), problem)


@data.command()
@answers
def overlap(
    first: Annotated[str, typer.Argument(help=SOURCE, metavar="A")],
    second: Annotated[str, typer.Argument(help=SOURCE, metavar="B")],
    as_json: Json = False,
) -> Answer:
    """Find patients and images that two sources share, such as a training and a test set."""
    from medlip.data.overlap import find_overlap, fingerprint

    one, other = fingerprint(first), fingerprint(second)
    shared = find_overlap(one, other)
    document = {
        "a": {"source": first, "images": len(one.ids), "skipped": one.skipped},
        "b": {"source": second, "images": len(other.ids), "skipped": other.skipped},
        "patients": shared.patients,
        "images": [{"a": a, "b": b} for a, b in shared.images],
    }
    lines = [
        f"{first}: {len(one.ids):,} images; {second}: {len(other.ids):,} images",
        f"patients in both: {len(shared.patients):,}  {' '.join(shared.patients[:10])}",
        f"images that look the same: {len(shared.images):,}",
        *(f"  {a}  {b}" for a, b in shared.images[:20]),
    ]
    return Answer(document, "\n".join(lines))


@data.command("hold-out")
@answers
def hold_out(
    path: Annotated[str, typer.Argument(help="A prepared store.", metavar="STORE")],
    out: Annotated[Path, typer.Option("--out", help="File of pairs, JSON.", metavar="FILE")],
    share: Annotated[float, typer.Option(help="Share of the pairs to hold out.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    minimum: Annotated[int, typer.Option(help="Images of a held-out pair, and that each factor keeps.")] = 20,
    as_json: Json = False,
) -> Answer:
    """Draw pairs of finding and place that training is not to show together: for pretrain --without, disentangle --pairs."""
    from medlip.data.store import Store
    from medlip.experiments.composition import compositional_split, save_pairs

    store = Store.open(path)
    kept, pairs = compositional_split(store, share, seed, minimum=minimum)
    images = {"train": store.splits["train"], "kept": len(kept)}
    save_pairs(out, pairs, share=share, seed=seed, minimum=minimum, data=store.hash, images=images)
    lines = [
        f"{out}: {len(pairs)} pairs; {images['kept']:,} of {images['train']:,} training images have none of them.",
        *(f"  {pathology} in {anatomy}" for pathology, anatomy in pairs),
    ]
    return Answer({"pairs": pairs, "images": images, "out": out}, "\n".join(lines))


@answers
def bench_store(
    images: Annotated[int, typer.Option(help="Images in the store.")] = 512,
    as_json: Json = False,
) -> Answer:
    """Measure how fast images come out of a store, beside the usual way of reading originals."""
    from medlip.data.bench import bench_store as measure

    result = measure(images)
    return Answer(result, _lines(result))


def _lines(document: Mapping[str, Any]) -> str:
    """Write a document with one level of nesting, a line an entry."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {text(item)}" for name, item in value.items())
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "\n".join(f"{name}: {text(value)}" for name, value in document.items() if value not in ([], {}))
