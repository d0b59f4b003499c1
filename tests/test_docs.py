"""What the documentation shows can be typed: its commands parse, and what its Python imports exists."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from medlip.app.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return every `medlip` command of a page's shell blocks, one line each."""
    found = []
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("", "sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                found += re.findall(r"(?:^|&&|;|\bdo)\s*medlip (.+?)(?= && |;|$)", line.partition("  #")[0])
    return found


def imports(page: Path) -> list[tuple[str, str]]:
    """Return what a page's Python blocks import from the package, as (module, name)."""
    code = "\n".join(block for language, block in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python")
    lines = re.findall(r"^\s*from (medlip[\w.]*) import ([\w, ]+)$", code, re.MULTILINE)
    return [(module, name.strip()) for module, names in lines for name in names.split(",")]


COMMANDS = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in commands(page)]
IMPORTS = [pytest.param(*found, id=f"{page.name}: {found[1]}") for page in PAGES for found in imports(page)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_documentation_parses(line: str) -> None:
    assert _unknown(line) is None


@pytest.mark.parametrize("line", ["evaluat RUN", "evaluate RUN --dta SOURCE", "bench steps", "evaluate --json"])
def test_a_command_that_does_not_exist_is_found_out(line: str) -> None:
    assert _unknown(line)


def _unknown(line: str) -> str | None:
    """Return what of a command's line there isn't: a command, an option, or an argument that it requires."""
    command: Any = get_command(app)
    words = shlex.split(re.sub(r"\s[<>|].*", "", line), comments=True)
    context = typer.Context(command)
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        if command is None:
            return f"command {name}"
        context = typer.Context(command, parent=context, info_name=name)
    try:
        given, extra, _ = command.make_parser(context).parse_args(words)
    except Exception as error:
        return str(error)
    missing = [parameter.name for parameter in command.params if parameter.required and given.get(parameter.name) is None]
    return ", ".join([*missing, *extra]) or None


@pytest.mark.parametrize(("module", "name"), IMPORTS)
def test_what_the_documentation_imports_exists(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


def test_pages_have_commands_and_imports() -> None:
    assert len(COMMANDS) > 30
    assert len(IMPORTS) > 5
