"""The command line: one JSON document or text on stdout, all else on stderr, whose last line says an error plainly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from medlip.app import cli
from medlip.data.store import Store

MEDLIP = Path(sys.executable).parent / "medlip"


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def last_line(self) -> str:
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def medlip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process, as the script does."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["medlip", *map(str, arguments)])
        monkeypatch.delenv("MEDLIP_DEBUG", raising=False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Outcome(int(end.value.code or 0), *capsys.readouterr())

    return run


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        began = time.monotonic()
        subprocess.run([MEDLIP, "--help"], check=True, capture_output=True)
        return time.monotonic() - began

    assert min(seconds() for _ in range(5)) < 0.5


def test_help_and_import_load_nothing_heavy() -> None:
    code = "import sys, medlip, medlip.app.cli; print({'torch', 'pandas', 'matplotlib', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_every_command_prints_json_on_demand() -> None:
    def commands(group: Any, name: str = "medlip") -> list[tuple[str, Any]]:
        if not hasattr(group, "commands"):
            return [(name, group)]
        return [found for key, inner in group.commands.items() for found in commands(inner, f"{name} {key}")]

    found = dict(commands(typer.main.get_command(cli.app)))
    promised = {"demo", "prepare", "pretrain", "evaluate", "predict", "facts", "bench step"}
    assert promised <= {name.removeprefix("medlip ") for name in found}
    lacking = [name for name, command in found.items() if not any("--json" in option.opts for option in command.params)]
    assert not lacking


def test_version_is_that_of_the_package(medlip: Callable[..., Outcome]) -> None:
    import medlip as package

    assert medlip("--version").out.strip() == package.__version__


def test_wrong_usage_exits_with_2_and_says_so_last(medlip: Callable[..., Outcome]) -> None:
    outcome = medlip("evaluate", "run", "--nonsense")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--nonsense" in outcome.last_line


def test_evaluate_prints_one_document_with_the_promised_keys(
    medlip: Callable[..., Outcome], tiny_run: Path, phantom_store: Path
) -> None:
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--json")
    assert outcome.code == 0
    document = outcome.document
    assert {"macro_auroc", "interval", "per_class"} <= document["zero_shot"].keys()
    assert {"pointing_game", "chance", "iou", "all_ones_iou"} <= document["grounding"].keys()
    store = Store.open(phantom_store)
    assert document["split"] == "test"
    assert document["n_images"] == store.splits["test"]


def test_evaluate_takes_another_split_and_names_those_there_are(
    medlip: Callable[..., Outcome], tiny_run: Path, phantom_store: Path
) -> None:
    assert medlip("evaluate", tiny_run, "--data", phantom_store, "--split", "val", "--json").document["split"] == "val"
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--split", "holdout")
    assert outcome.code == 1
    assert "'holdout'" in outcome.last_line
    assert "'test'" in outcome.last_line


def test_phantoms_to_evaluate_on_are_never_those_to_train_on(phantom_store: Path) -> None:
    from medlip.app.input import evaluation_store

    trained_on = set(Store.open(phantom_store).select("train").column("patient"))
    with evaluation_store("phantom:20@3") as same_seed:
        assert not trained_on & set(same_seed.select("test").column("patient"))
        assert trained_on & set(same_seed.select("train").column("patient"))  # which `evaluate` doesn't take unasked


def test_evaluate_names_and_counts_what_it_skips(medlip: Callable[..., Outcome], tiny_run: Path, openi_folder: Path) -> None:
    images = sorted(openi_folder.glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:200])
    outcome = medlip("evaluate", tiny_run, "--data", f"openi:{openi_folder}", "--json")
    assert outcome.code == 0
    assert outcome.document["n_images"] == len(images) - 1
    assert "1 images or studies were skipped" in outcome.err
    assert images[0].name in outcome.err


@pytest.fixture
def openi_folder(tmp_path: Path, phantom_store: Path) -> Path:
    """A few phantoms laid out as Open-i."""
    from PIL import Image

    folder = tmp_path / "openi"
    folder.mkdir()
    lines = ["uid,split,image,findings,impression,mesh"]
    for i in range(6):
        Image.fromarray(Store.open(phantom_store)[i].image).save(folder / f"{i}.png")
        lines.append(f"{i},val,{i}.png,Heart is enlarged.,,{'Cardiomegaly' if i % 2 else 'normal'}")
    (folder / "studies.csv").write_text("\n".join(lines))
    return folder


def test_report_file_without_the_named_columns_is_an_error(
    medlip: Callable[..., Outcome], tmp_path: Path, openi_folder: Path
) -> None:
    (openi_folder / "studies.csv").write_text("uid,picture\n1,0.png\n")
    outcome = medlip("pretrain", "medslip-phantom", "--data", f"openi:{openi_folder}", "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "'image'" in outcome.last_line
    assert "'picture'" in outcome.last_line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pretrain", "medslip-phantom", "--data", "openi:EMPTY", "--out", "OUT"), "folder is empty"),
        (("pretrain", "medslip-phantom", "--data", "EMPTY", "--out", "OUT"), "no manifest.json"),
        (("pretrain", "medslip-phantom", "--data", "phantom:none", "--out", "OUT"), "phantom:none"),
        (("pretrain", "no-such-recipe", "--data", "phantom:9", "--out", "OUT"), "no-such-recipe"),
        (
            ("pretrain", "medslip-phantom", "--data", "phantom:9", "--out", "OUT", "--set", "training.epoch=1"),
            "training.epoch",
        ),
        (("pretrain", "medslip-phantom", "--data", "phantom:9", "--out", "OUT", "--set", "epochs"), "key=value"),
        (("evaluate", "EMPTY", "--data", "phantom:9"), "EMPTY"),
        (("evaluate", "nowhere", "--data", "phantom:9"), "nowhere"),
        (("predict", "EMPTY", "x.png"), "EMPTY"),
        (("prepare", "openi:EMPTY", "--out", "OUT"), "folder is empty"),
        (("demo", "--out", "FULL"), "FULL"),
    ],
)
def test_bad_input_is_one_plain_line(
    medlip: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("FULL").mkdir()
    Path("FULL/other.txt").write_text("mine")
    for json_too in ((), ("--json",)):
        outcome = medlip(*arguments, *json_too)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.last_line.startswith("error: ")
        assert says in outcome.last_line
        assert "Traceback" not in outcome.err


def test_pretrain_resumes_and_never_overwrites(
    medlip: Callable[..., Outcome], tmp_path: Path, phantom_store: Path, tiny_settings: tuple[str, ...]
) -> None:
    command = ["pretrain", "medslip-phantom", "--data", phantom_store, "--out", tmp_path / "run", "--json"]
    command += [part for setting in tiny_settings for part in ("--set", setting)]
    first = medlip(*command)
    assert first.code == 0
    assert first.document["steps"] == Store.open(phantom_store).splits["train"] // 8
    again = medlip(*command)
    assert again.code == 1
    assert "--resume" in again.last_line
    assert medlip(*command, "--resume").document["steps"] == first.document["steps"]


def test_another_vocabulary_than_that_of_the_store_is_an_error(
    medlip: Callable[..., Outcome], tmp_path: Path, phantom_store: Path, tiny_settings: tuple[str, ...]
) -> None:
    import yaml

    from medlip.concepts import default_vocabulary

    content = default_vocabulary().model_dump(mode="json")
    content["pathologies"].append(content["pathologies"][-1] | {"name": "something_else", "display": "Else", "synonyms": []})
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(content))
    settings = [part for setting in (*tiny_settings, f"vocabulary={own}") for part in ("--set", setting)]
    outcome = medlip("pretrain", "medslip-phantom", "--data", phantom_store, "--out", tmp_path / "run", *settings)
    assert outcome.code == 1
    assert "something_else" in outcome.last_line


def test_unexpected_error_gives_advice_and_the_traceback_only_on_demand(
    medlip: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr("medlip.training.load_recipe", fail)
    arguments = ("pretrain", "medslip-phantom", "--data", "phantom:9", "--out", "OUT")
    outcome = medlip(*arguments)
    assert outcome.code == 1
    assert "ZeroDivisionError: a bug of two lines" in outcome.last_line
    assert "--debug" in outcome.last_line
    assert "Traceback" not in outcome.err
    assert "Traceback" in medlip("--debug", *arguments).err


def test_interruption_says_how_to_go_on(medlip: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medlip.training.load_recipe", interrupt)
    outcome = medlip("pretrain", "medslip-phantom", "--data", "phantom:9", "--out", "OUT")
    assert outcome.code == 130
    assert "--resume" in outcome.last_line


def test_what_is_printed_on_the_way_leaves_the_document_alone(
    medlip: Callable[..., Outcome], tiny_run: Path, phantom_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medlip import evaluation

    def chatty(*_: object, **__: object) -> dict[str, Any]:
        print("a library talks")
        return {"notes": ["beware"], "value": float("nan"), "zero_shot": None, "grounding": None,
                "n_images": 1, "n_patients": 1, "split": "test"}  # fmt: skip

    monkeypatch.setattr(evaluation, "evaluate", chatty)
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--json")
    assert outcome.document["value"] is None
    assert "a library talks" in outcome.err
    assert "beware" in outcome.err
