"""The contrast, its weights and the prediction of hidden patches, against plain references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medlip.errors import MedLIPError
from medlip.losses import (
    attention_integrity,
    info_nce,
    normalized_weights,
    pooled_similarity,
    position_integrity,
    prediction_errors,
    reconstruction_integrity,
    sentence_contrast,
    sigmoid_contrast,
    similarity_integrity,
    true_integrity,
)
from medlip.losses.infonce import reference_info_nce
from medlip.losses.integrity import (
    reference_attention_integrity,
    reference_normalized_weights,
    reference_position_integrity,
    reference_reconstruction_integrity,
    reference_similarity_integrity,
    reference_true_integrity,
)
from medlip.losses.reconstruction import reference_prediction_errors
from medlip.losses.sigmoid import reference_sigmoid_contrast
from medlip.nn.patches import draw_visible, patch_pixels


def test_info_nce_is_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(6, 6, generator=generator).double(), torch.rand(6, generator=generator).double()
    torch.testing.assert_close(info_nce(logits, weights), reference_info_nce(logits, weights))
    torch.testing.assert_close(info_nce(logits), reference_info_nce(logits, torch.ones(6).double()))


def test_pairs_without_a_report_take_no_part() -> None:
    logits, weights = torch.randn(5, 5), torch.rand(5)
    present = torch.tensor([True, False, True, True, False])
    kept = present.nonzero()[:, 0]
    expected = info_nce(logits[kept][:, kept], weights[kept])
    torch.testing.assert_close(info_nce(logits, weights, present), expected)


def test_nobody_present_and_a_batch_of_one_are_zero() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    loss = info_nce(logits, torch.ones(3), torch.zeros(3, dtype=torch.bool))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert info_nce(torch.tensor([[7.0]]), torch.ones(1)) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 1))
def test_weights_have_mean_one_and_a_floor(scores: list[float], floor: float) -> None:
    weights = normalized_weights(torch.tensor(scores), floor)
    assert abs(float(weights.mean()) - 1) < 1e-4
    assert (weights >= floor - 1e-6).all()


def test_weights_are_their_reference() -> None:
    scores = torch.rand(9)
    torch.testing.assert_close(normalized_weights(scores, 0.1), reference_normalized_weights(scores, 0.1))


def test_a_free_weight_silences_hard_samples_and_a_normalised_one_cannot() -> None:
    """What the normalisation is for: learned freely, the weight of a sample goes to 0 where its loss is high."""
    losses = torch.tensor([0.1, 0.1, 5.0])
    learned = {}
    for normalise in (False, True):
        scores = torch.zeros(3, requires_grad=True)
        for _ in range(400):
            weights = normalized_weights(scores.exp(), 0.1) if normalise else scores.exp()
            (gradient,) = torch.autograd.grad((weights * losses).mean(), scores)
            scores = (scores - 0.5 * gradient).detach().requires_grad_()
        learned[normalise] = normalized_weights(scores.exp(), 0.1) if normalise else scores.exp()
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
    torch.testing.assert_close(normalized_weights(scores).mean(), torch.tensor(1.0))


def test_position_integrity_learns_which_places_matter() -> None:
    shown = torch.eye(3, dtype=torch.bool)
    scores = position_integrity(shown, torch.tensor([2.0, 0.0, -2.0]), torch.tensor(0.0))
    assert scores[0] > scores[1] > scores[2] > 0


def test_estimators_of_integrity_are_their_references() -> None:
    generator = torch.Generator().manual_seed(0)
    masked, full, errors, u = torch.rand(4, 6, generator=generator).double() - 0.2
    similarities, shown = torch.randn(6, 9, generator=generator).double(), torch.rand(6, 9, generator=generator) > 0.5
    importance = torch.randn(9, generator=generator).double()
    for ours, reference in (
        (similarity_integrity(masked, full, 0.5), reference_similarity_integrity(masked, full, 0.5)),
        (attention_integrity(similarities, shown, 0.3), reference_attention_integrity(similarities, shown, 0.3)),
        (reconstruction_integrity(errors, 0.5), reference_reconstruction_integrity(errors, 0.5)),
        (position_integrity(shown, importance, u[0]), reference_position_integrity(shown, importance, u[0])),
        (true_integrity(similarities.softmax(1), shown), reference_true_integrity(similarities.softmax(1), shown)),
    ):
        torch.testing.assert_close(ours, reference)


def test_a_contrast_weighs_both_directions() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = reference_info_nce(logits, torch.ones(6).double(), 0.75)
    torch.testing.assert_close(info_nce(logits, to_reports=0.75), expected)
    assert not torch.allclose(info_nce(logits), expected)
    torch.testing.assert_close(info_nce(logits.T, to_reports=0.25), expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_error_of_hidden_patches_is_its_reference(normalize: bool) -> None:
    images, predicted = torch.randn(3, 3, 12, 12).double(), torch.randn(3, 9, 16).double()
    visible = draw_visible(torch.rand(3, 9, generator=torch.Generator().manual_seed(0)), 0.5)
    ours = prediction_errors(predicted, images, visible, 4, normalize)
    torch.testing.assert_close(ours, reference_prediction_errors(predicted, images, visible, 4, normalize))


def test_only_hidden_patches_count_in_the_prediction() -> None:
    images = torch.randn(2, 3, 8, 8)
    target = patch_pixels(images, 4)
    predicted = target.clone()
    predicted[0, 0] += 100  # visible: free
    predicted[1, 3] += 2
    visible = torch.tensor([[0, 1], [0, 1]])
    torch.testing.assert_close(prediction_errors(predicted, images, visible, 4), torch.tensor([0.0, 2.0]))
    everything = torch.arange(4).expand(2, -1)
    assert torch.equal(prediction_errors(predicted, images, everything, 4), torch.zeros(2))


def test_normalized_targets_ignore_a_patch_s_brightness() -> None:
    images = torch.randn(1, 3, 8, 8)
    predicted, visible = torch.randn(1, 4, 16), torch.tensor([[0]])
    errors = [prediction_errors(predicted, scaled, visible, 4, normalize=True) for scaled in (images, 3 * images + 2)]
    torch.testing.assert_close(*errors, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(MedLIPError, match=r"logits are \(2, 3\)"):
        info_nce(torch.zeros(2, 3))
    with pytest.raises(MedLIPError, match="floor is 2"):
        normalized_weights(torch.ones(3), 2)
    with pytest.raises(MedLIPError, match="a prediction of every patch"):
        prediction_errors(torch.zeros(1, 3, 16), torch.zeros(1, 3, 8, 8), torch.tensor([[0]]), 4)


def test_a_negative_that_is_true_in_part_counts_in_part() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    counted = torch.ones(4, 4).double()
    counted[0, 1], counted[2, 0] = 0.25, 0.0
    exact = logits.exp() * counted
    rows, columns = exact.sum(1).log(), exact.sum(0).log()
    expected = ((rows + columns) / 2 - logits.diagonal()).mean()
    torch.testing.assert_close(info_nce(logits, negatives=counted), expected)
    torch.testing.assert_close(info_nce(logits, negatives=counted.fill_diagonal_(0)), expected)


def test_further_texts_are_told_from_their_own_image_alone() -> None:
    logits, further = torch.randn(3, 3), torch.tensor([[0.5, -torch.inf], [-torch.inf, -torch.inf], [1.0, 2.0]])
    rows = torch.cat([logits, further], 1).logsumexp(1)
    expected = ((rows + logits.logsumexp(0)) / 2 - logits.diagonal()).mean()
    torch.testing.assert_close(info_nce(logits, further=further), expected)


def test_sigmoid_contrast_is_its_equation() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([0, 0, 1, 2, 2]) == torch.arange(3)[:, None]
    expected = reference_sigmoid_contrast(logits, own)
    torch.testing.assert_close(sigmoid_contrast(logits, own), expected)
    nobodys = torch.cat([own, torch.zeros(3, 1, dtype=torch.bool)], 1)
    torch.testing.assert_close(sigmoid_contrast(torch.cat([logits, torch.randn(3, 1)], 1), nobodys), expected)
    further = torch.tensor([[-torch.inf], [-torch.inf], [2.0]])
    wrong = torch.nn.functional.softplus(torch.tensor(2.0)) / 3
    torch.testing.assert_close(sigmoid_contrast(logits, own, further=further), expected + wrong)
    true_of_all = own.float()  # what is true of another image, too, is no negative of it
    torch.testing.assert_close(
        sigmoid_contrast(logits, own, negatives=true_of_all), -(logits.sigmoid().log() * own).sum() / 3
    )


def test_sentences_are_told_from_those_of_other_images_and_not_from_one_another() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, owners = torch.randn(3, 5, generator=generator), torch.tensor([0, 0, 1, -1, 2])
    counted, further = torch.rand(3, 5, generator=generator), torch.tensor([[0.3], [-torch.inf], [1.0]])
    expected = torch.zeros(())
    for image in range(3):
        own = (owners == image).nonzero()[:, 0]
        for sentence in own:
            said = logits[image, sentence]
            others = [t for t in range(5) if owners[t] not in (-1, image)]
            row = sum(counted[image, t] * logits[image, t].exp() for t in others) + further[image].exp().sum()
            column = sum(counted[j, sentence] * logits[j, sentence].exp() for j in range(3) if j != image)
            losses = [-said + (said.exp() + against).log() for against in (row, column)]
            expected = expected + sum(losses) / 2 / len(own) / 3
    torch.testing.assert_close(sentence_contrast(logits, owners, negatives=counted, further=further), expected)


def test_no_sentence_at_all_is_zero_with_gradient_zero() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    nobody = torch.full((3,), -1)
    loss = sentence_contrast(logits, nobody) + sigmoid_contrast(logits, nobody == torch.arange(2)[:, None])
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_similarity_is_pooled_over_the_patches_that_are_like_the_text() -> None:
    text, patches = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], *([[0.0, 1.0]] * 99)]])
    assert pooled_similarity(text, patches, 0.02).item() > 0.99
    assert abs(pooled_similarity(text, patches, 1e6).item() - 0.01) < 1e-4
