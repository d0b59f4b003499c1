r"""A report's text as its words stand, whatever wrote it: the one place where signs of machines and forms are read away.

HTML, HL7 escapes, literal "\n", other line ends, curly quotes, full stops of other scripts, dates, names and masks, tick
boxes, and answers that stand behind their finding by a dash, a question mark or a column become plain sentences. Each
character of the result knows where it stood.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

MASK = "XXXX"

_Edit = tuple[int, int, str]  # these characters become this text


class Cleaned(NamedTuple):
    """A text, and where it stood before: the character `starts[k] + i` of it stood at `origins[k] + i`."""

    text: str
    starts: tuple[int, ...] = (0,)
    origins: tuple[int, ...] = (0,)

    def at(self, index: int) -> int:
        """Return where the character at `index` stood in the text as it was given."""
        k = bisect_right(self.starts, index) - 1
        stood = self.origins[k] + index - self.starts[k]
        return stood if k + 1 == len(self.origins) else min(stood, max(self.origins[k], self.origins[k + 1] - 1))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where the characters from `start` to before `end` stood."""
        if len(self.starts) == 1:
            return start, end
        k = bisect_left(self.starts, end)
        ends_piece = k < len(self.starts) and self.starts[k] == end
        begin = self.at(start)
        return begin, max(begin, self.origins[k] if ends_piece else self.at(end - 1) + 1)


def cleaned(text: str) -> Cleaned:
    """Return the text as plain sentences; plain ones, the most, pass untouched."""
    clean = Cleaned(text)
    for concerns, edits in _PASSES:
        if concerns(clean.text):
            clean = _rewritten(clean, edits(clean.text))
    return clean


def _rewritten(before: Cleaned, edits: Iterator[_Edit]) -> Cleaned:
    pieces: list[str] = []
    starts: list[int] = [0]
    origins: list[int] = [0]
    done = length = 0
    for start, end, instead in edits:
        pieces += (before.text[done:start], instead)
        length += start - done
        starts.append(length)
        origins.append(start)
        length += len(instead)
        starts.append(length)
        origins.append(end)
        done = end
    if not pieces:
        return before
    pieces.append(before.text[done:])
    after = Cleaned("".join(pieces), tuple(starts), tuple(origins))
    if len(before.starts) == 1:
        return after
    # where both break: what stood together before and after stays together
    breaks = sorted({*after.starts, *_images(after, before.starts)})
    return Cleaned(after.text, tuple(breaks), tuple(before.at(after.at(index)) for index in breaks))


def _images(after: Cleaned, starts: tuple[int, ...]) -> Iterator[int]:
    """Yield where the characters at `starts` of the text before stand now, of those that were kept."""
    for start in starts:
        k = bisect_right(after.origins, start) - 1
        index = after.starts[k] + start - after.origins[k]
        if k + 1 == len(after.starts) or index < after.starts[k + 1]:
            yield index


# --- signs ---

_SIGNS = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032`\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
    **dict.fromkeys("\u3002\uff0e\uff61\u0964\u06d4", ". "),
    **dict.fromkeys("\uff0c\u3001\u060c", ", "),
    **dict.fromkeys("\u2010\u2011\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2013\u2014\u2015\u2012", " - "),
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\u2028\u2029\u0085\x0b\x0c\r", "\n"),
    **dict.fromkeys("\u2022\u25cf\u25aa\u2023\u25e6\u2043\u00b7\u25b8\u25ba", "\n- "),
    "\uff1a": ": ", "\uff1b": "; ", "\uff1f": "?", "\uff01": "! ", "\uff08": "(", "\uff09": ")", "\uff1c": "<",
    "\uff1e": ">",
    "\u2026": "... ", "\u2265": ">", "\u2264": "<", "\ufb01": "fi", "\ufb02": "fl", "\ufb00": "ff", "\u00d8": " no ",
    "\uff0b": "+", "\uff1d": "=",
}  # fmt: skip
_BLOCK = "p|div|li|ul|ol|tr|table|tbody|thead|h[1-6]|br|hr|section|article|dd|dt|dl|blockquote|pre"
_INLINE = "b|i|u|em|strong|span|font|sup|sub|a|center|html|body|head|small|big|tt|code|label|mark|s|strike"
_LINE = re.compile(
    r"(?P<line>\r\n?|\\\.(?:br|sp|ce|sk|ti|in|fi|nf)[^\\\n]{0,6}\\|\\X0[AaDd]\\|\\r\\n|\\[nr](?![a-z]{3}(?<!no ))|~(?=[A-Z])"
    rf"|<\s*/?\s*(?:{_BLOCK})\b[^<>]{{0,200}}>)"
    rf"|(?P<cell><\s*/?\s*t[dh]\b[^<>]{{0,200}}>|\\t(?=\W|[A-Z]))|(?P<none><\s*/?\s*(?:{_INLINE})(?:\s[^<>]{{0,200}})?/?>|\\[HN]\\)"
    r"|(?P<escape>\\[TSFR]\\)|(?P<entity>&(?:#\d{1,6}|#[xX][0-9a-fA-F]{1,5}|[A-Za-z]{2,8});)"
    rf"|(?P<sign>[{re.escape(''.join(_SIGNS))}])"
)  # fmt: skip
_ESCAPES = {"\\T\\": "&", "\\S\\": "^", "\\F\\": "|", "\\R\\": "~"}


def _signs(text: str) -> Iterator[_Edit]:
    """Read away what only tells a machine how to show the text."""
    for match in _LINE.finditer(text):
        kind, said = match.lastgroup, match[0]
        instead = {"line": "\n", "cell": "\t", "none": ""}.get(kind or "", "")
        if kind == "escape":
            instead = _ESCAPES[said]
        elif kind == "entity":
            instead = html.unescape(said)
            instead = _SIGNS.get(instead, instead)
        elif kind == "sign":
            instead = _SIGNS[said]
        yield match.start(), match.end(), instead


# --- dates, times, names, masks ---

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    r"|dec(?:ember)?)"
)
_MASKED = re.compile(
    r"\[\*\*[^\]\n]{0,80}\]|_{2,}|(?<![A-Za-z])X{3,}(?![A-Za-z])"
    r"|[<\[{](?:NAME|DATE|TIME|PERSON|PATIENT|DOCTOR|HOSPITAL|LOCATION|AGE|ID|PHONE|REDACTED|REMOVED|DEIDENTIFIED|PHI)[^<>\[\]{}\n]{0,20}[>\]}]"
    r"|\b\d{1,2}([/.-])\d{1,2}\1\d{2,4}\b|\b\d{4}-\d{1,2}-\d{1,2}\b"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)?\s(?i:{_MONTH})\b\.?(?:,?\s\d{{4}}\b)?|\b(?i:{_MONTH})\.?\s\d{{1,2}}(?:st|nd|rd|th)?,?(?:\s\d{{4}}\b)(?!\s?(?:mm|cm))"
    rf"|\b(?i:{_MONTH})\s\d{{4}}\b"
    r"|\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\b\.?)?|\b\d{3,4}\s?(?:hrs|hours|h)\b"
    r"|\b(?:Drs?|Mr|Mrs|Ms|Prof)\.?\s+(?:[A-Z]\.?\s+)?[A-Z][\w'-]+"
)


def _masks(text: str) -> Iterator[_Edit]:
    """Let every date, time, named person and mask be one mask: however a text was anonymised, it reads the same."""
    for match in _MASKED.finditer(text):
        if match[0] != MASK:
            yield match.start(), match.end(), MASK


# --- forms ---

_BOX = re.compile(r"\[\s?[xX\u2713\u2714*]?\s?\]|\(\s?[xX]?\s?\)(?=\s)|[\u2610-\u2612\u25a1\u25a0\u2713\u2714\u2717\u2718]")
_TICKED = re.compile(r"[xX*\u2713\u2714\u2611\u2612\u25a0]")
_ENDS_QUESTION = re.compile(r"[:?=]\s*\Z")


def _boxes(text: str) -> Iterator[_Edit]:
    """Leave the labels whose box is ticked, as lines of their own; of the others nothing is said."""
    at = 0
    for line in text.splitlines(keepends=True):
        boxes = list(_BOX.finditer(line))
        stripped = len(line.rstrip())
        if boxes:
            lead = line[: boxes[0].start()]
            before = not lead.strip(" \t-*\u2022") or bool(_ENDS_QUESTION.search(lead))
            answers = before and bool(lead.strip(" \t-*"))
            for k, box in enumerate(boxes):
                ticked = bool(_TICKED.search(box[0]))
                if before:
                    end = boxes[k + 1].start() if k + 1 < len(boxes) else stripped
                    if not ticked:
                        yield at + box.start(), at + end, " "
                    else:
                        yield at + box.start(), at + box.end(), " " if answers else "\n"
                else:
                    start = boxes[k - 1].end() if k else 0
                    yield (at + box.start() if ticked else at + start), at + box.end(), "\n"
        at += len(line)


_ANSWER = (
    r"(?:no(?:ne|t (?:seen|present|identified|visible|visuali[sz]ed|detected|evident))?"
    r"(?: (?:seen|identified|present|evident))?"
    r"|nil|n|y|yes|neg(?:ative)?|pos(?:itive)?|absent|present|nad|normal|unlikely|possibl[ey]|maybe|probabl[ey]|likely|equivocal"
    r"|uncertain|mild|moderate|severe|small|large|trace|minimal)"
)
_ENDS_ANSWER = r"(?=\s{0,9}(?:[.,;|()/\n]|\Z|\s-\s)|\s{1,9}(?:[A-Z][\w /-]{2,40}(?::|\?| -| =)))"
_BETWEEN = (  # a finding and its answer
    r"(?:\s{0,9}(?:\?+|\(\?\)):?\s{0,9}|\s{0,3}\.{2,99}\s{0,9}"
    r"|\s{1,9}-{1,2}>?\s{1,9}|\s{0,9}=\s{0,9}|\s{0,9}\|\s{0,9}|[ ]{0,9}\t\s{0,9}|[ ]{3,99})"
)
_FORMS = re.compile(
    r"(?P<no>(?:(?<=\A)|(?<=[,;.\n]))[ \t]{0,9}\(\s?-\s?\)(?=\s?\w))"  # "(-) PTX"
    r"|(?P<minus>:?\s{0,9}\(\s?(?:-|neg|-ve)\s?\))|(?P<plus>:?\s{0,9}\(\s?(?:\+|pos|\+ve)\s?\))"  # "edema (-)"
    rf"|(?P<key>(?<=[A-Za-z)]){_BETWEEN}(?=(?i:{_ANSWER}){_ENDS_ANSWER}))"
    r"|(?P<told>(?<=[a-z)])\s{1,9}(?=(?i:present|absent),\s))"  # "effusion present, right"
    r"|(?P<bar>\s{0,9}\|\s{0,9}|(?<=\S)\t+(?=\S))"
)


def _answers(text: str) -> Iterator[_Edit]:
    """Write "key: answer" wherever a form puts another sign between the two."""
    for match in _FORMS.finditer(text):
        instead = {"no": "\nno ", "minus": ": no,", "plus": ": yes,", "key": ": ", "told": ": ", "bar": "\n"}[
            match.lastgroup or "bar"
        ]
        yield match.start(), match.end(), instead


_PAIR = re.compile(
    rf"(?<=[A-Za-z)]):\s{{0,3}}(?i:{_ANSWER})(?:\s?\([^()\n]{{1,20}}\))?([ ]{{1,9}})(?=[A-Z][\w /-]{{1,38}}:)"
)
_UNANSWERED = re.compile(r"(?<=[A-Za-z)]:)\s{0,3}(?i:n/?a|not (?:applicable|assess(?:ed|able)|evaluated|examined))\b")
_STACKED = re.compile(
    rf"(?m)^[ \t]*[A-Za-z][\w /-]{{2,40}}([ \t]*\n[ \t]*)(?i:{_ANSWER}|clear|enlarged|intact|unremarkable)"
    r"[ \t]*(?:[,(].{0,40})?$"
)


def _pairs(text: str) -> Iterator[_Edit]:
    """Begin a line where a key follows an answer at once ("PTX: N EFFUSION: Y")."""
    for match in _PAIR.finditer(text):
        yield match.start(1), match.end(1), "\n"


def _unanswered(text: str) -> Iterator[_Edit]:
    """Drop answers that are none ("Pneumothorax: n/a")."""
    for match in _UNANSWERED.finditer(text):
        yield match.start(), match.end(), ""


def _stacked(text: str) -> Iterator[_Edit]:
    """Write "key: answer" where the answer stands on the line below."""
    for match in _STACKED.finditer(text):
        yield match.start(1), match.end(1), ": "


# --- what tells that there may be something to do for a pass; most reports have nothing ---


def _has_signs(text: str) -> bool:
    return not text.isascii() or any(sign in text for sign in _ASCII_SIGNS)


def _has_masks(text: str) -> bool:
    return "[" in text or "{" in text or "<" in text or "_" in text or any(sign.search(text) for sign in _MASK_SIGNS)


def _has_boxes(text: str) -> bool:
    bracket = "[" in text or "(" in text
    return bool((bracket and _BRACKETS.search(text)) or (not text.isascii() and _DRAWN_BOX.search(text)))


def _has_answers(text: str) -> bool:
    if (
        "|" in text
        or "\t" in text
        or "=" in text
        or "?" in text
        or " -" in text
        or "   " in text
        or ".." in text
        or "sent," in text
    ):
        return True
    return "(" in text and bool(_BRACKETED_ANSWER.search(text))


def _has_keys(text: str) -> bool:
    return ":" in text


def _has_lines(text: str) -> bool:
    return "\n" in text


_ASCII_SIGNS = ("\\", "<", "&", "~", *(sign for sign in _SIGNS if sign.isascii()))
_MASK_SIGNS = (
    re.compile(r"[/:-]\d"),
    re.compile(rf"\d(?:\.\d+\.|\s?h|\w*\s(?i:{_MONTH})\b)"),
    re.compile(r" (?:19|20)\d\d\b"),
    re.compile(r"XXXXX|XXX(?<!XXXX)(?!X)|Dr|Mr|Ms|Prof"),
)
_BRACKETS = re.compile(r"[\[(][^A-Za-z]?[xX]?\s?[\])]")
_DRAWN_BOX = re.compile(r"[\u2500-\u27ff]")
_BRACKETED_ANSWER = re.compile(r"\(\s?(?:[-+]|neg|pos)")
_PASSES: tuple[tuple[Callable[[str], bool], Callable[[str], Iterator[_Edit]]], ...] = (
    (_has_signs, _signs),
    (_has_masks, _masks),
    (_has_boxes, _boxes),
    (_has_answers, _answers),
    (_has_lines, _stacked),
    (_has_keys, _pairs),
    (_has_keys, _unanswered),
)
