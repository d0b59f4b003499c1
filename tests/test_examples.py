"""The examples of other packages work through the command line: installed, and as a file loaded by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all examples as pip installs them."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    packages = [str(EXAMPLES / name) for name in ("own_method", "own_data", "own_measure")]
    subprocess.run([*pip, "--target", str(folder), *packages], check=True, capture_output=True)
    return folder


@pytest.fixture(params=["entry point", "--plugin"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run medlip in a process of its own, with an example by its entry point or as a file; return its JSON document."""

    def medlip(example: str, *arguments: object) -> Any:
        command = [sys.executable, "-m", "medlip", *map(str, arguments), "--json"]
        environment = dict(os.environ)
        if request.param == "--plugin":
            command += ["--plugin", str(EXAMPLES / example / f"{example}.py")]
        else:
            folder = str(request.getfixturevalue("installed"))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, environment.get("PYTHONPATH")]))
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return medlip


@pytest.mark.parametrize("run", ["entry point"], indirect=True)
def test_a_method_of_another_package_is_trained_evaluated_and_predicts(
    run: Callable[..., Any], phantom_store: Path, xray: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = ("--set", "training.epochs=1", "--set", "training.batch_size=8", "--set", "method.width=16")
    summary = run("own_method", "pretrain", "focal-phantom", "--data", phantom_store, "--out", out, *settings)
    assert summary["steps"] > 0
    result = run("own_method", "evaluate", out, "--data", phantom_store)
    areas = [row["auroc"]["value"] for row in result["zero_shot"]["per_class"].values()]
    assert all(0 <= area <= 1 for area in areas if area is not None)
    assert any(area is not None for area in areas)  # in so few images no class has enough positives for the mean
    assert 0 <= result["grounding"]["pointing_game"]["value"] <= 1
    (reading,) = run("own_method", "predict", out, xray, "--ask", "pneumonia", "--out", tmp_path / "maps")
    assert 0 <= reading["asked"][0]["probability"] <= 1
    assert all(Path(file).exists() for file in reading["overlays"].values())
    assert not reading["findings"][0]["anatomies"]


def test_a_data_set_of_another_package_is_checked_and_prepared(run: Callable[..., Any], xray: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clinic"
    folder.mkdir()
    lines = ["image,patient,report,pneumonia"]
    for number, label in enumerate(("1", "0", "")):
        (folder / f"{number}.png").write_bytes(xray.read_bytes())
        lines.append(f"{number}.png,{number},FINDINGS: Small left effusion.,{label}")
    (folder / "studies.csv").write_text("\n".join(lines))
    assert run("own_data", "data", "check", f"clinic:{folder}")["studies"] == 3
    prepared = run("own_data", "prepare", f"clinic:{folder}", "--out", tmp_path / "store")  # in worker processes
    assert (prepared["images"], prepared["skipped"]) == (3, 0)
    assert prepared["counts"]["facts"] == 3


@pytest.mark.parametrize("run", ["--plugin"], indirect=True)
def test_a_measure_of_another_package_is_in_results_tables_and_comparisons(
    run: Callable[..., Any], tiny_run: Path, phantom_store: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        result = run("own_measure", "evaluate", tiny_run, "--data", phantom_store, "--out", tmp_path / name)
        assert 0 < result["grounding"]["energy_inside"]["value"] < 1
    comparison = run("own_measure", "compare", tmp_path / "a", tmp_path / "b")
    assert "energy_inside" in json.dumps(comparison["differences"])


def test_maps_of_runs_are_drawn_side_by_side(phantom_store: Path, tiny_run: Path, tmp_path: Path) -> None:
    sheet = [sys.executable, str(EXAMPLES / "map_sheet" / "map_sheet.py"), str(phantom_store), str(tmp_path / "sheet.png")]
    done = subprocess.run([*sheet, str(tiny_run), str(tiny_run), "--finding", "effusion"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert drawn.shape[1] > 2 * drawn.shape[0] and drawn.std() > 10  # six pictures in a row
    failed = subprocess.run([*sheet, str(tiny_run), "--finding", "nonsense"], capture_output=True, text=True)
    assert failed.returncode == 1 and "no validation image has a mask of nonsense" in failed.stderr


def test_figures_of_a_training_reach_a_logger_and_a_broken_one_is_left_out(
    phantom_store: Path, tiny_settings: tuple[str, ...], tmp_path: Path
) -> None:
    plugin = tmp_path / "my_loggers.py"
    plugin.write_text(
        f"""
from medlip.training.callbacks import register_logger

class Mine:
    def log(self, step, values):
        with open({str(tmp_path / "logged.txt")!r}, "a") as file:
            print(step, sorted(values), file=file)

class Broken:
    def log(self, step, values):
        raise ConnectionError("no network")

register_logger(Broken())
register_logger(Mine())
"""
    )
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "medlip", "pretrain", "medslip-phantom", "--data", str(phantom_store), *settings]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--plugin", str(plugin)], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.count("the logger Broken failed at step") == 1
    logged = (tmp_path / "logged.txt").read_text().splitlines()
    assert len(logged) == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert "'loss'" in logged[0]
