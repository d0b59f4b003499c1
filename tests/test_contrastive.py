"""Contrastive losses and the weights of semantic integrity, against plain references."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from medlip.methods.contrastive import (
    attention_integrity,
    contrastive_loss,
    contrastive_loss_reference,
    normalised_weights,
    normalised_weights_reference,
    position_integrity,
    reconstruction_integrity,
    similarity_integrity,
)


def test_contrastive_loss_is_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(6, 6, generator=generator).double(), torch.rand(6, generator=generator).double()
    torch.testing.assert_close(contrastive_loss(logits, weights), contrastive_loss_reference(logits, weights))
    torch.testing.assert_close(contrastive_loss(logits), contrastive_loss_reference(logits, torch.ones(6).double()))


def test_pairs_without_a_report_take_no_part() -> None:
    logits, weights = torch.randn(5, 5), torch.rand(5)
    present = torch.tensor([True, False, True, True, False])
    kept = present.nonzero()[:, 0]
    expected = contrastive_loss(logits[kept][:, kept], weights[kept])
    torch.testing.assert_close(contrastive_loss(logits, weights, present), expected)


def test_nobody_present_and_a_batch_of_one_are_zero() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    loss = contrastive_loss(logits, torch.ones(3), torch.zeros(3, dtype=torch.bool))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert contrastive_loss(torch.tensor([[7.0]]), torch.ones(1)) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 1))
def test_weights_have_mean_one_and_a_floor(scores: list[float], floor: float) -> None:
    weights = normalised_weights(torch.tensor(scores), floor)
    assert abs(float(weights.mean()) - 1) < 1e-4
    assert (weights >= floor - 1e-6).all()


def test_weights_are_their_reference() -> None:
    scores = torch.rand(9)
    torch.testing.assert_close(normalised_weights(scores, 0.1), normalised_weights_reference(scores, 0.1))


def test_a_free_weight_silences_hard_samples_and_a_normalised_one_cannot() -> None:
    """What the normalisation is for: learned freely, the weight of a sample goes to 0 where its loss is high."""
    losses = torch.tensor([0.1, 0.1, 5.0])
    learned = {}
    for normalise in (False, True):
        scores = torch.zeros(3, requires_grad=True)
        for _ in range(2000):
            weights = normalised_weights(scores.exp(), 0.1) if normalise else scores.exp()
            (gradient,) = torch.autograd.grad((weights * losses).mean(), scores)
            scores = (scores - 0.1 * gradient).detach().requires_grad_()
        learned[normalise] = normalised_weights(scores.exp(), 0.1) if normalise else scores.exp()
    assert learned[False][2] < 0.01
    assert learned[True][2] >= 0.1
    assert abs(float(learned[True].mean().detach()) - 1) < 1e-5


def test_similarity_integrity_favours_what_survives_the_mask() -> None:
    full = torch.tensor([0.5, 0.5, 0.5])
    scores = similarity_integrity(torch.tensor([0.5, 0.25, 0.0]), full, 0.5)
    assert scores[0] > scores[1] > scores[2]
    torch.testing.assert_close(scores.mean(), torch.tensor(1.0))


def test_similarity_integrity_says_nothing_without_agreement_to_lose() -> None:
    scores = similarity_integrity(torch.tensor([0.3, -0.4, 0.01]), torch.tensor([0.0, -0.5, 1e-9]), 0.1)
    torch.testing.assert_close(scores, torch.ones(3))


def test_attention_integrity_is_a_share() -> None:
    similarities, shown = torch.randn(4, 9), torch.rand(4, 9) > 0.5
    shares = attention_integrity(similarities, shown, 0.3)
    torch.testing.assert_close(shares + attention_integrity(similarities, ~shown, 0.3), torch.ones(4))


def test_reconstruction_integrity_keeps_ratios_and_range() -> None:
    errors = torch.tensor([200.0, 200.5, 201.0])
    scores = reconstruction_integrity(errors, 0.5)
    torch.testing.assert_close(scores / scores[0], torch.exp(-torch.tensor([0.0, 1.0, 2.0])))
    torch.testing.assert_close(normalised_weights(scores).mean(), torch.tensor(1.0))


def test_position_integrity_learns_which_places_matter() -> None:
    shown = torch.eye(3, dtype=torch.bool)
    scores = position_integrity(shown, torch.tensor([2.0, 0.0, -2.0]), torch.tensor(0.0))
    assert scores[0] > scores[1] > scores[2] > 0
