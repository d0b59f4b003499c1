"""Does a map lie where the finding is? Overlap, pointing game and contrast of one map and one region, as plain arrays.

A map is any (H, W) array; a region is a boolean (H, W) array, True where the finding is. Overlaps are computed from counts
of pixels, so that a map is held against its region at many thresholds at the cost of one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medlip.errors import MedLIPError
from medlip.metrics.bootstrap import Array

Pixels = NDArray[np.bool_]


def iou(intersection: ArrayLike, predicted: ArrayLike, target: ArrayLike, *, empty: float) -> Array:
    """Return intersection over union, |A and B| / |A or B|, of any shape.

    Args:
        intersection: pixels of both.
        predicted: pixels that are called.
        target: pixels that the finding has.
        empty: what it counts where neither has a pixel: 1 where calling nothing is right, NaN to leave it out.
    """
    intersection, predicted, target = _counts(intersection, predicted, target)
    return _overlap(intersection, predicted + target - intersection, empty)


def dice(intersection: ArrayLike, predicted: ArrayLike, target: ArrayLike, *, empty: float) -> Array:
    """Return the Dice coefficient, 2 |A and B| / (|A| + |B|), of any shape; the arguments are those of `iou`."""
    intersection, predicted, target = _counts(intersection, predicted, target)
    return _overlap(2 * intersection, predicted + target, empty)


def overlap_counts(heat: ArrayLike, region: ArrayLike, thresholds: ArrayLike) -> tuple[Array, Array]:
    """Return how many pixels of a map are at or above each threshold, and how many of those are in the region, (K,) each.

    Args:
        heat: (H, W).
        region: boolean (H, W).
        thresholds: (K,) on the scale of the map.

    Raises:
        MedLIPError: map and region differ in shape.
    """
    heat, region = _paired(heat, region)
    # Sorting once and placing the thresholds is five times faster than placing every pixel among the thresholds.
    predicted, intersection = (
        (values.size - np.searchsorted(np.sort(values, axis=None), thresholds)).astype(float)
        for values in (heat, heat[region])
    )
    return predicted, intersection


def scale_to_unit(heat: Array) -> Array:
    """Return a map scaled by its own minimum and maximum to 0..1; zeros where it is the same everywhere."""
    low, high = heat.min(), heat.max()
    scaled: Array = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    return scaled


def peak(heat: Array) -> tuple[int, int] | None:
    """Return (row, column) of the maximum; of several equal ones, the nearest to their centroid; None of a flat map."""
    low, high = heat.min(), heat.max()
    if low == high:
        return None
    tops = np.argwhere(heat >= high - 1e-9 * (high - low))  # a plateau is equal up to what interpolation rounds
    nearest = tops[((tops - tops.mean(axis=0)) ** 2).sum(axis=1).round(6).argmin()]
    return int(nearest[0]), int(nearest[1])


def pointing_game(heat: Array, region: Pixels) -> bool:
    """Return whether the maximum of a map lies in a region (Zhang et al., 2016); a flat map points nowhere and misses."""
    heat, region = _paired(heat, region)
    top = peak(heat)
    return top is not None and bool(region[top])


def cell_hit(cells: Array, region: Pixels) -> bool:
    """Return whether any pixel of a map's highest cell lies in a region (the rule of the released MeDSLIP code).

    Args:
        cells: (h, w) map as a method gives it; it covers the whole image.
        region: boolean (H, W).
    """
    top = peak(cells)
    if top is None:
        return False
    rows, columns = (  # the pixels whose centre lies in the cell
        slice(*(int(np.ceil(edge * size / count - 0.5)) for edge in (index, index + 1)))
        for index, count, size in zip(top, cells.shape, region.shape, strict=True)
    )
    return bool(region[rows, columns].any())


def contrast_to_noise(heat: ArrayLike, region: ArrayLike) -> float:
    """Return how far a map's mean inside lies above its mean outside, in units of its spread.

    (mean inside - mean outside) / sqrt(variance inside + variance outside) (Boecking et al., BioViL, 2022, who drop the
    sign; here a map that avoids the finding is negative).

    Returns:
        0 for a flat map; NaN where nothing is outside or inside, or where the two means differ and neither part has any
        variance.
    """
    heat, region = _paired(heat, region)
    low, high = heat.min(), heat.max()
    if region.all() or not region.any():
        return np.nan
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # what interpolation rounds
        return 0.0
    within, without = (heat[region] - low) / (high - low), (heat[~region] - low) / (high - low)
    noise = np.sqrt(within.var() + without.var())
    return float((within.mean() - without.mean()) / noise) if noise > 1e-9 else np.nan


def _paired(heat: ArrayLike, region: ArrayLike) -> tuple[Array, Pixels]:
    heat, region = np.asarray(heat, float), np.asarray(region, bool)
    if heat.ndim != 2 or heat.shape != region.shape:
        raise MedLIPError(
            f"a map {heat.shape} and a region {region.shape} must both be (H, W) pixels of the image: enlarge the map first."
        )
    return heat, region


def _counts(*counts: ArrayLike) -> tuple[Array, ...]:
    return tuple(np.asarray(each, float) for each in counts)


def _overlap(shared: Array, size: Array, empty: float) -> Array:
    undefined = np.full(np.broadcast_shapes(shared.shape, size.shape), float(empty))
    values: Array = np.divide(shared, size, out=undefined, where=size > 0)
    return values
