"""What a data set calls a view, in one word of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

from medlip.errors import MedLIPError

FRONTAL = ("PA", "AP", "frontal")
KINDS = ("frontal", "lateral", "other", "unknown")
DEFAULT = "frontal,unknown"

ViewKind = Literal["frontal", "lateral", "other"]
"""As what a model reads a view."""
READ_FIRST: tuple[ViewKind, ...] = ("frontal", "lateral", "other")
"""The order in which the views of a study are read, and kept where there are too many."""

_UNKNOWN = ("", "unk", "unknown", "undefined", "unspecified", "nan", "none", "null", "na", "n/a", "?")
_LATERAL = ("lateral", "lat", "l", "ll", "rl", "r", "llat", "rlat", "laterolateral", "profile")
_BESIDE_LATERAL = (
    "left",
    "right",
    "xtable",
    "cross",
    "table",
    "view",
    "chest",
    "projection",
    "erect",
    "upright",
    "decubitus",
)
_OTHER = (
    "other", "oblique", "lao", "rao", "lpo", "rpo", "axial", "costal", "exclude", "swimmers", "swimmer", "abdomen", "rib",
    "ribs", "tangential", "apical",
)  # fmt: skip  # projections that show no frontal chest
_DIRECTIONS = {
    "pa": "PA", "posteroanterior": "PA", "ap": "AP", "anteroposterior": "AP", "frontal": "frontal", "front": "frontal",
}  # fmt: skip
_BESIDE_FRONTAL = (
    "supine", "horizontal", "erect", "upright", "standing", "sitting", "seated", "semi", "semierect", "portable", "mobile",
    "bedside", "view", "chest", "projection", "cxr", "x", "ray", "xray", "lordotic", "axial", "lld", "rld", "decubitus",
    "inspiration", "expiration", "insp", "exp", "grid", "low", "high", "or", "and",
)  # fmt: skip


@cache
def view_of(word: str) -> str:
    """Return "PA", "AP", "frontal" (which of them is not said), "lateral", "other", or "" (unknown) for a data set's word.

    "AP Supine", "posteroanterior" and "L-LAT" are known words. One that is not comes back as it is, and `kind_of` names it.
    """
    text = word.strip().lower()
    if text in _UNKNOWN:
        return ""
    tokens = re.findall("[a-z]+", text.replace("postero-anterior", "pa").replace("antero-posterior", "ap"))
    directions = {_DIRECTIONS[token] for token in tokens if token in _DIRECTIONS}
    rest = {token for token in tokens if token not in _DIRECTIONS}
    if directions and rest <= {*_BESIDE_FRONTAL}:
        precise = directions - {"frontal"}
        return precise.pop() if len(precise) == 1 else "frontal"
    if not directions and rest & {*_LATERAL} and rest <= {*_LATERAL, *_BESIDE_LATERAL}:
        return "lateral"
    return "other" if not directions and rest & {*_OTHER} else word.strip()


def kind_of(position: str) -> str:
    """Return the kind of a view: one of `KINDS`, or "" where the word is not known."""
    if position in FRONTAL:
        return "frontal"
    return {"": "unknown", "lateral": "lateral", "other": "other"}.get(position, "")


def read_as(position: str) -> ViewKind:
    """Return as what a model reads a view: as a frontal one, unless it is known to be another."""
    kind = kind_of(position)
    return cast("ViewKind", kind) if kind in ("lateral", "other") else "frontal"


def read_alone_as(known: Sequence[ViewKind]) -> ViewKind:
    """Return as what a model that knows some kinds of views reads an image: as frontal, unless it knows others alone."""
    return "frontal" if not known or "frontal" in known else known[0]


@dataclass(frozen=True, slots=True)
class Views:
    """Which of V images belong to which of B studies, and what kind of view each is.

    Attributes:
        studies: of each study, the kinds of its views (one at least); its images stand together, in this order.
    """

    studies: tuple[tuple[ViewKind, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many views each study has."""
        return tuple(map(len, self.studies))

    def part(self, rows: slice) -> tuple[Views, slice]:
        """Return some of the studies, and which of the images are theirs."""
        first, last, _ = rows.indices(len(self.studies))
        before = sum(self.counts[:first])
        return Views(self.studies[first:last]), slice(before, before + sum(self.counts[first:last]))


def parse_views(text: str) -> tuple[str, ...]:
    """Return the kinds of views that "frontal,unknown" or "all" names, in the order of `KINDS`.

    Raises:
        MedLIPError: a word is none of them.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if word not in (*KINDS, "all")]
    if wrong or not words:
        found = f"there is no {wrong[0]!r}" if wrong else "none is named"
        raise MedLIPError(f"views={text!r}: {found}. Give 'all', or some of {', '.join(KINDS)}, such as {DEFAULT!r}.")
    return KINDS if "all" in words else tuple(kind for kind in KINDS if kind in words)


def same_views(first: str | Sequence[str], second: Sequence[str]) -> bool:
    """Whether a store's setting is the same as another; older stores say "frontal", and keep unknown views with it."""
    if isinstance(first, str):
        first = parse_views(DEFAULT if first == "frontal" else first)
    return tuple(first) == tuple(second)
