"""Losses of facts: each equals its plain reference, and what it draws is fit to be drawn."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from medlip import losses
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.losses.existence import reference_existence_loss
from medlip.losses.pairs import reference_icl_loss
from medlip.losses.prototype import reference_protocl_loss
from medlip.reports import Fact, fact_matrix
from medlip.reports.facts import IGNORED

B, A, P, D = 3, 7, 9, 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def keys(present, seed=0):
    return torch.rand(present.shape, generator=generator(seed))


def adjacency(seed, values=(-1, 0, 1)):
    return torch.tensor(values)[torch.randint(len(values), (B, A, P), generator=generator(seed))]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_existence_equals_its_reference(seed):
    logits = normal(B, P, 2, seed=seed)
    labels = losses.existence_labels(adjacency(seed), 1)
    torch.testing.assert_close(losses.existence_loss(logits, labels), reference_existence_loss(logits, labels))


@pytest.mark.parametrize("seed", range(3))
def test_icl_equals_its_reference(seed):
    anatomies, pathologies = normal(B, A, D, seed=seed), normal(B, P, D, seed=seed + 10)
    matrix = adjacency(seed)
    ours, reference = (
        losses.icl_loss(anatomies, pathologies, matrix),
        reference_icl_loss(anatomies, pathologies, matrix),
    )
    torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("seed", range(3))
def test_protocl_equals_its_reference(seed):
    present = adjacency(seed).transpose(1, 2) == 1
    present = present[present.any(2)]
    states, partners = normal(len(present), D, seed=seed), normal(A, D, seed=seed + 10)
    negatives = losses.draw_negatives(present, torch.eye(A, dtype=torch.bool), 3, keys(present, seed))
    ours = losses.protocl_loss(states, partners, present, negatives)
    torch.testing.assert_close(ours, reference_protocl_loss(states, partners, present, negatives))


def test_a_random_prototype_is_one_of_the_positives():
    present = torch.tensor([[True, False, True, False], [False, True, False, False]])
    drawn = torch.stack([losses.draw_positive(present, keys(present, seed)) for seed in range(50)])
    assert set(drawn[:, 0].tolist()) == {0, 2}
    assert set(drawn[:, 1].tolist()) == {1}


def test_labels_are_the_strongest_statement():
    matrix = torch.tensor([[[-1, 0, -1, -2, -2], [-1, 1, 0, -1, 1], [-1, -1, -1, -1, 0]]])
    assert losses.existence_labels(matrix, 1).tolist() == [[-1, 1, 0, -2, 1]]


@pytest.mark.parametrize(("policy", "label"), [("ignore", -2), ("present", 1), ("absent", 0)])
def test_uncertain_on_one_side_and_absent_on_the_other_follows_the_policy(policy, label):
    vocabulary = default_vocabulary()
    facts = [Fact("effusion", "left_pleural", "uncertain"), Fact("effusion", "right_pleural", "absent")]
    facts += [Fact("pneumothorax", "left_pleural", "absent")]
    matrix = torch.from_numpy(fact_matrix(facts, vocabulary, policy, ignored=IGNORED))[None]
    assert losses.existence_labels(matrix, 1)[0, vocabulary.pathology_index["effusion"]] == label
    assert losses.existence_labels(matrix, 1)[0, vocabulary.pathology_index["pneumothorax"]] == 0
    assert losses.existence_labels(matrix, 2)[0, vocabulary.anatomy_index["left_pleural"]] == label
    assert losses.existence_labels(matrix, 2)[0, vocabulary.anatomy_index["right_pleural"]] == 0


def test_what_is_to_be_ignored_never_counts_as_unmentioned():
    logits = normal(1, 2, 2)
    ignored = losses.existence_loss(logits, torch.tensor([[1, -2]]), unmentioned=1.0)
    torch.testing.assert_close(ignored, losses.existence_loss(logits, torch.tensor([[1, -2]])))
    assert ignored != losses.existence_loss(logits, torch.tensor([[1, -1]]), unmentioned=1.0)
    states = normal(1, 1, D), normal(1, 2, D, seed=1)
    matrix = torch.tensor([[[1, -2]]])
    torch.testing.assert_close(losses.icl_loss(*states, matrix, unmentioned=1.0), losses.icl_loss(*states, matrix))


def test_unmentioned_pairs_count_as_absent_only_on_request():
    states = normal(1, 2, D), normal(1, 2, D, seed=1)
    matrix = torch.tensor([[[1, -1], [0, -1]]])
    torch.testing.assert_close(
        losses.icl_loss(*states, matrix, unmentioned=1.0), reference_icl_loss(*states, matrix.clamp(min=0))
    )


def test_negatives_are_drawn_without_replacement_and_repeat_with_their_seed():
    present = torch.rand(40, 20, generator=generator()) < 0.2
    unfit = torch.eye(20, dtype=torch.bool)
    drawn = losses.draw_negatives(present, unfit, 7, keys(present, 1))
    assert torch.equal(drawn, losses.draw_negatives(present, unfit, 7, keys(present, 1)))
    assert not torch.equal(drawn, losses.draw_negatives(present, unfit, 7, keys(present, 2)))
    for row, negatives in zip(present, drawn, strict=True):
        chosen = negatives[negatives >= 0]
        assert len(chosen) == min(7, int((~row).sum())) == len(set(chosen.tolist()))
        assert not row[chosen].any()


def test_a_row_without_fit_negatives_still_has_a_finite_loss():
    present = torch.ones(1, 4, dtype=torch.bool)
    negatives = losses.draw_negatives(present, torch.eye(4, dtype=torch.bool), 3, keys(present))
    assert (negatives == -1).all()
    assert losses.protocl_loss(normal(1, D), normal(4, D), present, negatives).item() == 0


def test_overlapping_concepts_and_catch_alls_are_unfit():
    vocabulary = default_vocabulary()
    unfit, index = vocabulary.unfit_anatomies, vocabulary.anatomy_index
    assert unfit[index["left_lower_lung"], index["left_lung_unspec"]]
    assert unfit[index["left_lower_lung"], index["other"]]
    assert unfit[index["aorta"], index["unspecified"]]
    assert not unfit[index["left_lower_lung"], index["right_lower_lung"]]
    assert (unfit == unfit.T).all()
    assert (~unfit).sum(1)[unfit.sum(1) < len(unfit)].min() >= 20


def test_one_random_position_is_a_prototype_of_one():
    present = torch.rand(5, A, generator=generator()) < 0.4
    present[:, 0] = True
    states, partners = normal(5, D), normal(A, D, seed=1)
    positive = losses.draw_positive(present, keys(present))
    negatives = losses.draw_negatives(present, torch.eye(A, dtype=torch.bool), 3, keys(present))
    expected = reference_protocl_loss(states, partners, one_hot(positive, A).bool(), negatives)
    torch.testing.assert_close(losses.protocl_loss(states, partners, present, negatives, positive), expected)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(MedLIPError, match=r"logits \(3, 9, 3\) don't fit labels \(3, 9\)"):
        losses.existence_loss(normal(B, P, 3), torch.zeros(B, P))
    with pytest.raises(MedLIPError, match="don't fit"):
        losses.icl_loss(normal(B, A, D), normal(B, P, D), torch.zeros(B, P, A))
    with pytest.raises(MedLIPError, match="don't fit"):
        losses.protocl_loss(normal(2, D), normal(A, D), torch.ones(3, A, dtype=torch.bool), torch.zeros(2, 1))
