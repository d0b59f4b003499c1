"""What two sources share: patients by their id, images by how they look, whatever their names, sizes and formats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.study import Study
from medlip.errors import MedLIPError
from medlip.images import read_image
from medlip.images.fingerprint import BITS, perceptual_hash
from medlip.parallel import process, track

__all__ = ["NEAR", "SAME", "Fingerprints", "Overlap", "find_overlap", "fingerprint", "perceptual_hash", "pseudonym"]

# On Open-i and NIH images: at most 18 between copies that were shrunk, brightened and saved again as JPEG, at most 36 where
# a hundredth was cut off each edge; at least 50 between images of different patients.
NEAR = 32
# For a warning that nobody looks through: phantoms, which have no clothes and no bad posture, come as near as 24.
SAME = 22


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """How the images of a source look (N), to find them again elsewhere.

    Attributes:
        ids: of the images.
        patients: by image.
        hashes: uint64 (N, 4): 256 bits that hardly change when an image is resized, brightened or saved again.
        skipped: images that could not be read.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    hashes: NDArray[np.uint64]
    skipped: int = 0

    def anonymous(self) -> Fingerprints:
        """Return them as they may leave the data: images by number, patients by a hash of their id."""
        return replace(self, ids=tuple(map(str, range(len(self.ids)))), patients=tuple(map(pseudonym, self.patients)))

    def save(self, path: Path) -> None:
        """Write them to an .npz file."""
        np.savez_compressed(path, ids=self.ids, patients=self.patients, hashes=self.hashes)

    @classmethod
    def load(cls, path: Path) -> Fingerprints:
        """Read what `save` wrote.

        Raises:
            MedLIPError: the file is broken.
        """
        try:
            with np.load(path) as content:
                return cls(tuple(content["ids"].tolist()), tuple(content["patients"].tolist()), content["hashes"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise MedLIPError(f"{path}: not readable ({error}). Copy the run again, or remove the file.") from error


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two sources share.

    Attributes:
        patients: that are in both.
        images: pairs of ids, first of the one and then of the other, that look the same.
    """

    patients: tuple[str, ...]
    images: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.patients or self.images)


def pseudonym(patient: str) -> str:
    """Return what tells patients apart without naming them."""
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def fingerprint(source: str | Path | Source | Store, workers: int | None = None) -> Fingerprints:
    """Look at every image of a source, lateral views aside, or take what a store knows of its images."""
    opened = open_source(source) if isinstance(source, (str, Path)) else source
    if isinstance(opened, Store):
        return Fingerprints(tuple(opened.column("id")), tuple(opened.column("patient")), _hashes(opened))
    skipped = 0
    ids: list[str] = []
    patients: list[str] = []
    hashes: list[NDArray[np.uint64]] = []
    studies = process(_Look(opened), opened.items.items(), "looking at images", total=len(opened), workers=workers)
    for outcome in studies:
        skipped += outcome.value is None
        for id, patient, bits in outcome.value or ():
            if bits is None:
                skipped += 1
                continue
            ids.append(id)
            patients.append(patient)
            hashes.append(bits)
    stacked = np.stack(hashes) if hashes else np.zeros((0, BITS // 64), np.uint64)
    return Fingerprints(tuple(ids), tuple(patients), stacked, skipped)


def find_overlap(first: Fingerprints, second: Fingerprints, near: int = NEAR) -> Overlap:
    """Return shared patients, and pairs of images whose hashes differ in at most `near` of 256 bits."""
    pairs = [(first.ids[i], second.ids[j]) for i, j in _near(first.hashes, second.hashes, near)]
    return Overlap(tuple(sorted(set(first.patients) & set(second.patients))), tuple(pairs))


def _hashes(store: Store) -> NDArray[np.uint64]:
    try:
        text = "".join(store.column("perceptual_hash"))
    except KeyError:  # a store of an early version
        return np.stack([perceptual_hash(record.image) for record in track(store, "looking at images", len(store))])
    return np.frombuffer(bytes.fromhex(text), np.uint64).reshape(-1, BITS // 64)


def _near(first: NDArray[np.uint64], second: NDArray[np.uint64], near: int) -> Iterator[tuple[int, int]]:
    block = max(1, (1 << 22) // max(len(second), 1))  # bounds the memory
    for start in range(0, len(first), block):
        different = first[start : start + block, None] ^ second[None]
        distance = np.bitwise_count(different).sum(2, dtype=np.int32)
        for i, j in np.argwhere(distance <= near).tolist():
            yield start + i, j


@dataclass(frozen=True, slots=True)
class _Look:
    """Makes a study of a source and looks at its images, in any process."""

    source: Source

    def __reduce__(self) -> tuple[type[_Look], tuple[Source]]:
        return _Look, (Source(self.source.name, {}, self.source.read),)  # the items travel one by one

    def __call__(self, item: tuple[str, object]) -> list[tuple[str, str, NDArray[np.uint64] | None]]:
        key, payload = item
        study: Study = self.source.read(payload)
        found = []
        for number, view in enumerate(study.views):
            if view.position == "lateral":
                continue
            try:
                pixels = view.image if isinstance(view.image, np.ndarray) else read_image(view.image)
                bits = perceptual_hash(pixels)
            except MedLIPError:
                bits = None
            found.append((f"{self.source.name}:{key}:{number}", study.patient, bits))
        return found
