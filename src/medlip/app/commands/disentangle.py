"""`medlip disentangle`: whether each stream of a run isolates its own factor, as tables and as a page with maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Data, Device, Pairs, Precision, Run, Split
from medlip.app.output import to_json
from medlip.errors import MedLIPError
from medlip.tables import write_tables

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.experiments.disentanglement import Disentanglement
    from medlip.methods import Method

RESULT, PAGE = "result.json", "disentanglement.html"


def disentangle(
    run: Run,
    data: Data,
    pairs: Pairs = None,
    split: Split = None,
    probe_images: Annotated[
        int, typer.Option("--probe-images", help="Training images for the probes, at most.", min=1, metavar="N")
    ] = 2000,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for result.json and a page with maps.", metavar="DIR")
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Measure how well each stream isolates its own factor.

    By linear probes (of all images, and of those with the same finding or place), attention maps, and pairs of pathology and
    anatomy that were held out of training. Most telling on --data "phantom:N?independent", where the two are independent.
    """
    from medlip.app.input import evaluation_store
    from medlip.app.pages.disentangle_page import disentanglement_tables
    from medlip.data.prepare import SHARES
    from medlip.experiments.composition import read_pairs
    from medlip.experiments.disentanglement import disentanglement
    from medlip.nn.device import autocast
    from medlip.training import load_run

    if out is not None and (out / RESULT).exists():
        raise MedLIPError(f"{out}: already holds a {RESULT}. Give another folder.")
    method = load_run(run, device)
    with evaluation_store(data, SHARES) as store, autocast(method.device, precision):
        held_out = read_pairs(pairs, store.vocabulary) if pairs else None
        result = disentanglement(method, store, pairs=held_out, split=split, images=probe_images)
        if out is not None:
            _save(out, result, method, store)
    text = write_tables(disentanglement_tables(result))
    return Answer(result, f"{text}\n\nPage: {out / PAGE}" if out else text, notes=result.notes)


def _save(out: Path, result: Disentanglement, method: Method, store: Store) -> None:
    from medlip.app.pages.disentangle_page import picture_cases, render_page
    from medlip.files import write_atomic

    cases = picture_cases(method, store.select(result.split)) if result.maps else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PAGE, render_page(result, cases).encode())
    write_atomic(out / RESULT, to_json(result).encode())
