"""What two sources share: patients by their id, images by how they look, whatever their names, sizes and formats."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.study import Study
from medlip.errors import MedLIPError, name_some
from medlip.images import read_image
from medlip.images.fingerprint import BITS, distances, from_texts, perceptual_hash
from medlip.parallel import process, track

__all__ = [
    "NEAR",
    "SAME",
    "Fingerprints",
    "Overlap",
    "find_overlap",
    "fingerprint",
    "perceptual_hash",
    "pseudonym",
    "require_disjoint",
]

# Among 4,779 real images (NIH, Open-i, covid-chestxray, paediatric) no two of different patients come as near, but 99 % of
# copies that were saved again, equalised, padded, mirrored or inverted do (docs/images.md).
NEAR = 36
# For a warning that nobody looks through: phantoms, which have no clothes and no bad posture, come nearer to each other.
SAME = 22
NAMED = 3  # patients in a message


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """How the images of a source look (N), to find them again elsewhere.

    Attributes:
        ids: of the images.
        patients: by image.
        hashes: uint64 (N, 4), see `medlip.images.fingerprint`; (0, 4) when they were made by an early version, whose hashes
            can't be compared: then patients alone are.
        skipped: images without a hash: they could not be read, or an early version looked at them.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    hashes: NDArray[np.uint64]
    skipped: int = 0

    def anonymous(self) -> Fingerprints:
        """Return them as they may leave the data: images by number, patients by a hash of their id."""
        return replace(self, ids=tuple(map(str, range(len(self.ids)))), patients=tuple(map(pseudonym, self.patients)))

    def joined(self, others: Fingerprints) -> Fingerprints:
        """Return these and others, numbered through; where one side has no hashes, patients alone."""
        both = tuple(map(str, range(len(self.ids) + len(others.ids))))
        hashes = [side.hashes for side in (self, others)]
        if any(len(known) != len(side.ids) for known, side in zip(hashes, (self, others), strict=True)):
            hashes = [np.zeros((0, BITS // 64), np.uint64)]
        return Fingerprints(both, self.patients + others.patients, np.concatenate(hashes), self.skipped + others.skipped)

    def save(self, path: Path) -> None:
        """Write them to an .npz file."""
        np.savez_compressed(path, ids=self.ids, patients=self.patients, hashes_2=self.hashes)

    @classmethod
    def load(cls, path: Path) -> Fingerprints:
        """Read what `save` wrote.

        Raises:
            MedLIPError: the file is broken.
        """
        try:
            with np.load(path) as content:
                ids, patients = tuple(content["ids"].tolist()), tuple(content["patients"].tolist())
                if "hashes" in content:  # of an early version
                    return cls(ids, patients, np.zeros((0, BITS // 64), np.uint64), skipped=len(ids))
                return cls(ids, patients, content["hashes_2"])
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


def require_disjoint(sides: Mapping[str, Collection[str]], harm: str, advice: str) -> None:
    """Raise where a patient is on two sides of what has to be held apart.

    Args:
        sides: patients by the name of the side, for people.
        harm: what would come of it.
        advice: what to do.

    Raises:
        MedLIPError: says how many are, on which sides, and names some.
    """
    for (name, one), (other_name, other) in combinations(sides.items(), 2):
        shared = sorted(set(one) & set(other))
        if shared:
            named = name_some(shared, NAMED)
            raise MedLIPError(
                f"{len(shared)} patients are both in the {name} and in the {other_name} data ({named}), so {harm}. {advice}"
            )


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
    """Return shared patients, and pairs of images, mirrored or inverted ones too, that differ in at most `near` bits."""
    pairs = [(first.ids[i], second.ids[j]) for i, j in _near(first.hashes, second.hashes, near)]
    return Overlap(tuple(sorted(set(first.patients) & set(second.patients))), tuple(pairs))


def _hashes(store: Store) -> NDArray[np.uint64]:
    try:
        hashes = from_texts(store.column("perceptual_hash"))
    except KeyError:
        hashes = None
    if hashes is None:  # a store of an early version
        return np.stack([perceptual_hash(record.image) for record in track(store, "looking at images", len(store))])
    return hashes


def _near(first: NDArray[np.uint64], second: NDArray[np.uint64], near: int) -> Iterator[tuple[int, int]]:
    block = max(1, (1 << 22) // max(len(second), 1))  # bounds the memory
    for start in range(0, len(first), block):
        for i, j in np.argwhere(distances(first[start : start + block], second) <= near).tolist():
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
                if view.problem:
                    raise MedLIPError(view.problem)
                pixels = view.image if isinstance(view.image, np.ndarray) else read_image(view.image)
                bits = perceptual_hash(pixels)
            except MedLIPError:
                bits = None
            found.append((f"{self.source.name}:{key}:{number}", study.patient, bits))
        return found
