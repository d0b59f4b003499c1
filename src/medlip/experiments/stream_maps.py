"""Whether the two streams of a method look at one thing: for a present finding in a place, how far their maps overlap.

The overlap is the cosine of where the two streams' queries look, each map scaled from its minimum to its maximum (1: at the
same locations, 0: nowhere together). Beside it the control, the maps of other places in which the image has no finding.
Broad maps overlap anyway: only the difference to the control says that the streams look at one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medlip.concepts import Vocabulary
from medlip.experiments.factors import FACTORS, Facts, Reported, estimates, factor_indices, findings_in_places
from medlip.metrics import Array, Estimate, mean_statistic
from medlip.reports.facts import IGNORED


class MapOverlap(Reported):
    """The mean over present findings with a place.

    Attributes:
        own: cosine of the finding's map and its place's.
        control: that of other places' maps.
        difference: own less control.
        n: findings.
        left_out: those whose map, or whose control's, is the same everywhere, or that no other place can be held against.
    """

    own: Estimate
    control: Estimate
    difference: Estimate
    n: int
    left_out: int


class Overlaps:
    """Collects the overlap of the streams' maps, image by image.

    Args:
        facts: of the N images, as `Known` has them.
        patients: (N,).
        vocabulary: of the facts.
    """

    def __init__(self, facts: Facts, patients: Sequence[str], vocabulary: Vocabulary) -> None:
        self.patients = patients
        self._pathologies, self._anatomies = (factor_indices(vocabulary, factor) for factor in FACTORS)
        self._present, self._mentioned = (findings_in_places(facts, vocabulary, values) for values in ((1,), (1, IGNORED)))
        self._unfit = vocabulary.unfit_anatomies[np.ix_(self._anatomies, self._anatomies)]
        self._found: list[tuple[int, float, float]] = []

    def add(self, row: int, maps: Mapping[str, Array]) -> None:
        """Take the maps of image `row`: {"pathology": (P, h, w), "anatomy": (A, h, w)}."""
        pathologies, anatomies = (maps[stream].reshape(len(maps[stream]), -1) for stream in FACTORS)
        cosines = overlap_of_maps(pathologies[self._pathologies], anatomies[self._anatomies])
        others = self._present.any((0, 2)) & ~self._mentioned[row].any(1)  # places with a finding, but not in this image
        for a, p in np.argwhere(self._present[row]):
            control = cosines[others & ~self._unfit[a], p]
            defined = control[~np.isnan(control)]
            self._found.append((row, cosines[a, p], defined.mean() if len(defined) else np.nan))

    def result(self, resamples: int = 1000, seed: int = 0) -> MapOverlap:
        """Return the mean over all findings that were added, with intervals over patients."""
        rows = [row for row, *_ in self._found]
        values = np.array([both for _, *both in self._found]).reshape(-1, 2)
        defined = ~np.isnan(values).any(1)
        patients = np.array(self.patients)[rows][defined] if rows else np.array([], str)
        statistic = mean_statistic(np.c_[values, values[:, 0] - values[:, 1]][defined])
        own, control, difference = estimates(statistic, patients, resamples, seed, shares=(True, True, False))
        counts = {"n": int(defined.sum()), "left_out": int((~defined).sum())}
        return MapOverlap(own=own, control=control, difference=difference, **counts)


def overlap_of_maps(pathologies: Array, anatomies: Array) -> Array:
    """Return the cosine (A, P) of pathology maps (P, N) and anatomy maps (A, N), each scaled from minimum to maximum.

    From 0 (nowhere together) to 1 (the same but for scale); NaN for a map that is the same everywhere.
    """
    overlap: Array = _scaled(anatomies) @ _scaled(pathologies).T
    return overlap


def _scaled(maps: Array) -> Array:
    """Return maps (K, N) from 0 up, of length 1; NaN for one that is the same everywhere."""
    above = maps - maps.min(axis=1, keepdims=True)
    length = np.linalg.norm(above, axis=1, keepdims=True)
    directions: Array = np.divide(above, length, out=np.full_like(above, np.nan), where=length > 0)
    return directions
