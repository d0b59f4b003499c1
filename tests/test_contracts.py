"""What every method keeps to, and what it promises by each of its capabilities; run for all that are registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fakes import REPORTS, recipe_settings, save_text_encoder, shrunk
from medlip.concepts import default_vocabulary
from medlip.data.batch import Batch
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import Method, build_method, load_method, method_names, register, save_method
from medlip.methods.base import (
    EmbedsReports,
    HasEncoder,
    HasReference,
    HasStreams,
    MatchesSentences,
    MethodConfig,
    PredictsPatches,
    ShowsSamples,
    TellsPlaces,
    method_config,
    pair_matrix,
    read_safetensors,
    write_safetensors,
)
from medlip.training.recipe import recipe_files

SIZE = 64
VOCABULARY = default_vocabulary()
PROMPTS = ("effusion", "a metal clip over the heart", "There is a large right pleural effusion.", "pneumothorax")
EVERY = method_names()
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


def make(settings: dict[str, Any]) -> Method:
    words = [" ".join(report) for report in REPORTS] * 3
    return build_method(settings, VOCABULARY, Preprocessing(SIZE), lambda: words)


def make_batch(seed: int = 0, silent: bool = False) -> Batch:
    """Noise with the reports above and about 40 random facts an image; or nothing said at all."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, SIZE, SIZE, generator=generator)
    shape = (4, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies))
    facts = torch.full(shape, -1, dtype=torch.int8)
    if not silent:
        mentioned = torch.rand(shape, generator=generator) < 0.01
        facts = facts.where(~mentioned, torch.randint(0, 2, shape, generator=generator).to(torch.int8))
    reports = ((),) * 4 if silent else REPORTS
    nothing: Any = ((),) * 4
    return Batch(images, facts, ("a",) * 4, ("a",) * 4, ("",) * 4, reports, ({},) * 4, nothing, nothing,
                 torch.zeros(4, dtype=torch.bool), 4 * seed + torch.arange(4))  # fmt: skip


@dataclass
class Case:
    method: Any
    images: Tensor

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the method can be asked for."""
        if self.method.open_prompts:
            return PROMPTS
        return tuple(prompt for prompt in PROMPTS if VOCABULARY.find_pathology(prompt))


@pytest.fixture(scope="module", params=[(name, device) for name in EVERY for device in DEVICES], ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    """Every registered method in small, ready for use, with some images."""
    name, device = request.param
    method = make(shrunk({"name": name})).to(device).eval()
    return Case(method, make_batch().images.to(device))


def able(case: Case, capability: type) -> Any:
    if not isinstance(case.method, capability):
        pytest.skip(f"{case.method.name} makes no such promise")
    return case.method


def assert_answers(answers: Tensor, shape: tuple[int, ...], method: Method) -> None:
    assert tuple(answers.shape) == shape
    assert answers.isfinite().all()
    assert not answers.requires_grad
    assert answers.device.type == method.device.type


def assert_alone_as_among_others(case: Case, answer: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
    """Neither the other images nor the other prompts change what one gets."""
    together = answer(case.images, case.prompts)
    for column in range(len(case.prompts)):
        alone = answer(case.images[1:2], case.prompts[column : column + 1])
        torch.testing.assert_close(alone, together[1:2, column : column + 1], atol=1e-5, rtol=1e-4)


def test_scores_are_probabilities_that_no_other_image_or_prompt_changes(case: Case) -> None:
    scores = case.method.score(case.images, case.prompts)
    assert_answers(scores, (4, len(case.prompts)), case.method)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert_alone_as_among_others(case, case.method.score)


def test_maps_are_not_negative_and_no_other_image_or_prompt_changes_them(case: Case) -> None:
    maps = case.method.localise(case.images, case.prompts)
    assert_answers(maps, (4, len(case.prompts), *maps.shape[2:]), case.method)
    assert maps.ndim == 4
    assert (maps >= 0).all()
    assert_alone_as_among_others(case, case.method.localise)


def test_a_synonym_asks_the_same(case: Case) -> None:
    for verb in (case.method.score, case.method.localise):
        assert torch.equal(verb(case.images, ["pleural effusion"]), verb(case.images, ["effusion"]))


def test_all_answers_at_once_are_those_of_the_verbs(case: Case) -> None:
    method, images = case.method, case.images
    answers = method.answer(images, case.prompts, maps=True, anatomies=True, embeddings=True)
    expected = {
        "scores": method.score(images, case.prompts),
        "maps": method.localise(images, case.prompts),
        "anatomies": method.score_anatomies(images, case.prompts) if isinstance(method, TellsPlaces) else None,
        "embeddings": method.embed_images(images) if isinstance(method, EmbedsReports) else None,
    }
    for name, values in expected.items():
        found = getattr(answers, name)
        assert (found is None) == (values is None), name
        if values is not None:
            torch.testing.assert_close(found, values, atol=1e-6, rtol=1e-5, msg=name)
    alone = method.answer(images, case.prompts)
    assert torch.equal(alone.scores, answers.scores)
    assert alone.maps is alone.anatomies is alone.embeddings is None


def test_all_answers_at_once_encode_an_image_once(case: Case) -> None:
    method = able(case, HasEncoder)
    calls: list[int] = []
    handle = method.encoder.register_forward_hook(lambda module, given, result: calls.append(len(given[0])))
    method.answer(case.images, case.prompts, maps=True, anatomies=True, embeddings=True)
    handle.remove()
    assert calls == [len(case.images)]


def test_no_prompt_is_answered_with_nothing(case: Case) -> None:
    answers = case.method.answer(case.images, (), maps=True)
    assert answers.scores.shape == (4, 0)
    assert answers.maps.shape[:2] == (4, 0)


def test_a_saved_method_answers_the_same(case: Case, tmp_path: Path) -> None:
    save_method(case.method, tmp_path / "model.safetensors")
    loaded = load_method(tmp_path / "model.safetensors").to(case.images.device)
    assert not loaded.training
    for verb in ("score", "localise"):
        answers = (getattr(method, verb)(case.images, case.prompts) for method in (loaded, case.method))
        assert torch.equal(*answers)


def test_asking_leaves_weights_and_gradients_alone(case: Case) -> None:
    before = {name: tensor.clone() for name, tensor in case.method.state_dict().items()}
    case.method.answer(case.images, case.prompts, maps=True, anatomies=True, embeddings=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.method.state_dict().items())
    assert all(parameter.grad is None for parameter in case.method.parameters())


def test_images_and_reports_share_a_space(case: Case) -> None:
    method = able(case, EmbedsReports)
    images, reports = method.embed_images(case.images), method.embed_reports(REPORTS)
    assert_answers(images, (4, images.shape[1]), method)
    assert_answers(reports, (len(REPORTS), images.shape[1]), method)
    torch.testing.assert_close(method.embed_images(case.images[1:2]), images[1:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(method.embed_reports(REPORTS[1:2]), reports[1:2], atol=1e-4, rtol=1e-4)


def test_places_are_probabilities_of_each_anatomy(case: Case) -> None:
    method = able(case, TellsPlaces)
    places = method.score_anatomies(case.images, case.prompts)
    assert_answers(places, (4, len(case.prompts), len(VOCABULARY.anatomies)), method)
    assert ((places >= 0) & (places <= 1)).all()
    assert_alone_as_among_others(case, method.score_anatomies)


def test_the_fact_matrix_is_read_from_places(case: Case) -> None:
    if not isinstance(case.method, TellsPlaces):
        with pytest.raises(MedLIPError, match="doesn't say where its findings lie"):
            pair_matrix(case.method, case.images)
        return
    matrix = pair_matrix(case.method, case.images)
    assert_answers(matrix, (4, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), case.method)
    name = VOCABULARY.pathologies[3].name
    torch.testing.assert_close(matrix[:, :, 3], case.method.score_anatomies(case.images, [name])[:, 0])


def test_streams_have_a_representation_and_maps_each(case: Case) -> None:
    method = able(case, HasStreams)
    streams, maps = method.streams(case.images), method.stream_maps(case.images)
    assert set(streams) == {"encoder", "pathology", "anatomy"}
    for values in streams.values():
        assert_answers(values, (4, values.shape[1]), method)
    for stream, concepts in (("pathology", VOCABULARY.pathologies), ("anatomy", VOCABULARY.anatomies)):
        assert_answers(maps[stream], (4, len(concepts), *maps[stream].shape[2:]), method)
        assert (maps[stream] >= 0).all()


def test_the_match_of_a_report_is_one_plan(case: Case) -> None:
    method = able(case, MatchesSentences)
    plans = method.match(case.images, REPORTS)
    assert_answers(plans, (4, 3, *plans.shape[2:]), method)
    said = torch.tensor([float(bool(report)) for report in REPORTS], device=plans.device)
    torch.testing.assert_close(plans.sum((1, 2, 3)), said, atol=1e-4, rtol=0)
    assert not plans[1, 1:].any()


def test_predicted_patches_lie_in_the_image(case: Case) -> None:
    method = able(case, PredictsPatches)
    hidden, grey = method.hide_and_predict(case.images, 1)
    assert hidden.dtype == torch.bool
    assert_answers(grey, (4, SIZE, SIZE), method)
    assert 0 < hidden.float().mean() < 1
    assert torch.equal(hidden, method.hide_and_predict(case.images, 1)[0])


def test_sample_pictures_can_be_drawn(case: Case) -> None:
    method = able(case, ShowsSamples)
    pictures = method.sample_pictures(case.images[0], REPORTS[0])
    assert pictures
    for picture in pictures:
        assert picture.caption
        assert picture.kind in ("image", "map")
        assert picture.values.ndim == 2
        assert picture.values.device.type == "cpu"
        assert picture.values.isfinite().all()


def test_an_encoder_taken_out_of_a_method_works_by_itself(case: Case) -> None:
    encoder = able(case, HasEncoder).encoder
    with torch.no_grad():
        features = encoder(case.images, pyramid=True)
    assert features.tokens.shape == (4, features.grid[0] * features.grid[1], encoder.width)
    assert [level.shape[1] for level in features.pyramid] == encoder.widths


def test_what_a_step_is_timed_beside_is_learned_from(case: Case) -> None:
    parts = case.method.timed_parts(make_batch().to(case.images.device))
    assert ("encoder" in parts) == isinstance(case.method, HasEncoder)
    assert all(any(tensor.requires_grad for tensor in part()) for part in parts.values())


def test_the_plain_form_of_the_losses_gives_the_same(case: Case) -> None:
    method, batch = able(case, HasReference), make_batch(seed=1).to(case.images.device)
    if not method.has_reference:
        pytest.skip("its settings leave no plain form")
    torch.testing.assert_close(method.reference_losses(batch), method.losses(batch), atol=1e-5, rtol=1e-4)


def test_the_plain_form_weighs_pairs_as_the_fast_one_does() -> None:
    def terms(**weights: float) -> tuple[float, float]:
        method = make(shrunk({"name": "medslip", "icl": "scaled", **weights})).eval()
        return method.losses(batch)["icl"].item(), method.reference_losses(batch)["icl"].item()

    batch = make_batch(seed=1)
    fast, plain = terms(icl_unmentioned=0.3, icl_other_side=50.0)
    assert fast == pytest.approx(plain, rel=1e-4)
    alike, alone = terms(icl_unmentioned=0.3, icl_other_side=0.3), terms(icl_unmentioned=0.3)
    assert alike == pytest.approx(alone) and fast > alone[0]


@pytest.mark.parametrize("name", EVERY)
def test_losses_are_named_finite_and_follow_from_the_batch(name: str) -> None:
    method = make(shrunk({"name": name})).eval()
    batch = make_batch(seed=1)
    facts = batch.facts.clone()
    terms, again = method.losses(batch), method.losses(batch)
    assert terms
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    assert all(torch.equal(term, again[key]) for key, term in terms.items())
    assert set(method.loss_weights) in (set(terms), set())
    assert torch.equal(batch.facts, facts)


@pytest.mark.parametrize("name", EVERY)
def test_a_method_says_how_it_learns(name: str) -> None:
    method = make(shrunk({"name": name}))
    assert method.name == name
    assert method.summary.endswith(".")


class Linear(Method):
    """A method of another package: pathologies straight from the mean grey of quarters, and nothing beyond what must be."""

    name = "linear-on-facts"

    def __init__(self, config: MethodConfig, vocabulary: Any, preprocessing: Preprocessing) -> None:
        super().__init__(config, vocabulary, preprocessing)
        self.layer = nn.Linear(16, len(vocabulary.pathologies))

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(nn.functional.adaptive_avg_pool2d(images.mean(1), 4).flatten(1))
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.facts.amax(1)
        return {"labels": nn.functional.binary_cross_entropy_with_logits(self.logits(batch.images), (labels == 1).float())}

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        columns = [self.vocabulary.pathology_index[self.vocabulary.find_pathology(prompt).name] for prompt in prompts]  # type: ignore[union-attr]
        return self.logits(images)[:, columns].sigmoid()

    @torch.inference_mode()
    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1), 4).relu()[:, None].expand(-1, len(prompts), -1, -1)


def test_a_method_needs_no_more_than_losses_scores_and_maps(tmp_path: Path) -> None:
    register(Linear)
    method = build_method({"name": "linear-on-facts", "seed": 3}, VOCABULARY, Preprocessing(SIZE)).eval()
    batch = make_batch()
    ((name, term),) = method.losses(batch).items()
    (method.loss_weights[name] * term).backward()
    answers = method.answer(batch.images, ["effusion"], maps=True, anatomies=True, embeddings=True)
    assert answers.anatomies is answers.embeddings is None
    assert answers.maps is not None and answers.maps.shape == (4, 1, 4, 4)
    save_method(method, tmp_path / "model.safetensors")
    loaded = load_method(tmp_path / "model.safetensors")
    assert torch.equal(loaded.score(batch.images, ["effusion"]), answers.scores)


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(MedLIPError, match="have this name"):
        register(type("Impostor", (Linear,), {"name": "mlip"}))


OLD = {"patch": ("convirt", "stride", 16), "standardise": ("medslip", "standardize", False),
       "normalise_pixels": ("mlip", "normalize_pixels", True)}  # fmt: skip


@pytest.mark.parametrize("earlier", OLD)
def test_settings_are_read_by_their_earlier_names(earlier: str) -> None:
    name, today, value = OLD[earlier]
    assert getattr(method_config({"name": name, earlier: value}), today) == value
    with pytest.raises(MedLIPError, match=f"{earlier} is the earlier name of {today}"):
        method_config({"name": name, earlier: value, today: value})


@pytest.mark.parametrize("name", ["medslip", "mlip"])
def test_a_run_of_an_earlier_version_answers_as_it_did(name: str, tmp_path: Path) -> None:
    """Earlier versions kept the stages behind the cut, and an image-text method's encoder lay one level deeper."""
    method = make(shrunk({"name": name, "backbone": "tf_efficientnet_lite0"}, but=["backbone"])).eval()
    assert isinstance(method, HasEncoder)
    file, images = tmp_path / "model.safetensors", make_batch().images
    save_method(method, file)
    state, metadata = read_safetensors(file)
    state |= {f"encoder.{tensor}": torch.zeros(1) for tensor in method.encoder.cut}
    if name == "mlip":
        state = {key.replace("encoder.stages.", "encoder.convolutions.stages."): tensor for key, tensor in state.items()}
    write_safetensors(state, file, metadata)
    assert torch.equal(load_method(file).score(images, PROMPTS), method.score(images, PROMPTS))
    write_safetensors(state | {"encoder.unheard_of": torch.zeros(1)}, file, metadata)
    with pytest.raises(MedLIPError, match=r"unknown: encoder\.unheard_of"):
        load_method(file)


class Losses(nn.Module):
    """The losses as a forward pass, which is what data parallelism wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.losses(batch)


def work(rank: int, folder: str, text_encoder: str) -> None:
    """Take three steps of every recipe's model in two processes, one of which finds nothing to learn from in the second."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=300))
    try:
        for name in recipe_files():
            method = make(recipe_settings(name, text_encoder)).train()
            model = DistributedDataParallel(Losses(method))
            for step, silent in enumerate((False, rank == 1, False)):
                batch = make_batch(seed=2 * step + rank, silent=silent)
                terms = model(batch)
                torch.stack([method.loss_weights[key] * term for key, term in terms.items()]).sum().backward()
                unused = [key for key, parameter in method.named_parameters() if parameter.grad is None]
                assert not unused, f"{name}: no gradient reaches {unused[:5]}"
                method.zero_grad()
    finally:
        dist.destroy_process_group()


@pytest.mark.processes
def test_every_recipe_s_model_trains_in_two_processes_without_unused_weights(
    ranks: Callable[..., None], tmp_path: Path
) -> None:
    save_text_encoder(tmp_path / "text")
    ranks(work, str(tmp_path), str(tmp_path / "text"))
