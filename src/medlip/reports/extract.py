"""From a report's text to its facts, by the words of `words/*.yaml`.

A sentence is read as phrases: findings, places, cues (`lexicon`). Places are composed from side, zone and organ (`places`).
Each finding of a clause gets its presence and the places that belong to it (`clauses`). The report settles what its
sentences leave open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports.clauses import FINDING, LINKS, Clause, Mention, Sense, clauses
from medlip.reports.facts import Fact
from medlip.reports.lexicon import Item, Lexicon, words
from medlip.reports.places import Place, composed
from medlip.reports.text import Sentence, sections, split_sentences


def extract_facts(text: str, vocabulary: Vocabulary | None = None) -> tuple[Fact, ...]:
    """Read the facts of a report: one for each mention of a finding at a place, in the order of the text.

    Findings and impression are read, the other sections are not. A mention that names no place gets the place that the
    report names for the same finding elsewhere, or else the default of its finding ("pleural effusion": pleural_unspec).

    Args:
        text: a report, with or without headings; any text gives facts or none.
        vocabulary: names of pathologies and anatomies; synonyms that it has beyond the default's are read, too.

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


class Reading(NamedTuple):
    """What a sentence says: its mentions, and whether it goes on about what the sentence before it says."""

    mentions: tuple[Mention, ...]
    refers: bool


_NOTHING = Reading((), refers=False)


class ReportReading(NamedTuple):
    """What a report says: its facts, the names of its sections, and the sentences that no fact was read from."""

    facts: tuple[Fact, ...]
    sections: tuple[str, ...]
    silent: tuple[str, ...]


class Extractor:
    """Reads reports in the words of one vocabulary. Use `extractor(vocabulary)`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lexicon = _lexicon(vocabulary)
        self._read = lru_cache(maxsize=16_384)(self._read_sentence)  # reports repeat their sentences

    def forget(self) -> None:
        """Drop the sentences that are remembered."""
        self._read.cache_clear()

    def __call__(self, text: str) -> tuple[Fact, ...]:
        """Return the facts of a report; see `extract_facts`."""
        return self.read(text).facts

    def read(self, text: str) -> ReportReading:
        """Return the facts of a report with its sections and the sentences without any fact."""
        found = sections(text)
        mentions: list[tuple[Mention, Sentence]] = []
        silent: list[str] = []
        for section in found:
            if not section.read:
                continue
            before: tuple[Mention, ...] = ()
            for sentence in split_sentences(text[section.start : section.end]):
                reading = self._read(sentence.text)
                here = _carried(reading.mentions, before) if reading.refers else reading.mentions
                if here:
                    offset = section.start + sentence.start
                    placed = Sentence(sentence.text, offset, offset + len(sentence.text))
                    mentions += [(mention, placed) for mention in here]
                    before = here
                else:
                    silent.append(sentence.text)
        return ReportReading(tuple(self._facts(mentions)), tuple(section.name for section in found), tuple(silent))

    def _facts(self, mentions: Sequence[tuple[Mention, Sentence]]) -> Iterable[Fact]:
        elsewhere: dict[tuple[str, str], str] = {}
        for mention, _ in mentions:
            if mention.row and mention.presence != "absent":
                elsewhere.setdefault((mention.pathology, mention.presence), mention.row)
        device: Mention | None = None
        device_in = -1
        known_pathologies, known_anatomies = self.vocabulary.pathology_index, self.vocabulary.anatomy_index
        for mention, sentence in mentions:
            row = mention.row
            if mention.sense.part and row in _CHAMBERS and device is not None and sentence.start != device_in:
                mention = mention._replace(
                    pathology=device.pathology
                )  # "There is a pacemaker. Leads overlie the right atrium."
            elif mention.pathology in ("pacemaker", "device"):
                device, device_in = mention, sentence.start
            if not row and not mention.sense.device:
                row = elsewhere.get((mention.pathology, mention.presence), "")
            row = row or mention.sense.row
            if mention.pathology in known_pathologies and row in known_anatomies:
                start, end = sentence.start + mention.start, sentence.start + mention.end
                yield Fact(mention.pathology, row, mention.presence, sentence.text, start, end)

    def _read_sentence(self, sentence: str) -> Reading:
        items = _heeded(self._lexicon.items(sentence))
        if not any(item.kind in FINDING for item in items):
            return _NOTHING
        items = composed(items)
        refers = _refers(items[:3]) and any(item.kind in LINKS or item.value == "xxxx" for item in items)
        mentions: list[Mention] = []
        clause: Clause | None = None
        for start, end in clauses(items):
            clause = Clause(items[start:end], clause)
            found = tuple(clause.mentions())
            goes_on = start > 0 and _refers(items[start : start + 4])
            mentions += _carried(found, mentions) if goes_on else found
        if any(mention.sense.part for mention in mentions):
            mentions = list(_with_parts(mentions))
        return Reading(tuple(mentions), refers)


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
            yield from (mention._replace(row=row) for row in rows)
        else:
            yield mention


def _carried(mentions: Sequence[Mention], before: Sequence[Mention]) -> tuple[Mention, ...]:
    """Give mentions without a place the place that the sentence before speaks of ("This may represent pneumonia.")."""
    spoken = next((m for m in before if m.row and m.sense.lung and m.presence != "absent"), None)
    if spoken is None:
        return tuple(mentions)
    return tuple(m._replace(row=spoken.row) if not m.row and m.sense.lung else m for m in mentions)


def _lexicon(vocabulary: Vocabulary) -> Lexicon:
    lexicon = Lexicon()
    for pathology, senses in words("findings").items():
        for entry in senses:
            options = {key: value for key, value in entry.items() if key not in ("nouns", "adjectives")}
            sense = Sense(pathology, **options)
            lexicon.add(entry.get("nouns", ()), "noun", sense)
            lexicon.add(entry.get("adjectives", ()), "normal" if sense.normal else "adjective", sense)
    places = words("places")
    for field_name in ("side", "zone", "organ"):
        for name, phrases in places[f"{field_name}s"].items():
            lexicon.add(phrases, "place", Place(**{field_name: name}))
    for parts, phrases in places["shortened"]:
        lexicon.add(phrases, "place", Place(**parts))
    for kind in ("inside", "size", "contour"):
        lexicon.add(places[kind], kind)
    for kind, phrases in words("cues").items():
        if kind == "silent":
            lexicon.silent = frozenset(phrases)
        else:
            lexicon.add(phrases, kind)
    _add_synonyms(lexicon, vocabulary)
    return lexicon.finish()


def _add_synonyms(lexicon: Lexicon, vocabulary: Vocabulary) -> None:
    """Add what the vocabulary says in words that the default one does not have: `words/*.yaml` covers the default's."""
    default = default_vocabulary()
    if vocabulary is default:
        return
    usual = {word for concept in (*default.pathologies, *default.anatomies) for word in concept.words}
    for pathology in vocabulary.pathologies:
        sense = Sense(pathology.name, normal=pathology.kind == "normal")
        kind = "normal" if sense.normal else "noun"
        lexicon.add((word.replace("_", " ") for word in pathology.words if word not in usual), kind, sense)
    for anatomy in vocabulary.anatomies:
        phrases = (word.replace("_", " ") for word in anatomy.words if word not in usual)
        lexicon.add(phrases, "place", Place(organ=f"={anatomy.name}"))


def _heeded(items: list[Item]) -> list[Item]:
    """Leave out what is not about the image: advice to the end of the sentence, asides to the next comma or clause."""
    heeded: list[Item] = []
    aside = False
    for i, item in enumerate(items):
        if item.kind == "advice" or (i == 0 and item.value == "if"):
            break
        if item.kind == "aside":
            # "consistent with the patient's history of emphysema" is said of the image
            aside = not any(before.kind in ("explains", "cause") for before in heeded[-2:])
            if not aside:
                continue
        elif aside and (item.kind in (",", "clause", "there", "normal") or (heeded and item.value == "with")):
            aside = False  # "similar to the prior study with a small effusion"
        if not aside:
            heeded.append(item)
    return heeded
