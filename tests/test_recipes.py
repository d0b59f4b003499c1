"""Recipes: found by name, built on one another, and plain about a wrong key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medlip.errors import MedLIPError
from medlip.methods.base import method_config
from medlip.training import load_recipe
from medlip.training.recipe import Recipe, about_recipe, recipe_files

GOLDEN = json.loads((Path(__file__).parent / "golden" / "recipes.json").read_text())


FINER = {"stride": 8, "deepest": 16}
PAIRS = FINER | {"gate": "normalized", "prototype": "off", "icl": "tied"}
POSITIONS = FINER | {
    "alpha": 0.5,
    "contrast_normalize": True,
    "contrast_temperature": 0.1,
    "contrast_stop_gradient": True,
}
CHANGED = {
    f"{method}-{data}": new
    for method, new in (("medslip", PAIRS), ("medklip", POSITIONS))
    for data in ("openi-cpu", "phantom")
}
"""Settings that measurements changed since (docs/evidence.md)."""
EPOCHS = {"medslip-openi-cpu": 8, "medklip-openi-cpu": 8}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_recipe_says_what_it_said_before_but_for_what_measurements_changed(name: str) -> None:
    today, before = load_recipe(name), Recipe.model_validate(GOLDEN[name])
    before.method.update(CHANGED.get(name, {}))
    assert method_config(today.method) == method_config(before.method)  # which reads settings by their earlier names
    training = before.training.model_copy(update={"epochs": EPOCHS.get(name, before.training.epochs)})
    assert today.model_copy(update={"method": {}}) == before.model_copy(update={"method": {}, "training": training})


def test_every_recipe_says_what_it_is() -> None:
    assert recipe_files().keys() >= GOLDEN.keys()
    assert all(about_recipe(file) for file in recipe_files().values())


def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def test_a_recipe_states_only_what_differs_from_its_base(tmp_path: Path) -> None:
    own = load_recipe(write(tmp_path, "own", "base: medslip-phantom\ntraining: {epochs: 7}\nmethod: {layers: 2}"))
    base = load_recipe("medslip-phantom")
    assert (own.training.epochs, own.method["layers"]) == (7, 2)
    assert own.training == base.training.model_copy(update={"epochs": 7})
    assert own.method == {**base.method, "layers": 2}
    assert (own.image, own.augment, own.facts) == (base.image, base.augment, base.facts)


def test_a_base_may_be_a_file_beside_the_recipe_and_have_a_base_itself(tmp_path: Path) -> None:
    write(tmp_path, "first", "base: medslip-phantom\ntraining: {epochs: 7, lr: 0.5}")
    second = load_recipe(write(tmp_path, "second", "base: first.yaml\ntraining: {lr: 0.25}"))
    assert (second.training.epochs, second.training.lr, second.training.batch_size) == (7, 0.25, 16)


def test_another_method_inherits_no_settings_of_the_method_of_its_base(tmp_path: Path) -> None:
    own = load_recipe(write(tmp_path, "own", "base: medslip-phantom\nmethod: {name: convirt, width: 64}"))
    assert own.method == {"name": "convirt", "width": 64}
    assert own.training == load_recipe("medslip-phantom").training


def test_a_recipe_that_builds_on_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", "base: b.yaml")
    with pytest.raises(MedLIPError, match="b -> a -> b"):
        load_recipe(write(tmp_path, "b", "base: a.yaml"))


def test_a_base_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"medslip-phantm.*Did you mean 'medslip-phantom'\?"):
        load_recipe(write(tmp_path, "own", "base: medslip-phantm"))
    with pytest.raises(MedLIPError, match=r"other\.yaml: there is no such file"):
        load_recipe(write(tmp_path, "own", "base: other.yaml"))


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("training.epoch=3", "training.epochs"),
        ("epochs=3", "training.epochs"),
        ("traning=3", "training"),
        ("training.size=3", "image.size"),
        ("augment.rotation=3", "augment.rotate"),
    ],
)
def test_a_wrong_key_is_answered_with_the_one_that_was_meant(override: str, meant: str) -> None:
    with pytest.raises(MedLIPError, match=rf"{override.partition('=')[0]}: .*Did you mean '{meant}'\?"):
        load_recipe("medslip-phantom", [override])


def test_a_key_that_resembles_none_is_answered_with_all_of_its_section() -> None:
    with pytest.raises(MedLIPError, match=r"training\.xyz: .*: epochs, batch_size, rest, lr"):
        load_recipe("medslip-phantom", ["training.xyz=3"])


@pytest.mark.processes
def test_a_plugin_adds_recipes_and_none_may_hide_another(tmp_path: Path) -> None:
    def show(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medlip", "recipes", "show", name, "--plugin", str(plugin), "--json"]
        return subprocess.run(command, capture_output=True, text=True)

    plugin = tmp_path / "my_plugin.py"
    plugin.write_text("from medlip.training.recipe import register_recipes\nregister_recipes(__file__.replace('.py', ''))")
    folder = tmp_path / "my_plugin"
    folder.mkdir()
    write(folder, "of-a-plugin", "# Mine.\nbase: medslip-phantom\ntraining: {epochs: 7}")
    assert json.loads(show("of-a-plugin").stdout)["training"]["epochs"] == 7
    write(folder, "medslip-phantom", "base: mlip-phantom")
    assert re.search("'medslip-phantom': both .* Rename one", show("medslip-phantom").stderr)
