"""Attention similarity equals its plain reference, and padding says nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medlip.errors import MedLIPError
from medlip.losses.infonce import info_nce
from medlip.losses.word_region import (
    attention_similarity,
    local_logits,
    reference_attention_similarity,
    reference_local_loss,
)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def some(*shape, seed=0):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.67
    mask[..., 0] = True
    return mask


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    temperature=st.sampled_from([0.01, 0.25, 3.0]),
    sharpness=st.sampled_from([0.02, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_attention_equals_its_reference(sizes, temperature, sharpness, seed):
    reports, m, images, n = sizes
    sentences, patches, rows = unit(reports, m, 5, seed=seed), unit(images, n, 5, seed=seed + 1), some(reports, m, seed=seed)
    scales = {"temperature": temperature, "sharpness": sharpness}
    ours = attention_similarity(sentences, patches, rows, chunk=2, **scales)
    torch.testing.assert_close(ours, reference_attention_similarity(sentences, patches, rows, **scales))


def test_defaults_are_those_of_gloria_per_5():
    sentences, patches = unit(1, 4, 6), unit(1, 9, 6, seed=1)
    attention = (4 * sentences[0] @ patches[0].T).softmax(1)
    cosines = F.cosine_similarity(attention @ patches[0], sentences[0], dim=1)
    similarity = attention_similarity(sentences, patches, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(5 * similarity[0, 0], (5 * cosines).exp().sum().log())


def test_neither_padding_nor_what_stands_in_it_changes_anything():
    sentences, patches, rows, columns = unit(3, 4, 5), unit(2, 6, 5, seed=1), some(3, 4), some(2, 6, seed=1)
    visible = [patches[i][columns[i]][None] for i in range(2)]
    plain = torch.cat([attention_similarity(sentences, some_patches, rows) for some_patches in visible])
    sentences = F.pad(sentences.masked_fill(~rows[..., None], math.nan), (0, 0, 0, 2), value=math.inf).requires_grad_()
    patches = patches.masked_fill(~columns[..., None], math.nan).requires_grad_()
    padded = attention_similarity(sentences, patches, F.pad(rows, (0, 2)), columns)
    torch.testing.assert_close(padded, plain)
    padded.sum().backward()
    assert sentences.grad.isfinite().all() and patches.grad.isfinite().all()


def test_a_report_without_sentences_has_similarity_0_and_no_gradient():
    sentences, patches, rows, columns = unit(3, 4, 5).requires_grad_(), unit(2, 6, 5, seed=1), some(3, 4), some(2, 6)
    rows[1], columns[0] = False, False
    similarity = attention_similarity(sentences, patches, rows, columns)
    similarity.sum().backward()
    assert not similarity[0].any() and not similarity[:, 1].any() and similarity[1, 0] != 0
    assert sentences.grad.isfinite().all() and not sentences.grad[1].any() and sentences.grad[0].any()


def test_order_makes_no_difference():
    sentences, patches, rows = unit(3, 4, 5), unit(2, 6, 5, seed=1), some(3, 4)
    plain = attention_similarity(sentences, patches, rows)
    torch.testing.assert_close(attention_similarity(sentences.flip(1), patches.flip(1), rows.flip(1)), plain)
    torch.testing.assert_close(attention_similarity(sentences.flip(0), patches, rows.flip(0)), plain.flip(1))


def test_finite_differences_confirm_the_gradient():
    sentences, patches, rows, columns = unit(3, 3, 4), unit(2, 5, 4, seed=1), some(3, 3), some(2, 5)
    rows[1] = False

    def value(s, p):
        return attention_similarity(s, p, rows, columns, chunk=1)

    assert torch.autograd.gradcheck(value, (sentences.requires_grad_(), patches.requires_grad_()))


def test_autograd_keeps_the_inputs_alone():
    sentences, patches, rows = unit(6, 10, 5).requires_grad_(), unit(6, 40, 5).requires_grad_(), some(6, 10)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        attention_similarity(sentences, patches, rows, chunk=6)
    assert sum(sizes) <= 2 * (sentences.numel() + patches.numel())


def test_autocast_compares_in_full_precision():
    sentences, patches, rows = unit(3, 4, 5).bfloat16(), unit(2, 6, 5, seed=1).bfloat16(), some(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        similarity = attention_similarity(sentences, patches, rows)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, attention_similarity(sentences.float(), patches.float(), rows))


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"sharpness": -1.0}, {"chunk": 0}])
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(MedLIPError, match=f"{next(iter(wrong))} is"):
        attention_similarity(unit(1, 2, 3), unit(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), **wrong)


@pytest.mark.parametrize("words_first", [False, True])
def test_the_local_contrast_of_gloria_is_its_equation(words_first):
    words, regions = unit(4, 5, 8), unit(4, 9, 8, seed=1)
    if words_first:  # where lengths matter
        words, regions = 2 * words, 3 * regions
    real = torch.arange(5) < torch.tensor([5, 1, 3, 4])[:, None]
    ours = info_nce(local_logits(words, regions, real, 4.0, 5.0, 10.0, words_first=words_first))
    torch.testing.assert_close(ours, reference_local_loss(words, regions, real, 4.0, 5.0, 10.0, words_first))
