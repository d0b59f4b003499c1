"""Clauses: what each finding of one is said to be (present, absent, uncertain), and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from medlip.reports.facts import Presence
from medlip.reports.lexicon import Item
from medlip.reports.places import Place, Rows, merged, modifies
from medlip.reports.presence import REACH, Judgement, judged
from medlip.reports.statements import FINDING, LINKS

_BEFORE_ADJECTIVE = frozenset(
    ["", "be", "fresh", "size", "contour", "absent", "uncertain", "nothing", "refers", "inside", "within"]
)
_BETWEEN = frozenset(["places", "", "fresh", "adjective", "normal", "both", "inside", "size", "within", "contour"])
_NOWHERE = (Place("both"), Place(organ="chest"))  # places that tell nothing of what is said behind them


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
    anywhere: bool = False
    device: bool = False
    part: bool = False
    beside: bool = False
    normal: bool = False
    general: bool = False
    skip: bool = False
    own: bool = False


class Mention(NamedTuple):
    """A finding in a sentence: `row` is empty where the sentence names no place.

    The rest tells why: rules of `words/rules.yaml`, and the words of the clause and of the cue (none: -1) in the sentence.
    All positions count words. It is kept flat, since thousands of sentences are remembered.
    """

    sense: Sense
    pathology: str
    row: str
    presence: Presence
    start: int
    end: int
    presence_rule: str
    place_rule: str
    clause_start: int
    clause_end: int
    cue_start: int = -1
    cue_end: int = -1


def clauses(items: list[Item]) -> Iterable[tuple[int, int]]:
    """Yield the bounds of the clauses: at "but", before "there is", and before a new subject ("…, the heart is normal").

    A sentence that runs on without a comma is several: a clause ends, too, before "no …" and before the next finding.
    """
    runs_on = _runs_on(items)
    start, said = 0, False
    for i, item in enumerate(items):
        kind = item.kind
        if i > start and (kind == "clause" or (said and (kind == "there" or _begins_clause(items, i, runs_on)))):
            yield start, i
            start, said = i, False
        said = said or kind in FINDING
    yield start, len(items)


def _begins_clause(items: list[Item], i: int, runs_on: bool) -> bool:
    return _new_subject(items, i, runs_on) or (runs_on and _new_statement(items, i))


_LONG = 4  # phrases; a sentence that has more and no comma may run on
_ENDS_STATEMENT = frozenset(["noun", "normal", "adjective", "absent_behind", "uncertain_behind"])


def _runs_on(items: list[Item]) -> bool:
    return len(items) > _LONG and {item.kind for item in items}.isdisjoint((",", "clause"))


def _new_statement(items: list[Item], i: int) -> bool:
    """Tell whether at `i`, behind a finding and nothing that joins them, "no …" or another finding with its place begins."""
    before = items[i - 1]
    if before.kind == "" and before.value in _SEEN:
        before = items[i - 2]
    if items[i].kind == "absent" and str(items[i].value).split()[0] == "no":
        return before.kind in _ENDS_STATEMENT or before.kind in ("places", "fresh", "")
    if before.kind not in ("noun", "normal", "absent_behind", "places"):
        return False
    if before.kind == "places" and items[i - 2].kind != "within":
        return False
    j = i
    while j < len(items) and items[j].kind in ("fresh", "places", "inside", "size") and items[j].value != "xxxx":
        j += 1
    if j == i and j + 1 < len(items) and items[j].kind == "adjective" and before.kind == "noun":
        return items[j + 1].kind == "places"  # "no effusion tortuous aorta"
    if j == len(items) or items[j].kind != "noun" or items[j].value.general:
        return False
    located = (
        j + 2 < len(items) and items[j + 1].kind == "within" and any(item.kind == "places" for item in items[j + 2 : j + 5])
    )
    return j > i or (before.kind == "noun" and located)  # "no pneumothorax nodule in the left base"


_SEEN = frozenset(["seen", "identified", "noted", "present", "demonstrated", "visualized", "visible"])


def _new_subject(items: list[Item], i: int, runs_on: bool) -> bool:
    """Tell whether at `i` new places begin, behind a comma, "and" or nothing, of which something is said."""
    if items[i].kind in (",", "both"):
        j = i + 1
    elif items[i].kind in ("places", "inside") and items[i - 1].kind == "noun":  # "no pneumothorax the lungs are clear"
        return _states(items, i + (items[i].kind == "inside"), ("be", "normal", "adjective") if runs_on else ("be",))
    elif runs_on and items[i].kind in ("places", "inside") and _completes(items, i - 1):
        return _states(items, i + (items[i].kind == "inside"), ("be", "normal", "adjective"))
    else:
        return False
    while j < len(items) and items[j].kind in ("fresh", "", "both", "inside"):
        j += 1
    return _states(items, j, ("be", "normal", "adjective"))


def _completes(items: list[Item], i: int) -> bool:
    """Tell whether at `i` something is said of places before it ("heart size is normal"), so that new ones can follow."""
    if items[i].kind not in ("normal", "adjective", "absent_behind", "uncertain_behind", ""):
        return False
    return any(item.kind == "places" for item in items[max(0, i - 6) : i])


def _states(items: list[Item], j: int, kinds: tuple[str, ...]) -> bool:
    """Tell whether at `j` stand places and then one of `kinds`."""
    if j >= len(items) or items[j].kind != "places":
        return False
    j += 1
    while j < len(items) and items[j].kind in ("size", "contour", ""):
        j += 1
    return j < len(items) and items[j].kind in kinds


class Clause:
    """One clause: gives each finding its presence and its places, which lie in `rows`."""

    def __init__(self, items: list[Item], rows: Rows, before: Clause | None = None) -> None:
        self.items = items
        self.rows = rows
        self.before = before
        self.found = [i for i, item in enumerate(items) if item.kind in FINDING]
        self.judged: dict[int, Judgement] = {}
        self.rule: dict[int, str] = {}  # how each finding got its places
        self.places: dict[int, tuple[Place, ...]] = {}
        self.taken: set[int] = set()  # places that belong to a noun in front of them or behind them
        self.described: set[int] = set()  # places that belong to an adjective in front of them
        self.lists = any(item.kind in ("either", "both", "/") for item in items)

    def mentions(self) -> Iterable[Mention]:
        """Yield a mention for each finding at each of its places, in the order of the text."""
        if not self.found:
            return
        self.judged = judged(self.items)
        for i in self.found:
            if self.items[i].kind == "noun":
                self._place(i, "own", self._around(i))
        for i in self.found:
            if self.items[i].kind != "noun":
                self._place(i, "described", self._described(i))
        for i in self.found:
            if self.items[i].kind == "noun" and not self.places[i]:
                self._place(i, "shared", self._shared(i))
                if not self.places[i]:
                    self._place(i, "topic", self._spoken_of(i))
        for i in self.found:
            yield from self._mentions(i)

    def _place(self, i: int, rule: str, places: tuple[Place, ...]) -> None:
        self.places[i], self.rule[i] = places, rule if places else ""

    @property
    def topic(self) -> tuple[Place, ...]:
        """The places that the clause speaks of; call it after `mentions`."""
        return self._topic(len(self.items))

    # Where it is

    def _around(self, i: int) -> tuple[Place, ...]:
        """Return the places that a noun's own phrase names, before it ("left base opacity") and behind it."""
        before = self._before(i)
        behind = self._behind(i)
        if not before or not behind:
            named = before or behind
            if len(named) == 1 and named[0].vague:  # "In the left base there is a lung nodule."
                narrowed = [merged(named[0], place) for place in self._topic(i)]
                return tuple(place for place in narrowed if place) or named
            return named
        if self.items[i].value.device and all(here == "other" for place in before for here in self.rows.of(place)):
            return behind  # a device is where it ends, not where it enters
        joined = [merged(a, b) for a in before for b in behind]
        if all(joined) and (len(before) == 1 or len(behind) == 1):
            return tuple(place for place in joined if place)
        return before if any(place.complete for place in before) else behind

    def _before(self, i: int) -> tuple[Place, ...]:
        for j in range(i - 1, max(i - REACH, -1), -1):
            item = self.items[j]
            if item.kind == "places":
                if j in self.taken:
                    return ()
                self.taken.add(j)
                places: tuple[Place, ...] = item.value
                return places
            if item.kind == "noun" and j == i - 1:
                return self.places.get(j, ())
            if item.kind not in ("", "fresh", "inside", "size", "adjective", "nothing", "/"):
                return ()
        return ()

    def _behind(self, i: int) -> tuple[Place, ...]:
        items = self.items
        places: tuple[Place, ...] = ()
        adjacent, listed = True, False
        j = i + 1
        while j < min(i + REACH, len(items)):
            kind = items[j].kind
            if kind in ("within", "over") and (k := self._place_after(j)):
                reached: tuple[Place, ...] = items[k].value
                if kind == "over" and not items[i].value.device:
                    reached = tuple(
                        place if place.in_lung or place.own or place.organ == "mediastinal" else Place(place.side)
                        for place in reached
                    )
                self.taken.add(k)
                joined = [merged(a, b) for a in places for b in reached] if places else list(reached)
                if places and not all(joined):
                    break
                places = tuple(place for place in joined if place)
                j = k
            elif kind == "places" and not places and adjacent and not listed:
                if modifies(items, j + 1) or (
                    j + 1 < len(items) and items[j + 1].kind in ("be", "normal", "adjective", "compares")
                ):
                    break
                self.taken.add(j)
                places = items[j].value
            elif kind in ("both", "either", ",", "/"):
                if places or not (self.lists or self._apposed(j)):
                    break
                listed = listed or self.lists
            elif kind in ("noun", "adjective"):
                if (not listed or places) and not items[j].value.general:
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
            and (len(behind) == 1 or behind[1].kind == ",")
        )

    def _place_after(self, j: int) -> int:
        """Return the index of the place that the preposition at `j` names, 0 if there is none."""
        for k in range(j + 1, min(j + 8, len(self.items))):
            if self.items[k].kind == "places":
                return 0 if modifies(self.items, k + 1) and not self._ends(k) else k
            if self.items[k].kind not in ("", "fresh", "inside", "within", "over", "size", "both"):
                return 0
        return 0

    def _ends(self, k: int) -> bool:
        return k + 1 < len(self.items) and self.items[k + 1].kind == "fresh"

    def _described(self, i: int) -> tuple[Place, ...]:
        """Return the places that an adjective is said of: the subject before it, or the noun behind it."""
        subject, listed = self._subject(i)
        behind = self._described_behind(i) if subject is None or listed else None
        if behind is not None:  # "heart size normal, calcified and tortuous aorta"
            return self._with_contour(i, behind)
        if subject is not None:
            return self._with_contour(i, self.items[subject].value)
        if not any(item.kind == "places" for item in self.items):
            return self.before.topic if self.before else ()  # "the lungs are hyperexpanded but clear"
        return self._with_contour(i, self._topic(i))

    def _described_behind(self, i: int) -> tuple[Place, ...] | None:
        """Return the places of the noun phrase that an adjective begins, None if it begins none."""
        for j in range(i + 1, min(i + REACH, len(self.items))):
            item = self.items[j]
            if item.kind == "places" and j not in self.taken:
                without = any(behind.kind == "absent" and behind.value != "no" for behind in self.items[j + 1 : j + 3])
                if not (self.items[i].value.normal and without):  # "clear lungs without infiltrate"
                    self.described.add(j)
                places: tuple[Place, ...] = item.value
                return places
            if item.kind == "noun" and self.items[i].value.beside:
                return self.places[j]
            if item.kind not in _BETWEEN:
                break
        return None

    def _subject(self, i: int) -> tuple[int | None, bool]:
        """Return the index of the places that stand before an adjective as its subject, and whether a list lies between."""
        listed = crossed = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind == "places":
                nowhere = all(place in _NOWHERE for place in item.value)  # "views of the chest show …"
                return None if nowhere or j in self.taken or self._is_object(j) else j, crossed
            if item.kind in ("adjective", "normal"):
                listed = False
            elif item.kind in (",", "both"):
                listed = crossed = True
            elif item.kind not in _BEFORE_ADJECTIVE:
                break
            if listed and self.items[j - 1].kind not in ("adjective", "normal", ",", "both", "size", "contour"):
                break
        return None, crossed

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
            if item.kind not in ("size", "both", "within", "", "either", ","):
                break
        return places

    def _topic(self, i: int) -> tuple[Place, ...]:
        """Return the places that the clause speaks of before `i`: its subject, or its first words ("In the left base …")."""
        for j in range(i - 1, -1, -1):
            if self.items[j].kind == "places" and j not in self.taken and j not in self.described:
                places: tuple[Place, ...] = self.items[j].value
                if any(place not in _NOWHERE for place in places):  # "the lungs are clear bilaterally, without …"
                    return places
        return ()

    def _shared(self, i: int) -> tuple[Place, ...]:
        """Return the places of a noun that names none: of what it explains, or is listed with."""
        sense: Sense = self.items[i].value
        if sense.own:
            return ()
        linked = self.judged[i].rule == "alternative"
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind in LINKS:
                linked = True
            elif item.kind == "adjective" and linked and sense.organ and self.places.get(j):
                return self.places[j]  # "blunted left costophrenic angle, ?effusion"
            elif item.kind == "noun":
                lung = item.value.lung or item.value.skip
                apposed = self.judged[i].presence != "absent" and sense.row == "unspecified" and sense.lung and lung
                if self.places.get(j) and ((linked and (sense.lung or sense.organ)) or apposed):
                    return self.places[j]
            elif item.kind in ("there", "clause", "absent"):
                break
        for j in range(i + 1, len(self.items)):
            item = self.items[j]
            if item.kind in LINKS:
                linked = True
            elif item.kind == "noun" and linked and self.places.get(j) and sense.lung:
                return self.places[j]
            elif item.kind in ("there", "clause", "absent"):
                break
        return ()

    def _spoken_of(self, i: int) -> tuple[Place, ...]:
        """Return the places of the clause's topic, where the noun can be there."""
        sense: Sense = self.items[i].value
        if sense.own:
            return ()
        topic = self._topic(i)
        return topic if not sense.lung or sense.anywhere or all(place.in_lung for place in topic) else ()

    # What comes of it

    def _mentions(self, i: int) -> Iterable[Mention]:
        item = self.items[i]
        sense: Sense = item.value
        presence, rule, cue = self.judged[i]
        if (
            presence is None
            or sense.skip
            or (sense.normal and presence != "present")
            or (sense.general and not self._sums_up(i))
        ):
            return
        items = self.items
        bounds = (
            (items[0].start, items[-1].end, items[cue].start, items[cue].end)
            if cue >= 0
            else (items[0].start, items[-1].end)
        )
        rows = dict.fromkeys(here for place in self.places[i] for here in _settled(sense, place, self.rows))
        if not rows:
            if item.kind == "noun" or (sense.fixed and not sense.only):
                here, by = (sense.row, "fixed") if sense.fixed else ("", "")
                yield Mention(sense, sense.pathology, here, presence, item.start, item.end, rule, by, *bounds)
            return
        for here in rows:
            if not sense.only or here in sense.only:
                pathology = sense.at.get(here, sense.pathology)
                yield Mention(sense, pathology, here, presence, item.start, item.end, rule, self.rule[i], *bounds)

    def _sums_up(self, i: int) -> bool:
        """Tell whether a general word is negated alone: "no acute abnormality", but not "no findings of edema"."""
        return self.judged[i].presence == "absent" and not any(
            self.items[j].kind == "noun" and not self.items[j].value.general and self.judged[j].presence == "absent"
            for j in self.found
        )


@lru_cache(maxsize=65536)
def _settled(sense: Sense, place: Place, rows: Rows) -> tuple[str, ...]:
    """Return the rows of a finding at a place, none where the place says nothing for it."""
    if sense.fixed:
        return (sense.row,) if not sense.only or not {*sense.only}.isdisjoint(rows.of(place)) else ()
    if sense.normal and place.organ == "chest" and not place.side:
        return ()  # "normal chest" names no structure
    if sense.device and not place.organ and not place.zone:
        return ()
    if sense.device and place.organ == "pulmonary vessels":
        return ("other",)
    if sense.organ:
        place = Place(place.side, "", sense.organ)
    elif sense.lung and place.organ == "pleural" and place.side:
        place = Place(place.side, place.zone)
    return tuple(here for here in rows.of(place) if here not in sense.never)
