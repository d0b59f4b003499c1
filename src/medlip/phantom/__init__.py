"""The phantom chest: a procedural generator of frontal chest radiographs with reports and exact ground truth."""

from medlip.phantom.findings import PATHOLOGIES
from medlip.phantom.generator import phantom, phantoms, truth
from medlip.phantom.sheet import contact_sheet

__all__ = ["PATHOLOGIES", "contact_sheet", "phantom", "phantoms", "truth"]
