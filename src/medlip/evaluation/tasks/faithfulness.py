"""Does a score come from the finding? It should fall when that is taken out of the image, and not when something else is.

A case is an image and a finding that is present in it and has a box or a mask. The finding is removed: a phantom is rendered
again, the same patient without this one finding; in a film its region, grown a little, is filled in from what surrounds it.
An equally large region elsewhere is filled in as well: its mirror image, or, where that touches the finding, a place drawn
by chance that doesn't. Where there is no such place the case has no fall elsewhere.

Fall: the score before less the score after. Faithfulness: the fall when the finding is removed, less the fall elsewhere. A
score that comes from anything but the finding has 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from medlip.evaluation.regions import paint_finding
from medlip.evaluation.tasks.base import register_task
from medlip.evaluation.tasks.probing import ProbeCase, Probing
from medlip.images.read import resize_short_side
from medlip.metrics import Measure

if TYPE_CHECKING:
    from medlip.data.store import Record

GROWN = 0.02
"""How far a region is grown before it is filled in, as a share of the image's side: edges of a finding lie outside of it."""
TRIES = 200
"""Places that are tried for the region elsewhere."""


@dataclass(frozen=True, slots=True)
class Removal:
    """An image with and without a finding.

    Attributes:
        finding: its name.
        region: where it is, (H, W).
        before: the image, uint8 (H, W).
        after: it without the finding.
        elsewhere: it with an equally large region elsewhere filled in; None where there is no room.
        rendered: it was drawn anew without the finding, rather than filled in.
    """

    finding: str
    region: NDArray[np.bool_]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    elsewhere: NDArray[np.uint8] | None
    rendered: bool


@register_task
class Faithfulness(Probing):
    """Does the score of a finding fall when the finding is removed from the image?"""

    name = "faithfulness"
    title = "whether scores come from their findings"
    measures = (
        Measure("faithfulness", "fall less fall elsewhere", chance="any other region"),
        Measure("fall", "fall without the finding"),
        Measure("fall_elsewhere", "fall elsewhere", better="lower"),
    )
    chances: ClassVar[Mapping[str, float]] = {"faithfulness": 0.0}

    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield the falls of the scores of an image's findings."""
        for removal in removals(record, self.questions.findings, self.options.seed):
            images = [removal.before, removal.after]
            images += [] if removal.elsewhere is None else [removal.elsewhere]
            scores = self.score(images, [self.prompt(removal.finding)])[:, 0]
            fall = float(scores[0] - scores[1])
            other = float(scores[0] - scores[2]) if len(scores) > 2 else np.nan
            values = {"faithfulness": fall - other, "fall": fall, "fall_elsewhere": other}
            yield ProbeCase(removal.finding, record.patient, values)

    def rules(self) -> Mapping[str, str]:
        """Return how findings are removed."""
        return {"removal": "phantoms are rendered without the finding; in films its region is filled in from its surround"}


def removals(record: Record, findings: Iterable[str], seed: int = 0) -> Iterator[Removal]:
    """Yield an image with and without each of its findings that has a box or a mask.

    Args:
        record: the image.
        findings: names of those that are wanted.
        seed: of the places elsewhere.
    """
    for finding in sorted(set(findings)):
        if record.labels.get(finding, "present") != "present":
            continue
        region = paint_finding(record.boxes, record.masks, finding, record.image.shape)
        if region is None or not region.any() or region.all():
            continue
        grown = binary_dilation(region, iterations=max(1, round(GROWN * min(region.shape))))
        other = _elsewhere(grown, seed)
        rendered = _rendered(record, finding)
        before, after = rendered or (record.image, filled_in(record.image, grown))
        elsewhere = None if other is None else filled_in(before, other)
        yield Removal(finding, region, before, after, elsewhere, rendered is not None)


def filled_in(image: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an image (H, W) in which a region continues what surrounds it, with grain like that of the rest."""
    outside = ~region
    found = np.asarray(image, float)
    filled, weight = np.zeros_like(found), np.zeros_like(found)
    for reach in (2, 6, 18, 54, 162):  # the nearest surround that reaches a pixel counts
        near = gaussian_filter(outside.astype(float), reach)
        blurred = gaussian_filter(found * outside, reach)
        share = np.where(weight < 1, np.minimum(near * 4, 1 - weight), 0)
        filled += share * blurred / np.maximum(near, 1e-9)
        weight += share
    grain = found - gaussian_filter(found, 1.5)
    rough = np.random.default_rng(0).choice(grain[outside], int(region.sum()))
    made = found.copy()
    made[region] = (filled / np.maximum(weight, 1e-9))[region] + rough
    return np.asarray(np.clip(made, 0, 255), np.uint8)


def _elsewhere(region: NDArray[np.bool_], seed: int) -> NDArray[np.bool_] | None:
    """Return a region of the same size that doesn't touch this one; None where there is no room."""
    mirrored = region[:, ::-1]
    if not (mirrored & region).any():
        return np.ascontiguousarray(mirrored)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    part = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rng = np.random.default_rng([seed, int(region.sum())])
    for _ in range(TRIES):
        top, left = (int(rng.integers(0, whole - size + 1)) for whole, size in zip(region.shape, part.shape, strict=True))
        moved = np.zeros_like(region)
        moved[top : top + part.shape[0], left : left + part.shape[1]] = part
        if not (moved & region).any():
            return moved
    return None


def _rendered(record: Record, finding: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return a phantom with and without a finding, drawn anew; None of what is no phantom, or shows it more than once."""
    from medlip.phantom.generator import drawn_without

    lateral = record.view == "lateral"
    both = drawn_without(record.study, finding, lateral=lateral) if record.source == "phantom" else None
    if both is None:
        return None
    before, after = (resize_short_side(pixels, min(record.image.shape)) for pixels in both)
    return (before, after) if before.shape == record.image.shape else None
