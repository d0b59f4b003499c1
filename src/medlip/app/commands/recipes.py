"""`medlip recipes`: which recipes there are, and what is in them."""

from __future__ import annotations

from medlip.app.answer import Answer, warn_skipped
from medlip.app.options import Changes, RecipeName
from medlip.errors import MedLIPError


def list_recipes() -> Answer:
    """List the recipes of MedLIP and of plugins."""
    from medlip.training.recipe import about_recipe, base_of, load_recipe, recipe_files

    document, broken = {}, []
    for name, file in recipe_files().items():
        try:
            method = str(load_recipe(name).method.get("name"))
        except MedLIPError as error:
            broken.append(str(error))
            continue
        document[name] = {"about": about_recipe(file), "method": method, "base": base_of(file), "file": str(file)}
    warn_skipped("recipes can't be read and were", broken)
    width = max(map(len, document))
    return Answer(document, "\n".join(f"{name.ljust(width)}  {entry['about']}" for name, entry in document.items()))


def show(recipe: RecipeName, changes: Changes = None) -> Answer:
    """Show every setting of a recipe, with its base and defaults filled in.

    What is printed is a complete recipe: save it to a YAML file to build on it.
    """
    import yaml

    from medlip.methods.base import method_config
    from medlip.training import load_recipe

    settings = load_recipe(recipe, changes or ())
    method = {"name": settings.method.get("name"), **method_config(settings.method).model_dump(mode="json")}
    document = {**settings.model_dump(mode="json"), "method": method}
    return Answer(document, yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100).rstrip())
