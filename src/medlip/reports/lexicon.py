"""The words of the extractor: `words/*.yaml`, compiled so that a sentence is turned into known phrases in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

TOKEN = re.compile(r"\w+(?:['’]\w+)?|[,;:/?=&]")
_MEANING = ""  # the key under which a branch of the tree holds what the phrase that ends there means
_FORGIVING = 7  # words shorter than this are read as they are spelled
_REMEMBERED = 100_000


@cache
def words(name: str) -> Any:
    """Return the content of `words/{name}.yaml`."""
    return yaml.safe_load((files("medlip.reports") / "words" / f"{name}.yaml").read_text(encoding="utf-8"))


class Item(NamedTuple):
    """A phrase of a sentence: what it is (`kind`), its entry in the lexicon, and its characters in the sentence."""

    kind: str
    value: Any
    start: int
    end: int


@dataclass
class Lexicon:
    """Phrases as a tree of words, and the spelling that each word of a report is read as.

    Attributes:
        silent: words that are left out before phrases are looked for ("not clearly seen").
    """

    silent: frozenset[str] = frozenset()
    _tree: dict[str, Any] = field(default_factory=dict)
    _spelling: dict[str, str] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _near: dict[str, str] = field(default_factory=dict)

    def add(self, phrases: Iterable[str], kind: str, value: Any = None) -> None:
        """Add phrases of one meaning; one that is there already keeps its meaning."""
        for phrase in phrases:
            branch = self._tree
            for token in TOKEN.findall(phrase.lower()):
                word = singular(token)
                self._known.add(word)
                branch = branch.setdefault(word, {})
            branch.setdefault(_MEANING, (kind, value))

    def finish(self) -> Lexicon:
        """Learn which misspellings to forgive; call once, after the last `add`."""
        for word in sorted(self._known):
            if len(word) >= _FORGIVING:
                for near in (word, *_without_a_letter(word)):
                    self._near.setdefault(near, word)
        self._known |= set(words("spelling")["other"])
        self._spelling |= words("spelling")["irregular"]
        return self

    def items(self, sentence: str) -> list[Item]:
        """Read a sentence as phrases, the longest at each place.

        An unknown word becomes an item of kind "", a sign (",", "/") an item of its own kind.
        """
        remembered, silent, phrases_from = self._spelling.get, self.silent, self._tree.get
        spelled: list[str] = []
        spans: list[tuple[int, int]] = []
        for match in TOKEN.finditer(sentence):
            token = match[0]
            word = remembered(token) or self.spell(token)
            if word not in silent:
                spelled.append(word)
                spans.append(match.span())
        found: list[Item] = []
        i, count = 0, len(spelled)
        while i < count:
            word = spelled[i]
            branch = phrases_from(word)
            if branch is None:
                found.append(Item("" if word.isalnum() else word, word, *spans[i]))
                i += 1
                continue
            meaning, last, j = ("", word), i, i
            while branch is not None:
                if _MEANING in branch:
                    meaning, last = branch[_MEANING], j
                j += 1
                branch = branch.get(spelled[j]) if j < count else None
            kind, value = meaning
            found.append(Item(kind, word if value is None else value, spans[i][0], spans[last][1]))
            i = last + 1
        return found

    def spell(self, word: str) -> str:
        """Return the singular, lower-case form of `word`; one wrong letter is forgiven where it is long."""
        if word[0].isdigit():
            return word  # there is no end of numbers to remember
        spelled = self._spelling.get(word)
        if spelled is None:
            lower = "xxxx" if word[0] == "_" else word.lower()  # one sign for every mask
            spelled = self._spelling.get(lower) or self._forgive(singular(lower))
            if len(self._spelling) < _REMEMBERED:
                self._spelling[word] = spelled
        return spelled

    def _forgive(self, word: str) -> str:
        if len(word) < _FORGIVING or len(word) > 30 or word in self._known or not word.isalpha():
            return word
        for near in (word, *_without_a_letter(word)):
            known = self._near.get(near)
            if known and abs(len(known) - len(word)) <= 1 and known[0] == word[0] and _one_edit(word, known):
                return known
        return word


@lru_cache(maxsize=65_536)
def singular(word: str) -> str:
    """Return a lower-case word without its plural ending ("opacities": "opacity", "masses": "mass")."""
    irregular: Mapping[str, str] = words("spelling")["irregular"]
    if word in irregular:
        return irregular[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1]


def _without_a_letter(word: str) -> Iterator[str]:
    return (word[:i] + word[i + 1 :] for i in range(1, len(word)))


def _one_edit(a: str, b: str) -> bool:
    """Tell whether one insertion, deletion, substitution or swap of neighbours turns `a` into `b`."""
    if len(a) > len(b):
        a, b = b, a
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        return a[i:] == b[i + 1 :]
    return a[i + 1 :] == b[i + 1 :] or (a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :])
