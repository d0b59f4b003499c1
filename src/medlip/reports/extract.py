"""From a report's text to its facts, by the words of `words/*.yaml`.

A sentence is read as phrases (findings, places, cues); places are composed from side, zone and organ; each finding is given the
places that belong to it and a presence (negated, hedged or stated); the report settles what its sentences leave open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.reports.facts import Fact, Presence
from medlip.reports.lexicon import Item, Lexicon, words
from medlip.reports.places import row_of
from medlip.reports.text import Sentence, sections, split_sentences

_REACH = 12  # how many phrases a finding looks to each side for its place


def extract_facts(text: str, vocabulary: Vocabulary | None = None) -> tuple[Fact, ...]:
    """Read the facts of a report: one for each mention of a finding at a place, in the order of the text.

    Findings and impression are read, the other sections are not. A mention that names no place gets the default of its finding
    ("pleural effusion": pleural_unspec), or the place that the report names for the same finding elsewhere.

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


@dataclass(frozen=True, slots=True, eq=False)
class Sense:
    """One meaning of words for a finding; see `words/findings.yaml` for the fields."""

    pathology: str
    row: str = "unspecified"
    organ: str = ""
    fixed: bool = False
    at: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] = ()
    never: Sequence[str] = ()
    lung: bool = False
    device: bool = False
    part: bool = False
    beside: bool = False
    normal: bool = False
    general: bool = False
    skip: bool = False


class Place(NamedTuple):
    """A place by its parts, each possibly empty: side (left, right, both), zone, organ."""

    side: str = ""
    zone: str = ""
    organ: str = ""

    @property
    def complete(self) -> bool:
        """Whether it stands for a place without a neighbour's words."""
        return bool(self.organ) or self.zone in ("base", "apical")

    @property
    def vague(self) -> bool:
        """Whether it says no more than "lung"."""
        return self in _VAGUE

    @property
    def in_lung(self) -> bool:
        """Whether a finding of the lung can be there."""
        return self.organ in _IN_LUNG


_IN_LUNG = frozenset(
    ["", "lung", "lobe", "lingula", "hilum", "retrocardiac", "interstitium", "parenchymal", "pulmonary", "chest"]
)
_NOWHERE = (Place("both"), Place(organ="chest"))
_VAGUE = frozenset(Place(organ=organ) for organ in ("lung", "pulmonary", "chest"))
_CENTRAL = frozenset(["svc", "cavoatrial_junction"])  # a tip there is a central venous catheter's
_CHAMBERS = frozenset(["right_atrium", "right_ventricle"])
# Organs that say little: the other of two wins ("pulmonary interstitium", "lung apex", "osseous structures of the spine").
_WEAK = (
    "chest",
    "cardiopulmonary",
    "bones",
    "other place",
    "soft tissue",
    "pulmonary",
    "lung",
    "parenchymal",
    "interstitium",
    "lobe",
)


class Mention(NamedTuple):
    """A finding in a sentence: `row` is empty where the sentence names no place."""

    sense: Sense
    pathology: str
    row: str
    presence: Presence
    start: int
    end: int


class Reading(NamedTuple):
    """What a sentence says: its mentions, and whether it goes on about what the sentence before it says."""

    mentions: tuple[Mention, ...]
    refers: bool


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
        items = _composed(_heeded(self._lexicon.items(sentence)))
        refers = (
            bool(items) and any(item.kind == "refers" for item in items[:3]) and any(item.kind in _LINKS for item in items)
        )
        mentions: list[Mention] = []
        for start, end in _clauses(items):
            mentions += _Clause(items[start:end]).mentions()
        return Reading(tuple(_with_parts(mentions)), refers)


def _with_parts(mentions: list[Mention]) -> Iterable[Mention]:
    """Put a device where its parts are: "a pacemaker with its tip in the right atrium"."""
    rows = dict.fromkeys(mention.row for mention in mentions if mention.sense.part and mention.row)
    if _CENTRAL & rows.keys() and not any(mention.sense.device and not mention.sense.part for mention in mentions):
        yield from (m._replace(pathology="catheter") for m in mentions if m.pathology == "tip" and m.row in _CENTRAL)
    for mention in mentions:
        own = mention.row not in ("", "other")  # "left subclavian catheter": where it enters, not where it is
        if rows and mention.sense.device and not mention.sense.part and not own and mention.presence != "absent":
            yield from (mention._replace(row=row) for row in rows)
        else:
            yield mention


def _carried(mentions: Sequence[Mention], before: Sequence[Mention]) -> tuple[Mention, ...]:
    """Give mentions without a place the place that the sentence before speaks of ("This may represent pneumonia.")."""
    spoken = next((m for m in before if m.row and m.sense.lung and m.presence != "absent"), None)
    if spoken is None:
        return tuple(mentions)
    return tuple(m._replace(row=spoken.row) if not m.row and m.sense.lung else m for m in mentions)


_LINKS = frozenset(["explains", "cause", "uncertain"])
_FINDING = frozenset(["noun", "adjective", "normal"])


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


# --- places ------------------------------------------------------------------------------------------------------------------------


def _heeded(items: list[Item]) -> list[Item]:
    """Leave out what is not about the image at hand: advice to the end of the sentence, asides to the next comma or clause."""
    heeded: list[Item] = []
    aside = False
    for i, item in enumerate(items):
        if item.kind == "advice" or (i == 0 and item.value == "if"):
            break
        if item.kind == "aside":
            aside = True
        elif aside and (item.value == "," or item.kind in ("clause", "there")):
            aside = False
        if not aside:
            heeded.append(item)
    return heeded


def _composed(items: list[Item]) -> list[Item]:
    """Join the words of each place ("left", "and", "right", "upper", "lobe") into one item that holds its places."""
    composed: list[Item] = []
    i = 0
    while i < len(items):
        if items[i].kind != "place":
            composed.append(items[i])
            i += 1
            continue
        places, end = _run(items, i)
        composed.append(Item("places", places, items[i].start, items[end - 1].end))
        i = end
    return composed


def _run(items: list[Item], start: int) -> tuple[tuple[Place, ...], int]:
    """Read the places that begin at `start`, and return them with the index behind their last word."""
    parts: list[Place] = [items[start].value]
    said: list[set[str]] = [set()]  # "size" or "contour" of each
    end = i = start + 1
    joined = False
    before = start - 1
    while before > 0 and items[before].kind in ("inside", "fresh", ""):
        before -= 1
    inside_phrase = start > 0 and items[before].kind in ("within", "over")
    while i < len(items):
        item = items[i]
        if item.kind == "place":
            whole = None if joined else _merged(parts[-1], item.value)
            if whole is None:
                # "in the left base and right effusion": the second place belongs to the finding behind it
                # "heart size and aortic calcification": so it does
                if joined and parts[-1].complete and (inside_phrase or said[-1]) and _modifies(items, i):
                    break
                parts.append(item.value)
                said.append(set())
            else:
                parts[-1] = whole
            joined = False
            end = i + 1
        elif item.kind in ("size", "contour"):
            said[-1].add(item.kind)
            if not joined:
                end = i + 1
        elif item.kind in ("both", "either") or item.value in (",", "/"):
            joined = True
        elif item.kind not in ("inside", "fresh") and not (item.kind == "" and item.value.isdigit()):
            break
        i += 1
    return tuple(_completed(parts, said)), end


def _modifies(items: list[Item], i: int) -> bool:
    """Tell whether the place at `i` stands before a finding that it belongs to."""
    while i < len(items) and items[i].kind in ("place", "inside", "fresh", ""):
        i += 1
    return i < len(items) and items[i].kind == "noun"


def _merged(a: Place, b: Place) -> Place | None:
    """Return both as one place, or None if they contradict each other."""
    if (a.side and b.side and a.side != b.side) or (a.zone and b.zone and a.zone != b.zone):
        return None
    if a.organ and b.organ and a.organ != b.organ:
        weak = next((organ for organ in _WEAK if organ in (a.organ, b.organ)), None)
        if weak is None:
            return None
        organ = b.organ if weak == a.organ else a.organ
    else:
        organ = a.organ or b.organ
    return Place(a.side or b.side, a.zone or b.zone, organ)


def _completed(parts: list[Place], said: list[set[str]]) -> Iterable[Place]:
    """Let coordinated places share what only one of them says ("right upper and lower lobes", "cardiac and mediastinal contours")."""
    whole = list(parts)
    for i in range(len(parts) - 2, -1, -1):  # a bare side or zone takes the organ that follows
        if not parts[i].complete:
            following = whole[i + 1]
            whole[i] = Place(parts[i].side, parts[i].zone or following.zone, following.organ)
        if not said[i]:
            said[i] = said[i + 1]
    for i in range(1, len(parts)):
        if not whole[i].side and not parts[i - 1].complete and whole[i].organ == whole[i - 1].organ:
            whole[i] = whole[i]._replace(side=whole[i - 1].side)
    for place, attributes in zip(whole, said, strict=True):
        if place.organ == "heart" and "contour" in attributes:
            yield place._replace(organ="heart border")
            if "size" not in attributes:
                continue
        if place.side == "both" and (place.zone == "mid" or (place.zone, place.organ) == ("upper", "lobe")):
            yield from (place._replace(side=side) for side in ("left", "right"))
            continue
        yield place


@lru_cache(maxsize=4096)
def _row(place: Place) -> str:
    """Return the row of a place, "" for a bare "both sides"."""
    side, zone, organ = place
    if organ.startswith("="):
        return organ[1:]
    sided = side in ("left", "right")
    if organ in ("pulmonary", "chest") and (sided or zone):
        organ = "lung"
    if organ == "lingula":
        return row_of(("lobe", "right", "upper") if side == "right" else ("lingula",))
    if organ == "lobe" and zone == "mid":
        zone = "middle"
        side, organ = (side, "lung" if side == "left" else organ) if sided else ("right", organ)
        sided = True
    if not organ and zone:
        organ = "lung"
    if organ in ("lung", "lobe") and not sided:
        if zone == "upper":
            organ = "lungs"
        zone = "" if zone == "mid" else zone
        organ = "lung" if organ == "lobe" and zone != "lower" else organ
    if organ == "lobe" and zone not in ("upper", "lower", "middle"):
        organ = "lung"
    parts = [*(organ.split() if organ != "cavoatrial junction" else [organ]), side if sided else "", zone]
    return row_of([part for part in parts if part]) if any(parts) else ""


# --- clauses -----------------------------------------------------------------------------------------------------------------------


def _clauses(items: list[Item]) -> Iterable[tuple[int, int]]:
    """Yield the bounds of the clauses: at "but", before "there is", and before a new subject ("…, the heart is normal")."""
    start, said = 0, False
    for i, item in enumerate(items):
        if i > start and (item.kind == "clause" or (said and (item.kind == "there" or _new_subject(items, i)))):
            yield start, i
            start, said = i, False
        said = said or item.kind in _FINDING
    yield start, len(items)


def _new_subject(items: list[Item], i: int) -> bool:
    """Tell whether at `i` new places begin, behind a comma, "and" or nothing, of which something is said."""
    if items[i].value == "," or items[i].kind == "both":
        j = i + 1
    elif items[i].kind in ("places", "fresh") and items[i - 1].kind == "noun":  # "no pneumothorax the lungs are clear"
        return _states(items, i + (items[i].kind == "fresh"), ("be",))
    else:
        return False
    while j < len(items) and items[j].kind in ("fresh", "", "both", "inside"):
        j += 1
    return _states(items, j, ("be", "normal", "adjective"))


def _states(items: list[Item], j: int, kinds: tuple[str, ...]) -> bool:
    """Tell whether at `j` stand places and then one of `kinds`."""
    if j >= len(items) or items[j].kind != "places":
        return False
    j += 1
    while j < len(items) and items[j].kind in ("size", "contour", ""):
        j += 1
    return j < len(items) and items[j].kind in kinds


class _Clause:
    """One clause: gives each finding its presence and its places."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.found = [i for i, item in enumerate(items) if item.kind in _FINDING]
        self.presence: dict[int, Presence] = {}
        self.places: dict[int, tuple[Place, ...]] = {}
        self.taken: set[int] = set()  # places that belong to a noun in front of them or behind them
        self.described: set[int] = set()  # places that belong to an adjective in front of them
        self.lists = any(item.kind in ("either", "both") for item in items)

    def mentions(self) -> Iterable[Mention]:
        if not self.found:
            return
        self._judge()
        for i in self.found:
            if self.items[i].kind == "noun":
                self.places[i] = self._around(i)
        for i in self.found:
            if self.items[i].kind != "noun":
                self.places[i] = self._described(i)
        for i in self.found:
            if self.items[i].kind == "noun" and not self.places[i]:
                self.places[i] = self._shared(i)
        for i in self.found:
            yield from self._mentions(i)

    # What is stated, negated, hedged

    def _judge(self) -> None:
        items = self.items
        state: Presence = "present"
        briefly = said = False  # "not" reaches to the next comma or "and" only; whether a finding followed the cue
        for i, item in enumerate(items):
            kind = item.kind
            if kind in _FINDING:
                self.presence[i] = state
                said = True
            elif kind == "absent":
                state, briefly, said = "absent", item.value in ("not", "non"), False
            elif kind == "uncertain":
                if state != "absent":
                    state, said = "uncertain", False
                if item.value in ("versus", "vs"):
                    self._doubt_before(i)
            elif kind in ("limits", "cause", "clause", "there"):
                if kind != "cause" or state == "absent":
                    state = "present"
            elif item.value == "," or kind == "both":
                if state != "present" and said and (briefly or self._begins_anew(i)):
                    state = "present"
            elif kind == "either":
                if state != "absent" and self._doubt_before(i):
                    state = "uncertain"
            elif kind in ("absent_behind", "uncertain_behind"):
                value: Presence = "absent" if kind == "absent_behind" else "uncertain"
                if not self._reaches_back(i, value):
                    state = value

    def _begins_anew(self, i: int) -> bool:
        """Tell whether behind the comma or "and" at `i` a new item begins, outside the list that was negated or hedged."""
        following = self.items[i + 1 : i + 2]
        if not following or following[0].kind not in ("fresh", "normal", "adjective"):
            return False
        if following[0].kind == "adjective" and following[0].value.only:
            return False
        return not any(item.kind == "either" for item in self.items[i:]) or following[0].value == "there"

    def _doubt_before(self, i: int) -> bool:
        """Make the finding before "versus" or "or" uncertain; return whether there was one that is stated."""
        oxford = self.items[i - 1].value == "," if i else False
        done = False
        for j in range(i - 1, max(i - 1 - _REACH, -1), -1):
            item = self.items[j]
            if item.kind == "noun":
                if self.presence[j] == "absent":
                    return done
                self.presence[j] = "uncertain"
                done = True
                if not oxford:
                    return done
            elif item.value == ",":
                if done and not oxford:
                    return done
            elif item.kind not in ("", "fresh", "places", "inside", "within"):
                return done
        return done

    def _reaches_back(self, i: int, value: Presence) -> bool:
        """Apply "… is not seen" at `i` to the findings before it; False if it is rather said of what follows."""
        before = self.items[i - 1].kind if i else ""
        if (
            before != "be"
            and any(j > i for j in self.found)
            and self.items[i + 1].kind in (*_FINDING, "places", "fresh", "")
        ):
            return False
        reached = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind in _FINDING:
                if item.kind == "noun":
                    self.presence[j] = value
                    reached = True
            elif (
                item.kind in ("absent", "there", "clause")
                or (reached and item.kind in ("be", "limits", "explains", "cause"))
                or (item.value == "," and reached and not self.lists)
            ):
                break
        return True

    # Where it is

    def _around(self, i: int) -> tuple[Place, ...]:
        """Return the places that a noun's own phrase names, before it ("left base opacity") and behind it ("in the left base")."""
        before = self._before(i)
        behind = self._behind(i)
        if not before or not behind:
            named = before or behind
            if len(named) == 1 and named[0].vague:  # "In the left base there is a lung nodule."
                narrowed = [_merged(named[0], place) for place in self._topic(i)]
                return tuple(place for place in narrowed if place) or named
            return named
        merged = [_merged(a, b) for a in before for b in behind]
        if all(merged) and (len(before) == 1 or len(behind) == 1):
            return tuple(place for place in merged if place)
        return before if any(place.complete for place in before) else behind

    def _before(self, i: int) -> tuple[Place, ...]:
        for j in range(i - 1, max(i - _REACH, -1), -1):
            item = self.items[j]
            if item.kind == "places":
                if j in self.taken:
                    return ()
                self.taken.add(j)
                places: tuple[Place, ...] = item.value
                return places
            if item.kind == "noun" and j == i - 1:
                return self.places.get(j, ())
            if item.kind not in ("", "fresh", "inside", "size", "adjective", "nothing"):
                return ()
        return ()

    def _behind(self, i: int) -> tuple[Place, ...]:
        items = self.items
        places: tuple[Place, ...] = ()
        adjacent, listed = True, False
        j = i + 1
        while j < min(i + _REACH, len(items)):
            kind = items[j].kind
            if kind in ("within", "over") and (k := self._place_after(j)):
                reached: tuple[Place, ...] = items[k].value
                if kind == "over" and not items[i].value.device:
                    reached = tuple(
                        place if place.in_lung or place.organ == "mediastinal" else Place(place.side) for place in reached
                    )
                self.taken.add(k)
                merged = [_merged(a, b) for a in places for b in reached] if places else list(reached)
                if places and not all(merged):
                    break
                places = tuple(place for place in merged if place)
                j = k
            elif kind == "places" and not places and adjacent and not listed:
                if _modifies(items, j + 1) or (
                    j + 1 < len(items) and items[j + 1].kind in ("be", "normal", "adjective", "compares")
                ):
                    break
                self.taken.add(j)
                places = items[j].value
            elif kind in ("both", "either") or items[j].value == ",":
                if places or not (self.lists or self._apposed(j)):
                    break
                listed = listed or self.lists
            elif kind in ("noun", "adjective"):
                if not listed or places:
                    break
            elif kind in ("", "fresh", "be", "size", "inside", "nothing", "absent_behind", "uncertain_behind", "contour"):
                adjacent = adjacent and kind != "be"
            elif kind == "places" and listed and not places:
                pass  # "effusion and left basilar atelectasis": the other noun's own
            else:
                break
            j += 1
        return places

    def _apposed(self, j: int) -> bool:
        """Tell whether the comma at `j` is followed by a place alone ("nodule, right upper lobe")."""
        behind = self.items[j + 1 : j + 3]
        return (
            bool(behind)
            and behind[0].kind == "places"
            and all(place.complete for place in behind[0].value)
            and (len(behind) == 1 or behind[1].value == ",")
        )

    def _place_after(self, j: int) -> int:
        """Return the index of the place that the preposition at `j` names, 0 if there is none."""
        for k in range(j + 1, min(j + 8, len(self.items))):
            if self.items[k].kind == "places":
                return 0 if _modifies(self.items, k + 1) and not self._ends(k) else k
            if self.items[k].kind not in ("", "fresh", "inside", "within", "over", "size"):
                return 0
        return 0

    def _ends(self, k: int) -> bool:
        return k + 1 < len(self.items) and self.items[k + 1].kind == "fresh"

    def _described(self, i: int) -> tuple[Place, ...]:
        """Return the places that an adjective is said of: the subject before it, or the noun behind it."""
        subject = self._subject(i)
        if subject is not None:
            return self._with_contour(i, self.items[subject].value)
        for j in range(i + 1, min(i + _REACH, len(self.items))):
            item = self.items[j]
            if item.kind == "places" and j not in self.taken:
                self.described.add(j)
                places: tuple[Place, ...] = item.value
                return self._with_contour(i, places)
            if item.kind == "noun" and self.items[i].value.beside:
                return self.places[j]
            if item.kind not in (
                "places",
                "",
                "fresh",
                "adjective",
                "normal",
                "both",
                "inside",
                "size",
                "within",
                "contour",
            ):
                break
        topic = self._topic(i)
        return self._with_contour(i, topic)

    def _subject(self, i: int) -> int | None:
        """Return the index of the places that stand right before an adjective, as its subject."""
        listed = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind == "places":
                object_of_noun = j in self.taken or self._is_object(j)
                return None if object_of_noun else j
            if item.kind in ("adjective", "normal"):
                listed = False
            elif item.value == "," or item.kind == "both":
                listed = True
            elif item.kind not in (
                "",
                "be",
                "fresh",
                "size",
                "contour",
                "absent",
                "uncertain",
                "nothing",
                "refers",
                "inside",
                "within",
            ):
                return None
            if listed and self.items[j - 1].kind not in ("adjective", "normal", ",", "both", "size", "contour"):
                return None
        return None

    def _is_object(self, j: int) -> bool:
        """Tell whether the places at `j` stand behind a preposition that belongs to a noun before it."""
        while j > 0 and self.items[j - 1].kind in ("inside", "fresh", ""):
            j -= 1
        return j > 0 and self.items[j - 1].kind in ("within", "over") and any(k < j for k in self.found)

    def _with_contour(self, i: int, places: tuple[Place, ...]) -> tuple[Place, ...]:
        """Add the heart's border to "the heart is normal in size and contour"."""
        if self.items[i].kind != "normal" or not any(place.organ == "heart" for place in places):
            return places
        for j in range(i + 1, min(i + 6, len(self.items))):
            item = self.items[j]
            if item.kind == "contour":
                return (*places, Place(organ="heart border"))
            if item.kind not in ("size", "both", "within", "", "either") and item.value != ",":
                break
        return places

    def _topic(self, i: int) -> tuple[Place, ...]:
        """Return the places that the clause speaks of before `i`: its subject, or what it begins with ("In the left base, …")."""
        for j in range(i - 1, -1, -1):
            if self.items[j].kind == "places" and j not in self.taken and j not in self.described:
                places: tuple[Place, ...] = self.items[j].value
                if any(place not in _NOWHERE for place in places):  # "the lungs are clear bilaterally, without …"
                    return places
        return ()

    def _shared(self, i: int) -> tuple[Place, ...]:
        """Return the places of a noun that names none: of what it explains or is listed with, or of the clause's topic."""
        sense: Sense = self.items[i].value
        linked = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind in _LINKS:
                linked = True
            elif item.kind == "noun":
                apposed = self.presence[i] != "absent" and sense.lung and item.value.lung
                if self.places.get(j) and (linked or apposed):
                    return self.places[j]
            elif item.kind in ("there", "clause", "absent"):
                break
        if not self.places[i]:
            for j in range(i + 1, len(self.items)):
                item = self.items[j]
                if item.kind in _LINKS:
                    linked = True
                elif item.kind == "noun" and linked and self.places.get(j) and sense.lung:
                    return self.places[j]
                elif item.kind in ("there", "clause", "absent"):
                    break
        topic = self._topic(i)
        return topic if not sense.lung or all(place.in_lung for place in topic) else ()

    # What comes of it

    def _mentions(self, i: int) -> Iterable[Mention]:
        item = self.items[i]
        sense: Sense = item.value
        presence = self.presence[i]
        if sense.skip or (sense.normal and presence != "present") or (sense.general and not self._sums_up(i)):
            return
        rows = dict.fromkeys(_settled(sense, place) for place in self.places[i])
        rows.pop("", None)
        if not rows:
            if item.kind == "noun":
                yield Mention(sense, sense.pathology, "", presence, item.start, item.end)
            return
        for row in rows:
            if not sense.only or row in sense.only:
                yield Mention(sense, sense.at.get(row, sense.pathology), row, presence, item.start, item.end)

    def _sums_up(self, i: int) -> bool:
        """Tell whether a general word is negated alone: "no acute abnormality", but not "no findings of edema"."""
        return self.presence[i] == "absent" and not any(
            self.items[j].kind == "noun" and not self.items[j].value.general for j in self.found if j != i
        )


@lru_cache(maxsize=65536)
def _settled(sense: Sense, place: Place) -> str:
    """Return the row of a finding at a place, "" where the place says nothing for it."""
    if sense.fixed:
        return sense.row
    if sense.normal and place.organ == "chest" and not place.side:
        return ""  # "normal chest" names no structure
    if sense.device and not place.organ and not place.zone:
        return ""
    if sense.organ:
        place = Place(place.side, "", sense.organ)
    elif sense.lung and place.organ == "pleural" and place.side:
        place = Place(place.side)
    row = _row(place)
    return "" if row in sense.never else row
