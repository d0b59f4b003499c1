"""The page of a prepared store: counts of all images, and some of them with reports, facts, labels, boxes and masks."""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medlip.about import DISCLAIMER
from medlip.app.pages.pictures import OUTLINE, jpeg, outline_of, picture
from medlip.app.pages.templates import fill_template
from medlip.data.writer import SKIPPED
from medlip.errors import MedLIPError
from medlip.reports.facts import Fact
from medlip.reports.review import spans
from medlip.tables import Table

if TYPE_CHECKING:
    from medlip.data.store import Record, Store

SIDE = 320
"""Pixels a side of an image of the page, at most."""
PER_PAGE = 12
SKIPPED_SHOWN = 200
PRESENCES = ("present", "absent", "uncertain")


def store_page(store: Store, images: int = 200, seed: int = 0) -> str:
    """Return the page of a store as HTML.

    All images are counted; shown are some, drawn so that every split, view, source and finding is among them.

    Args:
        store: the store, or a part of it.
        images: how many are shown at most.
        seed: of the draw.
    """
    stated, labels = store.stated(), store.column("labels")
    views, sources = store.column("view"), store.column("source")
    boxed = [{box.pathology for box in boxes} for boxes in store.column("boxes")]
    masked = store.masked_findings()
    kinds = [
        {("view", view or "unknown"), ("source", source)}
        | {("finding", pathology) for pathology, _, presence in facts if presence == "present"}
        | {("finding", name) for name, presence in labelled.items() if presence == "present"}
        | {("drawn", name) for name in (*boxes, *masks)}
        for facts, labelled, view, source, boxes, masks in zip(stated, labels, views, sources, boxed, masked, strict=True)
    ]
    chosen = _draw(kinds, images, seed)
    items = [_item(store[row]) for row in chosen]
    skipped = _skipped(store)
    tables = [
        Table("Images by split", ["split", "images"], counted(store.splits)),
        Table("Images by source and view", ["source, view", "images"], counted(Counter(
            f"{source}, {view or 'unknown view'}" for source, view in zip(sources, views, strict=True)
        ))),
        _findings(stated, labels, boxed, masked),
        Table("Places of present findings", ["place", "facts"], counted(Counter(
            anatomy for facts in stated for _, anatomy, presence in facts if presence == "present"
        ))),
    ]  # fmt: skip
    if skipped:
        tables.append(
            Table(
                "Left out, by reason",
                ["reason", "how many"],
                counted(Counter(row["reason"].partition(":")[0] for row in skipped)),
            )
        )
        tables.append(Table(
            "Left out", ["source, study, image", "reason"],
            [[f"{row['source']} {row['study']} {row['image']}".strip(), row["reason"]] for row in skipped[:SKIPPED_SHOWN]],
            f"The first {SKIPPED_SHOWN} of {len(skipped):,}." if len(skipped) > SKIPPED_SHOWN else "",
        ))  # fmt: skip
    return fill_template(
        "show.html",
        title=f"{len(store):,} images of {', '.join(sorted(set(sources)))}",
        lead=[f"{len(set(store.column('patient'))):,} patients, {sum(map(len, stated)):,} facts stated in reports."],
        tables=tables,
        heading="Images with their reports",
        sampled=(
            "All of them."
            if len(items) == len(store)
            else f"{len(items):,} of {len(store):,}, drawn so that every split, view, source and finding is among them. "
            "Search and filters look among these."
        )
        + " Marked in a report is what a fact was read from: red is present, green absent, yellow uncertain.",
        items=items,
        filters=choices(items),
        regions=any(item["boxes"] or item["masks"] for item in items),
        per_page=PER_PAGE,
        extra="",
        made_by=[f"Store {store.hash}, format {store.manifest.get('format')}, MedLIP {store.manifest.get('medlip', '?')}."],
        disclaimer=DISCLAIMER,
    )


def _draw(kinds: Sequence[set[tuple[str, str]]], images: int, seed: int) -> list[int]:
    """Return the rows that are shown, in order: of every kind a fair share, then any."""
    order = np.random.default_rng(seed).permutation(len(kinds)).tolist()
    if len(order) <= images:
        return sorted(order)
    every = {kind for of_row in kinds for kind in of_row}
    fair = max(1, images // max(1, len(every)))
    shown: Counter[tuple[str, str]] = Counter()
    chosen: list[int] = []
    for row in order:
        if len(chosen) < images and any(shown[kind] < fair for kind in kinds[row]):
            chosen.append(row)
            shown.update(kinds[row])
    taken = set(chosen)
    rest = (row for row in order if row not in taken)
    return sorted([*chosen, *(row for _, row in zip(range(images - len(chosen)), rest, strict=False))])


def _findings(
    stated: Sequence[Sequence[tuple[str, str, str]]],
    labels: Sequence[Mapping[str, str]],
    boxed: Iterable[Iterable[str]],
    masked: Iterable[Iterable[str]],
) -> Table:
    """Count images by finding: what reports state of it, what labels say, and boxes and masks."""
    facts = Counter(pair for of_image in stated for pair in {(name, presence) for name, _, presence in of_image})
    said = Counter(pair for of_image in labels for pair in of_image.items())
    boxes, masks = (Counter(name for of_image in drawn for name in of_image) for drawn in (boxed, masked))
    names = sorted({name for name, _ in (*facts, *said)} | set(boxes) | set(masks))
    rows = [
        [name, *(f"{counts[name, presence]:,}" for counts in (facts, said) for presence in PRESENCES)]
        + [f"{boxes[name]:,}", f"{masks[name]:,}"]
        for name in names
    ]
    header = ["finding", *(f"{what}: {presence}" for what in ("reports", "labels") for presence in PRESENCES)]
    return Table("Images by finding", [*header, "boxes", "masks"], rows)


def _item(record: Record) -> dict[str, object]:
    height, width = record.image.shape
    scale = min(1.0, SIDE / max(height, width))
    shown = picture(record.image).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    present = {fact.pathology for fact in record.facts if fact.presence == "present"}
    present |= {name for name, presence in record.labels.items() if presence == "present"}
    places = {fact.anatomy for fact in record.facts if fact.presence == "present"}
    chips = [
        ("facts", [chip(f"{fact.pathology} @ {fact.anatomy}", fact.presence) for fact in record.facts]),
        ("labels", [chip(name, presence) for name, presence in record.labels.items()]),
        ("boxes", [chip(box.phrase or box.pathology, "present") for box in record.boxes]),
        ("masks", [chip(mask.pathology or mask.anatomy, "present") for mask in record.masks]),
    ]
    known = ", ".join(f"{name} {value}" for name, value in record.attributes.items())
    about = [record.source, record.split, record.view or "unknown view", f"patient {record.patient}", known]
    return {
        "title": record.id,
        "about": " · ".join(filter(None, about)),
        "image": jpeg(shown),
        "alt": f"Chest X-ray {record.id}",
        "width": shown.width,
        "height": shown.height,
        "frame": (width, height),
        "boxes": record.boxes,
        "masks": _outlines(record),
        "report": list(highlighted(record.report, record.facts)) if record.report else [],
        "chips": [(title, of_kind) for title, of_kind in chips if of_kind],
        "filters": {
            "split": [record.split],
            "view": [record.view or "unknown"],
            "source": [record.source],
            "finding": sorted(present),
            "place": sorted(places),
        },
    }


def highlighted(text: str, facts: Sequence[Fact]) -> Iterator[dict[str, str]]:
    """Yield the parts of a report: its text, and where a fact was read from it, the presence and the names of the facts."""
    at = 0
    for start, end, here in spans(facts):
        yield {"text": text[at:start], "facts": "", "presence": ""}
        names = ", ".join(f"{fact.pathology} @ {fact.anatomy}: {fact.presence}" for fact in here)
        yield {"text": text[start:end], "facts": names, "presence": here[0].presence}
        at = end
    yield {"text": text[at:], "facts": "", "presence": ""}


def _outlines(record: Record) -> str:
    """Return the outlines of an image's masks as the address of an <img>; "" where there are none."""
    if not record.masks:
        return ""
    from PIL import Image

    edges = np.any([outline_of(mask.pixels) for mask in record.masks], axis=0)
    layer = np.zeros((*edges.shape, 4), np.uint8)
    layer[edges] = (*OUTLINE, 255)
    file = io.BytesIO()
    Image.fromarray(layer).quantize(4).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chip(text: str, presence: str) -> dict[str, str]:
    """Return a few words in the colour of a presence."""
    return {"text": text, "presence": presence}


def choices(items: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what can be chosen, by filter; what all have alike is no choice."""
    names = list(items[0]["filters"]) if items else []
    values = {name: sorted({value for item in items for value in item["filters"][name]}) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def counted(counts: Mapping[str, int]) -> list[list[str]]:
    """Return counts as rows of a table, the largest first."""
    return [[name, f"{count:,}"] for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))]


def _skipped(store: Store) -> list[dict[str, str]]:
    """Return the rows of what preparing left out; none where that isn't kept."""
    try:
        text = store.read_file(SKIPPED).decode()
    except (OSError, MedLIPError):
        return []
    return list(csv.DictReader(io.StringIO(text)))
