"""What every evaluation stands on: choosing images and prompts, asking a method, and saying what it may have seen before."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medlip.concepts import Vocabulary
from medlip.data.overlap import SAME, find_overlap, fingerprint
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing, squash
from medlip.metrics.classification import Array
from medlip.reports import Presence

if TYPE_CHECKING:
    from medlip.data.store import Record, Store

RESULT = "result.json"
DISCLAIMER = "Research software. Not a medical device: not for diagnosis or treatment."
ON_TRAINED = "images of the split 'train', on which the method may have been trained, are among those evaluated"
UNASKED = "labels that were not asked for (name a class with its words to ask for it)"
_LABEL_VALUES: dict[Presence | None, float] = {"present": 1.0, "absent": 0.0}


class Answering(Protocol):
    """What evaluation knows of a method."""

    vocabulary: Vocabulary
    preprocessing: Preprocessing

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return probabilities (B, C)."""
        ...

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return non-negative maps (B, C, h, w)."""
        ...


def default_split(splits: Collection[str]) -> str:
    """Return the split to evaluate where none is named: `test`, else `val`; never `train`."""
    for split in ("test", "val"):
        if split in splits:
            return split
    if not splits:
        raise MedLIPError("the data has no image: nothing to evaluate.")
    raise MedLIPError(
        f"the data has neither a split 'test' nor 'val', only {_list(splits)}: nothing was kept back to evaluate on. "
        "Name a split to evaluate it all the same, or 'all'."
    )


def select_split(store: Store, split: str, splits: Collection[str]) -> Store:
    """Return the part of one split, or everything for "all"."""
    if split == "all":
        return store
    if split not in splits:
        raise MedLIPError(f"the data has no split {split!r}. Its splits: {_list(splits)}; or 'all'.")
    return store.select(split=split)


def _list(splits: Collection[str]) -> str:
    return ", ".join(repr(split) for split in sorted(splits))


def choose_prompts(
    names: Sequence[str], classes: Sequence[str] | Mapping[str, str] | None, vocabulary: Vocabulary
) -> dict[str, str]:
    """Return the prompt of each class: those that are named, or all of the data's `names` that the vocabulary has."""
    if classes is None:
        return {name: name for name in names if vocabulary.find_pathology(name)}
    prompts = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    unknown = [name for name in prompts if name not in names]
    if unknown:
        raise MedLIPError(f"the data labels no {', '.join(map(repr, unknown))}. Its classes: {', '.join(names)}.")
    return prompts


def resolved(prompt: str, vocabulary: Vocabulary) -> str:
    """Return the pathology that a prompt names, or the prompt itself."""
    pathology = vocabulary.find_pathology(prompt)
    return pathology.name if pathology else prompt


def label_matrix(labels: Sequence[Mapping[str, Presence]], classes: Sequence[str]) -> Array:
    """Return labels as (N, C): 1 present, 0 absent, NaN for uncertain and for what an image has no label of."""
    return np.array([[_LABEL_VALUES.get(label.get(name), np.nan) for name in classes] for label in labels])


def preprocessed(records: Sequence[Record], preprocessing: Preprocessing) -> Tensor:
    """Return the images of records as a method takes them, (B, 3, S, S)."""
    # Each is squashed by itself, for sizes differ; the rest is done at once.
    squashed = [squash(torch.from_numpy(record.image)[None], preprocessing.size) for record in records]
    return preprocessing(torch.cat(squashed))


@contextmanager
def inference(method: object) -> Iterator[torch.device]:
    """Run without gradients and dropout; a method that was in training is so again afterwards."""
    module = method if isinstance(method, nn.Module) else nn.Module()
    training = module.training
    parameter = next(module.parameters(), torch.empty(0))
    module.eval()
    try:
        with torch.inference_mode():
            yield parameter.device
    finally:
        module.train(training)


def count_overlap(method: Answering, store: Store) -> dict[str, int] | None:
    """Count the patients and images that the method was trained on."""
    seen = getattr(method, "seen", None)
    if seen is None:
        return None
    shared = find_overlap(seen, fingerprint(store).anonymous(), SAME)
    return {"patients": len(shared.patients), "images": len({image for _, image in shared.images})}


def _overlap_notes(method: Answering, overlap: Mapping[str, int] | None, images: int) -> Iterator[str]:
    """Say for people what `count_overlap` found among so many images."""
    if overlap is None and hasattr(method, "seen"):
        yield "not known what the method was trained on (that is kept in a run's folder): overlap with it was not looked for"
    if overlap and any(overlap.values()):
        yield (
            f"WARNING: THE METHOD WAS TRAINED ON WHAT IS EVALUATED: {overlap['patients']:,} patients, and "
            f"{overlap['images']:,} of {images:,} images look like one of training. These numbers don't hold for new "
            "patients. `medlip data overlap TRAINING EVALUATED` names them."
        )


def provenance(method: Answering, evaluated: Store, notes: Iterable[str]) -> dict[str, Any]:
    """Return what every result says of itself: what the method is and had seen before, versions, notes and a disclaimer."""
    overlap = count_overlap(method, evaluated)
    return {
        "overlap": overlap,
        "run": getattr(method, "made_by", None),
        "versions": versions(),
        "notes": [*_overlap_notes(method, overlap, len(evaluated)), *notes],
        "disclaimer": DISCLAIMER,
    }


def hash_names(ids: Iterable[str]) -> str:
    """Return a short hash over names, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    names = ("medlip", "torch", "numpy", "scikit-learn", "timm")
    return {name: version(name) for name in names} | {"python": platform.python_version()}
