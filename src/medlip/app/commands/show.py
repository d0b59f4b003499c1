"""`medlip show`: a page to look at data, a run, a result or facts."""

from __future__ import annotations

import webbrowser
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer

from medlip.app.answer import Answer
from medlip.errors import MedLIPError


def show(
    what: Annotated[
        str,
        typer.Argument(
            help="A prepared store or other source of data, a run, a folder with a result, or a file of facts.",
            metavar="WHAT",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the page to a file, and don't open it.", metavar="FILE")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of a store. Default: all.", metavar="NAME")] = None,
    images: Annotated[
        int, typer.Option("--images", help="Images of a store, or studies of facts, to show.", min=1, metavar="N")
    ] = 200,
) -> Answer:
    """Look at data, a run, a result or facts: opens a page in the browser.

    Of data, all images are counted, by split, source, view, finding and place, and some are shown with their reports, facts,
    labels, boxes and masks, to filter and search.
    """
    kind, page = _page(what, split, images)
    file = out or Path(mkdtemp(prefix="medlip-")) / f"{kind}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    opened = out is None and webbrowser.open(file.resolve().as_uri())
    hint = "" if out is not None or opened else " (no browser could be opened: open it yourself)"
    return Answer({"kind": kind, "page": file}, f"Page of a {kind}: {file}{hint}")


def _page(what: str, split: str | None, images: int) -> tuple[str, str]:
    """Return what kind of thing it is, and its page."""
    from medlip.app.pages.facts_page import facts_page, read_facts
    from medlip.app.pages.run_page import run_page
    from medlip.training.fit import CHECKPOINT, MANIFEST, METRICS, MODEL

    path = Path(what)
    if path.is_dir() and any((path / name).exists() for name in (MODEL, CHECKPOINT, MANIFEST, METRICS)):
        return "run", run_page(path)
    if path.is_file() and path.suffix in (".parquet", ".csv", ".jsonl"):
        return "file of facts", facts_page(read_facts(path), path.name, images)
    from medlip.evaluation.results import RESULT

    if (path.is_file() and path.suffix == ".json") or (path / RESULT).is_file():
        from medlip.app.pages.compare_page import result_page
        from medlip.evaluation.compare import Evaluated

        return "result", result_page(Evaluated.load(path))
    from medlip.app.input import evaluation_store
    from medlip.app.pages.store_page import store_page
    from medlip.data.prepare import SHARES
    from medlip.evaluation.selection import select_split

    with ExitStack() as stack:
        try:
            store = stack.enter_context(evaluation_store(what, SHARES))
        except MedLIPError as error:
            if path.exists():
                raise MedLIPError(f"{error} Nor is it a run, a result or a file of facts.") from error
            raise
        return "store", store_page(select_split(store, split or "all", store.splits), images)
