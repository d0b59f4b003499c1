"""Linear erasure: features that no longer tell a concept to any linear predictor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medlip.nn.gather import summed
from medlip.nn.pairs import at_least_float32

FAINT = 1e-3  # of the mean variance: along directions in which features vary less, correlations are noise
NEGLIGIBLE = 1e-4  # share of a concept's variance: what features explain less of stays


class Erasure(nn.Module):
    """Take what K binary concepts are correlated with out of features, and change as little else as possible.

    With S the covariance of features x, and C (width, K) that of features and concepts, x loses
    C (C' S^-1 C)^-1 C' S^-1 (x - mean): LEACE (Belrose et al., arXiv 2306.03819). What is left is correlated with no
    concept, and no linear predictor of one is better than a constant; a nonlinear one may be. A concept may be asked of
    some rows alone, and is then erased among those.

    Moments are running ones, over the rows of all processes. Nothing is erased before they rest on half as many rows as they
    remember. They are those of pooled rows, and what is erased is erased at each location: a mean over locations is linear.
    With few rows of a concept, the directions are as much noise, and on other rows some of it is still told. A probe that
    learns from the very rows that were observed does not find that rest: try it on rows of neither.

    Args:
        width: of the features.
        concepts: K.
        memory: how many rows the moments remember, about; each row's weight falls by 1 / memory with every row after it.
    """

    rows: Tensor
    sums: Tensor
    squares: Tensor
    asked: Tensor
    positive: Tensor
    sums_asked: Tensor
    sums_positive: Tensor
    mean: Tensor
    erased: Tensor

    def __init__(self, width: int, concepts: int, memory: int = 2000) -> None:
        super().__init__()
        self.memory = memory
        shapes: dict[str, tuple[int, ...]] = {
            "rows": (),
            "sums": (width,),
            "squares": (width, width),
            "asked": (concepts,),
            "positive": (concepts,),
            "sums_asked": (concepts, width),
            "sums_positive": (concepts, width),
            "mean": (width,),
            "erased": (width, width),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, features: Tensor) -> Tensor:
        """Return features (..., width) without the concepts; as they are, before enough rows were observed."""
        return features - (features - self.mean.to(features.dtype)) @ self.erased.to(features.dtype).T

    @torch.no_grad()
    def observe(self, rows: Tensor, labels: Tensor) -> None:
        """Learn what is to be erased.

        Args:
            rows: (B, width) features before erasure.
            labels: (B, K), 1 or 0, NaN where the concept is not asked of the row.
        """
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.to(at_least_float32(rows.dtype))
            asked, positive = (~labels.isnan()).to(rows), (labels == 1).to(rows)
            moments = {
                "rows": rows.new_tensor(float(len(rows))),
                "sums": rows.sum(0),
                "squares": rows.T @ rows,
                "asked": asked.sum(0),
                "positive": positive.sum(0),
                "sums_asked": asked.T @ rows,
                "sums_positive": positive.T @ rows,
            }
            moved = summed(torch.cat([values.flatten() for values in moments.values()]))
            keep, parts = (1 - 1 / self.memory) ** moved[0], torch.split(moved, [m.numel() for m in moments.values()])
            for (name, values), part in zip(moments.items(), parts, strict=True):
                kept = self.get_buffer(name)
                kept.copy_(keep * kept + part.view(values.shape))
            self._solve()

    def _solve(self) -> None:
        """Work out the mean, and what is erased of the distance to it."""
        count = self.rows.clamp(min=1)
        self.mean.copy_(self.sums / count)
        covariance = self.squares / count - self.mean.outer(self.mean)
        rounding = len(covariance) * torch.finfo(covariance.dtype).eps * self.mean.square().mean()
        faint = FAINT * covariance.diagonal().mean() + rounding + torch.finfo(covariance.dtype).tiny
        root, _ = torch.linalg.cholesky_ex(covariance + faint * torch.eye(len(covariance)).to(covariance))
        share = self.positive / self.asked.clamp(min=torch.finfo(self.asked.dtype).tiny)
        spread = (self.asked * share * (1 - share) / count).sqrt()  # of labels, centred where asked and 0 elsewhere
        told = spread > 0
        shared = (self.sums_positive - share[:, None] * self.sums_asked).T / count
        shared = shared * torch.where(told, 1 / spread.where(told, spread.new_ones(())), 0)  # (width, K)
        whitened = torch.linalg.solve_triangular(root, shared, upper=False)
        explained = whitened.T @ whitened  # on its diagonal, the share of each concept's variance
        inverse, _ = torch.linalg.cholesky_ex(explained + NEGLIGIBLE * torch.eye(len(explained)).to(explained))
        weights = torch.linalg.solve_triangular(root.T, whitened, upper=True)
        erased = shared @ torch.cholesky_solve(weights.T, inverse)
        self.erased.copy_(erased * (self.rows >= self.memory / 2))
