"""What every result says of itself: what made the method, what it may have seen before, and on which versions it rests."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from medlip.about import DISCLAIMER
from medlip.data.overlap import SAME, Fingerprints, find_overlap, fingerprint
from medlip.data.sources import stand_ins_note
from medlip.evaluation.results import Provenance, TrainingOverlap

if TYPE_CHECKING:
    from medlip.data.store import Store
    from medlip.methods.base import Method


def provenance(method: Method, evaluated: Store, notes: Iterable[str]) -> Provenance:
    """Return what a result says of itself; `notes` follow those on what the method was trained on."""
    overlap = count_overlap(method, evaluated)
    return Provenance.model_validate(
        {
            "overlap": overlap,
            "run": method.made_by,
            "versions": versions(),
            "notes": [*_overlap_notes(method.seen, overlap, len(evaluated)), *notes],
            "disclaimer": DISCLAIMER,
        }
    )


def count_overlap(method: Method, store: Store) -> TrainingOverlap | None:
    """Count the patients and images that the method was trained on; None where that is not known."""
    if method.seen is None:
        return None
    shared = find_overlap(method.seen, fingerprint(store).anonymous(), SAME)
    return TrainingOverlap(patients=len(shared.patients), images=len({image for _, image in shared.images}))


def hash_names(ids: Iterable[str]) -> str:
    """Return a short hash over names, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    names = ("medlip", "torch", "numpy", "scikit-learn", "timm")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def patients_rule(store: Store) -> dict[str, str]:
    """Say, among a result's rules, of which sources numbers over patients are numbers over studies; nothing of others."""
    said = "; ".join(stand_ins_note(source, count) for source, count in store.stand_ins.items())
    return {"patients": said} if said else {}


def _overlap_notes(seen: Fingerprints | None, overlap: TrainingOverlap | None, images: int) -> Iterator[str]:
    """Say for people what `count_overlap` found among so many images."""
    if seen is not None and seen.ids and not len(seen.hashes):
        yield "trained by an early version, whose fingerprints can't be compared: images were not looked for, patients were"
    if overlap is None:
        yield "not known what the method was trained on (that is kept in a run's folder): overlap with it was not looked for"
    elif overlap.patients or overlap.images:
        yield (
            f"WARNING: THE METHOD WAS TRAINED ON WHAT IS EVALUATED: {overlap.patients:,} patients, and "
            f"{overlap.images:,} of {images:,} images look like one of training. These numbers don't hold for new "
            "patients. `medlip data overlap TRAINING EVALUATED` names them."
        )
