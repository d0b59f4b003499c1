"""From a report's text to its facts, by the words of `words/*.yaml`.

Signs of machines and forms are read away first (`cleaning`); sections and sentences are divided (`text`). A sentence is
read as phrases: findings, places, cues (`lexicon`), made plain (`statements`). Places are composed from side, zone and
organ (`places`). Each finding of a clause gets its presence (`presence`) and the places that belong to it (`clauses`). The
report settles what its sentences leave open. `words/rules.yaml` names the kinds of statement that are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports.clauses import Clause, Mention, clauses
from medlip.reports.cleaning import Cleaned, cleaned
from medlip.reports.facts import Fact, Presence
from medlip.reports.language import is_english
from medlip.reports.lexicon import Item, Words
from medlip.reports.places import composed
from medlip.reports.statements import LINKS, plain
from medlip.reports.terms import terms
from medlip.reports.text import Section, Sentence, asks, corrects, divided, sentences


def extract_facts(text: str, vocabulary: Vocabulary | None = None) -> tuple[Fact, ...]:
    """Read the facts of a report: one for each mention of a finding at a place, in the order of the text.

    Findings, impression and addendum are read, the other sections are not, nor is a text that is not English. A mention that
    names no place gets the place that the report names for the same finding elsewhere, or else the default of its finding
    ("pleural effusion": pleural_unspec). What an addendum says takes the place of what it contradicts.

    Args:
        text: a report, with or without headings; any text gives facts or none.
        vocabulary: names of pathologies and anatomies; its words are read, too, and win over the built-in ones.

    Returns:
        All mentions; `resolve` keeps one a (pathology, anatomy).
    """
    return extractor(vocabulary or default_vocabulary())(text)


def extractor(vocabulary: Vocabulary) -> Extractor:
    """Return the extractor for a vocabulary; it is built once and kept."""
    kept = _EXTRACTORS.get(id(vocabulary))
    if kept is None:
        if len(_EXTRACTORS) >= 8:
            _EXTRACTORS.clear()
        kept = _EXTRACTORS[id(vocabulary)] = Extractor(vocabulary)  # it holds the vocabulary, so the id stays its own
    return kept


_EXTRACTORS: dict[int, Extractor] = {}


def forget_sentences() -> None:
    """Drop what extractors remember of sentences that they read before, so that a measurement starts from nothing."""
    for kept in _EXTRACTORS.values():
        kept.forget()


class SentenceReading(NamedTuple):
    """What the words of a sentence say: mentions, and whether it goes on about what the sentence before it says."""

    mentions: tuple[Mention, ...]
    refers: bool


_NOTHING = SentenceReading((), refers=False)


class Placed(NamedTuple):
    """A mention with the sentence of the cleaned text that it stands in, its words, and the section of that."""

    mention: Mention
    sentence: Sentence
    said: Words
    section: str

    @property
    def what(self) -> tuple[str, Presence]:
        """The finding and its presence."""
        return self.mention.pathology, self.mention.presence


class Traced(NamedTuple):
    """A fact with the way it was read.

    Attributes:
        fact: what was read.
        section: name of the section.
        sentence_span: where its sentence stands in the report: offsets of the first character and behind the last one.
        clause: words of the clause that the finding stands in.
        cue: words that made it absent or uncertain, empty where it is plainly stated.
        cue_span: where they stand in the report; None without them.
        presence_rule: the rule of `words/rules.yaml` that gave the presence.
        place_rule: the rule of `words/rules.yaml` that gave the anatomy.
    """

    fact: Fact
    section: str
    sentence_span: tuple[int, int]
    clause: str
    cue: str
    cue_span: tuple[int, int] | None
    presence_rule: str
    place_rule: str


class Outside(NamedTuple):
    """What a report states, in built-in words, and the vocabulary in use does not have.

    Attributes:
        part: whether it is the mention's pathology, or its anatomy alone.
        name: as the default vocabulary names it; of an own organ on a side without a row, its words.
    """

    part: Literal["pathology", "anatomy"]
    name: str


def outside_of(vocabulary: Vocabulary, pathology: str, anatomy: str) -> Outside | None:
    """Return which of a mention's two names a vocabulary does not have, None if it has both."""
    if pathology not in vocabulary.pathology_index:
        return Outside("pathology", pathology)
    return None if anatomy in vocabulary.anatomy_index else Outside("anatomy", anatomy)


class ReportReading(NamedTuple):
    """What a report says.

    Attributes:
        facts: all mentions, in the order of the text.
        sections: the names of its sections.
        silent: the sentences that no fact was read from.
        share: the share of its text that is read, 0 to 1.
        english: whether it is English; a report that is not is not read.
        outside: names that the vocabulary does not have, one a mention that is no fact for that reason.
    """

    facts: tuple[Fact, ...]
    sections: tuple[str, ...]
    silent: tuple[str, ...]
    share: float
    english: bool = True
    outside: tuple[Outside, ...] = ()


class Extractor:
    """Reads reports in the words of one vocabulary. Use `extractor(vocabulary)`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lexicon, self._rows, self._layout = terms(vocabulary)
        # Reports repeat their sentences, and more often their words with other numbers, capitals or spelling.
        self._words = lru_cache(maxsize=8_192)(self._lexicon.words)
        self._read = lru_cache(maxsize=16_384)(self._read_words)

    def forget(self) -> None:
        """Drop the sentences that are remembered."""
        self._words.cache_clear()
        self._read.cache_clear()

    def __call__(self, text: str) -> tuple[Fact, ...]:
        """Return the facts of a report; see `extract_facts`."""
        return self.read(text).facts

    def is_english(self, text: str) -> bool:
        """Tell whether a report is English; one that is not is not read."""
        return is_english(cleaned(text).text, self._lexicon.knows)

    def sentences(self, text: str) -> tuple[str, ...]:
        """Return the sentences of a report that facts are read from, as they stand in it."""
        clean = cleaned(text)
        read = _to_read(clean.text, divided(clean.text, self._layout), self._layout.openers)
        return tuple(text[slice(*clean.span(sentence.start, sentence.end))] for _, sentence in read)

    def read(self, text: str) -> ReportReading:
        """Return the facts of a report with its sections and the sentences without any fact."""
        clean = cleaned(text)
        found = divided(clean.text, self._layout)
        names = tuple(section.name for section in found)
        if not is_english(clean.text, self._lexicon.knows):
            return ReportReading((), names, (), 0.0, english=False)
        placed, silent, read = self._placed(clean.text, found)
        total = len(clean.text.strip())
        outside: list[Outside] = []
        facts = tuple(fact for fact, _, _ in self._facts(placed, clean, text, outside))
        share = min(1.0, read / total) if total else 0.0
        return ReportReading(facts, names, tuple(silent), share, outside=tuple(outside))

    def explain(self, text: str) -> tuple[Traced, ...]:
        """Return the facts of a report, each with the section, clause, cue and rules that it was read by."""
        clean = cleaned(text)
        if not is_english(clean.text, self._lexicon.knows):
            return ()
        placed, _, _ = self._placed(clean.text, divided(clean.text, self._layout))
        traced = []
        for fact, (mention, sentence, said, section), rule in self._facts(placed, clean, text, []):
            whole = clean.span(sentence.start, sentence.end)
            clause = sentence.text[slice(*said.span(mention.clause_start, mention.clause_end))]
            cue, cue_span = "", None
            if mention.cue_start >= 0:
                first, last = said.span(mention.cue_start, mention.cue_end)
                cue, cue_span = sentence.text[first:last], clean.span(sentence.start + first, sentence.start + last)
            traced.append(Traced(fact, section, whole, clause, cue, cue_span, mention.presence_rule, rule))
        return tuple(traced)

    def _placed(self, text: str, found: Sequence[Section]) -> tuple[list[Placed], list[str], int]:
        """Return the mentions of a cleaned text, its sentences without any, and how many characters were read."""
        placed: list[Placed] = []
        silent: list[str] = []
        count = 0
        before: tuple[Mention, ...] = ()
        last = None
        for section, sentence in _to_read(text, found, self._layout.openers):
            count += len(sentence.text)
            if section is not last:
                before, last = (), section
            said = self._words(sentence.text)
            reading = self._read(said.spelled)
            here = _carried(reading.mentions, before) if reading.refers else reading.mentions
            if here:
                placed += [Placed(mention, sentence, said, section.name) for mention in here]
                before = here
            else:
                silent.append(sentence.text)
        return _corrected(placed, text, found), silent, count

    def _facts(
        self, mentions: Sequence[Placed], clean: Cleaned, text: str, outside: list[Outside]
    ) -> Iterator[tuple[Fact, Placed, str]]:
        """Yield each fact with its mention and the rule that gave its anatomy; add to `outside` what is none."""
        elsewhere: dict[tuple[str, str], str] = {}
        for mention, *_ in mentions:
            if mention.row and mention.presence != "absent":
                elsewhere.setdefault((mention.pathology, mention.presence), mention.row)
        device: Mention | None = None
        device_in = -1
        known_pathologies, known_anatomies = self.vocabulary.pathology_index, self.vocabulary.anatomy_index
        for placed in mentions:
            mention, sentence, said, _ = placed
            row, rule = mention.row, mention.place_rule
            if mention.sense.part and row in _CHAMBERS and device is not None and sentence.start != device_in:
                mention = mention._replace(
                    pathology=device.pathology
                )  # "There is a pacemaker. Leads overlie the right atrium."
            elif mention.pathology in ("pacemaker", "device"):
                device, device_in = mention, sentence.start
            if not row and not mention.sense.device:
                row, rule = elsewhere.get((mention.pathology, mention.presence), ""), "elsewhere"
            if not row:
                row, rule = mention.sense.row, "default"
            if mention.pathology in known_pathologies and row in known_anatomies:
                begin, stop = clean.span(sentence.start, sentence.end)
                first, last = said.span(mention.start, mention.end)
                start, end = clean.span(sentence.start + first, sentence.start + last)
                yield Fact(mention.pathology, row, mention.presence, text[begin:stop], start, end), placed, rule
            elif lack := outside_of(self.vocabulary, mention.pathology, row):
                outside.append(lack)

    def _read_words(self, spelled: tuple[str, ...]) -> SentenceReading:
        items = plain(self._lexicon.items(spelled))
        if not items:
            return _NOTHING
        items = composed(items)
        refers = _refers(items[:3]) and any(item.kind in LINKS or item.value == "xxxx" for item in items)
        mentions: list[Mention] = []
        clause: Clause | None = None
        for start, end in clauses(items):
            clause = Clause(items[start:end], self._rows, clause)
            found = tuple(clause.mentions())
            doubted = items[start].value in _GOES_ON and all(mention.presence == "uncertain" for mention in found)
            linked = items[start].value in _GOES_ON and items[min(start + 1, len(items) - 1)].kind in LINKS
            goes_on = start > 0 and (_refers(items[start : start + 4]) or doubted or linked)
            mentions += _carried(found, mentions) if goes_on else found
        if any(mention.sense.part for mention in mentions):
            mentions = list(_with_parts(mentions))
        return SentenceReading(tuple(mentions), refers)


_GOES_ON = frozenset([";", "-", "but", "although", "though"])  # "left base atelectasis; infection not excluded"


def _to_read(text: str, found: Sequence[Section], openers: frozenset[str]) -> Iterator[tuple[Section, Sentence]]:
    """Yield the sentences that are read, each with its section.

    What stands before any heading is read from the first sentence on that is no question and tells no complaint; where
    findings have a heading of their own, and there was such a sentence, it is none of them.
    """
    headed = any(section.name == "findings" and section.start for section in found)
    for section in found:
        if not section.read:
            continue
        opening, asked = section.start == 0, False
        for sentence in sentences(text[section.start : section.end], openers):
            opening = opening and asks(sentence.text)
            asked = asked or opening
            if not opening and not (asked and headed):
                at = section.start + sentence.start
                yield section, Sentence(sentence.text, at, at + len(sentence.text))


def _corrected(mentions: list[Placed], text: str, found: Sequence[Section]) -> list[Placed]:
    """Take back what an addendum contradicts: of the same finding what is said otherwise, and all of it if it corrects."""
    addenda = [section for section in found if section.name == "addendum"]
    if not addenda:
        return mentions
    taken: set[int] = set()
    standing: dict[tuple[str, Presence], list[int]] = {}
    at = 0
    for section in addenda:
        while at < len(mentions) and mentions[at].sentence.start < section.start:
            standing.setdefault(mentions[at].what, []).append(at)
            at += 1
        end = at
        while end < len(mentions) and mentions[end].sentence.start < section.end:
            end += 1
        added = {placed.what for placed in mentions[at:end]}
        all_of_it = corrects(text[max(0, section.start - _HEADING) : section.end])
        for pathology in {pathology for pathology, _ in added}:
            for presence in get_args(Presence):
                if all_of_it or (pathology, presence) not in added:
                    taken.update(standing.pop((pathology, presence), ()))
    return [placed for i, placed in enumerate(mentions) if i not in taken]


_HEADING = 30  # characters before an addendum's text that its heading may take


def _refers(items: Sequence[Item]) -> bool:
    """Tell whether these first words of a statement point back ("this may be", "the appearance suggests")."""
    return any(
        item.kind == "refers"
        or (item.kind == "size" and item.value in ("appearance", "pattern"))
        or (item.kind == "noun" and item.value.pathology == "finding")
        for item in items
    )


_CENTRAL = frozenset(["svc", "cavoatrial_junction"])  # a tip there is a central venous catheter's
_CHAMBERS = frozenset(["right_atrium", "right_ventricle"])


def _with_parts(mentions: list[Mention]) -> Iterable[Mention]:
    """Put a device where its parts are: "a pacemaker with its tip in the right atrium"."""
    rows = dict.fromkeys(mention.row for mention in mentions if mention.sense.part and mention.row)
    if _CENTRAL & rows.keys() and not any(mention.sense.device and not mention.sense.part for mention in mentions):
        yield from (m._replace(pathology="catheter") for m in mentions if m.pathology == "tip" and m.row in _CENTRAL)
    for mention in mentions:
        own = mention.row not in ("", "other")  # "left subclavian catheter": where it enters, not where it is
        movable = mention.sense.device and not (mention.sense.part or mention.sense.fixed or own)
        if rows and movable and mention.presence != "absent":
            yield from (mention._replace(row=row, place_rule="part") for row in rows)
        else:
            yield mention


def _carried(mentions: Sequence[Mention], before: Sequence[Mention]) -> tuple[Mention, ...]:
    """Give mentions without a place the place that the sentence before speaks of ("This may represent pneumonia.")."""
    spoken = next((m for m in before if m.row and m.sense.lung and m.presence != "absent"), None)
    if spoken is None:
        return tuple(mentions)
    row = spoken.row
    return tuple(
        m._replace(row=row, place_rule="carried") if not m.row and m.sense.lung and not m.sense.own else m for m in mentions
    )
