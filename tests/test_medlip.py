"""MedLIP: facts and words are learned of one image, a likely twin counts little, and plans are there to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import REPORTS, shrunk
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import load_method, save_method
from medlip.methods.medlip import MedLIP
from medlip.reports import extract_facts, fact_matrix

VOCABULARY = default_vocabulary()
FACTS = torch.stack(
    [torch.from_numpy(fact_matrix(extract_facts(" ".join(report), VOCABULARY), VOCABULARY, "ignore")) for report in REPORTS]
)


def make(**settings: Any) -> MedLIP:
    method = build_method(
        {**shrunk({"name": "medlip"}), "dropout": 0.0, **settings},
        VOCABULARY,
        Preprocessing(64),
        lambda: (" ".join(report) for report in REPORTS * 3),
    )
    assert isinstance(method, MedLIP)
    return method.train()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings", [{}, {"lambda_match": 0}, {"lambda_report": 0}, {"relax": 0.5}, {"icl": "scaled"}, {"gate": "off"}], ids=str
)
def test_every_part_of_every_setting_learns(settings: dict[str, Any], images: torch.Tensor) -> None:
    method = make(**settings)
    terms = method.loss_terms(images, FACTS, REPORTS)
    assert ("match" in terms) == (settings.get("lambda_match") != 0)
    assert ("report" in terms) == (settings.get("lambda_report") != 0)
    sum(method.loss_weights[name] * term for name, term in terms.items()).backward()  # type: ignore[union-attr]
    still = [name for name, parameter in method.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not still


def test_a_method_without_words_is_another_one() -> None:
    with pytest.raises(MedLIPError, match="Use name=medslip"):
        make(lambda_match=0, lambda_report=0)


def test_a_report_of_the_same_facts_is_hardly_told_apart(images: torch.Tensor) -> None:
    method = make()
    four, facts = (REPORTS[0], REPORTS[1], REPORTS[1], REPORTS[3]), FACTS[[0, 1, 1, 3]]
    strangers = FACTS[[0, 1, 2, 3]]  # the same words, said to state other facts
    for term in ("report", "match"):
        twins = method.loss_terms(images, facts, four)[term]
        told_apart = method.loss_terms(images, strangers, four)[term]
        assert twins < told_apart - 0.1, term


def test_a_pair_without_words_changes_no_contrast(images: torch.Tensor) -> None:
    method = make().eval()
    with_it = method.loss_terms(images, FACTS, REPORTS)
    without = method.loss_terms(images[[0, 1, 3]], FACTS[[0, 1, 3]], [REPORTS[0], REPORTS[1], REPORTS[3]])
    assert not REPORTS[2]
    for term in ("report", "match"):
        torch.testing.assert_close(with_it[term], without[term], atol=1e-4, rtol=1e-4)


def test_sentences_share_the_image_out(images: torch.Tensor) -> None:
    method = make().eval()
    plans = method.match(images, REPORTS)
    grid = method.see(images).grid
    assert plans.shape[2:] == tuple(-(-side // method.config.match_cells) for side in grid)
    torch.testing.assert_close(plans.sum((1, 2, 3)), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(plans[0, :3].sum((1, 2)), torch.full((3,), 1 / 3), atol=2e-3, rtol=0)
    captions = [picture.caption for picture in method.sample_pictures(images[0], REPORTS[0])]
    assert captions == list(REPORTS[0])
    assert not method.sample_pictures(images[1], REPORTS[1])  # one sentence alone gets everything
    with pytest.raises(MedLIPError, match="lambda_match above 0"):
        make(lambda_match=0).eval().match(images, REPORTS)


def test_facts_and_words_both_rank_reports(images: torch.Tensor) -> None:
    method = make().eval()
    seen, said = method.embed_images(images), method.embed_reports(REPORTS)
    facts = len(VOCABULARY.pathologies) * (len(VOCABULARY.anatomies) + 1)
    words = (seen[:, facts:] @ said[:, facts:].T).abs()
    assert torch.all(words <= method.scale + 1e-3)
    assert words.std() > 0
    plain = make(lambda_report=0).eval()
    assert plain.embed_images(images).shape[1] == plain.embed_reports(REPORTS).shape[1] == facts


def test_a_saved_model_says_the_same(images: torch.Tensor, tmp_path: Path) -> None:
    method = make().eval()
    save_method(method, tmp_path / "model.safetensors")
    again = load_method(tmp_path / "model.safetensors")
    asked = ["effusion", "There is a large right pleural effusion."]
    assert torch.equal(method.score(images, asked), again.score(images, asked))
    assert torch.equal(method.embed_reports(REPORTS), again.embed_reports(REPORTS))
