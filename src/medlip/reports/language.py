"""Whether a report is English: the words of the lexicon are, and other languages have words of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from math import ceil

from medlip.reports.cleaning import MASK
from medlip.reports.lexicon import lemmas, words

_WORD, _ASCII_WORD = re.compile(r"[^\W\d_]{2,}"), re.compile(r"[a-z]{2,}")
_LOOKED_AT = 2000  # characters; enough to tell
_FEW, _SOME = 3, 6  # words; fewer tell no language, or none that has no word in the list
_HARDLY = 0.25  # a text that has so few known words is none in English, whatever it is
_KNOWN = 0.4  # a report in English has a larger share of known words, however telegraphic …
_FOREIGN = 0.12  # … or a smaller share of words that are another language's
_NAME = 3  # letters; so short a word with a capital may be a part of a name ("De La Cruz"), and tells nothing


def is_english(text: str, knows: Callable[[str], bool]) -> bool:
    """Tell whether a text is English, by the share of words that are known and of those that are another language's.

    Args:
        text: a report; of a long one the first `_LOOKED_AT` characters are looked at.
        knows: tells whether a lower-case word is one of the lexicon.
    """
    start = text[:_LOOKED_AT]
    distinct = set((_ASCII_WORD if start.isascii() else _WORD).findall(start.lower()))
    if len(distinct) < _FEW:
        return True
    if start.isascii() and distinct.isdisjoint(_foreign()):
        known = (word for word in distinct if word in lemmas() or knows(word))
        enough = ceil(_HARDLY * len(distinct))
        return len(distinct) < _SOME or sum(1 for _ in islice(known, enough)) == enough
    said = [word.lower() for word in _WORD.findall(start) if word != MASK and not (word.istitle() and len(word) <= _NAME)]
    foreign = sum(word in _foreign() or not word.isascii() for word in said)
    known = sum(word.isascii() and word not in _foreign() and (word in lemmas() or knows(word)) for word in said)
    if foreign < max(2, _FOREIGN * len(said)) and known:
        return True
    return known >= _KNOWN * len(said) and foreign < 2 * _FOREIGN * len(said)


@cache
def _foreign() -> frozenset[str]:
    return frozenset(word for language in words("foreign").values() for word in language)
