"""What keeps MeDSLIP's streams apart: a side is erased or not seen, positions are known to one stream, means are taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medlip.concepts import default_vocabulary
from medlip.data.views import READ_FIRST, Views
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method, load_method, save_method
from medlip.methods.base import on_one_scale
from medlip.methods.queries import EVERYTHING
from medlip.metrics import auroc
from medlip.nn.erasure import Erasure

VOCABULARY = default_vocabulary()
SETTINGS = {"backbone": "resnet10t", "layers": 1, "width": 32, "feedforward": 32, "prototype": "off", "icl": "scaled"}
EFFUSION, NODULE = (VOCABULARY.pathology_index[name] for name in ("effusion", "nodule"))
LEFT, RIGHT, MIDDLE = (VOCABULARY.anatomy_index[name] for name in ("left_lower_lung", "right_lower_lung", "mediastinal"))


def made_up(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (rows, 12) and labels of three concepts that each add a direction; the second is asked of half the rows."""
    generator = torch.Generator().manual_seed(seed)
    directions, mix = (torch.randn(shape, generator=torch.Generator().manual_seed(9)) for shape in ((3, 12), (12, 12)))
    labels = (torch.rand(rows, 3, generator=generator) < 0.5).float()
    features = 5 + torch.randn(rows, 12, generator=generator) @ mix / 3 + labels @ directions
    labels[::2, 1] = torch.nan
    return features, labels


def told(learn: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], concept: int) -> float:
    """AUROC of a concept, by logistic regression on other rows."""
    features, labels = learn[0].numpy(), learn[1][:, concept].numpy()
    known = ~np.isnan(labels)
    model = LogisticRegression(C=0.1).fit(features[known], labels[known])
    return float(auroc(model.decision_function(test[0].numpy())[:, None], test[1][:, [concept]].numpy())[0])


def observed(features: Tensor, labels: Tensor, memory: int) -> Erasure:
    erasure = Erasure(features.shape[1], labels.shape[1], memory=memory)
    for some in zip(features.split(50), labels.split(50), strict=True):
        erasure.observe(*some)
    return erasure


def test_what_is_erased_no_linear_probe_tells_and_the_rest_is_told_as_before() -> None:
    learn, test = made_up(2000, 0), made_up(1000, 1)
    erasure = observed(learn[0], learn[1][:, :2], 2000)
    left = [(erasure(features), labels) for features, labels in (learn, test)]
    before, after = ([told(*parts, concept) for concept in range(3)] for parts in ((learn, test), left))
    assert min(before) > 0.9
    assert max(after[:2]) < 0.56
    assert after[2] > 0.9


def test_erasure_is_that_of_the_whole_data_in_closed_form() -> None:
    features, labels = (values.double() for values in made_up(500, 0))
    erasure = observed(features.float(), labels.float(), 10**9)
    erasure.memory = 1000  # so that the rows are enough
    erasure.observe(features[:0].float(), labels[:0].float())
    centred, asked = features - features.mean(0), ~labels.isnan()
    concepts = torch.where(asked, labels - labels.nanmean(0), 0)
    shared, covariance = centred.T @ concepts / 500, centred.T @ centred / 500
    weights = torch.linalg.solve(covariance, shared)
    expected = features - centred @ (shared @ torch.linalg.solve(shared.T @ weights, weights.T)).T
    assert (erasure(features.float()) - expected).norm() < 0.01 * (expected - features).norm()


def test_nothing_is_erased_before_enough_rows_were_seen_nor_of_a_concept_that_is_always_the_same() -> None:
    features, labels = made_up(400, 0)
    assert torch.equal(observed(features, labels, 1000)(features), features)
    torch.testing.assert_close(observed(features, torch.ones(400, 2), 400)(features), features)


def test_erasure_of_locations_is_that_of_their_mean() -> None:
    features, labels = made_up(400, 0)
    erasure, locations = observed(features, labels, 400), torch.randn(5, 7, 12)
    torch.testing.assert_close(erasure(locations).mean(1), erasure(locations.mean(1)))


def make(**settings: Any) -> Any:
    return build_method({"name": "medslip", **SETTINGS, **settings}, VOCABULARY, Preprocessing(64))


def facts_of(*present: tuple[int, int, int], rows: int = 1, value: int = 1) -> Tensor:
    facts = torch.full((rows, len(VOCABULARY.anatomies), len(VOCABULARY.pathologies)), -1, dtype=torch.int8)
    for row, anatomy, pathology in present:
        facts[row, anatomy, pathology] = value
    return facts


def test_a_side_is_known_of_what_lies_on_one_side_alone() -> None:
    facts = facts_of(
        *[(0, LEFT, EFFUSION), (0, RIGHT, NODULE), (1, RIGHT, EFFUSION)],
        *[(2, LEFT, EFFUSION), (2, RIGHT, EFFUSION), (3, LEFT, EFFUSION), (3, MIDDLE, EFFUSION), (4, MIDDLE, EFFUSION)],
        *[(5, LEFT, EFFUSION)],
        rows=6,
    )
    facts[5, RIGHT, EFFUSION] = -2  # uncertain
    sides = make(erase="side").sides_of(facts)
    assert sides[:2, EFFUSION].tolist() == [1, 0]
    assert sides[2:, EFFUSION].isnan().all()
    assert sides[0, NODULE] == 0
    assert (~sides.isnan()).sum() == 3


def test_a_training_too_short_to_erase_anything_is_noted() -> None:
    method = make(erase="side", erase_memory=40)
    (note,) = method.about_training(19)
    assert "nothing is erased in a training of 19 images, since the first 20 are only remembered" in note
    assert not [*method.about_training(20), *make().about_training(1)]


def test_training_erases_the_side_of_the_pathology_stream_alone_and_a_saved_model_still_does(tmp_path: Path) -> None:
    method = make(erase="side", erase_memory=40)
    images = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[::2, :, :, 40:] += 2
    facts = facts_of(*[(row, RIGHT if row % 2 else LEFT, EFFUSION) for row in range(32)], rows=32)

    def gap() -> dict[str, float]:
        with torch.no_grad():
            streams = method.eval().streams(images)
        return {key: float((values[::2].mean(0) - values[1::2].mean(0)).norm()) for key, values in streams.items()}

    before = gap()
    method.train()
    for part in (module for module in method.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)):
        part.eval()  # so that features are the same in use
    method.loss_terms(images, facts)
    after = gap()
    assert after["pathology"] < 0.05 * before["pathology"]
    assert (after["anatomy"], after["encoder"]) == (before["anatomy"], before["encoder"])
    save_method(method, tmp_path / "model.safetensors")
    again = load_method(tmp_path / "model.safetensors").eval()
    assert torch.equal(again.streams(images)["pathology"], method.streams(images)["pathology"])


def test_positions_are_known_to_the_anatomy_stream_alone_and_other_weights_stay() -> None:
    images = torch.randn(2, 3, 64, 64)
    without, knowing = (make(positions=on).eval().streams(images) for on in (False, True))
    assert torch.equal(without["pathology"], knowing["pathology"])
    assert not torch.allclose(without["anatomy"], knowing["anatomy"])


@pytest.mark.parametrize("gate", ["normalized", "off"])
def test_a_symmetric_pathology_stream_reads_an_image_as_its_mirror_image(gate: str) -> None:
    images = torch.randn(2, 3, 64, 96)
    method = make(symmetric=True, gate=gate).eval()
    with torch.no_grad():
        seen, mirrored = method.see(images), method.see(images.flip(-1))
        alone = make(gate=gate).eval().see(images)
    planes = {stream: values.unflatten(1, seen.grid) for stream, values in seen.locations.items()}
    others = {stream: values.unflatten(1, seen.grid).flip(2) for stream, values in mirrored.locations.items()}
    torch.testing.assert_close(planes["pathology"], others["pathology"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(planes["anatomy"], others["anatomy"], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(seen.locations["anatomy"], alone.locations["anatomy"])
    assert not torch.allclose(seen.locations["pathology"], alone.locations["pathology"], rtol=1e-2, atol=1e-3)


def test_means_over_locations_learn_what_is_there() -> None:
    method, images = make(pooled=0.5).train(), torch.randn(4, 3, 64, 64)
    facts = facts_of(*[(row, LEFT, EFFUSION if row < 2 else NODULE) for row in range(4)], rows=4)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    found = []
    for _ in range(4):
        terms = method.loss_terms(images, facts)
        loss = terms["pooled_pathology"] + terms["pooled_anatomy"]
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    assert method.loss_weights["pooled_pathology"] == 0.5
    assert "pooled_pathology" not in make().loss_terms(images, facts)


@pytest.mark.parametrize("views", [None, Views((("frontal", "lateral"), ("frontal",)))])
def test_maps_hold_what_each_location_adds_to_the_margin_of_the_mean(views: Views | None) -> None:
    method = make(pooled=0.5, **({} if views is None else {"views": READ_FIRST})).eval()
    with torch.no_grad():
        seen = method.see(torch.randn(3, 3, 64, 64), views)
        question = method.banks["pathology"].place(torch.randn(1, method.text_width))
        output, means = method.read_seen(seen, asked=question), method.pooled(seen)
    for stream, read in method.streams_of(output).items():
        known, head = len(method.texts(stream)), method.tell[stream]
        absent, present = (head(means[stream]) - head.bias).unflatten(1, (-1, 2)).unbind(-1)
        everything = read.evidence(EVERYTHING)
        told = everything - read.contributions(EVERYTHING)
        torch.testing.assert_close(told.sum(-1)[:, :known], present - absent, rtol=1e-4, atol=1e-5)
        assert everything.shape[1] - known == (stream == "pathology")  # the open question
        assert not told[:, known:].any()
        torch.testing.assert_close(read.evidence([3, 1], slice(1, 2)), everything[1:2, [3, 1]])
        if views is None:
            maps = read.maps("contribution", [3, 1])
            torch.testing.assert_close(maps.flatten(2), on_one_scale(everything, read.present)[:, [3, 1]])
