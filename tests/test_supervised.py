"""The supervised yardstick: learns from labels in the time it is given, and is evaluated as a method is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Box, Study, View
from medlip.errors import MedLIPError
from medlip.experiments.supervised import bench_supervised, train_supervised
from medlip.nn.vision_encoder import vision_encoder
from medlip.training import load_recipe

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finding that a classifier learns in seconds: effusion is a bright lower half."""
    rng, studies = np.random.default_rng(0), []
    for i in range(48):
        image = rng.integers(0, 80, (48, 48), dtype=np.uint8)
        present = i % 2 == 0
        if present:
            image[24:] += 120
        labels = {"effusion": "present" if present else "absent", "nodule": "uncertain" if i % 3 else "present"}
        boxes = (Box("effusion", 0, 24, 48, 24),) if present else ()
        split = "train" if i < 24 else "val"
        studies.append(Study(str(i), f"p{i}", (View(image, "PA", boxes, ()),), "", (), labels, split))
    out = tmp_path_factory.mktemp("bright") / "store"
    prepare([Source("bright", {study.id: study for study in studies})], out, workers=0, size=48)
    return Store.open(out)


def test_it_learns_and_is_evaluated_as_a_method_is(store: Store) -> None:
    result = bench_supervised(
        store, backbone="resnet10t", size=32, steps=60, batch_size=8, resamples=20, precision="fp32", device="cpu"
    )
    assert result["split"] == "val"
    assert result["zero_shot"]["per_class"]["effusion"]["auroc"]["value"] > 0.9
    assert result["grounding"]["pointing_game"]["n"] == 12
    assert result["supervised"]["size"] == 32
    json.dumps(result, allow_nan=False)


def test_its_maps_are_dark_where_the_finding_is_improbable(store: Store) -> None:
    model = train_supervised(store, ["effusion"], backbone="resnet10t", size=32, steps=60, batch_size=8, device="cpu")
    images = model.preprocessing.of_images(record.image for record in store.select("val"))
    with torch.inference_mode():
        answers, again = model.answer(images, ["effusion"], maps=True), model.score(images, ["pleural effusion"])
    assert answers.maps is not None
    brightest = answers.maps.amax((2, 3))
    added = brightest > 0
    assert added.any()
    torch.testing.assert_close(brightest[added], answers.scores[added])
    torch.testing.assert_close(again, answers.scores)


def test_it_trains_for_the_time_it_is_given(store: Store) -> None:
    model = train_supervised(store, ["effusion"], backbone="resnet10t", size=32, seconds=0.1, batch_size=8, device="cpu")
    assert not model.training
    assert model.classes == ("effusion",)


def test_it_starts_where_the_methods_start(store: Store) -> None:
    """From ImageNet; a step so small that it leaves the weights as they were."""
    still = {"size": 32, "steps": 1, "batch_size": 8, "device": "cpu", "learning_rate": 1e-12, "precision": "fp32"}
    ours = train_supervised(store, ["effusion"], **still)  # type: ignore[arg-type]
    recipe = load_recipe("medslip-openi-cpu").method
    theirs = vision_encoder(recipe["backbone"], stride=32, image_size=32, weights=recipe["weights"])
    kernels = dict(theirs.named_parameters())
    for name, parameter in ours.encoder.named_parameters():
        torch.testing.assert_close(parameter.detach().contiguous(), kernels[name].detach(), atol=1e-6, rtol=1e-4)
    with pytest.raises(MedLIPError, match="name the backbone"):
        train_supervised(store, ["effusion"], weights="timm")


def test_patients_it_learned_from_are_found_among_those_evaluated(store: Store) -> None:
    quick = {"backbone": "resnet10t", "size": 32, "steps": 1, "batch_size": 8, "device": "cpu"}
    assert bench_supervised(store, resamples=20, **quick)["overlap"]["patients"] == 0
    seen = bench_supervised(store, split="all", resamples=20, **quick)
    assert seen["overlap"]["patients"] == 24
    assert any("TRAINED ON WHAT IS EVALUATED" in note for note in seen["notes"])


def test_it_knows_only_its_own_classes(store: Store) -> None:
    quick = {"backbone": "resnet10t", "size": 32, "steps": 1, "batch_size": 8, "device": "cpu"}
    model = train_supervised(store, ["effusion"], **quick)  # type: ignore[arg-type]
    images = model.preprocessing(torch.zeros(1, 48, 48, dtype=torch.uint8))
    assert model.score(images, ["Pleural Effusion"]).shape == (1, 1)
    with pytest.raises(MedLIPError, match="only its own"):
        model.score(images, ["edema"])
    with pytest.raises(MedLIPError, match=r"'train' has no positive of edema.* effusion, nodule"):
        train_supervised(store, ["edema"], **quick)  # type: ignore[arg-type]
    with pytest.raises(MedLIPError, match="train"):
        train_supervised(store.select("val"), **quick)  # type: ignore[arg-type]


def test_findings_of_reports_that_it_has_not_learned_are_not_asked_for(phantom_store: Path) -> None:
    quick = {"backbone": "resnet10t", "size": 32, "steps": 1, "batch_size": 8, "device": "cpu"}
    result = bench_supervised(Store.open(phantom_store), classes=["effusion"], resamples=20, **quick)
    assert result["zero_shot"]["per_class"].keys() == {"effusion"}
    assert not result.get("places")
