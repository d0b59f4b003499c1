"""Transport plans are POT's and the plain reference's, whatever is degenerate, padded, shuffled or in half precision."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.errors import MedLIPError
from medlip.nn import pairs
from medlip.nn.transport import sinkhorn, transport_similarity
from medlip.nn.transport_bench import bench_transport

TIGHT = {"tolerance": 1e-11}


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def costs(batch, m, k, seed=0, width=8):
    return 1 - unit(batch, m, width, seed=seed) @ unit(batch, k, width, seed=seed + 1).mT


def some(*shape, seed=0):
    """A mask with about two thirds real, at least one a row."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.67
    mask[..., 0] = True
    return mask


def reference(cost, epsilon, rows=None, columns=None, relax=None):
    """One problem as the equations read: potentials in turn until they stay, padded rows and columns left out."""
    rows = torch.ones(cost.shape[0], dtype=torch.bool) if rows is None else rows
    columns = torch.ones(cost.shape[1], dtype=torch.bool) if columns is None else columns
    plan = torch.zeros_like(cost)
    inner = cost[rows][:, columns]
    a, b = math.log(1 / inner.shape[0]), math.log(1 / inner.shape[1])
    f, g = inner.new_zeros(inner.shape[0]), inner.new_zeros(inner.shape[1])
    for _ in range(20_000):
        before, f = f, -(g + b - inner / epsilon).logsumexp(1) * (1 if relax is None else relax / (relax + epsilon))
        g = -(f[:, None] + a - inner / epsilon).logsumexp(0)
        if (f - before).abs().max() < 1e-11:
            break
    plan[rows[:, None] & columns] = (f[:, None] + g + a + b - inner / epsilon).exp().flatten()
    return plan


def by_pot(cost, epsilon, relax=None):
    a, b = (np.full(n, 1 / n) for n in cost.shape)
    if relax is None:
        return ot.sinkhorn(a, b, cost.numpy(), epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=50_000)
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost.numpy(), epsilon, (relax, math.inf), stopThr=1e-14, numItermax=50_000, reg_type="kl"
    )
    return np.asarray(plan)


def objective(cost, plan, epsilon, relax=None):
    """<plan, cost> + epsilon KL(plan | a b^T) + relax KL(plan 1 | a)."""
    m, k = cost.shape
    mass = plan.sum(1)
    value = (plan * cost).sum() + epsilon * (plan * (plan * m * k).log() - plan + 1 / (m * k)).sum()
    return value if relax is None else value + relax * (mass * (mass * m).log() - mass + 1 / m).sum()


@pytest.mark.parametrize("relax", [None, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
def test_plan_and_cost_are_those_of_pot(epsilon, relax):
    for shape in ((12, 49), (3, 5), (1, 6), (6, 1), (1, 1), (20, 4)):
        cost = costs(2, *shape, seed=sum(shape))
        found = sinkhorn(cost, epsilon=epsilon, relax=relax)
        assert (found.error <= 1e-6).all()
        for ours, c in zip(found.plan, cost, strict=True):
            plan = by_pot(c, epsilon, relax)
            assert abs(ours.numpy() - plan).max() <= 1e-6
            assert abs((ours * c).sum().item() - (plan * c.numpy()).sum()) <= 1e-6


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 9),
    k=st.integers(1, 9),
    epsilon=st.sampled_from([0.15, 0.5]),
    relax=st.sampled_from([None, 0.02, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_plan_equals_the_plain_reference_with_any_padding(m, k, epsilon, relax, seed):
    cost, rows, columns = costs(3, m, k, seed=seed, width=4), some(3, m, seed=seed), some(3, k, seed=seed + 1)
    plans = sinkhorn(cost, epsilon=epsilon, rows=rows, columns=columns, relax=relax, **TIGHT).plan
    for plan, c, row, column in zip(plans, cost, rows, columns, strict=True):
        torch.testing.assert_close(plan, reference(c, epsilon, row, column, relax), atol=1e-7, rtol=0)


def test_a_padded_row_is_out_of_it_even_where_real_ones_are_far_away():
    rows = torch.tensor([[True, False]])
    for relax in (None, 1e-3):
        plan = sinkhorn(torch.full((1, 2, 1), 2.0), epsilon=1e-3, rows=rows, relax=relax, gradient="iterations").plan
        torch.testing.assert_close(plan, torch.tensor([[[1.0], [0.0]]]))


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 6),
    k=st.integers(1, 6),
    epsilon=st.floats(1e-3, 2),
    relax=st.sampled_from([None, 1e-3, 0.1, 100.0]),
    kind=st.sampled_from(["uniform", "binary", "constant"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    gradient=st.sampled_from(["plan", "iterations"]),
    seed=st.integers(0, 10_000),
)
def test_any_cost_has_a_finite_plan_with_exact_columns_and_a_finite_gradient(
    m, k, epsilon, relax, kind, dtype, gradient, seed
):
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(4, m, k, generator=generator, dtype=dtype)
    cost = {"uniform": cost, "binary": cost.round().div(2).round() * 2, "constant": torch.full_like(cost, 2.0)}[kind]
    rows, columns = some(4, m, seed=seed), some(4, k, seed=seed + 1)
    rows[0] = False
    columns[1] = False
    cost.requires_grad_()
    found = sinkhorn(cost, epsilon=epsilon, rows=rows, columns=columns, relax=relax, gradient=gradient)
    (found.plan * cost).sum().backward()
    assert found.plan.isfinite().all() and (found.plan >= 0).all() and cost.grad.isfinite().all()
    assert found.plan.dtype == dtype
    sums = torch.where(columns, 1 / columns.sum(1, keepdim=True).clamp(min=1), 0) * rows.any(1, keepdim=True)
    torch.testing.assert_close(found.plan.sum(1), sums.to(dtype), atol=1e-6, rtol=0)
    assert not found.plan[~(rows[..., None] & columns[:, None])].any()


@pytest.mark.parametrize("epsilon", [1e-3, 3e-3])
def test_costs_too_far_apart_for_exponentials_are_solved_in_logarithms(epsilon):
    cost = 2 * torch.rand(1, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sinkhorn(cost, epsilon=epsilon)
    assert (found.error <= 1e-6).all()
    for plan, c in zip(found.plan, cost, strict=True):
        assert abs(plan.numpy() - by_pot(c, epsilon)).max() <= 1e-6


def test_both_ways_of_adding_give_one_plan(monkeypatch):
    cost = costs(5, 12, 49)
    scaled = sinkhorn(cost, **TIGHT)
    monkeypatch.setattr("medlip.nn.transport.SCALABLE", 0.0)
    torch.testing.assert_close(sinkhorn(cost, **TIGHT).plan, scaled.plan, atol=1e-12, rtol=0)


def test_rows_are_exact_when_balanced_and_the_reported_error_is_theirs():
    cost = costs(50, 12, 49)
    cost[:20] *= 3
    found = sinkhorn(cost, tolerance=1e-4)
    error = (found.plan.sum(2) - 1 / 12).abs().sum(1)
    torch.testing.assert_close(found.error, error)
    assert (error <= 1e-4).all() and found.iterations.unique().numel() > 1


@pytest.mark.parametrize("epsilon", [0.05, 0.02, 0.005])
@pytest.mark.parametrize(("m", "k"), [(7, 49), (12, 49), (4, 196)])
def test_few_iterations_do_even_where_each_patch_shows_one_sentence(m, k, epsilon):
    sentences = unit(20, m, 64)
    shown = torch.randint(m, (20, k), generator=torch.Generator().manual_seed(0))
    patches = F.normalize(sentences.gather(1, shown[..., None].expand(-1, -1, 64)) + 0.5 * unit(20, k, 64, seed=1), dim=-1)
    found = sinkhorn(1 - sentences @ patches.mT, epsilon=epsilon)
    assert (found.error <= 1e-6).all() and (found.iterations < 50).all()


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03, 0.01])
def test_two_by_two_is_as_worked_out_by_hand(epsilon):
    cost = 2 * torch.rand(200, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    crossed = cost[:, 0, 1] + cost[:, 1, 0] - cost[:, 0, 0] - cost[:, 1, 1]
    straight = (crossed / (2 * epsilon)).sigmoid() / 2
    found = sinkhorn(cost, epsilon=epsilon)
    torch.testing.assert_close(found.plan[:, 0, 0], straight, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.plan[:, 1, 0], 0.5 - straight, atol=1e-6, rtol=0)


def test_a_sentence_that_no_patch_shows_goes_without_only_when_relaxed():
    cost = torch.full((3, 10), 0.9)
    cost[0, :5] = cost[1, 5:] = 0.2
    balanced, relaxed = (sinkhorn(cost, relax=relax).plan.sum(1) for relax in (None, 0.05))
    torch.testing.assert_close(balanced, torch.full((3,), 1 / 3), atol=1e-6, rtol=0)
    assert relaxed[2] < 0.01
    assert relaxed.sum().item() == pytest.approx(1)


def test_relaxing_hardly_is_balanced_and_relaxing_wholly_is_attention():
    cost = costs(4, 5, 9)
    torch.testing.assert_close(sinkhorn(cost, relax=1e7).plan, sinkhorn(cost).plan, atol=1e-6, rtol=0)
    torch.testing.assert_close(sinkhorn(cost, relax=1e-9).plan, (-cost / 0.05).softmax(1) / 9, atol=1e-6, rtol=0)


def test_order_of_sentences_patches_and_problems_makes_no_difference():
    cost, rows, columns = costs(6, 5, 7), some(6, 5), some(6, 7, seed=1)
    batch, row, column = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (6, 5, 7))
    plan = sinkhorn(cost, rows=rows, columns=columns, **TIGHT).plan
    shuffled = sinkhorn(
        cost[batch][:, row][..., column], rows=rows[batch][:, row], columns=columns[batch][:, column], **TIGHT
    ).plan
    torch.testing.assert_close(shuffled, plan[batch][:, row][..., column])


def test_neighbours_in_the_batch_make_no_difference():
    cost = costs(6, 5, 7)
    cost[3] *= 20
    together = sinkhorn(cost.view(2, 3, 5, 7), **TIGHT)
    alone = torch.stack([sinkhorn(c, **TIGHT).plan for c in cost])
    assert together.iterations.shape == together.error.shape == (2, 3)
    torch.testing.assert_close(together.plan.view_as(cost), alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("relax", [None, 0.1])
def test_the_plan_is_the_gradient_of_the_entropic_objective(relax):
    cost = costs(1, 4, 6)[0]
    plan = sinkhorn(cost, relax=relax, **TIGHT).plan
    slopes = torch.zeros_like(cost)
    for index in np.ndindex(*cost.shape):
        ends = []
        for shift in (1e-5, -1e-5):
            moved = cost.clone()
            moved[index] += shift
            ends.append(objective(moved, sinkhorn(moved, relax=relax, **TIGHT).plan, 0.05, relax))
        slopes[index] = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(plan, slopes, atol=1e-7, rtol=0)


@pytest.mark.parametrize("relax", [None, 0.1])
def test_going_through_the_iterations_gives_the_true_gradient(relax):
    cost, rows, columns = costs(2, 3, 4).requires_grad_(), some(2, 3, seed=3), some(2, 4, seed=4)

    def value(c):
        masks = {"rows": rows, "columns": columns}
        return (sinkhorn(c, epsilon=0.2, relax=relax, gradient="iterations", **masks, **TIGHT).plan * c).sum((1, 2))

    assert torch.autograd.gradcheck(value, (cost,), atol=1e-6)


def test_a_constant_plan_carries_no_gradient():
    assert not sinkhorn(costs(2, 3, 4).requires_grad_()).plan.requires_grad


def batch(reports=4, images=3, m=5, n=7, dtype=torch.float64):
    rows = some(reports, m)
    rows[1], rows[2] = False, torch.arange(m) == m - 1
    return unit(reports, m, 6, dtype=dtype), unit(images, n, 6, seed=1, dtype=dtype), rows, some(images, n, seed=2)


@pytest.mark.parametrize("relax", [None, 0.1])
@pytest.mark.parametrize("gradient", ["plan", "iterations"])
def test_similarity_and_its_gradient_are_those_of_pair_after_pair(gradient, relax):
    sentences, patches, rows, columns = batch()
    inputs = [(s.clone().requires_grad_(), p.clone().requires_grad_()) for s, p in [(sentences, patches)] * 2]
    ours = transport_similarity(*inputs[0], rows, columns, epsilon=0.2, relax=relax, gradient=gradient, chunk=2, **TIGHT)
    s, p = inputs[1]
    values = []
    for i in range(3):
        for j in range(4):
            cosines = s[j][rows[j]] @ p[i][columns[i]].T
            plan = reference(1 - cosines, 0.2, relax=relax) if len(cosines) else cosines
            values.append(((plan.detach() if gradient == "plan" else plan) * cosines).sum())
    expected = torch.stack(values).view(3, 4)
    torch.testing.assert_close(ours, expected, atol=1e-8, rtol=0)
    weight = unit(3, 4, seed=9)
    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, theirs in zip(*inputs, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=0)


def test_finite_differences_confirm_the_gradient_through_iterations():
    sentences, patches, rows, columns = batch(images=2, m=3, n=4)

    def value(s, p):
        return transport_similarity(s, p, rows, columns, epsilon=0.3, gradient="iterations", chunk=1, **TIGHT)

    assert torch.autograd.gradcheck(value, (sentences.requires_grad_(), patches.requires_grad_()), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("gradient", ["plan", "iterations"])
def test_a_report_without_sentences_has_similarity_0_and_no_gradient(gradient):
    sentences, patches, rows, columns = batch()
    columns[0] = False
    sentences.requires_grad_()
    similarity = transport_similarity(sentences, patches, rows, columns, gradient=gradient)
    similarity.sum().backward()
    assert not similarity[:, 1].any() and not similarity[0].any() and similarity[1:, 0].all()
    assert not sentences.grad[~rows].any() and sentences.grad[0].any()


@pytest.mark.parametrize("gradient", ["plan", "iterations"])
def test_neither_padding_nor_what_stands_in_it_changes_anything(gradient):
    sentences, patches, rows, columns = batch()
    plain = transport_similarity(sentences, patches, rows, columns, gradient=gradient)
    sentences = F.pad(sentences.masked_fill(~rows[..., None], torch.nan), (0, 0, 0, 2), value=math.nan).requires_grad_()
    patches = F.pad(patches.masked_fill(~columns[..., None], torch.inf), (0, 0, 0, 3), value=math.inf).requires_grad_()
    padded = transport_similarity(sentences, patches, F.pad(rows, (0, 2)), F.pad(columns, (0, 3)), gradient=gradient)
    torch.testing.assert_close(padded, plain)
    padded.sum().backward()
    assert sentences.grad.isfinite().all() and patches.grad.isfinite().all()


@pytest.mark.parametrize("gradient", ["plan", "iterations"])
def test_one_image_one_report_one_sentence_one_patch(gradient):
    sentence, patch = unit(1, 1, 6), unit(1, 1, 6, seed=1)
    similarity = transport_similarity(sentence, patch, torch.ones(1, 1, dtype=torch.bool), gradient=gradient)
    torch.testing.assert_close(similarity, (sentence @ patch.mT)[0])
    for shape in ((2, 0), (0, 3)):
        none = transport_similarity(torch.ones(*shape, 6), torch.ones(1, 4, 6), torch.ones(shape) > 0, gradient=gradient)
        assert none.tolist() == [[0.0] * shape[0]]


def test_chunks_give_the_same():
    sentences, patches, rows, columns = batch(images=5)
    whole = transport_similarity(sentences, patches, rows, columns, **TIGHT)
    for chunk in (1, 2, 5, 9):
        torch.testing.assert_close(transport_similarity(sentences, patches, rows, columns, chunk=chunk, **TIGHT), whole)


def test_autograd_keeps_a_potential_a_sentence_of_a_pair_and_no_plan():
    images = reports = 6
    sentences, patches, rows, _ = batch(reports, images, m=10, n=40)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        transport_similarity(sentences.requires_grad_(), patches.requires_grad_(), rows, chunk=2)
    inputs = sentences.numel() + patches.numel() + rows.numel() + patches.shape[:2].numel()
    pair = images * reports * 10
    assert pair < sum(sizes) <= pair + 2 * inputs


def test_memory_at_a_time_is_bounded_however_many_images_there_are():
    sentences = torch.zeros(8, 12, 4)
    assert [pairs.images_at_once(sentences, torch.zeros(n, 49, 4), None) for n in (1, 1000)] == [111, 111]
    assert pairs.images_at_once(torch.zeros(100_000, 12, 4), torch.zeros(9, 49, 4), None) == 1


@pytest.mark.parametrize("gradient", ["plan", "iterations"])
def test_half_precision_and_autocast_are_solved_in_full(gradient):
    sentences, patches, rows, columns = (x.bfloat16() if x.is_floating_point() else x for x in batch())
    full = transport_similarity(sentences.float(), patches.float(), rows, columns)
    sentences.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        similarity = transport_similarity(sentences, patches, rows, columns, gradient=gradient)
        plan = sinkhorn(1 - sentences[0] @ patches[0].mT).plan
        same = transport_similarity(sentences.float(), patches.float(), rows, columns)
    similarity.sum().backward()
    assert similarity.dtype == plan.dtype == torch.float32
    assert sentences.grad.dtype == torch.bfloat16
    torch.testing.assert_close(similarity, full, atol=1e-6, rtol=0)
    torch.testing.assert_close(same, full, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epsilon": 0}, "epsilon is 0"),
        ({"relax": -1.0}, "relax is -1.0"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"gradient": "none"}, "'plan' or 'iterations'"),
        ({"rows": torch.ones(2, 4, dtype=torch.bool)}, r"boolean \(2, 3\)"),
        ({"columns": torch.ones(2, 4)}, "torch.float32"),
    ],
)
def test_what_is_out_of_range_is_named(wrong, said):
    with pytest.raises(MedLIPError, match=said):
        sinkhorn(costs(2, 3, 4), **wrong)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(MedLIPError, match="sentences, patches"):
        sinkhorn(torch.ones(3))
    with pytest.raises(MedLIPError, match="can't be compared"):
        transport_similarity(torch.ones(2, 3, 4), torch.ones(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(MedLIPError, match="chunk is 0"):
        transport_similarity(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), chunk=0)


def test_the_bench_agrees_with_pot():
    result = bench_transport(images=3, reports=4)
    assert result["problems"] == 12
    assert result["max_error"] <= 1e-6
    assert result["marginal_error"] <= 1e-6
    assert result["speedup"] == pytest.approx(result["pot_log_seconds"] / result["seconds"])


def test_without_pot_the_bench_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(MedLIPError, match=r"pip install 'medlip\[dev\]'"):
        bench_transport(images=1, reports=1)


@given(st.integers(1, 8), st.integers(1, 12), st.sampled_from([1e3, 1e4, 1e5, 1e6, 1e8, 1e10]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_far_below_the_cost_epsilon_gives_the_exact_plans_cost(m: int, k: int, ratio: float, seed: int) -> None:
    cost = 2 * torch.rand(m, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = sinkhorn(cost, epsilon=2 / ratio)
    exact = ot.emd2(np.full(m, 1 / m), np.full(k, 1 / k), cost.numpy())
    assert float((result.plan * cost).sum()) == pytest.approx(exact, abs=2 / ratio * math.log(m * k) + 1e-5)
    assert result.error < 2e-6


@pytest.mark.parametrize("ratio", [1e4, 1e7])
def test_relaxed_rows_stay_at_their_optimum_far_below_the_cost(ratio: float) -> None:
    cost = costs(3, 6, 20)
    result = sinkhorn(cost, epsilon=2 / ratio, relax=0.3)
    assert (result.error < 1e-6).all()
    # The optimum without entropy: every patch goes to sentences of the least cost, that of a crowded sentence counted in.
    price = cost + 0.3 * (6 * result.plan.sum(-1, keepdim=True)).log()
    assert (result.plan * (price - price.amin(1, keepdim=True))).sum() < 1e-2 / ratio**0.5


def test_gradients_of_the_constant_plan_are_right_far_below_the_cost() -> None:
    sentences, patches, rows, _ = batch(dtype=torch.float32)
    sentences.requires_grad_()
    transport_similarity(sentences, patches, rows, epsilon=1e-6).sum().backward()
    exact = sentences.detach().double().requires_grad_()
    transport_similarity(exact, patches.double(), rows, epsilon=1e-6).sum().backward()
    torch.testing.assert_close(sentences.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beyond", [1e10, math.inf, -math.inf])
def test_a_cost_that_no_plan_can_be_told_from_is_refused(beyond: float) -> None:
    cost = torch.ones(2, 3, 4)
    cost[1, 0, 2] = beyond
    with pytest.raises(MedLIPError, match=r"cost / epsilon is .* Raise epsilon.*a high, finite cost"):
        sinkhorn(cost)
    rows = torch.ones(2, 3, dtype=torch.bool)
    rows[1, 0] = False
    assert sinkhorn(cost, rows=rows).plan.isfinite().all()  # what is padded is not looked at


def test_a_pair_of_a_high_cost_is_not_matched() -> None:
    cost = torch.zeros(2, 4)
    cost[0, 0] = 1e6
    assert sinkhorn(cost).plan[0, 0] == 0
