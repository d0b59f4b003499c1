"""Parts of other packages: found by entry points or loaded by name, and a broken one never takes the rest along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medlip.errors import MedLIPError, MedLIPWarning
from medlip.plugins import NAMED, entry_points, load_plugin

GROUP = "medlip.test-parts"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave neither modules nor settings behind."""
    monkeypatch.setenv(NAMED, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def install(folder: Path, name: str, source: str, entries: str) -> None:
    """Lay out a package as pip does."""
    (folder / f"{name}.py").write_text(source)
    about = folder / f"{name}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")


def test_what_installed_packages_offer_is_found(tmp_path: Path) -> None:
    install(tmp_path, "some_package", "PART = 'a part'", "part = some_package:PART")
    sys.path.append(str(tmp_path))
    assert list(entry_points(GROUP)) == ["a part"]
    assert list(entry_points("medlip.another-group")) == []


def test_a_broken_package_is_named_and_the_others_are_found(tmp_path: Path) -> None:
    install(tmp_path, "broken_package", "import no_such_module", "a = broken_package:PART")
    install(tmp_path, "some_package", "PART = 'a part'", "b = some_package:PART")
    sys.path.append(str(tmp_path))
    with pytest.warns(MedLIPWarning, match=r"'a' of broken_package 1\.2 .* No module named 'no_such_module'"):
        assert list(entry_points(GROUP)) == ["a part"]


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    file = tmp_path / "my_plugin.py"
    file.write_text("STARTED = object()")
    first = load_plugin(str(file))
    assert load_plugin(str(file)).STARTED is first.STARTED
    assert sys.modules["my_plugin"] is first


def test_a_module_is_loaded_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "parts.py").write_text("VALUE = 3")
    sys.path.append(str(tmp_path))
    assert load_plugin("own_package.parts").VALUE == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file"), ("1/0", "ZeroDivisionError"), ("def", "SyntaxError"), ("import nowhere", "nowhere")],
)
def test_what_can_not_be_loaded_by_name_is_an_error_that_names_it(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "my_plugin.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(MedLIPError, match=rf"my_plugin\.py: .*{says}"):
        load_plugin(str(file))
    assert "my_plugin" not in sys.modules


def test_an_unknown_module_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(MedLIPError, match=r"no\.such\.module.*\.py"):
        load_plugin("no.such.module")


def test_a_file_named_like_a_module_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    with pytest.raises(MedLIPError, match="another name"):
        load_plugin(str(tmp_path / "json.py"))


def test_processes_that_are_started_later_load_the_same_plugins(tmp_path: Path) -> None:
    file = tmp_path / "my_plugin.py"
    file.write_text("")
    load_plugin(str(file))
    code = f"import sys; from medlip.plugins import entry_points; list(entry_points('{GROUP}')); import my_plugin"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
