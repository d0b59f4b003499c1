"""MedKLIP, GLoRIA and ConVIRT: losses are their equations, odd batches stay finite, and every part learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from fakes import method_changes, shrunk
from medlip.concepts import default_vocabulary
from medlip.data.batch import Batch, evaluation_batches
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.losses import existence_labels
from medlip.losses.existence import reference_existence_loss
from medlip.losses.prototype import reference_protocl_loss
from medlip.methods import ConVIRT, GLoRIA, MedKLIP, Method, build_method, method_names
from medlip.methods.base import method_config
from medlip.training import fit, load_recipe, load_run

SIZE = 64
PROMPTS = ("effusion", "pneumothorax", "a metal clip over the heart")
BASELINES = ("convirt", "gloria", "medklip")
PARTS = {
    "convirt": {"encoder", "text", "project", "project_report"},
    "gloria": {"encoder", "text", "project", "project_region", "project_report", "project_word"},
    "medklip": {"encoder", "project", "embed", "decode", "norm", "exist", "position"},
}


@pytest.fixture(scope="module")
def batch(phantom_store: Path) -> Batch:
    return next(evaluation_batches(Store.open(phantom_store).take(range(4)), Preprocessing(SIZE), 4, implied=True))


def make(name: str, batch: Batch, **settings: Any) -> Method:
    """A small untrained method."""
    return build_method(
        shrunk({"name": name}) | settings,
        default_vocabulary(),
        Preprocessing(SIZE),
        lambda: (" ".join(sentences) for sentences in batch.sentences),
    ).train()


def total(method: Method, batch: Batch) -> torch.Tensor:
    terms = method.losses(batch)
    assert terms
    assert set(terms) <= set(method.loss_weights)
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    return torch.stack([method.loss_weights[name] * term for name, term in terms.items()]).sum()


def assert_finite_gradients(method: Method) -> None:
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def cut(batch: Batch, rows: Sequence[int], **changes: Any) -> Batch:
    """The rows of a batch that methods learn from."""
    kept = replace(
        batch,
        images=batch.images[list(rows)],
        facts=batch.facts[list(rows)],
        ids=tuple(batch.ids[row] for row in rows),
        sentences=tuple(batch.sentences[row] for row in rows),
        seeds=batch.seeds[list(rows)],
    )
    return replace(kept, **changes)


@pytest.mark.parametrize("name", BASELINES)
def test_every_part_learns(name: str, batch: Batch) -> None:
    method = make(name, batch)
    total(method, batch).backward()  # type: ignore[no-untyped-call]
    assert_finite_gradients(method)
    assert not {part for part in PARTS[name] if not any(p.grad is not None and p.grad.any() for p in _of(method, part))}


def _of(method: Method, part: str) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in method.named_parameters() if name.split(".")[0] == part]


@pytest.mark.parametrize("name", method_names())
def test_nothing_said_and_a_batch_of_one_are_finite(name: str, batch: Batch) -> None:
    method = make(name, batch)
    unmentioned = torch.full_like(batch.facts, -1)
    silent = cut(batch, range(4), sentences=((),) * 4, facts=unmentioned)
    partly = cut(batch, range(4), sentences=((), *batch.sentences[1:]), facts=torch.cat([unmentioned[:1], batch.facts[1:]]))
    for odd in (silent, partly, cut(batch, [0]), cut(silent, [0])):
        method.zero_grad()
        total(method, odd).backward()  # type: ignore[no-untyped-call]
        assert_finite_gradients(method)


@pytest.mark.parametrize("name", method_names())
def test_losses_follow_from_seed_and_batch(name: str, batch: Batch) -> None:
    method = make(name, batch, **({"dropout": 0.0} if "dropout" in type(method_config({"name": name})).model_fields else {}))
    with torch.no_grad():
        first, again, other = (total(method, replace(batch, seeds=seed * torch.arange(1, 5))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    if name in ("convirt", "medklip"):  # which draw sentences, and positions
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", [*BASELINES, "linear"])
def test_a_phantom_recipe_trains_and_its_file_answers(name: str, phantom_store: Path, tmp_path: Path) -> None:
    small = method_changes(f"{name}-phantom", shrunk({"name": name}))
    changes = ["method.weights=null", f"image.size={SIZE}", "training.epochs=1", "training.batch_size=8", *small]
    store = Store.open(phantom_store).select("train").take(range(16))
    fit(load_recipe(f"{name}-phantom", changes), store, tmp_path / "run", validation=store.take(range(4)))
    images = torch.zeros(2, 3, SIZE, SIZE)
    assert load_run(tmp_path / "run").score(images, PROMPTS[:2]).isfinite().all()


def test_medklip_s_terms_are_their_equations(batch: Batch) -> None:
    method = make("medklip", batch, dropout=0.0)
    assert isinstance(method, MedKLIP)
    with torch.no_grad():
        terms, output = method.loss_terms(batch.images, batch.facts), method(batch.images)
        expected = reference_existence_loss(output.logits, existence_labels(batch.facts, 1))
        torch.testing.assert_close(terms["exist"], expected)
        present = method.present_queries(batch.facts, None, None)["pathology"]
        negatives = present.negatives(method.get_buffer("unfit_pathology"), 7)
        one = one_hot(present.positives(), len(method.vocabulary.anatomies)).bool()
        assert (one & present.partners).sum() == len(one) > 1
        states = present.of(method.position(output.states))
        expected = reference_protocl_loss(states, method.texts("anatomy"), one, negatives)
        torch.testing.assert_close(terms["position"], expected)


def test_medklip_shares_a_prompt_out_over_anatomies(batch: Batch) -> None:
    method = make("medklip", batch).eval()
    assert isinstance(method, MedKLIP)
    shared = method.score_anatomies(batch.images, PROMPTS)
    assert shared.shape == (4, 3, len(default_vocabulary().anatomies))
    torch.testing.assert_close(shared.sum(2), method.score(batch.images, PROMPTS))


def test_convirt_learns_from_one_sentence_at_a_time(batch: Batch) -> None:
    method = make("convirt", batch)
    one = cut(batch, range(4), sentences=tuple(sentences[:1] for sentences in batch.sentences))
    assert torch.equal(total(method, one), total(method, replace(one, seeds=torch.arange(5, 9))))
    lengths: list[int] = []
    method.text.register_forward_hook(lambda module, given, result: lengths.append(result.real.sum(1).max()))  # type: ignore[operator, union-attr]
    total(method, batch)
    assert max(len(sentences) for sentences in batch.sentences) > 1
    assert lengths == [1]


@pytest.mark.parametrize("vector", ["cls", "mean", "max"])
def test_a_report_s_vector_is_pooled_from_its_own_words(vector: str, batch: Batch) -> None:
    method = make("gloria", batch, report_vector=vector).eval()
    assert isinstance(method, GLoRIA)
    with torch.no_grad():
        both, alone = method.text([batch.sentences[0], (), ("No effusion.",)]), method.text([("No effusion.",)])
        torch.testing.assert_close(method.report_vectors(both)[2:], method.report_vectors(alone), atol=1e-5, rtol=1e-4)
        if vector != "cls":
            assert not method.report_vectors(both)[1].any()
        if vector == "max":
            torch.testing.assert_close(method.report_vectors(alone)[0], alone.tokens[0, 1:-1].amax(0))


def test_gloria_s_words_are_whole_and_of_length_one(batch: Batch) -> None:
    method = make("gloria", batch).eval()
    assert isinstance(method, GLoRIA)
    words, real = method._words(method.text([("There is no pneumothorax.",), ()]))
    assert real.sum(1).tolist() == [5, 0]
    torch.testing.assert_close(words[0].norm(dim=-1), torch.ones(5))


def test_gloria_s_words_attend_first_at_their_own_length(batch: Batch) -> None:
    method = make("gloria", batch, attends="words_first")
    assert isinstance(method, GLoRIA)
    words, real = method._words(method.text([("There is no pneumothorax.",)]))
    assert (words[real].norm(dim=-1) - 1).abs().max() > 1e-3
    total(method, batch).backward()  # type: ignore[no-untyped-call]
    assert_finite_gradients(method)


@pytest.mark.parametrize("name", BASELINES)
def test_prompts_are_asked_anew_after_training(name: str, batch: Batch) -> None:
    method = make(name, batch).eval()
    before = method.score(batch.images, PROMPTS)
    method.train()
    with torch.no_grad():
        for part in ("project_report", "embed"):
            for parameter in _of(method, part):
                parameter.normal_()
    assert not torch.allclose(method.eval().score(batch.images, PROMPTS), before)


def test_a_setting_of_another_method_is_refused() -> None:
    with pytest.raises(MedLIPError, match="gate"):
        method_config({"name": "medklip", "gate": "off"})


TEXTS: tuple[dict[str, Any], ...] = (
    {"texts": "facts", "prompts": "facts", "apart": True, "unit": "sentence", "hard_negatives": 2},
    {"texts": "both", "false_negatives": "attenuate", "hard_negatives": 2},
    {"texts": "report", "false_negatives": "attenuate", "pooling": "similarity"},
    {"contrast": "sigmoid", "sigmoid_bias": -3.0, "hard_negatives": 2, "max_sentences": 0},
    {
        "texts": "both",
        "unit": "sentence",
        "contrast": "sigmoid",
        "pooling": "similarity",
        "prompts": "present",
        "false_negatives": "attenuate",
    },
)


@pytest.mark.parametrize("settings", TEXTS, ids=str)
@pytest.mark.parametrize("name", ["convirt", "gloria", "mlip"])
def test_every_way_with_texts_trains(name: str, settings: dict[str, Any], batch: Batch) -> None:
    method = make(name, batch, **settings)
    total(method, batch).backward()  # type: ignore[no-untyped-call]
    assert_finite_gradients(method)
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.zero_grad()
    total(method, cut(batch, range(4), sentences=((),) * 4, facts=torch.full_like(batch.facts, -1))).backward()  # type: ignore[no-untyped-call]
    assert_finite_gradients(method)
    assert method.eval().score(batch.images, PROMPTS).isfinite().all()


def test_a_text_that_is_true_of_another_image_is_no_negative_of_it(batch: Batch) -> None:
    method = make("convirt", batch, texts="facts", max_sentences=0, false_negatives="attenuate")
    assert isinstance(method, ConVIRT)
    twins = cut(batch, [0, 0, 1], seeds=torch.arange(3))
    negatives = method.negatives(method.lesson(twins), "report")
    assert negatives is not None
    assert negatives[0, 1] == negatives[1, 0] == 0
    assert negatives[0, 2] > 0
    other = make("convirt", batch, texts="report", false_negatives="attenuate")
    assert isinstance(other, ConVIRT)
    assert torch.equal(other.negatives(other.lesson(twins), "report")[:2, :2], torch.zeros(2, 2))  # type: ignore[index]


def test_what_is_learned_from_is_asked_of_the_store(batch: Batch) -> None:
    assert make("convirt", batch, texts="facts").learns_from == "facts"
    assert make("convirt", batch, texts="both").learns_from == "sentences"


def test_only_a_trained_text_encoder_is_frozen(batch: Batch) -> None:
    with pytest.raises(MedLIPError, match="name a trained one"):
        make("convirt", batch, freeze_text=True)
