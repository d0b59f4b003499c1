"""What answers without looking at the image, or by looking at another patient's: nulls that are harder to beat than chance.

Findings have places that they prefer, so a map of where others had the finding points right often, and so does a place named
from memory. A map that has seen nothing in its own image does no better than the maps of other patients with the finding.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medlip.data.views import ViewKind, read_as
from medlip.errors import name_some
from medlip.evaluation.regions import centres, drawn_findings, paint_finding
from medlip.images.preprocessing import enlarge
from medlip.metrics import Array, Pixels, peak

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.evaluation.selection import Cohort

GRID = 32
"""Cells a side of a static map."""

SAMPLED = 256
"""Pixels a side that a region is kept at, at most, to hold the maps of other patients against it."""

LOOKED_AT = 500
"""Training images with regions that a static map is made of, at most."""


@dataclass(frozen=True, slots=True)
class SampledRegion:
    """A region small enough to be kept: what lies under the centres of a grid, as bits."""

    shape: tuple[int, int]
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, region: Pixels) -> SampledRegion:
        """Sample a region (H, W)."""
        rows, columns = (_centres(size, SAMPLED) for size in region.shape)
        sampled = region[np.ix_(rows, columns)]
        return cls((len(rows), len(columns)), np.packbits(sampled))

    @property
    def pixels(self) -> Pixels:
        """The samples, of the shape that it has."""
        return np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)

    def holds(self, points: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        """Tell which points (row, column), as shares of height and width, lie in it."""
        at = (np.array(points).reshape(-1, 2) * self.shape).astype(int).clip(0, np.array(self.shape) - 1)
        inside: NDArray[np.bool_] = self.pixels[at[:, 0], at[:, 1]]
        return inside


def relative_peak(heat: Array) -> tuple[float, float] | None:
    """Return where a map (H, W) is highest, as shares of height and width; None where it is flat."""
    top = peak(heat)
    return None if top is None else ((top[0] + 0.5) / heat.shape[0], (top[1] + 0.5) / heat.shape[1])


def other_hits(
    findings: Sequence[str],
    patients: Sequence[str],
    peaks: Sequence[tuple[float, float] | None],
    regions: Sequence[SampledRegion | None],
    views: Sequence[str] | None = None,
) -> Array:
    """Return for each case how often the map of another patient with the same finding points right in it, (N,).

    Args:
        findings: of the cases, (N,).
        patients: whose they are, (N,).
        peaks: where the map of each case is highest, as shares of height and width; None of a flat map, which misses.
        regions: where the finding is, (N,); None where that was not kept.
        views: of the images, (N,): only those of the same view are compared; None: all are.

    Returns:
        NaN where no other patient has the finding.
    """
    alike = list(zip(findings, views or [""] * len(findings), strict=True))
    cases_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for case, kind in enumerate(alike):
        cases_of[kind].append(case)
    hits = np.full(len(findings), np.nan)
    for case, (kind, patient) in enumerate(zip(alike, patients, strict=True)):
        others = [other for other in cases_of[kind] if patients[other] != patient]
        points = [peak for other in others if (peak := peaks[other]) is not None]
        region = regions[case]
        if others and region is not None:
            hits[case] = region.holds(points).sum() / len(others)
    return hits


def other_region_hits(
    findings: Sequence[str], patients: Sequence[str], regions: Sequence[SampledRegion | None], views: Sequence[str]
) -> Array:
    """Return for each case whether the mean of other patients' regions of the same finding points right in it, (N,).

    Args:
        findings: of the cases, (N,).
        patients: whose they are, (N,).
        regions: where the finding is, (N,); None where that was not kept.
        views: of the images, (N,): only regions of the same view count.

    Returns:
        1 or 0; NaN where no other patient has the finding.
    """
    cases = list(zip(findings, views, patients, strict=True))
    covered: dict[tuple[str, ...], Array] = defaultdict(lambda: np.zeros((GRID, GRID)))
    images: Counter[tuple[str, ...]] = Counter()
    for case, region in zip(cases, regions, strict=True):
        if region is not None:
            for whose in (case[:2], case):  # of all patients, and of this one
                covered[whose] += region.pixels[_cells(region.shape)]
                images[whose] += 1
    hits = np.full(len(cases), np.nan)
    for index, (case, region) in enumerate(zip(cases, regions, strict=True)):
        if region is not None and images[case[:2]] > images[case]:
            point = relative_peak(enlarge(covered[case[:2]] - covered[case], region.shape))
            hits[index] = point is not None and region.holds([point])[0]
    return hits


def static_maps(records: Iterable[Record]) -> dict[str, Array]:
    """Return for each finding how often it covers each cell of the image, (GRID, GRID), from 0 to 1.

    Args:
        records: images with boxes or masks; of a finding with both, masks count.
    """
    counts: dict[str, Array] = defaultdict(lambda: np.zeros((GRID, GRID)))
    images: Counter[str] = Counter()
    for record in records:
        shape = record.image.shape
        cells = _cells(shape)
        for finding in sorted(drawn_findings(record.boxes, record.masks)):
            region = paint_finding(record.boxes, record.masks, finding, shape)
            assert region is not None
            counts[finding] += region[cells]
            images[finding] += 1
    return {finding: counted / images[finding] for finding, counted in counts.items()}


class StaticMaps:
    """Where findings usually are in each kind of view, from images of other patients.

    They are those of the training split of the same data, else frontal phantoms. Of a finding that neither has, the regions
    of the other patients that are evaluated tell: see `other_region_hits`.
    """

    def __init__(self, cohort: Cohort) -> None:
        """Look at the training images of a cohort that have a box or a mask, at most `LOOKED_AT` of a kind of view."""
        self._trained = {} if cohort.training is None else _trained_maps(cohort.training, set(cohort.patients))
        views = map(read_as, cohort.attributes["view"])
        asked = {(finding, view) for view, located in zip(views, cohort.located, strict=True) for finding in located}
        self._unknown = sorted({finding for finding, view in asked if self.of(finding, view) is None})

    @property
    def rule(self) -> str:
        """Where the maps come from, for people."""
        known = {finding for maps in self._trained.values() for finding in maps}
        there = f"{len(known)} findings" if known else "no finding"
        others = f", of other evaluated patients' regions for {name_some(self._unknown)}" if self._unknown else ""
        return f"maps of the training split for {there}, of phantoms for others{others}"

    def of(self, finding: str, view: ViewKind = "frontal") -> Array | None:
        """Return the map (GRID, GRID) of a finding; None of one that nothing is known of in such a view."""
        found = self._trained.get(view, {}).get(finding)
        return phantom_maps().get(finding) if found is None and view == "frontal" else found


def _trained_maps(training: Cohort, own: Collection[str]) -> dict[ViewKind, dict[str, Array]]:
    """Return the static maps of a training cohort by kind of view, without the patients that are evaluated."""
    rows: dict[ViewKind, list[int]] = defaultdict(list)
    for row, (drawn, view) in enumerate(zip(training.drawn, training.attributes["view"], strict=True)):
        if drawn:
            rows[read_as(view)].append(row)
    return {
        kind: static_maps(training.store[row] for row in looked_at[:LOOKED_AT] if training.patients[row] not in own)
        for kind, looked_at in rows.items()
    }


@cache
def phantom_maps() -> Mapping[str, Array]:
    """Return the static maps of phantoms, for data that has no training split with boxes.

    They are those of `phantom:1000@7`; `static_map_file` writes the file anew.
    """
    content: Mapping[str, Any] = json.loads((files(__package__) / "phantom_maps.json").read_text(encoding="utf-8"))
    return {finding: np.array(cells) / 100 for finding, cells in content.items()}


def static_map_file(maps: Mapping[str, Array]) -> str:
    """Return static maps as `phantom_maps.json` holds them: in per cent."""
    rounded = {finding: (cells * 100).round().astype(int).tolist() for finding, cells in sorted(maps.items())}
    return json.dumps(rounded, separators=(",", ":")) + "\n"


@cache
def phantom_places() -> Mapping[str, str]:
    """Return the commonest place of each finding in phantoms' reports, for data that has no training split with reports.

    They are `commonest_places` of `phantom:1000@7`; `place_file` writes the file anew.
    """
    places: dict[str, str] = json.loads((files(__package__) / "phantom_places.json").read_text(encoding="utf-8"))
    return places


def place_file(places: Mapping[str, str]) -> str:
    """Return commonest places as `phantom_places.json` holds them."""
    return json.dumps(places, indent=1, sort_keys=True) + "\n"


def commonest_places(stated: Iterable[Mapping[str, frozenset[str]]]) -> dict[str, str]:
    """Return the place that each finding is stated in most often, the first by name among equals.

    Args:
        stated: for each image, the places of each finding.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for of_image in stated:
        for finding, places in of_image.items():
            counts[finding].update(places)
    return {finding: min(counted, key=lambda place: (-counted[place], place)) for finding, counted in counts.items()}


def _cells(shape: tuple[int, int]) -> tuple[NDArray[np.int64], ...]:
    """Return the pixels under the centres of a static map's cells, as an index."""
    return np.ix_(*(centres(size, GRID) for size in shape))


def _centres(size: int, most: int) -> NDArray[np.int64]:
    """Return the pixels under the centres of `most` cells along a side, all of them where there are fewer."""
    return centres(size, min(size, most))
