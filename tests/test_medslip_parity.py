"""MeDSLIP computes what the reference implementation computes, on any seed and however the weights are named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medlip.errors import MedLIPError
from medlip.losses import existence_labels
from medlip.methods import MeDSLIP
from medlip.methods.released import released_name

FOLDER = Path(__file__).parent / "parity" / "medslip"
sys.path.insert(0, str(FOLDER))
from weights import state_dict  # noqa: E402

CASES = ("resnet18-2layers", "resnet50-4layers")


def load(case, prefix=""):
    data = np.load(FOLDER / f"{case}.npz")
    keys = FOLDER / f"keys-{case}.json"
    released = {prefix + name: torch.from_numpy(np.array(v)) for name, v in state_dict(keys, int(data["seed"])).items()}
    banks = {name: torch.from_numpy(data[name]) for name in ("pathology_embeddings", "anatomy_embeddings")}
    images = np.random.default_rng(int(data["images_seed"])).standard_normal((int(data["batch"]), 3, 224, 224))
    return MeDSLIP.from_released(released, **banks), torch.from_numpy(images.astype(np.float32)), data


def loss_terms(model, images, data):
    negatives = {name: torch.from_numpy(data[name]).long() for name in ("negatives_pathology", "negatives_anatomy")}
    return model.loss_terms(images, torch.from_numpy(data["adjacency"]), **negatives)


def assert_norm_close(ours, reference, tolerance):
    error = np.linalg.norm(ours.detach().numpy().ravel() - reference.ravel()) / np.linalg.norm(reference.ravel())
    assert error <= tolerance


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_outputs_and_losses_equal_the_reference(case, dtype, tolerance):
    model, images, data = load(case)
    model, images = model.to(dtype), images.to(dtype)
    with torch.no_grad():
        output, terms = model(images), loss_terms(model, images, data)
    for stream in ("pathology", "anatomy"):
        assert_norm_close(getattr(output, f"logits_{stream}"), data[f"logits_{stream}"], tolerance)
        assert_norm_close(getattr(output, f"attention_{stream}")[:, :, ::5], data[f"attention_{stream}"], tolerance)
    ours = {"total": sum(terms.values())} | terms
    for name, reference in zip(data["loss_names"].tolist(), data["losses"].tolist(), strict=True):
        assert ours[name].item() == pytest.approx(reference, rel=tolerance), name


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference(case):
    model, images, data = load(case)
    model = model.double()
    sum(loss_terms(model, images.double(), data).values()).backward()
    released = dict(zip(data["grad_norm_names"].tolist(), data["grad_norms"].tolist(), strict=True))
    ours = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters() if parameter.grad is not None}
    largest = max(released.values())
    assert largest > 0
    renamed = {name: released_name(name, MeDSLIP.released_names) for name in released}
    assert set(renamed.values()) == set(ours)
    for name, reference in released.items():
        assert abs(ours[renamed[name]] - reference) <= 1e-6 * largest, name


@pytest.mark.parametrize("case", CASES)
def test_labels_derive_from_the_adjacency(case):
    data = np.load(FOLDER / f"{case}.npz")
    adjacency = torch.from_numpy(data["adjacency"])
    assert torch.equal(existence_labels(adjacency, 1), torch.from_numpy(data["labels_pathology"]))
    assert torch.equal(existence_labels(adjacency, 2), torch.from_numpy(data["labels_anatomy"]))


def test_distributed_names_load_as_well():
    plain, images, _ = load("resnet18-2layers")
    prefixed, _, _ = load("resnet18-2layers", prefix="module.")
    with torch.no_grad():
        assert torch.equal(plain(images).logits_pathology, prefixed(images).logits_pathology)


@pytest.mark.parametrize("spoil", ["missing", "unknown", "misshapen", "unshared"])
def test_released_weights_load_strictly(spoil):
    _, _, data = load("resnet18-2layers")
    released = {
        name: torch.from_numpy(np.array(value))
        for name, value in state_dict(FOLDER / "keys-resnet18-2layers.json", 11).items()
    }
    if spoil == "missing":
        del released["classifier_pathology.bias"]
    elif spoil == "unknown":
        released["extra.weight"] = torch.zeros(1)
    elif spoil == "misshapen":
        released["classifier_pathology.bias"] = torch.zeros(3)
    else:
        released["decoder_anatomy.norm.weight"] = released["decoder_anatomy.norm.weight"] + 1
    banks = {name: torch.from_numpy(data[name]) for name in ("pathology_embeddings", "anatomy_embeddings")}
    with pytest.raises(MedLIPError, match="released weights"):
        MeDSLIP.from_released(released, **banks)
