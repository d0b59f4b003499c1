"""What there is to learn from in a store, looked at before the first step: training on nothing is an error."""

from __future__ import annotations

from dataclasses import dataclass

from medlip.data.store import Store
from medlip.errors import MedLIPError


@dataclass(frozen=True, slots=True)
class Supervision:
    """What the studies of a store say.

    Attributes:
        studies: their number.
        with_report: of those that have a report.
        with_facts: of those that state a fact.
        with_sentences: of those with a sentence of findings or impression.
        labels: number of images by label and presence, such as labels["effusion"]["present"].
    """

    studies: int
    with_report: int
    with_facts: int
    with_sentences: int
    labels: dict[str, dict[str, int]]

    def __str__(self) -> str:
        shares = (("facts", self.with_facts), ("sentences", self.with_sentences))
        return f"of {self.studies:,} studies " + ", ".join(
            f"{count:,} ({count / max(self.studies, 1):.0%}) have {what}" for what, count in shares
        )


def supervision(store: Store) -> Supervision:
    """Count what a store, or a part of it, has to learn from; no image is read."""
    reports: dict[tuple[str, str], tuple[bool, bool, bool]] = {}
    labels: dict[str, dict[str, int]] = {}
    columns = (store.column(name) for name in ("source", "study", "report", "facts", "sentences", "labels"))
    for source, study, *said, labelled in zip(*columns, strict=True):
        before = reports.get((source, study), (False, False, False))
        reports[source, study] = before[0] or bool(said[0]), before[1] or bool(said[1]), before[2] or bool(said[2])
        for name, presence in labelled.items():
            counts = labels.setdefault(name, {})
            counts[presence] = counts.get(presence, 0) + 1
    with_report, with_facts, with_sentences = (sum(one[at] for one in reports.values()) for at in range(3))
    return Supervision(len(reports), with_report, with_facts, with_sentences, labels)


def require_facts(store: Store) -> Supervision:
    """Return what there is to learn from.

    Raises:
        MedLIPError: not one study states a fact.
    """
    found = supervision(store)
    if not found.with_facts:
        raise MedLIPError(f"{store.root}: {_nothing(found)} states a fact, so there is nothing to learn from. {_HINT}")
    return found


def require_sentences(store: Store) -> Supervision:
    """Return what there is to learn from.

    Raises:
        MedLIPError: not one study has a sentence of findings or impression.
    """
    found = supervision(store)
    if not found.with_sentences:
        raise MedLIPError(f"{store.root}: {_nothing(found)} has a sentence to learn from. {_HINT}")
    return found


def require_masks(store: Store) -> str:
    """Say how many images have masks of their findings.

    Raises:
        MedLIPError: not one of them has any.
    """
    found = sum(bool(masks) for masks in store.masked_findings())
    if not found:
        raise MedLIPError(
            f"{store.root}: the method learns from masks of the findings, and not one of {len(store):,} images has any. "
            "Synthetic X-rays have them (phantom:N)."
        )
    return f"masks of the findings are learned from, of {found:,} of {len(store):,} images"


def require_classes(store: Store, name: str) -> Supervision:
    """Return what there is to learn from.

    Args:
        store: the part to train on.
        name: of the label to learn.

    Raises:
        MedLIPError: the label is not there, or all its images are of one class.
    """
    found = supervision(store)
    counts = found.labels.get(name, {})
    missing = [presence for presence in ("present", "absent") if not counts.get(presence)]
    if missing:
        known = ", ".join(sorted(found.labels)) or "none"
        there = ", ".join(f"{count:,} {presence}" for presence, count in counts.items()) or "not one image"
        raise MedLIPError(
            f"{store.root}: the label {name!r} has {there}, none {' or '.join(missing)}: it takes two classes. "
            f"Its labels are {known}."
        )
    return found


_HINT = "Look at them with `medlip facts REPORTS --show`, name the column of the reports, and prepare the store again."


def _nothing(found: Supervision) -> str:
    return f"not one of {found.studies:,} studies ({found.with_report:,} with a report)"
