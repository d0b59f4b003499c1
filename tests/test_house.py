"""The order of the house: floors import downwards, nothing is tied to one machine, and `--help` stays light."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "medlip"
FLOORS = (
    "concepts", "reports", "images", "data", "phantom", "nn", "losses", "methods", "metrics", "training", "evaluation",
    "experiments", "app",
)  # fmt: skip
FACE = "the package itself"  # medlip/__init__.py: it may offer what any floor holds, and no floor leans on it
BASE = (
    "about", "errors", "files", "plugins", "delimited", "ray_engine", "parallel", "tables", "memory", "imports",
    "settings",
)  # fmt: skip
HEIGHT = {name: height for height, name in enumerate((*BASE, *FLOORS, FACE, "__main__"))}
HEAVY = ("torch", "pandas", "transformers", "matplotlib")

MACHINE_PATH = re.compile(r"(?<![\w.~$})>/-])/(?:work|tmp|root|home|Users)/")
REGISTRY = re.compile(r"index[-_]url|trusted[-_]host|pythonhosted|pypi\.org|/simple/|artifactory|\bnexus\b", re.IGNORECASE)


def _floor(module: str) -> str:
    """Name the floor of a dotted module: medlip.nn.text -> nn."""
    _, _, inner = module.partition(".")
    return inner.split(".")[0] or FACE


def _imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of all that a module imports, at its top, inside functions, or for type checking."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _upward(source: str, module: str, is_package: bool = False) -> list[str]:
    """List the imports of a module that lead to a higher floor, or to none."""
    own = _floor(module)
    return [
        f"{module}:{line}: {own} imports {name}"
        for line, name in _imports(source, module, is_package)
        if name.split(".")[0] == "medlip" and name != "medlip.__version__"
        if HEIGHT.get(_floor(name), len(HEIGHT)) > HEIGHT[own]
    ]


@cache
def _modules() -> dict[str, Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in paths
    }


def test_every_module_stands_on_a_floor() -> None:
    modules = _modules()
    assert set(FLOORS) <= {_floor(module) for module in modules}
    assert {_floor(module) for module in modules} <= set(HEIGHT)


def test_a_floor_imports_only_floors_below_it() -> None:
    upward = [
        line
        for module, path in _modules().items()
        for line in _upward(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert upward == []


@pytest.mark.parametrize(
    "line",
    [
        "from medlip.methods import MeDSLIP",
        "import medlip.app.cli",
        "from medlip import training",
        "from medlip import load",
        "import medlip",
        "from ..evaluation import metrics",
        "from .. import app",
        "def late():\n    from medlip.app.reader import Reader",
        "if TYPE_CHECKING:\n    from medlip.training import fit",
    ],
)
def test_no_way_of_importing_a_higher_floor_goes_unseen(line: str) -> None:
    assert len(_upward(line, "medlip.nn.text")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "from medlip import __version__",
        "from medlip.errors import MedLIPError",
        "from medlip.parallel import track",
        "from medlip.concepts import Vocabulary",
        "from .blocks import head",
        "from . import blocks",
    ],
)
def test_lower_floors_and_the_own_one_may_be_imported(line: str) -> None:
    assert _upward(line, "medlip.nn.text") == []
    assert _upward(line, "medlip.nn", is_package=True) == []


METHODS = {"medlip.methods", "medlip.methods.base"}  # what floors above may import; the rest is the methods' own


def _defined(node: ast.ClassDef) -> set[str]:
    """Names of what a class defines: methods and attributes, also those that it sets on itself."""
    names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for item in node.body:
        targets = [item.target] if isinstance(item, ast.AnnAssign) else item.targets if isinstance(item, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store) and ast.unparse(item.value) == "self":
            names.add(item.attr)
    return {name for name in names if not name.startswith("_")}


def _classes(modules: Mapping[str, Path]) -> Iterator[tuple[str, ast.ClassDef]]:
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield module, node


@cache
def _methods_own() -> tuple[set[str], set[str]]:
    """Return the names of the methods' own classes, and of what methods have beyond what `base` declares of them."""
    modules = _modules()
    declared = {name for _, node in _classes({"base": modules["medlip.methods.base"]}) for name in _defined(node)}
    own = [(module, node) for module, node in _classes(modules) if _floor(module) == "methods" and module not in METHODS]
    attributes = {name for _, node in own if not node.name.endswith(("Config", "Output")) for name in _defined(node)}
    return {node.name for _, node in own}, attributes - declared - {"forward", "train"}


def _names_a_method(source: str, module: str, is_package: bool = False) -> list[str]:
    """List where a floor above the methods imports one, names its class, or asks a `method` for what only some have."""
    classes, attributes = _methods_own()
    found = [
        f"{module}:{line}: imports {name}"
        for line, name in _imports(source, module, is_package)
        if f"{name}.".startswith("medlip.methods.") and not _is_seam(name, classes)
    ]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Name | ast.alias)
            and (name := node.id if isinstance(node, ast.Name) else node.name) in classes
        ):
            found.append(f"{module}:{node.lineno}: names {name}")
        elif isinstance(node, ast.Attribute) and node.attr in attributes and _is_method(node.value):
            found.append(f"{module}:{node.lineno}: asks a method for {node.attr}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and _is_method(node.args[0]):
            asked = ast.unparse(node.args[1]).strip("'")
            if asked in attributes or asked in ("score_anatomies", "streams", "match", "hide_and_predict"):
                found.append(f"{module}:{node.lineno}: asks a method for {asked}")
    return found


def _is_seam(name: str, classes: set[str]) -> bool:
    """Whether a dotted name is the seam, or something in it that is no method: medlip.methods.base.Method."""
    module, _, last = name.rpartition(".")
    return name in METHODS or (module in METHODS and last not in classes and f"{module}.{last}" not in _modules())


def _is_method(node: ast.expr) -> bool:
    return ast.unparse(node).split(".")[-1].lstrip("_") in ("method", "model")


def test_no_floor_above_the_methods_names_one() -> None:
    above = {name for name, height in HEIGHT.items() if height > HEIGHT["methods"]} - {FACE}
    found = [
        line
        for module, path in _modules().items()
        if _floor(module) in above
        for line in _names_a_method(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "from medlip.methods.medslip import STREAMS",
        "from medlip.methods import MLIP",
        "from medlip.methods.mlip import MLIPConfig as Config",
        "import medlip.methods.gloria",
        "isinstance(method, MedKLIP)",
        "self.method.disentangler(features)",
        "getattr(method, 'decoder', None)",
        "hasattr(self._method, 'score_anatomies')",
    ],
)
def test_no_way_of_naming_a_method_goes_unseen(line: str) -> None:
    assert _names_a_method(line, "medlip.app.reader")


@pytest.mark.parametrize(
    "line",
    [
        "from medlip.methods import Method, load_method",
        "from medlip.methods.base import TellsPlaces, pair_matrix",
        "isinstance(method, TellsPlaces) and method.score_anatomies(images, prompts)",
        "method.encoder, method.vocabulary, method.seen",
    ],
)
def test_what_every_method_has_may_be_named(line: str) -> None:
    assert _names_a_method(line, "medlip.app.reader") == []


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for module, node in _classes(_modules()):
        if not node.name.startswith("_"):
            places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def _tracked_text() -> Iterator[tuple[str, int, str]]:
    """Yield path, line number and line of every text file that the repository holds."""
    git = shutil.which("git")
    listed = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    if not listed:
        pytest.skip("needs git and a checkout to know which files belong to the repository")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image or other binary
        yield from ((name, number, line) for number, line in enumerate(lines, 1))


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["path", "registry"])
def test_nothing_in_the_repository_is_tied_to_one_machine(pattern: re.Pattern[str]) -> None:
    found = [f"{name}:{number}: {line.strip()[:120]}" for name, number, line in _tracked_text() if pattern.search(line)]
    assert found == []


def test_machine_paths_are_told_from_relative_ones() -> None:
    assert all(MACHINE_PATH.search(text) for text in ('"/tmp/x"', "cd /work/main", "(/home/me/run)", "file:/root/a"))
    assert not any(MACHINE_PATH.search(text) for text in ("../work/x", "runs/tmp/x", "https://host.org/home/x", "RUN/root/"))


PLAIN_LOADERS = {"yaml.BaseLoader", "_Loader"}  # the latter that of recipes


def _unsafe_loads(source: str) -> list[int]:
    """List the lines that may run what a file says: unpickled content, YAML with objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, settings = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = (
                (name.endswith("torch.load") and settings.get("weights_only") != "True")
                or (name.endswith("np.load") and settings.get("allow_pickle", "False") != "False")
                or (name == "yaml.load" and not ({*map(ast.unparse, node.args), *settings.values()} & PLAIN_LOADERS))
            )
            if unsafe or name.startswith("pickle.load") or name == "yaml.unsafe_load":
                found.append(node.lineno)
    return found


def test_nothing_is_loaded_that_could_run_code() -> None:
    found = {module: _unsafe_loads(path.read_text(encoding="utf-8")) for module, path in _modules().items()}
    assert {module: lines for module, lines in found.items() if lines} == {}
    for line in (
        "torch.load(path)",
        "pickle.loads(content)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ):
        assert _unsafe_loads(line)


def _loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the top-level packages that it imported."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr.split())


HELP = """
import sys
from medlip.app.cli import main
sys.argv = ["medlip", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def test_dictionaries_of_anything_stay_rare() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{n}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "dict[str, Any]" in line
    ]
    assert len(found) <= 40, f"type what is new (a dataclass, a TypedDict, dict[str, object]): {found}"


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_by(HELP)
    assert "medlip" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_words_and_facts_need_neither_torch_nor_pandas() -> None:
    loaded = _loaded_by(
        "import medlip, medlip.parallel, medlip.reports\nfrom medlip.concepts import *\ndefault_vocabulary()"
    )
    assert "yaml" in loaded
    assert loaded.isdisjoint(HEAVY)


COMPILER = """
import sys
import medlip.app.reader
from medlip.imports import without_compiler
with without_compiler():
    from torch._dynamo import disable
    from torch._dynamo.utils import is_compile_supported
assert "torch._dynamo" not in sys.modules and "torchvision" in sys.modules
assert disable(len)("four") == 4 and is_compile_supported("meta") is False
assert "torch._dynamo.convert_frame" in sys.modules
"""


@pytest.mark.processes
def test_a_reading_needs_no_compiler_and_whoever_calls_it_gets_it() -> None:
    assert "timm" in _loaded_by(COMPILER)


def test_citation_and_package_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
