"""The command line: one rule of exit codes, one JSON document or text on stdout, all else on stderr, one name an option."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from medlip.app import cli
from medlip.data.store import Store
from medlip.errors import MedLIPError, MedLIPWarning

ROOT = Path(__file__).parents[1]
Run = Callable[..., Any]


def _commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    yield name, group
    for key, inner in getattr(group, "commands", {}).items():
        yield from _commands(inner, f"{name} {key}".strip())


EVERYTHING = dict(_commands(typer.main.get_command(cli.app)))
COMMANDS = {name: command for name, command in EVERYTHING.items() if not hasattr(command, "commands")}

# How each command is called, and what of the floors below does its work.
CALLS = {
    "demo": ("--out OUT", "medlip.app.demo.run_demo"),
    "prepare": ("phantom:9 --out OUT", "medlip.data.prepare.prepare"),
    "data list": ("", "medlip.data.sources.data_sets"),
    "data check": ("phantom:9", "medlip.data.check.check"),
    "data overlap": ("phantom:9 phantom:9@1", "medlip.data.overlap.fingerprint"),
    "data hold-out": ("STORE --out OUT", "medlip.experiments.composition.compositional_split"),
    "facts": ("reports.csv --out OUT.csv", "medlip.reports.stream.extract_file"),
    "recipes list": ("", "medlip.training.recipe.recipe_files"),
    "recipes show": ("medslip-phantom", "medlip.training.load_recipe"),
    "pretrain": ("medslip-phantom --data STORE --out OUT", "medlip.training.fit"),
    "plan": ("medslip-phantom", "medlip.training.plan.plan"),
    "ablate": ("medslip-phantom --data STORE --out OUT --grid method.icl=off", "medlip.experiments.ablation.ablate"),
    "evaluate": ("OUT --data STORE", "medlip.training.load_run"),
    "retrieve": ("OUT --data STORE", "medlip.training.load_run"),
    "transfer": ("OUT --data STORE", "medlip.training.load_run"),
    "compare": ("OUT OTHER", "medlip.evaluation.compare.Evaluated.load"),
    "disentangle": ("OUT --data STORE", "medlip.training.load_run"),
    "audit": ("OUT --data STORE", "medlip.training.load_run"),
    "calibrate": ("OUT --data STORE", "medlip.training.load_run"),
    "show": ("STORE --out OUT.html", "medlip.app.pages.store_page.store_page"),
    "reproduce": ("STORE --model OUT --out OUT", "medlip.experiments.reproduction.find_sets"),
    "predict": ("OUT x.png", "medlip.app.reader.Reader.open"),
    "serve": ("OUT --port 0", "medlip.app.reader.Reader.open"),
    "convert": ("released.pth --out OUT", "medlip.training.load_run"),
    "export": ("OUT --format onnx --out OUT.onnx", "medlip.training.load_run"),
    "card": ("OUT", "medlip.training.load_run"),
    "push": ("OUT org/name --dry-run", "medlip.training.load_run"),
    "bench step": ("", "medlip.training.bench.bench_step"),
    "bench predict": ("", "medlip.app.bench.bench_predict"),
    "bench serve": ("", "medlip.app.server.bench.bench_serve"),
    "bench facts": ("", "medlip.reports.bench.bench_facts"),
    "bench store": ("", "medlip.data.bench.bench_store"),
    "bench transport": ("", "medlip.nn.transport_bench.bench_transport"),
    "bench supervised": ("--data STORE", "medlip.experiments.supervised.bench_supervised"),
}


def test_every_command_is_called_by_these_tests() -> None:
    assert CALLS.keys() == COMMANDS.keys()


@pytest.fixture
def call(medlip: Run, monkeypatch: pytest.MonkeyPatch, phantom_store: Path) -> Run:
    """Run a command whose work below the command line raises or warns of something."""

    def run(name: str, happens: BaseException | Warning) -> Any:
        def work(*_: object, **__: object) -> None:
            raise happens

        arguments, target = CALLS[name]
        monkeypatch.setattr(target, work)
        return medlip(*name.split(), *arguments.replace("STORE", str(phantom_store)).split())

    return run


@pytest.mark.parametrize("name", CALLS)
def test_a_failed_command_exits_with_1_and_says_why_last(name: str, call: Run) -> None:
    outcome = call(name, MedLIPError("this is wrong.\nDo that."))
    assert (outcome.code, outcome.out, outcome.last_line) == (1, "", "error: this is wrong. Do that.")


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_command_exits_with_130(name: str, call: Run) -> None:
    outcome = call(name, KeyboardInterrupt())
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.last_line.startswith("error: interrupted.")


@pytest.mark.parametrize("name", CALLS)
def test_wrong_usage_exits_with_2_and_says_so_last(name: str, medlip: Run) -> None:
    outcome = medlip(*name.split(), "--nonsense")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--nonsense" in outcome.last_line


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "store"), OSError(28, "No space left on device")]
)
def test_a_full_disk_or_a_closed_door_is_one_plain_line(error: OSError, call: Run) -> None:
    outcome = call("prepare", error)
    assert outcome.code == 1
    assert str(error) in outcome.last_line
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("name", "how"),
    [("pretrain", "--resume"), ("ablate", "same command"), ("demo", "same command"), ("prepare", "same command")],
)
def test_an_interruption_says_how_to_resume(name: str, how: str, call: Run) -> None:
    assert how in call(name, KeyboardInterrupt()).last_line


def test_what_is_warned_of_is_noted_once_and_exits_with_3(medlip: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def work(*_: object) -> dict[str, int]:
        for _ in range(2):
            warnings.warn("two things were skipped:\n  one\n  other", MedLIPWarning, stacklevel=1)
        return {"done": 1}

    monkeypatch.setattr("medlip.reports.bench.bench_facts", work)
    outcome = medlip("bench", "facts", "--json")
    assert (outcome.code, outcome.document) == (3, {"done": 1})
    assert outcome.err.splitlines() == ["note: two things were skipped:", "note:   one", "note:   other"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_training_saves_first_and_resumes(
    number: signal.Signals, code: int, phantom_store: Path, tiny_settings: tuple[str, ...], tmp_path: Path, medlip: Run
) -> None:
    out = tmp_path / "run"
    changes = [*tiny_settings, "training.epochs=300", "training.validation_images=0"]
    arguments = ["pretrain", "medslip-phantom", "--data", str(phantom_store), "--out", str(out), "--device", "cpu"]
    arguments += [part for setting in changes for part in ("--set", setting)]
    process = subprocess.Popen([sys.executable, "-m", "medlip", *arguments], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(number)
    assert process.stderr
    error = process.stderr.read().strip()
    assert process.wait() == code, error
    assert "--resume" in error.splitlines()[-1]
    assert (out / "checkpoint.safetensors").exists()
    assert "go on with --resume" in medlip("evaluate", out, "--data", phantom_store).last_line


@pytest.mark.parametrize("name", EVERYTHING)
def test_help_is_whole_at_80_columns(name: str, medlip: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = medlip(*name.split(), "--help")
    assert outcome.code == 0
    assert outcome.out == medlip(*name.split(), "-h").out
    lines = outcome.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    # Click shortens texts with "..."; in a usage line it stands for repetition.
    assert not [line for line in lines if "..." in line and not line.startswith("Usage:")]
    for command in getattr(EVERYTHING[name], "commands", {}).values():
        assert (command.short_help or command.help) in re.sub(r"\s+", " ", outcome.out)
    assert all(getattr(parameter, "help", None) for parameter in EVERYTHING[name].params)


STILTED = (
    r"unasked|\bgoes? on\b|\bgo on\b|\bwent on\b|phantoms|\bis no\b|\bare no\b|so many|\bworth\b|\bshow it\b|aloud|by itself"
)


@pytest.mark.parametrize("name", EVERYTHING)
def test_help_is_plain_english(name: str, medlip: Run) -> None:
    assert not re.findall(STILTED, medlip(*name.split(), "-h").out, re.IGNORECASE)


def test_one_option_means_one_thing_everywhere() -> None:
    def options(name: str) -> dict[str, str]:
        return {
            command: parameter.help
            for command, found in COMMANDS.items()
            for parameter in found.params
            if name in parameter.opts
        }

    for name in ("--data", "--set", "--device", "--json", "--plugin", "--vocabulary", "--list-protocols"):
        texts = options(name)
        assert len(texts) > 1
        assert len(set(texts.values())) == 1, texts
    assert set(options("--images")) == {"audit", "show", "bench store", "bench transport"}  # how many
    assert not options("--jobs") | options("--size")


def test_every_command_takes_json_and_plugins_and_whatever_computes_a_device() -> None:
    taking = {
        option: {name for name, command in COMMANDS.items() if any(option in parameter.opts for parameter in command.params)}
        for option in ("--json", "--plugin", "--device", "--precision")
    }
    assert taking["--json"] == taking["--plugin"] == COMMANDS.keys()
    computing = {
        "demo",
        "pretrain",
        "ablate",
        "evaluate",
        "retrieve",
        "transfer",
        "disentangle",
        "predict",
        "bench step",
        "bench supervised",
    }
    assert computing <= taking["--device"]
    assert computing - {"demo", "ablate"} <= taking["--precision"]  # these compute as their recipes say


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("prepare phantom:2 --out OUT --workers 0 --size 0", "--image-size"),
        ("ablate medslip-phantom --data phantom:9 --out OUT --grid a=1 --jobs 0", "--workers"),
        ("disentangle RUN --data phantom:9 --images 0", "--probe-images"),
    ],
)
def test_earlier_names_of_options_are_understood(old: str, new: str, medlip: Run) -> None:
    outcome = medlip(*old.split())
    assert outcome.code == 2
    assert new in outcome.last_line


@pytest.mark.parametrize(
    "file", ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_every_documented_command_exists_with_its_options(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^\s*medlip ([a-z][^#\n]*)|`medlip ([a-z][^`\n]*)`", text, re.MULTILINE):
        words = "".join(line).split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in EVERYTHING else words[0]
        known = {option for parameter in EVERYTHING[name].params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "medlip", "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: medlip ")
    assert "--install-completion" in done.stdout


def test_shells_are_offered_the_commands() -> None:
    asking = {"_MEDLIP_COMPLETE": "complete_bash", "COMP_WORDS": "medlip pre", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "medlip"]
    done = subprocess.run(command, env={**os.environ, **asking}, capture_output=True, text=True)
    assert {"prepare", "pretrain", "predict"} == set(done.stdout.split())


def test_help_and_import_load_nothing_heavy() -> None:
    code = "import sys, medlip, medlip.app.cli; print({'torch', 'pandas', 'matplotlib', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_version_is_that_of_the_package(medlip: Run) -> None:
    import medlip as package

    assert medlip("--version").out.strip() == package.__version__


def test_evaluate_prints_one_document_with_the_promised_keys(medlip: Run, tiny_run: Path, phantom_store: Path) -> None:
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--device", "cpu", "--json")
    assert outcome.code == 0
    document = outcome.document
    assert {"value", "interval", "chance"} <= document["zero_shot"]["macro_auroc"].keys()
    assert {"pointing_game", "iou", "per_class"} <= document["grounding"].keys()
    assert {"first_place", "side"} <= document["places"].keys()
    store = Store.open(phantom_store)
    assert document["split"] == "test"
    assert document["n_images"] == store.splits["test"]


def test_evaluate_takes_another_split_and_names_those_there_are(medlip: Run, tiny_run: Path, phantom_store: Path) -> None:
    assert medlip("evaluate", tiny_run, "--data", phantom_store, "--split", "val", "--json").document["split"] == "val"
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--split", "holdout")
    assert outcome.code == 1
    assert "'holdout'" in outcome.last_line
    assert "'test'" in outcome.last_line


def test_half_precision_gives_nearly_the_same_scores(medlip: Run, tiny_run: Path, xray: Path) -> None:
    full, half = (
        medlip("predict", tiny_run, xray, "--ask", "pneumonia", "--precision", precision, "--json").document[0]["asked"][0]
        for precision in ("fp32", "bf16")
    )
    assert full != half
    assert full["probability"] == pytest.approx(half["probability"], abs=0.05)


def test_phantoms_to_evaluate_on_are_never_those_to_train_on(phantom_store: Path) -> None:
    from medlip.app.input import evaluation_store

    trained_on = set(Store.open(phantom_store).select("train").column("patient"))
    with evaluation_store("phantom:20@3") as same_seed:
        assert not trained_on & set(same_seed.select("test").column("patient"))
        assert trained_on & set(same_seed.select("train").column("patient"))  # which `evaluate` doesn't take unless told to


def test_evaluate_names_and_counts_what_it_skips(medlip: Run, tiny_run: Path, openi_folder: Path) -> None:
    images = sorted(openi_folder.glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:200])
    outcome = medlip("evaluate", tiny_run, "--data", f"openi:{openi_folder}", "--json")
    assert outcome.code == 3
    assert outcome.document["n_images"] == len(images) - 1
    assert "note: 1 images or studies" in outcome.err
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


def test_missing_images_of_a_source_are_counted_and_noted(medlip: Run, openi_folder: Path) -> None:
    assert medlip("data", "check", f"openi:{openi_folder}").code == 0
    (openi_folder / "3.png").unlink()
    outcome = medlip("data", "check", f"openi:{openi_folder}", "--json")
    assert (outcome.code, outcome.document["missing"]) == (3, 1)
    assert "3.png" in outcome.err


def test_report_file_without_the_named_columns_is_an_error(medlip: Run, tmp_path: Path, openi_folder: Path) -> None:
    (openi_folder / "studies.csv").write_text("uid,picture\n1,0.png\n")
    outcome = medlip("pretrain", "medslip-phantom", "--data", f"openi:{openi_folder}", "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "'image'" in outcome.last_line
    assert "'picture'" in outcome.last_line


PRETRAIN = ("pretrain", "medslip-phantom", "--out", "OUT", "--data")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*PRETRAIN, "openi:EMPTY"), "folder is empty"),
        ((*PRETRAIN, "EMPTY"), "no manifest.json"),
        ((*PRETRAIN, "phantom:none"), "phantom:none"),
        (("pretrain", "no-such-recipe", "--data", "phantom:9", "--out", "OUT"), "no-such-recipe"),
        ((*PRETRAIN, "phantom:9", "--set", "training.epoch=1"), "Did you mean 'training.epochs'?"),
        ((*PRETRAIN, "phantom:9", "--set", "method.layer=1"), "method.layer"),
        ((*PRETRAIN, "phantom:9", "--set", "epochs"), "key=value"),
        ((*PRETRAIN, "phantom:9", "--plugin", "nowhere.py"), "nowhere.py"),
        (("evaluate", "EMPTY", "--data", "phantom:9"), "EMPTY"),
        (("evaluate", "nowhere", "--data", "phantom:9"), "nowhere"),
        (("predict", "EMPTY", "x.png"), "EMPTY"),
        (("prepare", "openi:EMPTY", "--out", "OUT"), "folder is empty"),
        (("demo", "--out", "FULL"), "FULL"),
        (("recipes", "show", "medslip-fantom"), "Did you mean 'medslip-phantom'?"),
    ],
)
def test_bad_input_is_one_plain_line(
    medlip: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
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
    assert not Path("OUT").exists()


def test_pretrain_resumes_and_never_overwrites(
    medlip: Run, tmp_path: Path, phantom_store: Path, tiny_settings: tuple[str, ...]
) -> None:
    command = ["pretrain", "medslip-phantom", "--data", phantom_store, "--out", tmp_path / "run", "--json"]
    command += [part for setting in tiny_settings for part in ("--set", setting)]
    command += ["--seed", "3", "--precision", "fp32"]
    first = medlip(*command)
    assert first.code == 0
    assert first.document["steps"] == Store.open(phantom_store).splits["train"] // 8
    training = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["training"]
    assert (training["seed"], training["precision"]) == (3, "fp32")
    again = medlip(*command)
    assert again.code == 1
    assert "--resume" in again.last_line
    assert medlip(*command, "--resume").document["steps"] == first.document["steps"]


def test_another_vocabulary_than_that_of_the_store_is_an_error(
    medlip: Run, tmp_path: Path, phantom_store: Path, tiny_settings: tuple[str, ...]
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


def test_an_ablation_says_which_runs_failed_and_fails_if_all_did(
    medlip: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from medlip.experiments.ablation import Ablation

    def ablate(runs: int) -> Callable[..., Ablation]:
        result = Ablation.model_validate(
            {
                "recipe": "medslip-phantom",
                "settings": [],
                "data": "",
                "split": "test",
                "rows": [{"variant": "default", "runs": runs, "measures": {}}],
                "failed": [{"run": "icl=off/seed-0", "reason": "the loss is not finite"}],
            }
        )
        return lambda *_, **__: result

    monkeypatch.setattr("medlip.app.input.training_store", lambda *_: None)
    for runs, code in ((1, 3), (0, 1)):
        monkeypatch.setattr("medlip.experiments.ablation.ablate", ablate(runs))
        outcome = medlip("ablate", "medslip-phantom", "--data", "phantom:9", "--out", tmp_path, "--grid", "a=1", "--json")
        assert outcome.code == code
        assert outcome.document["failed"]
        assert "icl=off/seed-0: the loss is not finite" in outcome.err


def test_recipes_are_listed_and_shown_whole(medlip: Run, tmp_path: Path) -> None:
    from medlip.training import load_recipe

    listed = medlip("recipes", "list", "--json").document
    assert listed["medslip-phantom"]["base"] == "medslip-openi-cpu"
    assert "medslip-phantom" in medlip("recipes", "list").out
    shown = medlip("recipes", "show", "medslip-phantom", "--set", "training.epochs=9")
    (tmp_path / "whole.yaml").write_text(shown.out)
    whole = load_recipe(str(tmp_path / "whole.yaml"))
    assert whole.training == load_recipe("medslip-phantom", ["training.epochs=9"]).training
    assert whole.method.items() >= load_recipe("medslip-phantom").method.items()
    document = medlip("recipes", "show", "medslip-phantom", "--set", "training.epochs=9", "--json").document
    assert document == whole.model_dump(mode="json")


def test_unexpected_error_gives_advice_and_the_traceback_only_on_demand(
    medlip: Run, monkeypatch: pytest.MonkeyPatch
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


def test_what_is_printed_on_the_way_leaves_the_document_alone(
    medlip: Run, tiny_run: Path, phantom_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medlip import evaluation

    evaluate = evaluation.evaluate

    def chatty(*arguments: Any, **settings: Any) -> Any:
        print("a library talks")
        return evaluate(*arguments, **settings).model_copy(update={"notes": ("beware",)})

    monkeypatch.setattr(evaluation, "evaluate", chatty)
    outcome = medlip("evaluate", tiny_run, "--data", phantom_store, "--json")
    assert (outcome.code, outcome.document["notes"]) == (0, ["beware"])
    assert "a library talks" in outcome.err
    assert "note: beware" in outcome.err


def test_what_is_not_a_number_is_null(medlip: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medlip.reports.bench.bench_facts", lambda *_: {"ratio": float("nan"), "path": Path("x")})
    assert medlip("bench", "facts", "--json").document == {"ratio": None, "path": "x"}
