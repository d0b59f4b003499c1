"""The examples in the losses' docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pkgutil import iter_modules

import pytest

from medlip import losses

MODULES = sorted(module.name for module in iter_modules(losses.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(import_module(f"medlip.losses.{name}")).failed == 0


def test_every_loss_has_an_example() -> None:
    lacking = [name for name in losses.__all__ if ">>>" not in (getattr(losses, name).__doc__ or "")]
    assert lacking == ["draw_negatives", "draw_positive", "existence_labels"]
