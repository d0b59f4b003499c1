"""A measure of your own: how much of a finding's map lies inside its region, shown next to the pointing game."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medlip.evaluation.tasks import measure
from medlip.metrics import Measure


@measure("grounding", Measure("energy_inside", "share of the map inside the region", chance="share of the image"))
def energy_inside(heat: NDArray[np.float64], region: NDArray[np.bool_]) -> float:
    """Return the energy-based pointing game (Wang et al., arXiv 1910.01279): the sum of a map (H, W) inside over all."""
    total = heat.sum()
    return float(heat[region].sum() / total) if total > 0 else np.nan
