"""The glossary speaks of what there is: each class that it names exists, once."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^- \*\*([^*]+)\*\*", GLOSSARY, re.MULTILINE)
CLASSES = Counter(
    node.name
    for path in (ROOT / "src" / "medlip").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
)


@pytest.mark.parametrize("name", re.findall(r"`([A-Z]\w+)`", GLOSSARY))
def test_a_class_of_the_glossary_exists(name: str) -> None:
    assert CLASSES[name]


def test_no_term_is_explained_twice() -> None:
    assert len(TERMS) > 40
    assert len(set(TERMS)) == len(TERMS)
