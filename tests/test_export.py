"""Models as one graph: other runtimes answer as the model does, for any number of images and questions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medlip as package
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import Method, build_method, export_method, load_exported, save_method

pytestmark = pytest.mark.long

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
FORMATS = [
    pytest.param(("torch-export", ".pt2")),
    pytest.param(("onnx", ".onnx"), marks=pytest.mark.skipif(not HAS_ONNX, reason="needs medlip[onnx]")),
]
TINY = {"backbone": "resnet10t", "width": 32, "feedforward": 48, "init": "xavier"}
PROMPTS = ["effusion", "a metal clip over the heart", "Pneumonia"]


def make(name: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    return build_method({"name": name, **TINY, **changes}, default_vocabulary(), Preprocessing(64)).eval()


@pytest.fixture(scope="module", params=FORMATS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Method, Path]:
    format, suffix = request.param
    method = make("medslip", layers=2, symmetric=True)
    file = tmp_path_factory.mktemp("exported") / f"model{suffix}"
    assert export_method(method, file, format) <= 1e-4
    return method, file


@pytest.mark.parametrize("images", [1, 5])
def test_an_exported_model_answers_as_its_own(exported: tuple[Method, Path], images: int) -> None:
    method, file = exported
    pixels = torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loaded = load_exported(file)
    for prompts in (PROMPTS, PROMPTS[:1]):
        ours = method.answer(pixels, prompts, maps=True, anatomies=True)
        theirs = loaded.answer(pixels, prompts, maps=True, anatomies=True)
        for part in ("scores", "maps", "anatomies"):
            torch.testing.assert_close(getattr(theirs, part), getattr(ours, part), rtol=0, atol=1e-4)


def test_an_exported_model_is_read_with_as_any_other(exported: tuple[Method, Path], tmp_path: Path) -> None:
    method, file = exported
    save_method(method, tmp_path / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100), np.uint8)
    ours, theirs = (package.load(path).read(pixels, ask=PROMPTS[1]) for path in (tmp_path / "model.safetensors", file))
    assert theirs.model.hash == ours.model.hash and theirs.model.method == "medslip"
    np.testing.assert_allclose(theirs.matrix(), ours.matrix(), atol=1e-4)
    np.testing.assert_allclose(theirs.heat_map(PROMPTS[1]), ours.heat_map(PROMPTS[1]), atol=1e-4)
    assert theirs.asked[0].probability == pytest.approx(ours.asked[0].probability, abs=1e-4)


def test_an_exported_model_neither_learns_nor_becomes_a_run(
    exported: tuple[Method, Path], medlip: Any, tmp_path: Path
) -> None:
    _, file = exported
    outcome = medlip("convert", file, "--out", tmp_path / "run")
    assert outcome.code == 1 and "has no weights that could be saved" in outcome.last_line


def test_predict_reads_with_what_the_command_exports(medlip: Any, tiny_run: Path, xray: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    outcome = medlip("export", tiny_run, "--format", "torch-export", "--out", file, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["difference"] <= 1e-4
    (ours,), (theirs,) = (medlip("predict", model, xray, "--json").document for model in (tiny_run, file))
    assert theirs["model"] == ours["model"]
    for one, other in zip(ours["findings"], theirs["findings"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("method", "name", "format", "says"),
    [
        ("linear", "m.pt2", "torch-export", "has no graph. Methods that have one: medklip, medlip, medslip"),
        ("medslip", "m.bin", "onnx", r"is called \*.onnx"),
        ("medslip", "m.onnx", "torch-export", r"is called \*.pt2"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(method: str, name: str, format: Any, says: str, tmp_path: Path) -> None:
    made = build_method({"name": method, "backbone": "resnet10t"}, default_vocabulary(), Preprocessing(64))
    with pytest.raises(MedLIPError, match=says):
        export_method(made, tmp_path / name, format)


def test_maps_that_need_a_backward_pass_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="contribution or attention"):
        export_method(make("medklip", map_rule="gradient"), tmp_path / "m.pt2", "torch-export")


@pytest.mark.skipif(HAS_ONNX, reason="ONNX is installed")
def test_without_its_packages_onnx_says_which_to_install(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"pip install 'medlip\[onnx\]'"):
        export_method(make("medklip"), tmp_path / "m.onnx", "onnx")


def test_what_is_no_exported_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(MedLIPError, match=r"bad\.pt2: no readable exported model"):
        package.load(tmp_path / "bad.pt2")
