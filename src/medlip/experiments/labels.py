"""Which labels a transfer learns from: levels of a protocol, and the patients that keep their labels at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlip.data.store import Store
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation.regions import paint_finding
from medlip.evaluation.selection import Cohort, label_matrix
from medlip.experiments.transfer_protocols import TransferProtocol
from medlip.metrics import Array
from medlip.reports import Presence


@dataclass(frozen=True, slots=True)
class Level:
    """So many labels.

    Attributes:
        name: such as "10 %" or "4 shots".
        share: of the patients; 1 with shots.
        shots: positive and negative patients a class; 0 for a share.
        draw: which drawing of labelled patients.
    """

    name: str
    share: float
    shots: int
    draw: int

    @property
    def folder(self) -> str:
        """The name without spaces."""
        return self.name.replace(" ", "")


def levels(protocol: TransferProtocol) -> list[Level]:
    """Return the levels of a protocol, all draws of each."""
    steps = [(f"{shots} shot{'s' if shots > 1 else ''}", 1.0, shots) for shots in protocol.shots] or [
        (f"{100 * share:g} %", share, 0) for share in protocol.shares
    ]
    return [Level(name, share, shots, draw) for name, share, shots in steps for draw in range(protocol.draws)]


def nested_share(patients: Sequence[str], share: float, seed: int, labels: Array) -> NDArray[np.int64]:
    """Return the rows of a share of the patients, at least one, in order; a smaller share is within each larger one.

    Patients are drawn in a random order, but for the few who come first so that every class has a positive and a negative
    where the share has room for them: of a class that no one drawn before has, the first in that order.

    Args:
        patients: whose images they are, (N,).
        share: of the patients.
        seed: of the order.
        labels: (N, C): 1, 0, or NaN for unknown.
    """
    drawn = np.random.default_rng(seed).permutation(sorted(set(patients)))
    place_of = {patient: place for place, patient in enumerate(drawn.tolist())}
    places = np.array([place_of[patient] for patient in patients])
    held = np.zeros((len(drawn), 2 * labels.shape[1]), bool)  # which positives and negatives a patient has
    rows, kinds = np.nonzero(np.concatenate([labels == 1, labels == 0], axis=1))
    held[places[rows], kinds] = True
    first: list[int] = []
    for kind in np.argsort(held.sum(axis=0), kind="stable"):  # who has a rare one may have others, too
        if held[:, kind].any() and not held[first, kind].any():
            first.append(int(held[:, kind].argmax()))
    first.sort(key=lambda place: (-held[place].sum(), place))
    order = [*first, *np.setdiff1d(np.arange(len(drawn)), first)]
    return np.flatnonzero(np.isin(places, order[: max(1, round(share * len(order)))]))


def nested_shots(labels: Array, patients: Sequence[str], shots: int, seed: int) -> NDArray[np.int64]:
    """Return rows of an image each of up to k positive and k negative patients, labels (N,); a smaller k is within each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rows: list[int] = []
    for value in (1.0, 0.0):
        known: dict[str, int] = {}
        for row in order[labels[order] == value].tolist():
            known.setdefault(patients[row], row)
        rows += list(known.values())[:shots]
    return np.array(rows, np.int64)


def labelled_classes(train: Store, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes to learn from image labels: those named, or all with a positive.

    Raises:
        MedLIPError: one that is named has no positive, or there is none at all; names those there are.
    """
    found = {name for labels in train.column("labels") for name, presence in labels.items() if presence == "present"}
    return _chosen(train, found, classes, "positive")


def outlined_classes(train: Store, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes to learn to outline: those named, or all with a mask or box.

    Raises:
        MedLIPError: one that is named has neither, or there is none at all; names those there are.
    """
    return _chosen(train, set().union(*_drawn(train)), classes, "mask or box")


def outline_matrix(store: Store, classes: Sequence[str]) -> Array:
    """Return what is known of where, (N, C): 1 for a finding with a mask or box, 0 for one that is absent, else NaN."""
    known = label_matrix(store.column("labels"), classes)
    drawn = np.array([[name in names for name in classes] for names in _drawn(store)], bool).reshape(known.shape)
    return np.where(drawn, 1.0, np.where(known == 0, 0.0, np.nan))


def lacking_classes(labels: Array, classes: Sequence[str]) -> list[str]:
    """Return the classes without a positive or without a negative among labels (N, C)."""
    return [name for name, own in zip(classes, labels.T, strict=True) if not ((own == 1).any() and (own == 0).any())]


def outline(
    masks: Sequence[Mask], boxes: Sequence[Box], labels: Mapping[str, Presence], name: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], bool]:
    """Return where a finding is, (H, W), and whether that is known: it has a mask or box, or is known to be absent."""
    region = paint_finding(boxes, masks, name, (shape[0], shape[1]))
    if region is None:
        return np.zeros(shape, bool), labels.get(name) == "absent"
    return region, True


def _drawn(store: Store) -> list[frozenset[str]]:
    return Cohort(store, store.vocabulary).drawn


def _chosen(train: Store, found: set[str], classes: Sequence[str] | None, what: str) -> tuple[str, ...]:
    wanted = tuple(sorted(found) if classes is None else classes)
    lacking = [name for name in wanted if name not in found]
    if lacking or not wanted:
        raise MedLIPError(
            f"{train.root}: the split 'train' has no {what} of {', '.join(lacking) or 'anything'}, so there is nothing to "
            f"learn from. It has {', '.join(sorted(found)) or 'none at all'}."
        )
    return wanted
