"""Entropic optimal transport between the sentences of a report and the patches of an image, many problems at once.

A problem has sentences as rows and patches as columns, with uniform mass over the real ones (a_m = 1 / M, b_k = 1 / K):

    plan = argmin <plan, cost> + epsilon KL(plan | a b^T) + relax KL(plan 1 | a)    with columns exact: plan^T 1 = b

Without `relax` the rows are exact, too: balanced transport, where KL(plan | a b^T) and the negative entropy differ by a
constant (Cuturi 2013; MLIP, arXiv 2401.01591). With it (Chizat et al. 2018; POT's `reg_type="kl"`, `reg_m=(relax, inf)`)
every patch is still explained, but a sentence that no patch shows may do without its share, which goes to the sentences
that the patches show. The smaller `relax`, the freer the sentences; near 0 each patch attends to them by
softmax(-cost / epsilon).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.nn.pairs import ENTRIES, at_least_float32, by_images, checked_pairs, images_at_once, real

Gradient = Literal["plan", "iterations"]

TRAINING_TOLERANCE = 1e-3
"""Marginal error of a plan in training, far below what a plan of 50 iterations would be read for."""

Add = Callable[[Tensor, Tensor, int], Tensor]

SWEEPS = 3  # before each Newton step; they are cheap, and see to what is far off
LONGEST_STEP = 8.0  # of a potential at once, in units of epsilon: further off, the Newton step is no guide
TRIALS = 5  # of a third of the length each
RIDGE = 1e-14  # keeps a part of a problem that is all but cut off from the rest where it is
ROUNDING = 1e-13  # of the dual, relative
DIRECT = 200.0  # cost / epsilon up to which problems are solved at once
COOLING = 4.0  # above that, epsilon is lowered by this factor at a time
FINEST = 1e10  # cost / epsilon, above which the rounding of potentials shows in the plan
SCALABLE = 300.0  # cost / epsilon up to which products of its exponentials stay within float64


class Transport(NamedTuple):
    """Solved problems.

    Attributes:
        plan: (..., M, K), not negative; columns sum to 1 / K, and padded rows, padded columns and problems without any real
            row or column are zero.
        iterations: (...) that were done.
        error: (...) sum of absolute differences between the plan's row sums and those it should have, in mass (0 to 2).
    """

    plan: Tensor
    iterations: Tensor
    error: Tensor


def sinkhorn(
    cost: Tensor,
    *,
    epsilon: float = 0.05,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    relax: float | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    gradient: Gradient = "plan",
) -> Transport:
    """Solve entropic transport problems, each until its error is small enough.

    An iteration is three sweeps of Sinkhorn's and a Newton step on the dual of the row potentials (Brauer et al.,
    arXiv 1710.06635): a handful does where sweeps alone take thousands. All is done in float64 whatever the cost's type,
    since potentials reach cost / epsilon, where the last bit of a float32 is worth more than the tolerance. Where that is
    large, epsilon is lowered in steps, so that the plan is right up to cost / epsilon = 1e10. A cost of NaN gives a plan of
    NaN.

    Args:
        cost: (..., M, K), usually 1 - cosine: 0 to 2.
        epsilon: weight of the entropy, in the cost's units.
        rows: (..., M) boolean, True for real sentences; None: all.
        columns: (..., K) boolean, True for real patches; None: all.
        relax: weight of the divergence of row sums from uniform, in the cost's units; None: rows are exact.
        max_iterations: at most, at each epsilon on the way.
        tolerance: error at which a problem is done.
        gradient: `plan` takes the plan as a constant in the backward pass: for sum(plan * cost) that gives the gradient of
            the entropic objective (envelope theorem). `iterations` differentiates the plan, too: what going back through
            the iterations gives once they have converged, from one Newton step, so that none is kept.

    Returns:
        The plans, in the cost's type but at least float32, with what it took to find them.

    Raises:
        MedLIPError: a setting is out of range, a mask doesn't fit the cost, or a cost is infinite or beyond 1e10 epsilon.
    """
    settings = Settings(epsilon, relax, max_iterations, tolerance)
    if cost.ndim < 2:
        raise MedLIPError(f"the cost has shape {tuple(cost.shape)}. Pass (..., sentences, patches).")
    if gradient not in ("plan", "iterations"):
        raise MedLIPError(f"gradient is {gradient!r}. Use 'plan' or 'iterations'.")
    *batch, m, k = cost.shape
    rows = real(rows, cost.shape[:-1], cost.device).reshape(-1, m)
    columns = real(columns, torch.Size([*batch, k]), cost.device).reshape(-1, k)
    with torch.set_grad_enabled(gradient == "iterations" and torch.is_grad_enabled()), _full_precision(cost):
        size = max(1, ENTRIES // max(1, m * k))
        blocks = [torch.split(part, size) for part in (cost.reshape(-1, m, k), rows, columns)]
        solved = [_solved(some, row, column, settings) for some, row, column in zip(*blocks, strict=True)]
        plans, iterations, errors = zip(*solved, strict=True)
    return Transport(torch.cat(plans).view(cost.shape), torch.cat(iterations).view(batch), torch.cat(errors).view(batch))


def transport_similarity(
    sentences: Tensor,
    patches: Tensor,
    rows: Tensor,
    columns: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    relax: float | None = None,
    gradient: Gradient = "plan",
    chunk: int | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> Tensor:
    """Similarity of every image and report: s_ij = sum(plan_ij * <S_j, P_i>), the plan being that of cost 1 - <S_j, P_i>.

    With `gradient="plan"` the plan is a constant in the backward pass, and all that is kept of a pair is one potential a
    sentence; plans are made again from them. `iterations` keeps nothing of a pair and solves again in the backward pass.

    Args:
        sentences: (R, M, d) of R reports, L2-normalised.
        patches: (I, N, d) of I images, L2-normalised.
        rows: (R, M) boolean, True for real sentences.
        columns: (I, N) boolean, True for real patches; None: all.
        epsilon: as in `sinkhorn`, as are `relax`, `gradient`, `max_iterations` and `tolerance`.
        relax: see `epsilon`.
        gradient: see `epsilon`.
        chunk: images at a time; None: by size.
        max_iterations: see `epsilon`.
        tolerance: see `epsilon`.

    Returns:
        (I, R), -1 to 1, at least float32; 0 without gradient where a report has no sentence or an image no patch.

    Raises:
        MedLIPError: a setting is out of range, or shapes don't fit.
    """
    settings = Settings(epsilon, relax, max_iterations, tolerance)
    sentences, patches, rows, columns = checked_pairs(sentences, patches, rows, columns)
    images = images_at_once(sentences, patches, chunk)
    with _full_precision(patches):
        if gradient == "iterations":
            return by_images(partial(_through_iterations, settings, rows), images, sentences, patches, columns)
        if gradient != "plan":
            raise MedLIPError(f"gradient is {gradient!r}. Use 'plan' or 'iterations'.")
        similarity: Tensor = _ConstantPlan.apply(settings, images, sentences, patches, rows, columns)
        return similarity


def _solved(cost: Tensor, rows: Tensor, columns: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Plans, iterations and errors of a block of problems."""
    problems = Problems.of(cost, rows, columns, settings.epsilon)
    potentials, iterations, error = problems.solve(settings)
    if torch.is_grad_enabled():
        potentials = problems.through(potentials, settings)
    return problems.plan(potentials).to(at_least_float32(cost.dtype)), iterations, error


@dataclass(frozen=True, slots=True)
class Settings:
    """What problems have in common; see `sinkhorn`."""

    epsilon: float
    relax: float | None
    max_iterations: int
    tolerance: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "relax", "max_iterations", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise MedLIPError(f"{name} is {value}. Give a number above 0" + (", or None." if name == "relax" else "."))

    def heated(self, share: float) -> Settings:
        """Return them with an epsilon of which the wanted one is this share."""
        return replace(self, epsilon=self.epsilon / share)

    @property
    def share(self) -> float:
        """How much of the way to its exact sum a row goes."""
        return 1 / (1 + self.slack)

    @property
    def slack(self) -> float:
        """How readily a row departs from its exact sum; 0: never."""
        return 0.0 if self.relax is None else self.epsilon / self.relax


class Problems(NamedTuple):
    """B problems in units of epsilon; f and g, potentials of rows and columns, make the plan a b^T exp(f + g + energy).

    Attributes:
        energy: (B, M, K) float64, -cost / epsilon.
        log_rows: (B, M), log a; -inf where padded.
        log_columns: (B, K), log b; -inf where padded.
        empty: (B,) True without any real row or column; solved as a problem of constant cost, which takes no sweep.
    """

    energy: Tensor
    log_rows: Tensor
    log_columns: Tensor
    empty: Tensor

    @classmethod
    def of(cls, cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float) -> Problems:
        """Prepare costs (B, M, K) with masks (B, M) and (B, K)."""
        empty = ~(rows.any(-1) & columns.any(-1))
        rows, columns = rows | empty[:, None], columns | empty[:, None]
        energy = cost.double() * (-1 / epsilon)
        if not (rows.all() and columns.all() and not empty.any()):
            energy = energy.masked_fill(~(rows[..., None] & columns[:, None]) | empty[:, None, None], 0)
        return cls(energy, _log_uniform(rows), _log_uniform(columns), empty)

    def plan(self, f: Tensor) -> Tensor:
        """Return the plans (B, M, K) of row potentials (B, M); columns, which are exact, need none."""
        plan = (self.energy + (f.double() + self.log_rows)[..., None]).softmax(-2) * self.log_columns.exp()[:, None]
        return plan.masked_fill(self.empty[:, None, None], 0)

    @torch.no_grad()
    def solve(self, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
        """Find row potentials (B, M), iterations done (B,) and errors (B,).

        Where epsilon is far below the cost's range, it is lowered in steps, each solved from where the last one ended. An
        iteration is a few sweeps and a Newton step on the dual. Problems that are done leave once they are half of all.
        """
        f = torch.zeros_like(self.log_rows)
        if not self.energy.numel():
            return f, self.empty.long(), self.log_rows.sum(-1)
        largest = self.energy.abs().amax().item()
        if largest > FINEST:
            raise MedLIPError(
                f"cost / epsilon is {largest:.1g} for a pair, and above {FINEST:.0e} float64 can't tell plans apart. Raise "
                "epsilon, mask rows or columns that are not to be matched, or give such a pair a high, finite cost."
            )
        done = torch.zeros_like(self.empty, dtype=torch.long)
        share = DIRECT / largest if largest > DIRECT else 1.0
        while share < 1:
            cooler = min(1.0, COOLING * share)
            f, iterations, _ = self._replace(energy=share * self.energy).descend(f, settings.heated(share))
            done, f, share = done + iterations, f * (cooler / share), cooler
        f, iterations, error = self.descend(f, settings)
        return f, done + iterations, error

    def descend(self, f: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
        """Go from potentials f (B, M) to the solution; see `solve`."""
        problems, matrix, add = self, self.energy, _add_logs
        if (matrix.abs().amax() <= SCALABLE).item():
            matrix, add = matrix.exp(), _add_scaled
        active = torch.arange(len(f), device=f.device)
        done: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        iteration = 0
        while True:
            view = problems.view(f, settings, matrix, add)
            going = (view.error > settings.tolerance) & (iteration < settings.max_iterations)
            if 2 * int(going.sum()) <= len(going):
                done.append((active[~going], f[~going], torch.full_like(active[~going], iteration), view.error[~going]))
                if not going.any():
                    break
                problems, view = Problems(*(part[going] for part in problems)), DualView(*(part[going] for part in view))
                matrix, f, active = matrix[going], f[going], active[going]
            for _ in range(SWEEPS):
                f = settings.share * view.fit
                view = problems.view(f, settings, matrix, add)
            f = problems.climb(f, view, settings, matrix, add)
            iteration += 1
        order, f, iterations, error = (torch.cat(parts) for parts in zip(*done, strict=True))
        back = order.argsort()
        return f[back], iterations[back], error[back]

    def through(self, f: Tensor, settings: Settings) -> Tensor:
        """Return solved potentials f with their derivative by the energy, which is that of a Newton step from them."""
        step = self.direction(f, self.view(f, settings, self.energy, _add_logs), settings)
        return f + (step - step.detach())

    def view(self, f: Tensor, settings: Settings, matrix: Tensor, add: Add) -> DualView:
        """Look at the problems from potentials (B, M); `matrix` is the energy as `add` takes it."""
        masses = self.log_rows.exp()
        log_sums = add(matrix, f + self.log_rows, -2)
        # Padded rows stay at 0: elsewhere their potential might be so large that no mass times its exponential is no number.
        fit = -add(matrix, self.log_columns - log_sums, -1).masked_fill(self.log_rows.isinf(), 0)
        wanted = masses * (-settings.slack * f).exp()
        missing = wanted - masses * (f - fit).exp()
        worth = f if settings.relax is None else -torch.expm1(-settings.slack * f) / settings.slack
        dual = (masses * worth).sum(-1) - (self.log_columns.exp() * log_sums).sum(-1)
        return DualView(log_sums, fit, wanted, missing, missing.detach().abs().sum(-1), dual)

    def climb(self, f: Tensor, view: DualView, settings: Settings, matrix: Tensor, add: Add) -> Tensor:
        """Take a Newton step as far as the dual grows enough with it; none where it doesn't."""
        direction = self.direction(f, view, settings).clamp(-LONGEST_STEP, LONGEST_STEP)
        slope = (direction * view.missing).sum(-1)
        rounding = ROUNDING * (1 + view.dual.abs())
        waiting, length = torch.ones_like(self.empty), 1.0
        for _ in range(TRIALS):
            trial = f + length * direction
            growth = self.view(trial, settings, matrix, add).dual - view.dual
            better = waiting & (growth + rounding > 1e-4 * length * slope)
            f, waiting, length = torch.where(better[:, None], trial, f), waiting & ~better, length / 3
            if not waiting.any():
                break
        return f

    def direction(self, f: Tensor, view: DualView, settings: Settings) -> Tensor:
        """Solve for the Newton step (B, M): minus the dual's Hessian, taken as constant, against its gradient."""
        with torch.no_grad():
            log_rows = f + self.log_rows
            plan = self.energy + log_rows[..., None]
            plan.add_((self.log_columns - view.log_sums)[:, None]).exp_()
            diagonal = plan.sum(-1) + settings.slack * view.wanted + torch.where(self.log_rows.isfinite(), RIDGE, 1.0)
            hessian = torch.diag_embed(diagonal) - (plan @ plan.mT) / self.log_columns.exp().amax(-1)[:, None, None]
            if settings.relax is None:  # f is free up to a constant
                masses = self.log_rows.exp()
                hessian += masses[..., None] * masses[:, None]
        step: Tensor = torch.linalg.solve_ex(hessian, view.missing[..., None])[0]
        return step.squeeze(-1)


class DualView(NamedTuple):
    """B problems seen from potentials f (B, M), with those of the columns that make columns exact.

    Attributes:
        log_sums: (B, K), minus the potentials of the columns.
        fit: (B, M), potentials that would make rows exact: Sinkhorn's step.
        wanted: (B, M), row sums that suit f: a exp(-f epsilon / relax).
        missing: (B, M), by how much row sums fall short of that; the gradient of the dual.
        error: (B,), its sum of absolute values.
        dual: (B,), what the solution makes largest, in units of epsilon.
    """

    log_sums: Tensor
    fit: Tensor
    wanted: Tensor
    missing: Tensor
    error: Tensor
    dual: Tensor


def _add_scaled(matrix: Tensor, potential: Tensor, dim: int) -> Tensor:
    """Log of the sum over `dim` of matrix * exp(potential) as a product of matrix and vector."""
    vector = potential.exp()[:, None]
    return (vector @ (matrix if dim == -2 else matrix.mT)).squeeze(1).log()


def _add_logs(matrix: Tensor, potential: Tensor, dim: int) -> Tensor:
    """The same from the matrix's logarithm, at any spread."""
    return (matrix + potential.unsqueeze(-3 - dim)).logsumexp(dim)


def _log_uniform(mask: Tensor) -> Tensor:
    """Log of uniform mass over what is real; -inf elsewhere."""
    return torch.where(mask, -mask.sum(-1, keepdim=True).double().log(), -torch.inf)


def _through_iterations(settings: Settings, rows: Tensor, sentences: Tensor, patches: Tensor, columns: Tensor) -> Tensor:
    """Similarity (i, R) of a few images, differentiable through their plans."""
    similarity = _similarity(sentences, patches)
    problems = _problems(similarity, rows, columns, settings)
    potentials = problems.through(problems.solve(settings)[0], settings)
    return _total(problems.plan(potentials), similarity, len(patches), len(rows))


class _ConstantPlan(torch.autograd.Function):
    """Similarity of all pairs; the backward pass makes plans again from the row potentials, a few images at a time."""

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, images: int, sentences: Tensor, patches: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        totals, kept = [], []
        for some, mask in zip(torch.split(patches, images), torch.split(columns, images), strict=True):
            similarity = _similarity(sentences, some)
            problems = _problems(similarity, rows, mask, settings)
            potentials = problems.solve(settings)[0]
            totals.append(_total(problems.plan(potentials), similarity, len(some), len(rows)))
            kept.append(potentials)
        ctx.settings, ctx.images = settings, images
        ctx.save_for_backward(sentences, patches, rows, columns, torch.cat(kept))
        return torch.cat(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sentences, patches, rows, columns, potentials = ctx.saved_tensors
        of_sentences, of_patches = torch.zeros_like(sentences), []
        chunks = (torch.split(tensor, ctx.images) for tensor in (patches, columns, gradient))
        kept = torch.split(potentials, ctx.images * len(rows))
        for some, mask, upper, f in zip(*chunks, kept, strict=True):
            plan = _problems(_similarity(sentences, some), rows, mask, ctx.settings).plan(f).to(gradient.dtype)
            weight = (plan * upper.reshape(-1, 1, 1)).view(len(some), rows.numel(), some.shape[1])
            of_patches.append(weight.mT @ sentences.flatten(0, 1))
            of_sentences += torch.einsum("iqn,ind->qd", weight, some).view_as(sentences)
        return None, None, of_sentences, torch.cat(of_patches), None, None


def _similarity(sentences: Tensor, patches: Tensor) -> Tensor:
    """Cosines (i * R, M, N) of sentences (R, M, d) with patches (i, N, d), image by image."""
    pairs = len(patches) * len(sentences)
    return (sentences.flatten(0, 1) @ patches.mT).view(pairs, sentences.shape[1], patches.shape[1])


def _problems(similarity: Tensor, rows: Tensor, columns: Tensor, settings: Settings) -> Problems:
    """Problems of all pairs from masks of reports (R, M) and images (i, N)."""
    pairs = rows.repeat(len(columns), 1), columns.repeat_interleave(len(rows), 0)
    return Problems.of(1 - similarity, *pairs, settings.epsilon)


def _total(plan: Tensor, similarity: Tensor, images: int, reports: int) -> Tensor:
    """Sum of plan * similarity, (i * R, M, N) -> (i, R)."""
    return (plan * similarity).sum((1, 2)).to(similarity.dtype).view(images, reports)


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
