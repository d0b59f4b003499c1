"""Models from wherever they lie: a run's folder, one file, the hub's cache, and weights that authors released."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import medlip
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.methods import MeDSLIP, Method
from medlip.training import load_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WIDTH, TEXTS = 32, 48
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
PATHOLOGIES, ANATOMIES = default_vocabulary().pathologies, default_vocabulary().anatomies


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A cache of the hub and no connection; gives the folder of a model's commit, which is its branch main."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def make(name: str, commit: str = COMMIT) -> Path:
        model = cache / f"models--{name.replace('/', '--')}"
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / "main").write_text(commit)
        (model / "snapshots" / commit).mkdir(parents=True)
        return model / "snapshots" / commit

    return make


def resnet18_names(prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a torchvision ResNet-18, cut behind its third stage, as children of a sequence."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    kept = nn.Sequential(*list(resnet18().children())[:-3])
    return {f"{prefix}res_features.{name}": tensor for name, tensor in kept.state_dict().items()}


def decoder(prefix: str, seed: int, layers: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    stack = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.TransformerDecoderLayer(WIDTH, 4, 64) for _ in range(layers)),
            "norm": nn.LayerNorm(WIDTH),
        }
    )
    return {f"{prefix}.{name}": tensor for name, tensor in stack.state_dict().items()}


def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    layer = nn.Linear(inputs, outputs)
    return {f"{name}.weight": layer.weight.detach(), f"{name}.bias": layer.bias.detach()}


def medklip_weights() -> dict[str, Tensor]:
    """Random weights under the names of the authors' code."""
    return {
        **linear("disease_embedding_layer", TEXTS, WIDTH),
        **linear("cl_fc", WIDTH, TEXTS),
        **resnet18_names(),
        **linear("res_l1", 256, 256),
        **linear("res_l2", 256, WIDTH),
        **decoder("decoder", 1),
        **linear("classifier", WIDTH, 2),
    }


def medslip_weights() -> dict[str, Tensor]:
    streams = {}
    for seed, stream in enumerate(("pathology", "anatomy"), 1):
        streams |= {
            **linear(f"res_l1_{stream}", 256, 256),
            **linear(f"res_l2_{stream}", 256, WIDTH),
            **decoder(f"decoder_{stream}", seed),
            **linear(f"cl_fc_{stream}", WIDTH, TEXTS),
            **linear(f"classifier_{stream}", WIDTH, 2),
        }
    embed, mask = linear("pathology_embedding_layer", TEXTS, WIDTH), linear("mask_generator", 256, 256)
    return {**embed, **mask, **resnet18_names(), **streams}


RELEASED = {"medklip": medklip_weights, "medslip": medslip_weights}


def text_bank(path: Path, **changed: Any) -> Path:
    """Random embeddings of the vocabulary's texts, in an order of their own."""
    rng = np.random.default_rng(3)
    content: dict[str, Any] = {}
    for field, own, concepts in (
        ("pathologies", "pathology_embeddings", PATHOLOGIES),
        ("anatomies", "anatomy_embeddings", ANATOMIES),
    ):
        content[field] = np.array([concept.name for concept in concepts][::-1])
        content[own] = rng.standard_normal((len(concepts), TEXTS)).astype(np.float32)
    np.savez(path, **{key: value for key, value in (content | changed).items() if value is not None})
    return path


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    return text_bank(tmp_path / "bank.npz")


def scores(method: Method) -> Tensor:
    return method.score(IMAGES, ["effusion", "pneumonia"])


def test_the_package_offers_its_methods_by_name() -> None:
    assert MeDSLIP.name == "medslip"


def test_a_folder_and_its_file_are_one_model_that_says_what_made_it(tiny_run: Path) -> None:
    folder, file = load_run(tiny_run), load_run(tiny_run / "model.safetensors")
    assert torch.equal(scores(folder), scores(file))
    assert folder.fingerprint == file.fingerprint
    assert folder.made_by == file.made_by != None  # noqa: E711
    assert folder.origin and folder.origin.name == tiny_run.name
    assert folder.origin.version == medlip.__version__


def test_other_weights_have_another_fingerprint(tiny_run: Path) -> None:
    method = load_run(tiny_run)
    before = method.fingerprint
    next(method.parameters()).data.view(-1)[0] += 1
    assert method.fingerprint != before


@pytest.mark.parametrize("asked", ["org/chest", "hf://org/chest", f"hf://org/chest@{COMMIT}", "hf://org/chest@main"])
def test_a_model_of_the_hub_is_read_from_the_cache_and_its_commit_recorded(
    asked: str, hub: Callable[..., Path], tiny_run: Path
) -> None:
    folder = hub("org/chest")
    for name in ("model.safetensors", "run.json", "seen.npz"):
        shutil.copy(tiny_run / name, folder)
    method = medlip.load(asked).method
    assert method.origin and (method.origin.name, method.origin.version) == ("org/chest", COMMIT)
    assert method.made_by and method.seen
    assert method.fingerprint == load_run(tiny_run).fingerprint


def test_released_weights_lie_on_the_hub_as_well(hub: Callable[..., Path], bank: Path) -> None:
    torch.save({"model": medslip_weights()}, hub("org/released") / "MeDSLIP_resnet18.pth")
    method = load_run("org/released", text_bank=bank)
    assert isinstance(method, MeDSLIP)
    assert method.origin and method.origin.version == COMMIT


@pytest.mark.parametrize("asked", ["org/nothing", "hf://org/nothing", f"hf://org/chest@{'f' * 40}", "hf://org/chest@v9"])
def test_what_is_not_on_the_hub_is_said_in_a_sentence(asked: str, hub: Callable[..., Path], medlip: Any) -> None:
    (hub("org/chest") / "model.safetensors").write_bytes(b"")
    outcome = medlip("predict", asked, "x.png")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "the hub's model can't be had" in outcome.last_line


def test_a_run_that_is_missing_in_a_folder_that_is_there_is_not_asked_for_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedLIPError, match="runs/mine: there is no such folder or file"):
        load_run("runs/mine")


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("form", ["checkpoint", "state dict", "distributed", "safetensors"])
def test_released_weights_are_read_in_every_form(name: str, form: str, bank: Path, tmp_path: Path) -> None:
    weights = RELEASED[name]()
    old = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    file = tmp_path / "released.pth"
    if form == "checkpoint":
        torch.save({"model": weights | old, "epoch": 98, "optimizer": {"lr": 1e-4}}, file)
    elif form == "state dict":
        torch.save(weights, file)
    elif form == "distributed":
        torch.save({"model": {f"module.{key}": value for key, value in (weights | old).items()}}, file)
    else:
        file = tmp_path / "released.safetensors"
        save_file({key: value.contiguous().clone() for key, value in weights.items()}, file)
    method = load_run(file, text_bank=bank)
    assert method.name == name
    assert method.config.layers == 2 and method.config.width == WIDTH and method.config.backbone == "resnet18"
    assert scores(method).isfinite().all()
    assert torch.equal(method.encoder.state_dict()["stages.conv1.weight"], weights["res_features.0.weight"])


def test_released_medklip_answers_as_its_authors_code_does(bank: Path, tmp_path: Path) -> None:
    """Plain PyTorch: a pre-norm decoder of the described pathologies over projected features, two logits each."""
    weights = medklip_weights()
    torch.save({"model": weights}, tmp_path / "released.pth")
    method = load_run(tmp_path / "released.pth", text_bank=bank)

    from torchvision.models import resnet18

    features = nn.Sequential(*list(resnet18().children())[:-3]).eval()
    features.load_state_dict(
        {k.removeprefix("res_features."): v for k, v in weights.items() if k.startswith("res_features.")}
    )

    def apply(name: str, values: Tensor) -> Tensor:
        return nn.functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    layer = nn.TransformerDecoderLayer(WIDTH, 4, 64, batch_first=True, norm_first=True)
    stack = nn.TransformerDecoder(layer, 2, nn.LayerNorm(WIDTH)).eval()
    stack.load_state_dict({k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.")})
    with torch.no_grad():
        locations = apply("res_l2", apply("res_l1", features(IMAGES).flatten(2).transpose(1, 2)).relu())
        with np.load(bank) as content:
            embedded = torch.from_numpy(content["pathology_embeddings"][::-1].copy())
        queries = apply("disease_embedding_layer", embedded).expand(2, -1, -1)
        present = apply("classifier", stack(queries, locations)).softmax(-1)[..., 1]
    columns = [method.vocabulary.pathology_index[name] for name in ("effusion", "pneumonia")]
    torch.testing.assert_close(scores(method), present[:, columns], rtol=1e-4, atol=1e-5)


def test_text_banks_are_matched_by_name(tmp_path: Path) -> None:
    torch.save(medklip_weights(), tmp_path / "released.pth")
    rng = np.random.default_rng(5)
    embeddings, order = rng.standard_normal((len(PATHOLOGIES), TEXTS)), rng.permutation(len(PATHOLOGIES))
    names = np.array([pathology.name for pathology in PATHOLOGIES])
    sorted_, mixed = (
        text_bank(tmp_path / f"{kind}.npz", pathologies=names[rows], pathology_embeddings=embeddings[rows])
        for kind, rows in (("sorted", np.arange(len(names))), ("mixed", order))
    )
    ours, theirs = (load_run(tmp_path / "released.pth", text_bank=file) for file in (sorted_, mixed))
    assert torch.equal(scores(ours), scores(theirs))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"anatomies": None}, "anatomies is not a file in the archive"),
        ({"pathologies": np.array(["effusion"])}, "lacks normal"),
        ({"anatomy_embeddings": np.zeros((3, TEXTS), np.float32)}, "not a row for each name"),
        ({"pathology_embeddings": np.zeros((len(PATHOLOGIES), 7), np.float32)}, "of another shape"),
    ],
)
def test_a_text_bank_that_does_not_fit_is_refused(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    torch.save(medklip_weights(), tmp_path / "released.pth")
    with pytest.raises(MedLIPError, match=says):
        load_run(tmp_path / "released.pth", text_bank=text_bank(tmp_path / "bank.npz", **changed))


@pytest.mark.filterwarnings("ignore:.*texts are longer")
def test_the_text_bank_is_computed_from_the_descriptions_with_the_named_encoder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "bert"
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": TEXTS, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=1024, **sizes)
    BertModel(config).save_pretrained(folder)
    torch.save({"model": medslip_weights()}, tmp_path / "released.pth")
    method = load_run(tmp_path / "released.pth", text_encoder=str(folder))

    from medlip.nn.text import text_encoder

    pathologies = text_encoder(str(folder)).encode([pathology.description for pathology in PATHOLOGIES])
    torch.testing.assert_close(method.state_dict()["banks.pathology.embeddings"], pathologies)
    assert method.score(IMAGES, ["a rounded shadow"]).isfinite().all()  # open questions go to the same encoder


def test_without_the_encoder_there_is_an_error_that_says_what_to_do_and_no_random_bank(tmp_path: Path) -> None:
    torch.save({"model": medslip_weights()}, tmp_path / "released.pth")
    with pytest.raises(MedLIPError, match=r"text bank.*--text-encoder.*--text-bank"):
        load_run(tmp_path / "released.pth", text_encoder=str(tmp_path / "nowhere"))


def test_a_run_brings_its_text_bank_along(tiny_run: Path, bank: Path) -> None:
    with pytest.raises(MedLIPError, match="brings its text bank along"):
        load_run(tiny_run, text_bank=bank)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code()))
    torch.save({"model": Code()}, tmp_path / "torch.pth")
    for name in ("plain.pth", "torch.pth"):
        with pytest.raises(MedLIPError, match=f"{name}: .*safetensors"):
            load_run(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.pth", b"", "Get the file again|weights alone"),
        ("text.pth", b"<html>not found</html>", "Get the file again|weights alone"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a readable safetensors file"),
        ("model.h5", b"\x89HDF", "files of models are called"),
    ],
)
def test_what_is_no_model_is_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MedLIPError, match=rf"{name}.*({says})"):
        load_run(tmp_path / name)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"weight": torch.zeros(2)}}])
def test_weights_of_another_model_are_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(MedLIPError, match=r"other\.pth: holds no weights"):
        load_run(tmp_path / "other.pth")


def test_a_truncated_file_of_weights_is_named(tmp_path: Path, bank: Path) -> None:
    torch.save(medklip_weights(), tmp_path / "released.pth")
    content = (tmp_path / "released.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(MedLIPError, match=r"cut\.pth: no readable file of weights"):
        load_run(tmp_path / "cut.pth", text_bank=bank)


def test_importing_the_package_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, medlip; medlip.load; assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_json_and_model_agree(tiny_run: Path) -> None:
    assert json.loads((tiny_run / "run.json").read_text())["recipe"]["method"]["name"] == load_run(tiny_run).name
    assert load_file(tiny_run / "model.safetensors")
