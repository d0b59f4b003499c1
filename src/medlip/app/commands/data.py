"""`medlip data`: which data sets can be read, whether a folder is complete, and what two of them share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medlip.app.answer import Answer, warn_skipped
from medlip.app.options import Seed

SOURCE = "NAME:DIR, phantom:N, or a prepared store."


def list_sets() -> Answer:
    """List the data sets that can be read.

    For each: where to get it, its licence, and the layout of its folder.
    """
    from medlip.data.sources import data_sets

    document = {name: entry.model_dump(exclude={"reader", "optional", "place"}) for name, entry in data_sets().items()}
    paragraphs = [
        f"{name}:{'FILE' if name == 'csv' else 'DIR'}  {entry.title}\n  from {entry.where}\n  {entry.licence}\n"
        + "\n".join(f"  - {line}" for line in entry.layout)
        for name, entry in data_sets().items()
    ]
    phantoms = "phantom:N  N synthetic X-rays, generated here; phantom:N@SEED for others, phantom:N?SETTING for other kinds"
    settings = (
        "  - ?independent: place tells nothing of the finding\n"
        "  - ?lateral: a lateral view beside each frontal one (to keep it, prepare with --views frontal,lateral)"
    )
    return Answer(document, "\n\n".join([*paragraphs, f"{phantoms}\n{settings}"]))


def check(source: Annotated[str, typer.Argument(help=SOURCE, metavar="SOURCE")]) -> Answer:
    """Count what a source holds, and name missing files.

    The files of a prepared store are also compared with their hashes.
    """
    from medlip.data.check import check as check_source

    found = check_source(source)
    warn_skipped("image files are missing and would be", found.get("missing_first", ()), found.get("missing"))
    return Answer(found, _lines(found))


def overlap(
    first: Annotated[str, typer.Argument(help=SOURCE, metavar="A")],
    second: Annotated[str, typer.Argument(help=SOURCE, metavar="B")],
) -> Answer:
    """Find patients and images that two sources share.

    Such as a training and a test set. Images are compared by content, whatever their name, size and format.
    """
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
        f"patients in both: {len(shared.patients):,}  {' '.join(shared.patients[:10])}".rstrip(),
        f"images in both: {len(shared.images):,}",
        *(f"  {a}  {b}" for a, b in shared.images[:20]),
    ]
    return Answer(document, "\n".join(lines))


def hold_out(
    path: Annotated[str, typer.Argument(help="A prepared store.", metavar="STORE")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write the pairs to.", metavar="FILE")],
    share: Annotated[
        float, typer.Option("--share", help="Share of the pairs to hold out.", min=0, max=1, metavar="X")
    ] = 0.2,
    seed: Seed = 0,
    minimum: Annotated[
        int,
        typer.Option(
            "--minimum", help="Images that a held-out pair must have, and that its parts must keep.", min=1, metavar="N"
        ),
    ] = 20,
) -> Answer:
    """Choose pairs of pathology and anatomy to hold out of training.

    `medlip pretrain --without FILE` trains without images that show them; `medlip disentangle --pairs FILE` tests on them.
    Another --seed draws other pairs.
    """
    from medlip.data.store import Store
    from medlip.experiments.composition import compositional_split, save_pairs

    store = Store.open(path)
    kept, pairs = compositional_split(store, share, seed, minimum=minimum)
    images = {"train": store.splits["train"], "kept": len(kept)}
    save_pairs(out, pairs, share=share, seed=seed, minimum=minimum, data=store.hash, images=images)
    lines = [
        f"{out}: {len(pairs)} pairs; {images['kept']:,} of {images['train']:,} training images show none of them.",
        *(f"  {pathology} in {anatomy}" for pathology, anatomy in pairs),
    ]
    return Answer({"pairs": pairs, "images": images, "out": out}, "\n".join(lines))


def _lines(document: Mapping[str, Any]) -> str:
    """Write a document with one level of nesting, a line an entry."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {text(item)}" for name, item in value.items())
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "\n".join(f"{name}: {text(value)}" for name, value in document.items() if value not in ([], {}))
