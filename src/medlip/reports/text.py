"""A report's text: its sections, its sentences, and how it reads after its image is mirrored."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import NamedTuple

from medlip.concepts.vocabulary import Heading
from medlip.reports.cleaning import MASK, cleaned
from medlip.reports.lexicon import edits, words

LONGEST_SENTENCE = 1000  # characters; a longer one is cut where a statement begins, so that reading stays linear in length
_READ = ("findings", "impression", "addendum")


class Section(NamedTuple):
    """A part of a report; `start` and `end` delimit its text without the heading."""

    name: str
    start: int
    end: int

    @property
    def read(self) -> bool:
        """Whether it describes the image at hand (findings, impression, addendum), so that facts are read from it."""
        return self.name in _READ


class Sentence(NamedTuple):
    """One sentence and where it stands: `report[start:end] == text`."""

    text: str
    start: int
    end: int


def sections(text: str) -> tuple[Section, ...]:
    """Divide a report by its headings ("IMPRESSION: …"); signs of machines are read away first (`cleaning`).

    Names are those of `words/sections.yaml`: findings, impression, indication, history, comparison, technique, … A misspelt
    heading is that heading, an unknown one is known by its words. Text without a heading, and text that describes the image
    after a section that is not read, counts as findings.
    """
    clean = cleaned(text)
    return tuple(Section(section.name, *clean.span(section.start, section.end)) for section in divided(clean.text))


def split_sentences(text: str) -> tuple[Sentence, ...]:
    """Split text into sentences, without list numbers and surrounding blanks; signs of machines are read away first.

    Decimals ("1.9 cm"), abbreviations ("Dr.", "vs."), wrapped lines and masks ("XXXX.", "___") don't end a sentence wrongly.
    """
    clean = cleaned(text)
    spans = (clean.span(sentence.start, sentence.end) for sentence in sentences(clean.text, built_in_layout().openers))
    return tuple(Sentence(text[start:end], start, end) for start, end in spans)


def mirror_sides(text: str) -> str:
    """Swap left and right ("left-sided", "RLL", "dextroscoliosis", …): what the report says of the mirrored image.

    The lingula, which lies on the left alone, becomes the "right lingula".
    """
    return _SIDED.sub(_mirrored, text)


# --- sections ---

_WORDS = r"[A-Za-z][A-Za-z0-9 /&,()'-]{1,60}+"
_BEGINS = re.compile(r"\n|[.!?:;](?=[ \t])")
_HEADING = re.compile(rf"[ \t*#_-]*+({_WORDS})[\t*_]*+(?::[*_]*|(?=\r?\n|\r?\Z))")
_DASHED = re.compile(r"[ \t*#_-]*+([A-Za-z][A-Za-z ]{1,40}?) +-{1,2} ")
_FRAMED = re.compile(r"[*=#_-]{2,} *([A-Za-z][A-Za-z ]{2,40}?) *[*=#_-]{2,}")
_LOUD = re.compile(r"[A-Z]{3,}(?<![A-Za-z][A-Z]{3})(?: [A-Z]{2,}){0,3}(?= ?\.| -)")
_SHOUTS = re.compile(r"[A-Z](?<=[A-Z]{4})(?<!XXXX)(?: ?\.| -)")
_BEFORE_COLON = re.compile(
    r"(?<=[\s.,])([A-Z]{3,}(?: [A-Z]{2,}){0,3}|[Ii]mpression|[Ff]indings|[Cc]onclusion|[Ii]ndication|[Cc]omparison"
    r"|[Tt]echnique|[Rr]ecommendations?|[Cc]linical (?:history|details|indication|information)|[Aa]ddendum) *\Z"
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def divided(text: str, layout: Layout | None = None) -> tuple[Section, ...]:
    """Divide a cleaned text; see `sections`. The layout is the built-in one by default."""
    layout = layout or built_in_layout()
    starts = [(0, 0, "findings"), *_starts(text, layout)]
    ends = [heading for heading, _, _ in starts[1:]] + [len(text)]
    last_read = max(
        (k for k, (_, start, name) in enumerate(starts) if name in _READ and text[start : ends[k]].strip()), default=-1
    )
    found: list[Section] = []
    for k, ((_, start, name), end) in enumerate(zip(starts, ends, strict=True)):
        section = Section(name, start, end)
        begins = 0 if section.read else _description(text, section, layout.openers, followed=k < last_read)
        if begins:
            found += [Section(name, start, begins), Section("findings", begins, end)]
        else:
            found.append(section)
    return tuple(section for section in found if text[section.start : section.end].strip())


def _starts(text: str, layout: Layout) -> list[tuple[int, int, str]]:
    """Return where each heading starts, where it ends, and its section's name."""
    if ":" not in text and "\n" not in text and " -" not in text:
        return []
    found: list[tuple[int, int, str]] = []
    own = [*_own_lines(text, layout)]
    for start, end, name in sorted((*own, *_within_lines(text, layout, {end for _, end, _ in own}))):
        if not found or start >= found[-1][1]:
            found.append((start, end, name))
    return found


def _own_lines(text: str, layout: Layout) -> Iterator[tuple[int, int, str]]:
    """Yield headings at the start of a line or of a sentence, with a colon or alone on their line."""
    done = 0
    for begin in (0, *(match.end() for match in _BEGINS.finditer(text))):
        if begin < done:
            continue
        dashed = _DASHED.match(text, begin)  # "History - fever. Findings - clear lungs."
        if dashed and (name := layout.section(dashed[1], guess=False)):
            done = dashed.end()
            yield dashed.start(), dashed.end(), name
            continue
        match = _HEADING.match(text, begin)
        if match is None:
            continue
        done = match.end()
        heading, colon = match[1], match[0].rstrip("*_").endswith(":")
        behind_colon = text[max(0, match.start() - 1) : match.start()] == ":"
        if name := layout.section(heading, guess=colon and not behind_colon):
            yield match.start(), match.end(), name
        elif heading.isupper() and colon and (match.start() == 0 or text[match.start() - 1] == "\n"):
            yield match.start(), match.start(), "findings"  # "LUNGS: …": the heading names the place, it is read, too


def _within_lines(text: str, layout: Layout, known: Container[int]) -> Iterator[tuple[int, int, str]]:
    """Yield headings that stand in the middle of a sentence ("… NORMAL IMPRESSION: …"), by their capitals or their frame.

    Args:
        text: of the report.
        layout: of reports.
        known: where headings end that are known already.
    """
    colon = text.find(":")
    while colon >= 0:
        match = None if colon + 1 in known else _BEFORE_COLON.search(text, max(0, colon - 60), colon)
        blanks = [-1, *(at for at, sign in enumerate(match[1]) if sign == " ")] if match else []
        for at in blanks:  # "CHEST INDICATION:": the heading is the last words of those in capitals
            heading = match[1][at + 1 :] if match else ""
            if (
                match
                and (name := layout.section(heading, guess=False))
                and (at < 0 or heading.lower() in words("sections")["plain"])
            ):
                yield match.start(1) + at + 1, colon + 1, name
                break
        colon = text.find(":", colon + 1)
    framed = _FRAMED.finditer(text) if any(frame in text for frame in ("**", "==", "--", "##", "__")) else ()
    loud = _LOUD.finditer(text) if _SHOUTS.search(text) and not text.isupper() else ()
    for match in (*framed, *loud):
        if name := layout.section(match[match.lastindex or 0], guess=False):
            yield match.start(), match.end() + (not match.lastindex), name


class Layout:
    """How reports are laid out: by headings, and by words that begin a statement; see `words/sections.yaml`.

    Args:
        headings: own ones, which win, by the section that they open.
        openers: own words that begin a statement.
    """

    def __init__(self, headings: Mapping[Heading, Iterable[str]] | None = None, openers: Iterable[str] = ()) -> None:
        self.openers = frozenset([*words("sections")["openers"], *(word.lower() for word in openers)])
        groups = (headings or {}, words("sections")["headings"])
        self._names: dict[str, str] = {}
        for name, heading in ((name, heading) for group in groups for name, said in group.items() for heading in said):
            self._names.setdefault(" ".join(heading.lower().split()), name)
        self.section = lru_cache(maxsize=4096)(self._section)

    def _section(self, heading: str, *, guess: bool) -> str:
        """Return the section that a heading opens, "" if it opens none.

        Args:
            heading: its words.
            guess: whether one that isn't listed is known by its spelling or by a word in it.
        """
        spelled = " ".join(heading.lower().split())
        if spelled in self._names:
            return self._names[spelled]
        parts = re.findall(r"[a-z]+", spelled)
        if not guess or len(parts) > 5 or any(word in words("sections")["never"] for word in parts):
            return ""
        for name, section in self._names.items():
            if len(name) >= 6 and name[0] == spelled[0] and edits(name, spelled, 2 if len(name) >= 9 else 1):
                return section
        for section, keywords in words("sections")["keywords"].items():
            if any(word == key or (len(key) >= 7 and edits(word, key, 1)) for word in parts for key in keywords):
                return str(section)
        return ""


@cache
def built_in_layout() -> Layout:
    """Return the layout of `words/sections.yaml`."""
    return Layout()


def _description(text: str, section: Section, openers: frozenset[str], *, followed: bool) -> int:
    """Return where, in a section that is not read, the image is described all the same; 0 if nowhere.

    A second paragraph counts; so does a line, or where no findings or impression follow a sentence, that begins as
    descriptions do and tells no complaint.
    """
    start, end = section.start, section.end
    while start < end and text[start].isspace():
        start += 1
    blank = _BLANK_LINE.search(text, start, end)
    paragraph = blank.end() if blank and text[blank.end() : end].strip() else 0
    if section.name in ("recommendation", "notification"):
        return paragraph
    told = section.name in ("history", "indication")
    for k, sentence in enumerate(sentences(text[start : paragraph or end], openers)):
        at = start + sentence.start
        apart = k > 0 and (not followed or _begins_line(text, at))
        if (apart and describes(sentence.text, openers)) or (not told and _DESCRIBES.match(sentence.text)):
            return at
    return paragraph


def _begins_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t-*")


_DESCRIBES = re.compile(
    r"(?:there (?:is|are) (?!no (?:prior|previous|comparison))|(?:the|both) (?:lung|heart|cardi|mediast|trachea|pleura)"
    r"|no (?:pleural|focal|pneumo|consol|acute)|(?:lungs|heart(?: size)?) (?:is|are))",
    re.IGNORECASE,
)
_FIRST_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def describes(sentence: str, openers: frozenset[str]) -> bool:
    """Tell whether a sentence begins as one about the image does, and tells no complaint."""
    word = _FIRST_WORD.match(sentence.lower())
    begins = word is not None and word[0] in openers
    return begins and not complains(sentence) and not sentence.rstrip().endswith("?")


def complains(sentence: str) -> bool:
    """Tell whether a sentence speaks of what the patient suffers from, or was sent for."""
    return bool(_complaint().search(sentence))


def asks(sentence: str) -> bool:
    """Tell whether a sentence is what was asked, rather than an answer: "Cough, ?pneumonia", "R/O pneumothorax"."""
    question = _ASKS.match(sentence)
    somewhere = question and _SOMEWHERE.search(sentence, question.end())
    return complains(sentence) or sentence.rstrip().endswith("?") or bool(question and not somewhere)


def corrects(text: str) -> bool:
    """Tell whether an addendum says that the report was wrong, rather than that there is more."""
    return bool(_CORRECTS.search(text))


_CORRECTS = re.compile(
    r"\b(?:correct(?:ion|ed|s)|should (?:read|say|state|be)|instead of|in error|erroneous(?:ly)?|incorrect(?:ly)?"
    r"|amend(?:ed|ment)|erratum|typ(?:o|ographical)|mis(?:labell?ed|dictat\w+)|replaces|revised|not (?:left|right))\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\W*(?:r/o|rule out|query|eval(?:uate)?|assess|exclude|please|\?)", re.IGNORECASE)
_SOMEWHERE = re.compile(
    r"\b(?:left|right|bilateral|bibas\w+|bas[ei]\w*|apex|apical|lobe|zone|[lr][uml]l|lt|rt)\b|\b[LR]\b", re.IGNORECASE
)


@cache
def _joins() -> frozenset[str]:
    return frozenset(words("sections")["joins"])


@cache
def _complaint() -> re.Pattern[str]:
    told = "|".join(re.escape(word).replace(r"\ ", "[ -]") for word in words("sections")["complaint"])
    return re.compile(rf"\b(?:{told}|\d{{1,3}}\s?[MmFf](?=\W|\Z))(?!\w)", re.IGNORECASE)


# --- sentences ---

_BREAK = re.compile(
    r"[.!?\n\d(](?:(?P<stop>(?<=[.!?])[.!?]*(?=[)\"'>\]]{0,3}(?:\s|$)|[A-Z\"']|[a-z]{3}))"
    r"|(?P<blank>(?<=\n)[ \t\r]*\n)|(?P<line>(?<=\n)(?=[ \t]*\S))"
    r"|(?P<number>(?:(?<=\d)\d?[.)]|(?<=\()\d\))(?=\s+\w)))"
)
_CAPITAL = re.compile(r" (?=[A-Z](?:[a-z]|\s))")
_LEAD = re.compile(r"\s*(?:(?:\(?\d{1,2}[.)](?!\d)|-(?!\s?\d)|[*•·>+](?!\d))\s*)?")  # blanks, and the mark of a list
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:dr|mr|mrs|ms|st|vs|rt|lt|bilat|poss|prob|approx|e\.g|i\.e|cf|fig|ca|resp|incl|a\.m|p\.m|[a-z]|\d{1,2})\.$",
    re.IGNORECASE,
)
_SAYS_SOMETHING = re.compile(r"\w")
_WRAPPED = 60  # a line this long was wrapped; the end of a shorter one ends its sentence
_SURELY_SHORT = 45  # … even where the next begins with a small letter
_LAST_WORD = re.compile(r"(\S+)\s*\Z")
_NEXT = re.compile(r"[ \t]*(?:(?P<new>[-*•A-Z>+])|(?P<word>[a-z]+))?")
_NEAR = 20  # characters around a number that are looked at
_BEFORE_CAPITAL = ")%X0123456789"
_STATEMENT = re.compile(r" (?=(?:there|the|no|heart|lungs?|left|right|mild|small)\b)", re.IGNORECASE)


def sentences(text: str, openers: frozenset[str]) -> tuple[Sentence, ...]:
    """Split a cleaned text; see `split_sentences`. A capital begins a sentence where it begins one of the openers."""
    found: list[Sentence] = []
    start = 0
    for end, following in _breaks(text):
        _add_piece(found, text, start, end, openers)
        start = following
    _add_piece(found, text, start, len(text), openers)
    return tuple(found)


def _breaks(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence but the last ends and where the next starts."""
    for match in _BREAK.finditer(text):
        kind, at = match.lastgroup, match.start()
        if kind == "number":
            end = match.end()
            if _is_list_number(text, at, end):
                yield at, at
            elif text[end - 1] == "." and _ends_at_stop(text, end - 1, end):
                yield end, end
        elif kind == "line":
            if _ends_at_line(text, at):
                yield at, match.end()
        elif kind == "blank" or _ends_at_stop(text, at, match.end()):
            yield match.end(), match.end()


def _is_list_number(text: str, at: int, end: int) -> bool:
    """Tell whether the number at `at` counts items: behind a blank and before a capital, or behind the end of a sentence."""
    if not at or not text[at - 1].isspace():
        return False
    following, before = text[end : end + _NEAR].lstrip(), text[max(0, at - _NEAR) : at].rstrip()
    return following[:1].isupper() or text[at] == "(" or before[-1:] in (".", ";", ":")


def _ends_at_stop(text: str, at: int, end: int) -> bool:
    mark, following = text[at], text[end : end + 1]
    if mark == "?" and (not at or text[at - 1] in " \t\n("):
        return False  # "? early infiltrate"
    if following.islower():  # no blank behind the stop: "no effusion.no pneumothorax"
        return end - at == 1 and mark == "." and text[max(0, at - 3) : at].islower() and text[max(0, at - 3) : at].isalpha()
    return end - at > 1 or mark != "." or not _ABBREVIATION.search(text, max(0, at - 8), end)


def _ends_at_line(text: str, at: int) -> bool:
    length = at - text.rfind("\n", 0, at)
    following = _NEXT.match(text, at + 1)
    if length > _WRAPPED or following is None:
        return False
    if following["new"]:
        return True
    return length <= _SURELY_SHORT and following["word"] not in _joins() and _last_word(text, at) not in _joins()


def _ends_at_capital(text: str, at: int, openers: frozenset[str]) -> bool:
    """Tell whether the capital at `at` in the middle of a sentence begins another one, whose stop was lost."""
    word = _FIRST_WORD.match(text[at : at + 30].lower())
    if (text[at - 2] not in _BEFORE_CAPITAL and not text[at - 2].islower()) or word is None or word[0] not in openers:
        return False
    last = _last_word(text, at)
    return last == MASK.lower() or last.isdigit() or (last not in _joins() and text[at - 1 - len(last)].islower())


def _last_word(text: str, at: int) -> str:
    match = _LAST_WORD.search(text, max(0, at - 40), at)
    return match[1].lower() if match else ""


def _add_piece(found: list[Sentence], text: str, start: int, end: int, openers: frozenset[str]) -> None:
    """Add the sentences of what stands between two breaks."""
    lead = _LEAD.match(text, start, end)
    start = lead.end() if lead else start
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > LONGEST_SENTENCE:
        cut = _cut(text, start)
        _add_statements(found, text, start, cut, openers)
        start = cut
    _add_statements(found, text, start, end, openers)


def _add_statements(found: list[Sentence], text: str, start: int, end: int, openers: frozenset[str]) -> None:
    """Add the sentences of a piece that no stop divides: a capital begins one."""
    for match in _CAPITAL.finditer(text, start + 2, end):
        if _ends_at_capital(text, match.end(), openers):
            found.append(Sentence(text[start : match.start()], start, match.start()))
            start = match.end()
    if start < end and _SAYS_SOMETHING.search(text, start, end):
        found.append(Sentence(text[start:end], start, end))


def _cut(text: str, start: int) -> int:
    """Return where to cut a sentence that is too long: before a statement, or else at a blank, or else anywhere."""
    latest, earliest = start + LONGEST_SENTENCE, start + LONGEST_SENTENCE // 2
    begins = [match.end() for match in _STATEMENT.finditer(text, earliest, latest)]
    return begins[-1] if begins else max(text.rfind(" ", start, latest), earliest)


# --- sides ---

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
