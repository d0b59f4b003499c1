"""Left and right swapped in what goes with a mirrored image: facts, boxes and masks by their anatomy.

Text follows through `medlip.reports.mirror_sides`, pixels, boxes and masks through `medlip.images.augment`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medlip.concepts import Vocabulary
from medlip.data.study import Box, Mask
from medlip.reports.facts import IGNORED, NOT_MENTIONED

Place = TypeVar("Place", Box, Mask)

_STRONGER = np.array([NOT_MENTIONED, 0, IGNORED, 1], np.int8)
_ORDER = np.argsort(_STRONGER)


def mirror_facts(matrix: NDArray[np.int8], vocabulary: Vocabulary) -> NDArray[np.int8]:
    """Move each row of a fact matrix (A, P) to its mirror; twice gives back what was there.

    All but what the other side has no row for, such as the right middle lobe: its facts go to the row that contains the
    place and can't be told apart there, so that twice leaves them in the row that contains it on their own side. Where two
    rows meet, present wins over what is ignored, that over absent, and anything over what is not mentioned.
    """
    strengths = np.searchsorted(_STRONGER, matrix, sorter=_ORDER)
    mirrored = np.zeros_like(strengths)
    np.maximum.at(mirrored, np.array(vocabulary.mirror_index), _ORDER[strengths])
    return _STRONGER[mirrored]


def mirror_anatomy(place: Place, vocabulary: Vocabulary) -> Place:
    """Return a box or mask whose anatomy, where it names one, is the mirror's; its pixels stay."""
    row = vocabulary.anatomy_index.get(place.anatomy)
    return place if row is None else replace(place, anatomy=vocabulary.anatomies[row].mirror)
