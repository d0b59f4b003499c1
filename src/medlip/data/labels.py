"""Labels of data sets: their names in the vocabulary's words, their values, and who is held back for validation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.reports import Presence

_WORDS: Mapping[Presence, str] = {
    "present": "1 yes y true t present positive pos +",
    "absent": "0 no n false f absent negative neg -",
    "uncertain": "-1 uncertain possible equivocal maybe ?",
}
PRESENCE: Mapping[str, Presence] = {word: presence for presence, words in _WORDS.items() for word in words.split()}
UNKNOWN = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "unknown", "not mentioned"})


@cache
def read_presence(value: str) -> Presence | None:
    """Return what a cell says: 1, yes, TRUE … present; 0, no … absent; -1, possible … uncertain; blank or "unknown" None.

    Raises:
        MedLIPError: none of these.
    """
    word = _WHOLE.sub("", value.strip().lower())
    if word in UNKNOWN:
        return None
    if word not in PRESENCE:
        raise MedLIPError(f"{value!r} is neither yes, no, uncertain nor blank")
    return PRESENCE[word]


_WHOLE = re.compile(r"(?<=\d)\.0*$")


def labelled(row: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Presence]:
    """Read labels from columns of 1, 0, -1 (uncertain) and blank (unknown), as CheXpert writes them.

    Args:
        row: of the table.
        names: the label's name by column, see `canonical_names`.

    Raises:
        MedLIPError: a column holds something else.
    """
    values: list[tuple[str, Presence]] = []
    for column, name in names.items():
        try:
            presence = read_presence(row[column])
        except MedLIPError as error:
            raise MedLIPError(f"{column}: {error}. Correct it, in the row {dict(row)}.") from error
        if presence is not None:
            values.append((name, presence))
    return combine(values)


def canonical_names(labels: Iterable[str]) -> dict[str, str]:
    """Return each label's `canonical` name."""
    return {label: canonical(label) for label in labels}


@cache
def canonical(label: str) -> str:
    """Return the vocabulary's name for a data set's label, or the label in lower case where the vocabulary has none."""
    pathology = default_vocabulary().find_pathology(label)
    return pathology.name if pathology else label.strip().lower()


def combine(labels: Iterable[tuple[str, Presence]]) -> dict[str, Presence]:
    """Gather labels by name; where two labels of a data set share one name, present wins over uncertain over absent."""
    rank: dict[Presence, int] = {"absent": 0, "uncertain": 1, "present": 2}
    combined: dict[str, Presence] = {}
    for name, presence in labels:
        if name not in combined or rank[presence] > rank[combined[name]]:
            combined[name] = presence
    return combined


def hold_back(patient: str) -> str:
    """Return "val" for a tenth of the patients of a training list, the same ones always, and "train" for the rest."""
    return "val" if int.from_bytes(sha256(patient.encode()).digest()[:8]) % 10 == 0 else "train"
