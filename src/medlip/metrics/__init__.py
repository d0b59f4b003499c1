"""Numbers from arrays, in plain numpy: classification, overlap, ranking, and intervals over patients."""

from medlip.metrics.estimate import Estimate, Measure

__all__ = ["Estimate", "Measure"]
