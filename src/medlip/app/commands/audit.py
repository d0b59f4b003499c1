"""`medlip audit`: what a run's answers rest on, by changing its images and questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medlip.app.answer import Answer
from medlip.app.options import Data, Device, Precision, Run, Seed, Split
from medlip.app.output import describe_results
from medlip.errors import MedLIPError

if TYPE_CHECKING:
    from medlip.data.store import Store

PAGE = "audit.html"
TASKS = ("faithfulness", "maps", "paraphrases", "mirroring", "dependence")


def audit(
    run: Run,
    data: Data,
    split: Split = None,
    images: Annotated[int, typer.Option("--images", help="Images to audit, drawn at random.", min=1, metavar="N")] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for result.json and a page with pictures.", metavar="DIR")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Answer:
    """Audit what a run's answers rest on.

    Whether a score falls when its finding is removed, and not when something else is; whether maps are dark where nothing
    is; whether answers hold in other words, follow a mirrored image, and depend on the image at all.
    """
    from medlip.app.input import evaluation_store
    from medlip.app.pages.audit_page import audit_cases, audit_page
    from medlip.evaluation import evaluate
    from medlip.evaluation.results import RESULT
    from medlip.evaluation.selection import default_split, select_split
    from medlip.files import write_atomic
    from medlip.nn.device import autocast
    from medlip.training import load_run

    if out is not None and (out / RESULT).exists():
        raise MedLIPError(f"{out}: holds a {RESULT} already. Give another folder.")
    method = load_run(run, device)
    with evaluation_store(data) as store, autocast(method.device, precision):
        name = split or default_split(store.splits)
        chosen = _drawn(select_split(store, name, store.splits), images, seed)
        result = evaluate(method, chosen, split="all", tasks=TASKS, seed=seed, out=out)
        if out is not None:
            cases = audit_cases(method, chosen, seed)
            write_atomic(out / PAGE, audit_page(result, cases, method.absolute_maps).encode())
    text = describe_results(result)
    return Answer(result, f"{text}\n\nPage: {out / PAGE}" if out else text, notes=result.notes)


def _drawn(store: Store, images: int, seed: int) -> Store:
    """Return some of the images, in order."""
    import numpy as np

    if len(store) <= images:
        return store
    return store.take(np.sort(np.random.default_rng(seed).permutation(len(store))[:images]))
