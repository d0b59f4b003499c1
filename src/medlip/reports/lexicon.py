"""The words of the extractor: `words/*.yaml`, compiled so that a sentence is turned into known phrases in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from itertools import accumulate, product
from typing import Any, NamedTuple

import yaml

_WORDS_AND_SIGNS = r"\w+(?:['’]\w+)?|[,;:/?=&<>+]|(?<=\s)-{1,2}(?=\s)"
TOKEN = re.compile(  # a group, so that `split` returns the words with what stands between them
    r"(\d+(?:\.\d+)?\s?(?:[cC][mM]|[mM][mM])\b"  # a measure is one word: its "CM" is no heart
    r"|\b(?:[A-Za-z]/[A-Za-z]{1,2}|[Ww]/|2/2)(?![\w/])|\b[Cc]a\+{1,2}"  # w/o, r/o, L/R, w/, "edema 2/2 CHF", Ca++
    rf"|{_WORDS_AND_SIGNS})"
)
_PLAIN_TOKEN = re.compile(f"({_WORDS_AND_SIGNS})")
_SIGNS = {"-": "dash", "--": "dash", ">": "compares", "<": "compares", "&": "both", "+": "both"}
_NUMBER = "0"  # every number is read as this one
_UNKNOWN = ("", None)  # a word that only begins a phrase
_MEANING = ""  # the key under which a branch of the tree holds what the phrase that ends there means
_SHORT, _FORGIVING, _VERY_LONG = 5, 7, 10  # letters from which on swapped, one wrong and two wrong letters are forgiven
_REMEMBERED = 100_000


@cache
def words(name: str) -> Any:
    """Return the content of `words/{name}.yaml`."""
    return yaml.safe_load((files("medlip.reports") / "words" / f"{name}.yaml").read_text(encoding="utf-8"))


class Item(NamedTuple):
    """A phrase of a sentence: what it is (`kind`), its entry in the lexicon, and the words from `start` to before `end`."""

    kind: str
    value: Any
    start: int
    end: int


class Words(NamedTuple):
    """The words of a sentence as they are read (`spelled`), and where each starts and ends in it, in turn.

    It is kept flat, since thousands of sentences are remembered.
    """

    spelled: tuple[str, ...]
    bounds: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters from word `start` to before word `end`."""
        return self.bounds[2 * start], self.bounds[2 * end - 1]


@dataclass
class Lexicon:
    """Phrases as a tree of words, and the spelling that each word of a report is read as.

    Attributes:
        silent: words that are left out before phrases are looked for ("not clearly seen").
    """

    silent: frozenset[str] = frozenset()
    _tree: dict[str, Any] = field(default_factory=dict)
    _spelling: dict[str, str] = field(default_factory=lambda: _usual_spelling())
    _aliases: dict[str, str] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _near: dict[str, str] = field(default_factory=dict)
    _long: tuple[str, ...] = ()

    def add(self, phrases: Iterable[str], kind: str, value: Any = None) -> None:
        """Add phrases of one meaning (`variants` of each); one that is there already keeps its meaning."""
        for phrase in phrases:
            for spelled in variants(phrase.lower()):
                self._branch([singular(token) for token in TOKEN.findall(spelled)]).setdefault(_MEANING, (kind, value))

    def put(self, phrases: Iterable[str], kind: str, value: Any = None) -> None:
        """Add phrases of one meaning, in place of what they mean; an abbreviation that is one of them is no longer one.

        A phrase with a silent word is what it is without that word, and takes no meaning from it.
        """
        for phrase in phrases:
            for said in variants(phrase.lower()):
                self.unabbreviate(said)
                spelled = self.spelled(said)
                heard = [word for word in spelled if word not in self.silent]
                if heard and heard == spelled:
                    self._branch(heard)[_MEANING] = kind, value
                elif heard:
                    self._branch(heard).setdefault(_MEANING, (kind, value))

    def respell(self, spelling: Mapping[str, str]) -> None:
        """Read words as others, in place of what they were read as; a key in lower case stands for all its capitals, too."""
        for short, word in spelling.items():
            self.unabbreviate(short)
            spelled = singular(word.lower())
            self._spelling[short] = self._aliases.get(spelled, spelled)

    def unabbreviate(self, word: str) -> None:
        """Read a word as it stands; one in lower case whatever its capitals."""
        for short in words("spelling")["shortened"]:
            if word in (short, short.lower()):
                self._spelling.pop(short, None)

    def alias(self, word: str, known: str) -> None:
        """Read a word of which nothing is known as another one, in all phrases that this stands in."""
        if word not in self._known and TOKEN.findall(word) == [word]:
            self.unabbreviate(word)
            self._aliases[singular(word)] = known
            self._known.add(singular(word))

    def spelled(self, phrase: str) -> list[str]:
        """Return the words of a phrase as they are read in a report, but for misspelt ones."""
        read = (self._spelling.get(token) or singular(token) for token in TOKEN.findall(phrase))
        return [self._aliases.get(word, word) for word in read]

    def _branch(self, spelled: Sequence[str]) -> dict[str, Any]:
        """Return where the tree holds what comes of these words, grown there if need be."""
        branch = self._tree
        self._known.update(spelled)
        for word in spelled:
            branch = branch.setdefault(word, {})
        return branch

    def finish(self) -> Lexicon:
        """Learn which misspellings to forgive; call once, after the last `add`."""
        for word in sorted(self._known):
            if len(word) >= _FORGIVING:
                for near in (word, *_without_a_letter(word)):
                    self._near.setdefault(near, word)
        self._long = tuple(word for word in sorted(self._known) if len(word) >= _VERY_LONG - 1)
        self._known |= set(words("spelling")["other"])
        return self

    def words(self, sentence: str) -> Words:
        """Divide a sentence into words and signs, each spelled as the lexicon spells it; silent words are left out."""
        remembered, spell = self._spelling.get, self.spell
        parts = (TOKEN if _needs_care(sentence) else _PLAIN_TOKEN).split(sentence)  # in turn: what is between words, a word
        spelled = [remembered(word) or spell(word) for word in parts[1::2]]
        bounds = tuple(accumulate(map(len, parts)))
        if not self.silent.isdisjoint(spelled):
            heard = [i for i, word in enumerate(spelled) if word not in self.silent]
            spelled = [spelled[i] for i in heard]
            bounds = tuple(bounds[k] for i in heard for k in (2 * i, 2 * i + 1))
        return Words(tuple(spelled), bounds)

    def items(self, spelled: Sequence[str]) -> list[Item]:
        """Read the words of a sentence as phrases, the longest at each place.

        An unknown word becomes an item of kind "", a sign (",", "/") an item of its own kind.
        """
        phrases_from = self._tree.get
        found: list[Item] = []
        i, count = 0, len(spelled)
        while i < count:
            word = spelled[i]
            branch = phrases_from(word)
            if branch is None:
                found.append(Item(_SIGNS.get(word, "" if word[0].isalnum() else word), word, i, i + 1))
                i += 1
                continue
            (kind, value), last = branch.get(_MEANING, _UNKNOWN), i
            j = i + 1
            while j < count and (branch := branch.get(spelled[j])) is not None:
                if _MEANING in branch:
                    (kind, value), last = branch[_MEANING], j
                j += 1
            found.append(Item(kind, word if value is None else value, i, last + 1))
            i = last + 1
        return found

    def knows(self, word: str) -> bool:
        """Tell whether a lower-case word is one of the lexicon, as it is or misspelt."""
        return self.spell(word) in self._known

    def spell(self, word: str) -> str:
        """Return the singular, lower-case form of `word`; one wrong letter is forgiven where it is long.

        A number that belongs to no phrase is any number.
        """
        if word[0].isdigit():
            return word if word in self._known else _NUMBER  # there is no end of numbers to remember
        spelled = self._spelling.get(word)
        if spelled is None:
            lower = "xxxx" if word[0] == "_" else word.lower()  # one sign for every mask
            spelled = self._spelling.get(lower) or self._forgive(singular(lower))
            spelled = self._aliases.get(spelled, spelled)
            if len(self._spelling) < _REMEMBERED:
                self._spelling[word] = spelled
        return spelled

    def _forgive(self, word: str) -> str:
        """Return the word of the lexicon that `word` was meant to be, or `word` itself.

        One wrong letter is forgiven in a long word, two in a very long one, two swapped ones in a short one.
        """
        if not _SHORT <= len(word) <= 30 or word in self._known or not word.isalpha():
            return word
        if len(word) < _FORGIVING:
            swaps = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
            return word if word in _ordinary() else next((swap for swap in swaps if swap in self._known), word)
        for near in (word, *_without_a_letter(word)):
            known = self._near.get(near)
            if known and abs(len(known) - len(word)) <= 1 and known[0] == word[0] and _one_edit(word, known):
                return known
        if len(word) >= _VERY_LONG and word not in _ordinary():
            return next((known for known in self._long if known[:2] == word[:2] and edits(known, word, 2)), word)
        return word


@cache
def lemmas() -> Mapping[str, str]:
    """Return the lemma of each word of `words/lemmas.tsv`, the words that English reports are written in."""
    table = (files("medlip.reports") / "words" / "lemmas.tsv").read_text(encoding="utf-8")
    return {pair[0]: pair[-1] for pair in (line.split("\t") for line in table.splitlines())}


def _usual_spelling() -> dict[str, str]:
    spelling: Mapping[str, dict[str, str]] = words("spelling")
    return spelling["irregular"] | spelling["shortened"]


@cache
def _ordinary() -> frozenset[str]:
    """Return words that reports use in their own right, so that they are no misspelling of another."""
    return frozenset(lemmas()) - frozenset(words("spelling")["shortened"])


def variants(phrase: str) -> Iterator[str]:
    """Yield the phrases that "not seen|noted on ~|the prior" stands for: each choice of a word, "~" for none."""
    for choice in product(*(word.split("|") for word in phrase.split(" "))):
        yield " ".join(word for word in choice if word != "~")


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


def _needs_care(sentence: str) -> bool:
    return "/" in sentence or "+" in sentence or "CM" in sentence


@lru_cache(maxsize=65_536)
def edits(a: str, b: str, most: int) -> bool:
    """Tell whether `most` insertions, deletions, substitutions or swaps of neighbours, or fewer, turn `a` into `b`."""
    if a == b:
        return True
    if not most or abs(len(a) - len(b)) > most:
        return False
    if most == 1:
        return _one_edit(a, b)
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[i:], b[i:]
    steps = [(a[1:], b), (a, b[1:]), (a[1:], b[1:])]
    if a[:2] == b[:2][::-1] and len(a) > 1:
        steps.append((a[2:], b[2:]))
    return any(edits(x, y, most - 1) for x, y in steps)


def _one_edit(a: str, b: str) -> bool:
    """Tell whether one insertion, deletion, substitution or swap of neighbours turns `a` into `b`."""
    if len(a) > len(b):
        a, b = b, a
    i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        return a[i:] == b[i + 1 :]
    return a[i + 1 :] == b[i + 1 :] or (a[i : i + 2] == b[i : i + 2][::-1] and a[i + 2 :] == b[i + 2 :])
