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
from medlip.reports.facts import NOT_MENTIONED

Place = TypeVar("Place", Box, Mask)


def mirror_facts(matrix: NDArray[np.int8], vocabulary: Vocabulary) -> NDArray[np.int8]:
    """Move each row of a fact matrix (A, P) to its mirror.

    Where two rows meet, present wins over absent, absent over what is ignored, and anything over what is not mentioned.
    """
    lowest = np.iinfo(np.int8).min
    mirrored = np.full_like(matrix, lowest)
    np.maximum.at(mirrored, np.array(vocabulary.mirror_index), np.where(matrix == NOT_MENTIONED, lowest, matrix))
    return np.where(mirrored == lowest, np.int8(NOT_MENTIONED), mirrored)


def mirror_anatomy(place: Place, vocabulary: Vocabulary) -> Place:
    """Return a box or mask whose anatomy, where it names one, is the mirror's; its pixels stay."""
    row = vocabulary.anatomy_index.get(place.anatomy)
    return place if row is None else replace(place, anatomy=vocabulary.anatomies[row].mirror)
