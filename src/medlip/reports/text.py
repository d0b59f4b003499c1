"""A report's text: its sections, its sentences, and how it reads after its image is mirrored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from medlip.reports.lexicon import words

LONGEST_SENTENCE = 1000  # characters; a longer one is cut at a blank, so that reading stays linear in the report's length


class Section(NamedTuple):
    """A part of a report; `start` and `end` delimit its text without the heading."""

    name: str
    start: int
    end: int

    @property
    def read(self) -> bool:
        """Whether it describes the image at hand (findings, impression), so that facts are read from it."""
        return self.name in ("findings", "impression")


class Sentence(NamedTuple):
    """One sentence and where it stands: `report[start:end] == text`."""

    text: str
    start: int
    end: int


def sections(text: str) -> tuple[Section, ...]:
    """Divide a report by its headings ("IMPRESSION: …").

    Names are those of `words/sections.yaml`: findings, impression, indication, history, comparison, technique, … Text
    without a heading, and a paragraph of its own after a section that is not read, counts as findings.
    """
    starts = [(0, 0, "findings"), *_headings(text)]
    ends = [heading for heading, _, _ in starts[1:]] + [len(text)]
    found: list[Section] = []
    for (_, start, name), end in zip(starts, ends, strict=True):
        section = Section(name, start, end)
        if not section.read and (paragraph := _next_paragraph(text, start, end)):
            found += [Section(name, start, paragraph), Section("findings", paragraph, end)]
        else:
            found.append(section)
    return tuple(section for section in found if text[section.start : section.end].strip())


def split_sentences(text: str) -> tuple[Sentence, ...]:
    """Split text into sentences, without list numbers and surrounding blanks.

    Decimals ("1.9 cm"), abbreviations ("Dr.", "vs."), wrapped lines and masks ("XXXX.", "___") don't end a sentence wrongly.
    """
    found: list[Sentence] = []
    start = 0
    for end, following in _breaks(text):
        found += _pieces(text, start, end)
        start = following
    return (*found, *_pieces(text, start, len(text)))


def mirror_sides(text: str) -> str:
    """Swap left and right ("left-sided", "RLL", "dextroscoliosis", …): what the report says of the mirrored image.

    The lingula, which lies on the left alone, becomes the "right lingula".
    """
    return _SIDED.sub(_mirrored, text)


_HEADING = re.compile(
    r"(?:^|(?<=[.!?:;])[ \t])[ \t*#_]*+([A-Za-z][A-Za-z /&,()'-]{1,60}+)[\t*_]*+(?::[*_]*|(?=\r?\n|\r?\Z))", re.M
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield where each heading starts, where it ends, and its section's name."""
    if ":" not in text and "\n" not in text:
        return
    names = _section_names()
    for match in _HEADING.finditer(text):
        heading = match[1]
        name = names.get(" ".join(heading.lower().split()))
        if name:
            yield match.start(), match.end(), name
        elif heading.isupper() and match[0].endswith(":") and (match.start() == 0 or text[match.start() - 1] == "\n"):
            yield match.start(), match.start(), "findings"  # "LUNGS: …": the heading names the place, it is read, too


@cache
def _section_names() -> dict[str, str]:
    return {heading: name for name, headings in words("sections").items() for heading in headings}


def _next_paragraph(text: str, start: int, end: int) -> int:
    """Return where the second paragraph of `text[start:end]` starts, 0 if there is none."""
    content = start
    while content < end and text[content].isspace():
        content += 1
    blank = _BLANK_LINE.search(text, content, end)
    return blank.end() if blank and text[blank.end() : end].strip() else 0


_BREAK = re.compile(r"[.!?]+(?=\s|$|[A-Z])|\n[ \t\r]*\n|\n(?=[ \t]*(?:[-*•]|[A-Z]))|(?<=\s)\d{1,2}[.)](?=\s+[A-Z])")
_LIST_MARK = re.compile(r"\s*(?:\(?\d{1,2}[.)](?!\d)|[-*•·])\s*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:dr|mr|mrs|ms|st|vs|approx|e\.g|i\.e|cf|fig|ca|resp|incl|a\.m|p\.m|[a-z]|\d{1,2})\.$", re.IGNORECASE
)
_SAYS_SOMETHING = re.compile(r"\w")
_WRAPPED = 60  # a line this long was wrapped; the end of a shorter one ends its sentence


def _breaks(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence but the last ends and where the next starts."""
    for match in _BREAK.finditer(text):
        mark, at = match[0], match.start()
        if mark[0].isdigit():
            yield at, at
        elif mark == "\n":
            if at - text.rfind("\n", 0, at) <= _WRAPPED:
                yield at, match.end()
        elif mark != "." or not _ABBREVIATION.search(text, max(0, at - 8), match.end()):
            yield match.end(), match.end()


def _pieces(text: str, start: int, end: int) -> Iterator[Sentence]:
    mark = _LIST_MARK.match(text, start, end)
    start = mark.end() if mark else start
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > LONGEST_SENTENCE:
        cut = max(text.rfind(" ", start, start + LONGEST_SENTENCE), start + LONGEST_SENTENCE // 2)
        yield Sentence(text[start:cut], start, cut)
        start = cut
    if start < end and _SAYS_SOMETHING.search(text, start, end):
        yield Sentence(text[start:end], start, end)


_TWINS = {"left": "right", "levo": "dextro", "lt": "rt", "l": "r"}
_TWINS |= {twin: word for word, twin in _TWINS.items()}
_SIDED = re.compile(
    r"\b(?:(?:left|right)(?=ward|most|sided|\b)|(?:levo|dextro)(?=scolio|conve|curv|rota)|(?:lt|rt)\b"
    r"|(?-i:[LR])(?=(?:[UML]L|IJ)?\b)(?![-. ]?(?:spine|\d)|\.)|(?<!left )(?<!right )lingula)",
    re.IGNORECASE,
)


def _mirrored(match: re.Match[str]) -> str:
    word = match[0]
    twin = _TWINS.get(word.lower(), f"right {word}")
    return twin.upper() if word.isupper() else twin.capitalize() if word[0].isupper() else twin
