"""What a source or a store holds, and what is missing, before hours go into it."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from medlip.data.sources import Source, data_sets, open_source
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.parallel import track

NAMED = 20


def check(text: str | Path) -> dict[str, Any]:
    """Count what a source holds and name image files that are not there; compare a store's shards with their hashes.

    Returns:
        counts: studies, patients, images, reports, labels, boxes, masks; by split and view; `missing` image files and the
        first of them; `left_out`, what else can't be used, with the first reasons, and `notes` on what is odd; `without`,
        the optional files that are not there.

    Raises:
        MedLIPError: the source can't be opened, or a shard differs from the manifest.
    """
    source = open_source(text)
    return _check_store(source) if isinstance(source, Store) else _check_source(source, str(text))


def _check_source(source: Source, text: str) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    views: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    patients: set[str] = set()
    missing: list[str] = []
    left_out = [f"{left.study} {left.image}: {left.reason}" for left in source.left_out]
    for study in track(source, "checking", len(source)):
        patients.add(study.patient)
        splits[study.split or "none"] += 1
        labels.update(name for name, presence in study.labels.items() if presence == "present")
        counts.update(studies=1, reports=int(bool(study.report)), images=len(study.views))
        for view in study.views:
            views[view.position or "unknown"] += 1
            counts.update(boxes=len(view.boxes), masks=len(view.masks))
            if view.problem:
                left_out.append(f"{study.id} {view.image}: {view.problem}")
            elif isinstance(view.image, Path) and not view.image.is_file():
                missing.append(str(view.image))
    return {
        "source": text,
        **counts,
        "patients": len(patients),
        "splits": dict(splits),
        "views": dict(views),
        "present": dict(labels.most_common()),
        "missing": len(missing),
        "missing_first": missing[:NAMED],
        "left_out": len(left_out),
        "left_out_first": left_out[:NAMED],
        "notes": list(source.notes),
        "without": _without(text),
    }


def _without(text: str) -> list[str]:
    name, _, place = text.partition(":")
    optional = data_sets()[name].optional if name in data_sets() else ()
    folder = Path(place).expanduser()
    return [
        " or ".join(either)
        for either in (patterns.split("|") for patterns in optional)
        if not any(next(folder.glob(pattern), None) for pattern in either)
    ]


def _check_store(store: Store) -> dict[str, Any]:
    for shard in track(store.manifest["shards"], "checking"):
        if hashlib.sha256(store.read_file(shard["file"])).hexdigest() != shard["sha256"]:
            raise MedLIPError(
                f"{store.root}/{shard['file']}: its content changed. Copy the store again, or prepare it again."
            )
    return {
        "source": store.root,
        **store.manifest["counts"],
        "splits": store.splits,
        "patients": len(set(store.column("patient"))),
        "settings": store.manifest["settings"],
        "hash": store.hash,
    }
