"""Training: recipes, the one loop, checkpoints."""

from medlip.training.fit import fit
from medlip.training.load import load_run, save_run
from medlip.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "fit", "load_recipe", "load_run", "save_run"]
