"""What is released is the wheel: built, installed elsewhere, and used from outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what it depends on is borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("elsewhere")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
    run(*pip, "--python", venv / "bin/python", "install", "--no-deps", next(folder.glob("*.whl")), cwd=folder)
    site_packages = next((venv / "lib").glob("python*/site-packages"))
    # A line of a .pth file only adds to sys.path: the .pth file of the editable install over there isn't followed.
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_is_what_is_imported(elsewhere: Path) -> None:
    where = run(elsewhere / "venv/bin/python", "-c", "import medlip; print(medlip.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(elsewhere)


def test_help_works_outside_the_checkout(elsewhere: Path) -> None:
    assert "pretrain" in run(elsewhere / "venv/bin/medlip", "--help", cwd=elsewhere)


def test_the_viewer_is_part_of_the_wheel(elsewhere: Path) -> None:
    code = "from importlib.resources import files; print((files('medlip.app') / 'viewer' / 'index.html').is_file())"
    assert run(elsewhere / "venv/bin/python", "-c", code, cwd=elsewhere).strip() == "True"


SMALLER = """
from dataclasses import replace
from medlip.app import cli, demo

demo.QUICK = replace(demo.QUICK, phantoms=60)
cli.main()
"""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("venv/bin/python", "-c", SMALLER), id="smaller"),
        pytest.param(("venv/bin/medlip",), id="whole", marks=pytest.mark.slow),
    ],
)
def test_the_quick_demo_works_outside_the_checkout(elsewhere: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    program, *arguments = command
    document = json.loads(run(elsewhere / program, *arguments, "demo", "--quick", "--out", "demo", "--json", cwd=tmp_path))
    assert json.loads((tmp_path / "demo/metrics.json").read_text())["zero_shot"] == document["zero_shot"]
    assert "<!doctype html>" in (tmp_path / "demo/report.html").read_text()
    assert (tmp_path / "demo/run/model.safetensors").exists()
