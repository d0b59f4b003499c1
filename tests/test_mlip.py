"""MLIP: every setting trains, degenerate batches stay finite, and a saved model answers by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import load_method, save_method
from medlip.methods.image_text import Lesson
from medlip.methods.mlip import MLIP
from medlip.methods.texts import DISTRACTORS, add_distractors, draw_sentences, prompt_texts
from medlip.nn.patches import draw_visible

REPORTS = (
    ("The heart is normal in size.", "No pneumothorax.", "There is a 3.5 cm mass in the left lung."),
    ("There is a large right pleural effusion.",),
    ("No pleural effusion.", "The lungs are clear."),
    ("No change since the prior study.", "Mild cardiomegaly."),
)
TINY = {
    "backbone": "vit_tiny_patch16_224",
    "stride": 8,
    "depth": 1,
    "text_width": 32,
    "text_layers": 1,
    "width": 16,
    "mask_ratio": 0.5,
    "decoder_width": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
}


def make(**settings: Any) -> MLIP:
    method = build_method(
        {"name": "mlip", **TINY, **settings},
        default_vocabulary(),
        Preprocessing(32),
        lambda: (" ".join(report) for report in REPORTS * 3),
    )
    assert isinstance(method, MLIP)
    return method.train()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({"integrity": estimator} for estimator in ("position", "attention", "reconstruction", "off")),
        *({"local": local} for local in ("pair", "attention", "off")),
        {"relax": 0.5},
        {"relax": 0.1, "background": 0.3},
        {"transport_gradient": "iterations"},
        {"mask_ratio": 0.0},
        {"mask_ratio": 0.99},
        {"distractors": 0.3},
        {"lambda_reconstruction": 0.0},
        {"normalize_pixels": True},
        {"backbone": "resnet18", "stride": 16, "depth": None},
    ],
    ids=str,
)
def test_every_setting_trains(settings: dict[str, Any], images: torch.Tensor) -> None:
    method = make(**settings)
    terms = method.loss_terms(images, Lesson(REPORTS))
    assert set(terms) <= set(method.loss_weights)
    assert ("local" in terms) == (settings.get("local") != "off")
    predicts = settings.get("mask_ratio", 0.5) > 0 and settings.get("lambda_reconstruction", 1.0) > 0
    assert ("reconstruction" in terms) == predicts
    sum(method.loss_weights[name] * term for name, term in terms.items()).backward()  # type: ignore[union-attr]
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder", "text", "project", "project_report"} <= trained
    assert ("importance" in trained) == (settings.get("integrity") == "position")


@pytest.mark.parametrize("local", ["transport", "pair", "attention"])
@pytest.mark.parametrize("integrity", ["similarity", "position", "attention", "reconstruction"])
@pytest.mark.parametrize("reports", [((), (), (), ()), ((), REPORTS[1], (), REPORTS[2]), (REPORTS[1],)], ids=len)
def test_missing_sentences_and_a_batch_of_one_are_finite(
    reports: tuple[tuple[str, ...], ...], integrity: str, local: str, images: torch.Tensor
) -> None:
    method = make(integrity=integrity, local=local)
    terms = method.loss_terms(images[: len(reports)], Lesson(reports))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(term) for term in terms.values())
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_permuting_the_batch_changes_no_loss(images: torch.Tensor) -> None:
    method = make().eval()
    visible = torch.stack(
        [torch.randperm(16, generator=torch.Generator().manual_seed(i))[:8].sort().values for i in range(4)]
    )
    order = [2, 0, 3, 1]
    terms = method.loss_terms(images, Lesson(REPORTS), visible)
    moved = method.loss_terms(images[order], Lesson([REPORTS[i] for i in order]), visible[order])
    for name, term in terms.items():
        torch.testing.assert_close(moved[name], term, atol=1e-5, rtol=1e-4)


def test_masks_are_seeded(images: torch.Tensor) -> None:
    method = make()
    first, again, other = (method.loss_terms(images, Lesson(REPORTS), seeds=seed * torch.arange(1, 5)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["global"], other["global"])


def test_scores_are_probabilities_that_no_other_image_or_prompt_changes(images: torch.Tensor) -> None:
    method = make().eval()
    prompts = ["effusion", "pneumothorax", "a metal clip over the heart"]
    scores = method.score(images, prompts)
    assert scores.shape == (4, 3)
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(method.score(images[1:2], prompts[2:]), scores[1:2, 2:], atol=1e-5, rtol=1e-4)


def test_a_synonym_asks_the_same(images: torch.Tensor) -> None:
    method = make().eval()
    assert torch.equal(method.score(images, ["pleural effusion"]), method.score(images, ["effusion"]))


def test_prompts_are_embedded_anew_after_training(images: torch.Tensor) -> None:
    method = make().eval()
    before = method.score(images, ["effusion"])
    method.train()
    with torch.no_grad():
        method.project_report.weight.normal_()
    method.eval()
    assert not torch.allclose(method.score(images, ["effusion"]), before)


def test_maps_and_plans_lie_on_the_grid(images: torch.Tensor) -> None:
    method = make().eval()
    maps = method.localise(images, ["effusion", "mass"])
    assert maps.shape == (4, 2, 4, 4)
    assert (maps >= 0).all()
    plans = method.match(images, REPORTS)
    assert plans.shape == (4, 3, 4, 4)
    torch.testing.assert_close(plans.sum((1, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    assert not plans[1, 1:].any()


@pytest.mark.parametrize("normalize", [False, True])
def test_hidden_patches_are_predicted_in_the_image_s_pixels(images: torch.Tensor, normalize: bool) -> None:
    hidden, predicted = make(normalize_pixels=normalize).eval().hide_and_predict(images)
    assert hidden.shape == predicted.shape == (4, 32, 32)
    assert hidden.float().mean() == 0.5


def test_only_a_model_with_a_decoder_predicts(images: torch.Tensor) -> None:
    with pytest.raises(MedLIPError, match="no image decoder"):
        make(lambda_reconstruction=0.0).hide_and_predict(images)


def test_patches_that_are_like_no_sentence_go_to_the_background(images: torch.Tensor) -> None:
    shares = {
        level: make(relax=0.05, background=level).eval().match(images, REPORTS).sum().item() / len(REPORTS)
        for level in (-1.0, 1.0)
    }
    assert shares[-1.0] > 0.95  # every sentence is nearer than the background
    assert shares[1.0] < 0.05


def test_with_the_true_integrity_an_image_weighs_by_what_the_mask_left_of_its_findings(images: torch.Tensor) -> None:
    method = make(integrity="truth", local="off", lambda_reconstruction=0.0)
    assert method.needs_masks
    visible = torch.arange(8).repeat(4, 1)  # the upper half
    upper = torch.zeros(4, 16)
    upper[:, :8] = 1 / 8
    terms = [
        method.loss_terms(images, Lesson(REPORTS), visible, regions=regions)["global"]
        for regions in (torch.zeros(4, 16), upper, upper.flip(1), torch.cat([upper[:1].flip(1), upper[1:]]))
    ]
    torch.testing.assert_close(terms[0], terms[1])  # nothing of any image is hidden
    torch.testing.assert_close(terms[0], terms[2])  # all of every image is
    assert not torch.allclose(terms[0], terms[3])


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"integrity": "reconstruction", "lambda_reconstruction": 0.0}, "image decoder"),
        ({"background": 0.3}, "Set relax"),
        ({"background": 0.3, "relax": 0.1, "local": "pair"}, "a row of local=transport"),
        ({"decoder_width": 20, "decoder_heads": 3}, "multiple of decoder_heads"),
        ({"temperature": 0.001}, "temperature"),
        ({"backbone": "vit_relpos_small_patch16_224", "stride": None}, "plain"),
        ({"backbone": "vit_base_patch14_reg4_dinov2", "stride": None}, "plain"),
        ({"backbone": "resnet18", "depth": 2, "stride": None}, "no vision transformer"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_say_so(settings: dict[str, Any], advice: str) -> None:
    with pytest.raises(MedLIPError, match=advice):
        make(**settings)


def test_every_parameter_is_trained() -> None:
    """Data parallelism waits for the gradient of every parameter."""
    images = torch.randn(4, 3, 32, 32)
    for settings in ({}, {"local": "off"}, {"lambda_local": 0.0}, {"integrity": "position", "mask_ratio": 0.0}):
        method = make(**settings)
        torch.stack(list(method.loss_terms(images, Lesson(REPORTS)).values())).sum().backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in method.parameters()), settings


def test_learned_positions_cannot_silence_a_sample(images: torch.Tensor) -> None:
    method = make(integrity="position", local="off", lambda_reconstruction=0.0)
    visible = draw_visible(torch.rand(4, 16, generator=torch.Generator().manual_seed(0)), 0.5)
    with torch.no_grad():
        method.importance[visible[0]] = -30.0
    images.requires_grad_()
    method.loss_terms(images, Lesson(REPORTS), visible)["global"].backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    strength = images.grad.abs().mean((1, 2, 3))
    assert strength[0] > 0.002 * strength.mean()


@pytest.mark.parametrize("log_scale", [-3.0, 9.0])
def test_a_temperature_out_of_range_can_come_back(images: torch.Tensor, log_scale: float) -> None:
    method = make()
    with torch.no_grad():
        method.log_scale.fill_(log_scale)
    assert 1 <= float(method.scale.detach()) <= 100
    method.loss_terms(images, Lesson(REPORTS))["global"].backward()  # type: ignore[no-untyped-call]
    assert method.log_scale.grad


def test_a_whole_sentence_is_matched_as_it_stands(images: torch.Tensor) -> None:
    method = make().eval()
    sentence = "There is a large right pleural effusion."
    assert prompt_texts(sentence, default_vocabulary())[0] == (sentence,)
    maps = method.localise(images, ["effusion", sentence])
    assert ((maps >= 0) & (maps <= 1)).all()
    assert maps[:, 1].flatten(1).std(1).min() > 1e-4  # beside what speaks against it, it can't have every patch
    torch.testing.assert_close(maps[:, 1:], method.localise(images, [sentence]))


def test_no_prompt_is_answered_with_nothing(images: torch.Tensor) -> None:
    method = make().eval()
    assert method.score(images, []).shape == (4, 0)
    assert method.localise(images, []).shape == (4, 0, 4, 4)


def test_new_weights_forget_embedded_prompts(images: torch.Tensor) -> None:
    method, other = make(seed=0).eval(), make(seed=1).eval()
    method.score(images, ["effusion"])
    method.load_state_dict(other.state_dict())
    assert torch.equal(method.score(images, ["effusion"]), other.score(images, ["effusion"]))


def test_distractors_are_the_share_asked_for() -> None:
    reports = add_distractors([REPORTS[0] * 2, ()], 1 / 3, (0, 1))
    assert len(reports[0]) == 9
    assert sum(sentence in DISTRACTORS for sentence in reports[0]) == 3
    assert not reports[1]
    assert add_distractors(REPORTS, 0.0, range(4)) is REPORTS


def test_one_file_is_all_a_saved_model_needs(images: torch.Tensor, tmp_path: Path) -> None:
    method = make(integrity="position").eval()
    save_method(method, tmp_path / "model.safetensors")
    loaded = load_method(tmp_path / "model.safetensors")
    prompts = ["effusion", "any words at all"]
    assert torch.equal(loaded.score(images, prompts), method.score(images, prompts))
    assert torch.equal(loaded.localise(images, prompts), method.localise(images, prompts))


def test_prompts_speak_for_and_against() -> None:
    for_it, against = prompt_texts("effusion", default_vocabulary())
    assert any("fluid" in text for text in for_it)
    assert all("no " in text.lower() or "clear" in text for text in against)
    assert prompt_texts("a swallowed coin", default_vocabulary())[0] == ("There is a swallowed coin.",)


def test_sentences_are_drawn_without_repeats() -> None:
    report = [str(number) for number in range(20)]
    (drawn,) = draw_sentences([report], 5, True, (0,))
    assert len(set(drawn)) == 5
    assert draw_sentences([report, []], 0, False, (0, 1)) == [report, []]
