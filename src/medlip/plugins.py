"""Parts from other packages: methods, sources, measures, loggers, recipes.

A package offers parts under the entry-point groups `medlip.methods`, `medlip.sources`, `medlip.measures`, `medlip.loggers`
and `medlip.recipes`; a module or file that isn't installed is loaded by name. A registry asks `entry_points` for its group
when it is first needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from warnings import warn

from medlip.errors import MedLIPError, MedLIPWarning

NAMED = "MEDLIP_PLUGINS"  # environment variable: plugins loaded by name, which processes started from here load as well


def load_plugin(name: str) -> ModuleType:
    """Import a module that registers its parts: "package.module", or the path of a file that ends in ".py".

    Raises:
        MedLIPError: there is no such module or file, or it can't be imported.
    """
    name = str(Path(name).expanduser().resolve()) if name.endswith(".py") else name
    try:
        module = _load_file(Path(name)) if name.endswith(".py") else import_module(name)
    except MedLIPError:
        raise
    except Exception as error:
        raise MedLIPError(
            f"plugin {name}: {type(error).__name__}: {error}. Give an installed module, or a file that ends in .py."
        ) from error
    if name not in (named := _named()):
        os.environ[NAMED] = os.pathsep.join([*named, name])
    return module


def offers(group: str) -> list[metadata.EntryPoint]:
    """Return what installed packages offer under a group, not yet imported, by name.

    The plugins that were loaded by name are imported first.
    """
    for name in _named():
        load_plugin(name)
    return sorted(metadata.entry_points(group=group), key=lambda point: point.name)


def entry_points(group: str) -> Iterator[object]:
    """Yield what installed packages offer under a group, imported.

    Whatever can't be loaded is left out with a `MedLIPWarning` that names its package.
    """
    for point in offers(group):
        try:
            part = point.load()
        except Exception as error:
            package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
            warn(
                f"{point.name!r} of {package} ({group}) can't be loaded and is left out: {type(error).__name__}: {error}. "
                "Update or uninstall that package.",
                MedLIPWarning,
                stacklevel=2,
            )
            continue
        yield part


def _named() -> list[str]:
    return [name for name in os.environ.get(NAMED, "").split(os.pathsep) if name]


def _load_file(path: Path) -> ModuleType:
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if Path(loaded.__file__ or "").resolve() == path:
            return loaded
        raise MedLIPError(f"plugin {path}: a module {path.stem!r} is loaded already. Give the file another name.")
    if not path.is_file():
        raise MedLIPError(f"plugin {path}: there is no such file.")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    sys.path.append(str(path.parent))  # where worker processes find what this module defines
    return module
