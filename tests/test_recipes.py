"""Recipes: found by name, built on one another, and plain about a wrong key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import shrunk
from medlip.errors import MedLIPError
from medlip.methods import build_method
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
SENTENCES = {
    "texts": "facts",
    "unit": "sentence",
    "apart": True,
    "prompts": "present",
    "pooling": "similarity",
    "contrast": "sigmoid",
    "sigmoid_bias": -3.0,
    "false_negatives": "attenuate",
    "hard_negatives": 3,
}
CHANGED = {
    f"{method}-{data}": new
    for method, new in (("medslip", PAIRS), ("medklip", POSITIONS))
    for data in ("openi-cpu", "phantom")
} | {
    "mlip-phantom": SENTENCES | {"mask_ratio": 0.0},
    "gloria-phantom": SENTENCES,
    "convirt-phantom": SENTENCES | {"max_sentences": 0, "temperature": 0.05},
}
"""Settings that measurements changed since (docs/evidence.md)."""
RATES = {"medslip-phantom": 8e-4}
EPOCHS = {"medslip-openi-cpu": 8, "medklip-openi-cpu": 8}
SIZES = {"medslip-openi-cpu": 160}
PHANTOMS_FIRST = {"medslip-openi-cpu", "medklip-openi-cpu", "linear-openi-cpu"}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_recipe_says_what_it_said_before_but_for_what_measurements_changed(name: str) -> None:
    today, before = load_recipe(name), Recipe.model_validate(GOLDEN[name])
    before.method.update(CHANGED.get(name, {}))
    assert method_config(today.method) == method_config(before.method)  # which reads settings by their earlier names
    training = before.training.model_copy(
        update={
            "epochs": EPOCHS.get(name, before.training.epochs),
            "lr": RATES.get(name, before.training.lr),
            "ema": 0.99 * (name in PHANTOMS_FIRST),
        }
    )
    image = before.image.model_copy(update={"size": SIZES.get(name, before.image.size)})
    assert (today.first is not None) == (name in PHANTOMS_FIRST)
    assert today.model_copy(update={"method": {}, "first": None}) == before.model_copy(
        update={"method": {}, "training": training, "image": image}
    )


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("training.lr=-1", r"training\.lr: .*greater than 0"),
        ("training.lr=.inf", r"training\.lr: .*finite"),
        ("training.lr=1e-6 training.final_lr=1e-5", r"final_lr=1e-05 is above lr=1e-06"),
        ("training.betas=[0.9,1]", r"training\.betas\.1: .*less than 1"),
        ("training.clip=.nan", r"training\.clip: .*finite"),
        ("training.epochs=0", r"training\.epochs: .*greater than 0"),
        ("training.batch_size=0", r"training\.batch_size: .*greater than 0"),
        ("training.batch_size=8 training.accumulate=3", "batch_size=8 can't be divided into accumulate=3"),
        ("training.batch_size=8 training.accumulate=16", "batch_size=8 can't be divided into accumulate=16"),
        ("training.keep=0", r"training\.keep: .*greater than or equal to 1"),
        ("training.ema=1", r"training\.ema: .*less than 1"),
        ("training.precision=fp8", r"training\.precision: .*'bf16'"),
        ("training.on_nan=ignore", r"training\.on_nan: .*'stop' or 'skip'"),
        ("training.seed=-1", r"training\.seed: .*greater than or equal to 0"),
        ('training.balance={"icl":1}', "name two or more"),
        ("training.balance={icl:1", r"--set training\.balance=\{icl:1: the value is no YAML .*brackets"),
        ('training.balance={"icl":1,"exist":0}', r"training\.balance\.exist: .*greater than 0"),
        ("image.size=0", r"image\.size: .*greater than 0"),
        ("image.std=[0,1,1]", "std greater than 0"),
        ("augment.rotate=fast", r"augment\.rotate: .*valid number"),
        ("augment.scale=[0.5]", r"augment\.scale\.1: .*required"),
        ("augment.scale=[0.9,0.5]", r"scale=.*smallest <= largest"),
        ("method.width=256 method.heads=3", r"method: width=256 is no multiple of heads=3"),
        ("method.stride=0", r"method\.stride: .*greater than 0"),
        ("method.alpha=.inf", r"method\.alpha: .*finite"),
    ],
)
def test_a_setting_that_can_not_be_is_answered_with_what_can(settings: str, message: str) -> None:
    with pytest.raises(MedLIPError, match=message) as error:
        method_config(load_recipe("medslip-phantom", settings.split()).method)
    assert "Value error" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("medslip-phantom", "method.contrast_temperature=0.1", "prototype other than off, and alpha above 0"),
        ("medslip-phantom", "method.alpha=0.5", "prototype other than off"),
        ("medslip-mimic", "method.alpha=0 method.negatives=9", "prototype other than off, and alpha above 0"),
        ("medslip-mimic", "method.icl_other_side=2", "icl=scaled or icl=tied, and beta above 0"),
        ("medslip-phantom", "method.erase_memory=500", "erase=side"),
        ("medklip-phantom", "method.alpha=0 method.contrast_temperature=0.5", "alpha above 0"),
        ("medlip-phantom", "method.lambda_match=0 method.relax=0.1", "lambda_match above 0"),
        ("mlip-phantom", "method.local=off method.relax=0.1", "local other than off, and lambda_local above 0"),
        ("mlip-phantom", "method.integrity=truth", "mask_ratio above 0"),
        ("mlip-mimic", "method.text_width=64", "text_encoder=wordpiece"),
        ("gloria-phantom", "method.contrast=softmax method.sigmoid_bias=-5", "contrast=sigmoid"),
        ("convirt-phantom", "method.pooling=mean method.pooling_temperature=1", "pooling=similarity"),
        ("medslip-phantom", "training.balance_every=5", "balance"),
        ("medslip-phantom", "data.most_views=2", "views=set"),
    ],
)
def test_a_setting_that_would_do_nothing_is_answered_with_what_it_needs(recipe: str, settings: str, message: str) -> None:
    *_, last = settings.split()
    with pytest.raises(MedLIPError, match=rf"--set {re.escape(last)}: does nothing without {message}\. Set that as well"):
        load_recipe(recipe, settings.split())


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("medklip-phantom", "method.alpha=0"),
        ("mlip-phantom", "method.contrast=softmax"),
        ("medslip-phantom", "method.prototype=off method.icl=off"),
        ("medslip-mimic", "method.alpha=0 method.beta=0"),
        ("medslip-phantom", "method.erase_memory=2000 method.icl_other_side=null"),
    ],
)
def test_what_a_recipe_states_may_be_switched_off(recipe: str, settings: str) -> None:
    method_config(load_recipe(recipe, settings.split()).method)


@pytest.mark.parametrize(
    ("name", "settings", "sizes"),
    [
        ("mlip", "image.size=100 method.stride=16", "96 or 112"),
        ("mlip", "image.size=12 method.stride=16 method.backbone=vit_tiny_patch16_224", "16, or"),
        ("medslip", "image.size=8 method.stride=16 method.deepest=null", "16 or more"),
        ("medslip", "image.size=16 method.stride=8 method.deepest=32", "32 or more"),
        ("convirt", "image.size=16 method.stride=32", "32 or more"),
    ],
)
def test_an_image_that_does_not_fit_the_patches_is_answered_with_sizes_that_do(name: str, settings: str, sizes: str) -> None:
    recipe = load_recipe(f"{name}-phantom", [*settings.split(), "method.weights=null"])
    method = shrunk(recipe.method, but=["backbone", "stride"])
    with pytest.raises(MedLIPError, match=rf"Set image\.size={sizes}.* method\.stride"):
        build_method(method, recipe.make_vocabulary(), recipe.make_preprocessing(), lambda: ["A report."] * 3)


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
