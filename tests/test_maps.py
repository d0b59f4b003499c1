"""Maps of query methods: of what made the score, on one scale for all images and findings, by a rule that can be chosen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import Answers
from medlip.nn.query_decoder import norm_gradient

PROMPTS = (*(pathology.name for pathology in default_vocabulary().pathologies), "a metal clip over the heart")
TINY = {"backbone": "resnet10t", "width": 32, "feedforward": 48, "heads": 4, "init": "xavier"}


def make(name: str = "medslip", **changes: Any) -> Any:
    torch.manual_seed(0)
    return build_method({"name": name, **TINY, **changes}, default_vocabulary(), Preprocessing(64)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def by_rules(method: Any, images: Tensor) -> dict[str, Tensor]:
    maps = {}
    for rule in method.map_rules:
        method.choose_map_rule(rule)
        maps[rule] = method.localise(images, PROMPTS)
    return maps


@pytest.mark.parametrize("name", ["medslip", "medklip"])
def test_with_one_layer_contributions_are_attention_times_its_gradient(name: str, images: Tensor) -> None:
    maps = by_rules(make(name, layers=1), images)
    torch.testing.assert_close(maps["contribution"], maps["gradient"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(maps["contribution"], maps["attention"], atol=1e-2)


def test_with_more_layers_they_nearly_are(images: Tensor) -> None:
    maps = by_rules(make(layers=3), images)
    ours, theirs = (maps[rule].flatten(2).double() for rule in ("contribution", "gradient"))
    shown = ours.any(-1) & theirs.any(-1)
    assert shown.sum() > 5
    assert torch.cosine_similarity(ours, theirs, dim=-1)[shown].mean() > 0.9


def test_contributions_need_no_backward_pass(images: Tensor) -> None:
    method = make(layers=2).requires_grad_(False)
    with torch.no_grad():
        assert method.localise(images, PROMPTS).any()


def test_the_highest_location_has_the_probability_of_the_finding(images: Tensor) -> None:
    method = make(layers=2)
    answers = method.answer(images, PROMPTS, maps=True)
    assert_leads_back(answers)


def assert_leads_back(answers: Answers) -> None:
    """The highest location of a map has the probability; where no location adds anything, there is no map."""
    assert answers.maps is not None
    highest = answers.maps.amax((2, 3))
    shown = highest > 0
    assert shown.sum() > 5
    torch.testing.assert_close(highest[shown], answers.scores[shown])


def test_the_map_of_an_absent_finding_is_dark(images: Tensor) -> None:
    method = make(layers=2)
    with torch.no_grad():
        method.exist["pathology"].bias.copy_(torch.tensor([20.0, -20.0]))
    assert method.localise(images, PROMPTS).max() < 1e-6


def test_the_published_rule_is_the_mean_attention(images: Tensor) -> None:
    method = make(layers=2, map_rule="attention")
    assert method.map_rule == "attention"
    with torch.inference_mode():
        attention = method(images).attention_pathology
    column = method.vocabulary.pathology_index["effusion"]
    maps = method.localise(images, ["effusion"])[:, 0].flatten(1)
    torch.testing.assert_close(maps, attention.mean(0)[:, column])


def test_a_rule_that_a_method_has_not_is_refused() -> None:
    with pytest.raises(MedLIPError, match=r"no maps by the rule 'contribution'\. Choose class activation"):
        make_linear().choose_map_rule("contribution")


def make_linear(pooling: str = "mean") -> Any:
    settings = {"name": "linear", "backbone": "resnet10t", "pooling": pooling}
    return build_method(settings, default_vocabulary(), Preprocessing(64)).eval()


def test_a_small_finding_is_averaged_away_by_a_mean_and_not_by_a_peak() -> None:
    """One location of 100 says yes, with a margin of 9; the others say no, with 1."""
    margins = {}
    for pooling in ("mean", "peak"):
        method = make_linear(pooling)
        with torch.no_grad():
            method.exist.weight.zero_()
            method.exist.bias.copy_(torch.tensor([0.5, 0.25]).repeat(len(method.exist.bias) // 2))
            method.exist.weight[1, 0] = 1
            tokens = torch.zeros(1, 100, method.encoder.width)
            tokens[0, :, 0] = -1
            tokens[0, 17, 0] = 9
            absent, present = method._logits(tokens)[0, 0]
        margins[pooling] = (present - absent).item()
        assert method._adds(tokens)[0, 0].argmax() == 17
    likely = math.exp(9) / (math.exp(9) + 99 * math.exp(-1))
    assert margins["mean"] == pytest.approx((9 - 99) / 100 - 0.25, abs=1e-5)
    assert margins["peak"] == pytest.approx(9 * likely - (1 - likely) - 0.25, abs=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "peak"])
def test_class_activations_lead_back_to_the_score(images: Tensor, pooling: str) -> None:
    method = make_linear(pooling)
    assert_leads_back(method.answer(images, PROMPTS[:-1], maps=True))
    with pytest.raises(MedLIPError, match="reads no text"):
        method.score(images, ["a metal clip"])


def test_the_gradient_of_a_layer_norm_is_that_of_autograd() -> None:
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    states, gradient = torch.randn(3, 5, 8, requires_grad=True), torch.randn(3, 5, 8)
    (expected,) = torch.autograd.grad((norm(states) * gradient).sum(), states)
    torch.testing.assert_close(norm_gradient(norm, states, gradient), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", ["contribution", "attention", "gradient"])
@pytest.mark.parametrize("when", [True, "later"])
def test_an_image_is_encoded_once_by_every_rule(rule: str, when: Any, images: Tensor) -> None:
    method = make(layers=2)
    method.choose_map_rule(rule)
    alone = method.localise(images, PROMPTS[:3])
    seen = []
    method.encoder.register_forward_hook(lambda *_: seen.append(1))
    answers = method.answer(images, PROMPTS[:3], maps=when, anatomies=True)
    drawn = torch.stack([answers.maps_of(image, range(3)) for image in range(2)])
    assert len(seen) == 1
    torch.testing.assert_close(drawn, alone)


@pytest.mark.parametrize("icl", ["mentioned", "tied"])  # what places are told by: with `tied`, by what maps show
@pytest.mark.parametrize("prompts", [PROMPTS[:-1], PROMPTS])
def test_some_maps_drawn_later_are_those_drawn_alone(icl: str, prompts: tuple[str, ...], images: Tensor) -> None:
    method = make(icl=icl)
    answers = method.answer(images, prompts, maps="later", anatomies=True)
    some = [7, 0, len(prompts) - 1]
    drawn = torch.stack([answers.maps_of(image, some) for image in range(2)])
    torch.testing.assert_close(drawn, method.localise(images, [prompts[column] for column in some]))


def test_answers_follow_weights_texts_and_questions_that_change(images: Tensor) -> None:
    method, other = make(layers=1), make(layers=1, seed=3)
    asked = [PROMPTS[0], "a metal clip over the heart"]
    before = method.score(images, asked)
    assert torch.equal(method.score(images, asked), before)
    assert not torch.equal(method.score(images, [PROMPTS[0], "a rounded shadow"])[:, 1], before[:, 1])
    assert torch.equal(method.score(images, asked), before)
    method.load_state_dict(other.state_dict())
    torch.testing.assert_close(method.score(images, asked), other.score(images, asked))
    with torch.no_grad():
        method.get_buffer("banks.pathology.embeddings").mul_(-1)
    assert not torch.allclose(method.score(images, asked), other.score(images, asked), atol=1e-3)
