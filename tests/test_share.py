"""Models for others: a run of any source, a card that says what a model is, and the folder that is uploaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import medlip as package
from medlip.training import load_run
from test_load import medklip_weights, text_bank


@pytest.fixture(scope="module")
def result(tiny_run: Path, phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medlip.data.store import Store
    from medlip.evaluation import evaluate

    out = tmp_path_factory.mktemp("results") / "result"
    evaluate(load_run(tiny_run, "cpu"), Store.open(phantom_store), split="val", resamples=5, out=out)
    return out


def test_a_run_is_made_of_released_weights_and_stays_the_same_model(medlip: Any, tmp_path: Path) -> None:
    torch.save({"model": medklip_weights()}, tmp_path / "released.pth")
    bank, run = text_bank(tmp_path / "bank.npz"), tmp_path / "run"
    outcome = medlip("convert", tmp_path / "released.pth", "--out", run, "--text-bank", bank, "--json")
    assert outcome.code == 0, outcome.err
    model = outcome.document["model"]
    assert (model["name"], model["version"], model["method"]) == ("released.pth", "released", "medklip")
    again, source = load_run(run), load_run(tmp_path / "released.pth", text_bank=bank)
    assert again.fingerprint == source.fingerprint == model["hash"]
    assert again.origin == source.origin
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.score(images, ["effusion"]), source.score(images, ["effusion"]))
    assert (
        medlip("convert", tmp_path / "released.pth", "--out", run, "--text-bank", bank).code == 1
    )  # it holds a run already


def test_a_run_of_a_run_keeps_what_made_it_and_what_it_has_seen(medlip: Any, tiny_run: Path, tmp_path: Path) -> None:
    assert medlip("convert", tiny_run, "--out", tmp_path / "run").code == 0
    before, after = load_run(tiny_run), load_run(tmp_path / "run")
    assert before.made_by == after.made_by
    assert before.seen and after.seen
    assert "machine" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_card_says_what_made_the_model_and_how_good_it_is(medlip: Any, tiny_run: Path, result: Path) -> None:
    text = medlip("card", tiny_run, "--results", result).out
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"  # phantoms alone
    identity = load_run(tiny_run).fingerprint
    for wanted in ("Not a medical device", "## Intended use", "## Limits", "phantom (", "pointing game", identity):
        assert wanted in body, wanted


def test_a_card_without_results_says_that_nothing_is_known(medlip: Any, tiny_run: Path) -> None:
    outcome = medlip("card", tiny_run, "--license", "cc-by-4.0")
    assert "nothing is known here of how good the model is" in outcome.out
    assert "license: cc-by-4.0" in outcome.out
    assert medlip("card", tiny_run, "--json").document["license"] == "apache-2.0"


def test_a_dry_run_writes_the_folder_that_a_hub_model_is(
    medlip: Any, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = medlip("push", tiny_run, "org/chest", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "org--chest"
    assert outcome.document["files"] == sorted(file.name for file in folder.iterdir())
    assert {"README.md", "model.safetensors", "run.json"} == set(outcome.document["files"])
    assert 'medlip.load("org/chest")' in (folder / "README.md").read_text()
    assert package.load(folder).model.hash == load_run(tiny_run).fingerprint


def test_an_upload_makes_the_model_and_sends_the_folder(
    medlip: Any, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    sent: dict[str, Any] = {}

    class Hub:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
            sent["made"] = (name, private, exist_ok)
            return f"https://hub.example/{name}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            sent["files"] = repo_id, sorted(file.name for file in Path(folder_path).iterdir())

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    outcome = medlip("push", tiny_run, "org/chest", "--private")
    assert outcome.code == 0 and "https://hub.example/org/chest" in outcome.out
    assert sent == {
        "made": ("org/chest", True, True),
        "files": ("org/chest", ["README.md", "model.safetensors", "run.json"]),
    }


def test_without_a_connection_an_upload_fails_in_a_sentence(
    medlip: Any, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    outcome = medlip("push", tiny_run, "org/chest")
    assert outcome.code == 1 and outcome.last_line.startswith("error: org/chest: ")
    assert medlip("push", tiny_run, "chest").code == 1
