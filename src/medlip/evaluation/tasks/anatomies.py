"""Do the maps of a lung's zones lie in that lung?

A case is an image whose lungs are known (a radiologist's masks, or a phantom's own) and a zone or lobe of one of them. Its
map is the attention of the anatomy's query, bilinearly enlarged. Which part of the lung the zone is, is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medlip.data.study import LUNGS
from medlip.errors import MedLIPError
from medlip.evaluation.regions import centres, checked_map, paint_masks
from medlip.evaluation.tasks.base import register_task
from medlip.evaluation.tasks.probing import ProbeCase, Probing
from medlip.images.preprocessing import enlarge
from medlip.methods.base import HasStreams, method_names
from medlip.metrics import Measure, peak

if TYPE_CHECKING:
    from medlip.concepts import Vocabulary
    from medlip.data.store import Record
    from medlip.methods.base import Method

PARTS = frozenset({"lung", "lobe"})


@register_task
class Anatomies(Probing):
    """Do the maps of a lung's zones lie in that lung?"""

    name = "anatomies"
    title = "whether the maps of a lung's zones lie in that lung"
    measures = (
        Measure("inside", "maximum in the lung", chance="share of the image that the lung covers"),
        Measure("own_side", "of the map in both lungs, share in the own one", chance="either lung"),
    )
    chances: ClassVar[Mapping[str, float]] = {"own_side": 0.5}

    def begin(self, method: Method) -> None:
        """Keep the method.

        Raises:
            MedLIPError: it has no queries of anatomies.
        """
        super().begin(method)
        if not isinstance(method, HasStreams):
            raise MedLIPError(
                f"--task anatomies: {method.name} has no maps of anatomies. Methods that have: "
                f"{', '.join(method_names(HasStreams))}."
            )
        self.zones = zones(method.vocabulary)

    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield where the map of each zone lies."""
        lungs = lungs_of(record)
        if lungs is None:
            return
        assert isinstance(self.method, HasStreams)
        image = self.method.preprocessing.of_images([record.image]).to(self.method.device)
        maps = self.method.stream_maps(image)["anatomy"][0].float().cpu().numpy()
        for name, (column, side) in self.zones.items():
            heat = enlarge(checked_map(maps[column], name), record.image.shape)
            own, other = (float(heat[lungs[each]].sum()) for each in sorted(LUNGS, key=lambda each: each != side))
            top = peak(heat)  # a flat map points nowhere
            inside = top is not None and bool(lungs[side][top])
            values = {"inside": float(inside), "own_side": own / (own + other) if own + other > 0 else np.nan}
            yield ProbeCase(name, record.patient, values, {"inside": float(lungs[side].mean())})

    def rules(self) -> Mapping[str, str]:
        """Return what the maps are."""
        return {"maps of anatomies": "attention of their queries"}


def zones(vocabulary: Vocabulary) -> dict[str, tuple[int, str]]:
    """Return the row and the side of each zone and lobe of a lung, by name."""
    found: dict[str, tuple[int, str]] = {}
    for row, anatomy in enumerate(vocabulary.anatomies):
        if anatomy.side and PARTS & set(anatomy.name.split("_")):
            found[anatomy.name] = row, anatomy.side
    return found


def lungs_of(record: Record) -> dict[str, NDArray[np.bool_]] | None:
    """Return where the left and the right lung of an image are, (H, W); None where one of them isn't known."""
    from medlip.phantom.generator import lungs_of_phantom

    if record.source == "phantom" and record.view != "lateral":
        if (drawn := lungs_of_phantom(record.study)) is None:
            return None
        cells = np.ix_(*map(centres, drawn["left"].shape, record.image.shape))
        return {side: lung[cells] for side, lung in drawn.items()}
    masks = {
        side: [mask for mask in record.masks if not mask.pathology and mask.anatomy == name] for side, name in LUNGS.items()
    }
    if not all(masks.values()):
        return None
    lungs = {side: paint_masks(own, record.image.shape) for side, own in masks.items()}
    return lungs if all(lung.any() for lung in lungs.values()) else None
