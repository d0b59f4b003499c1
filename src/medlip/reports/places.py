"""Places: the words of one composed from side, zone and organ, and its row of the fact matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from medlip.reports.lexicon import Item, words


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

    @property
    def own(self) -> bool:
        """Whether its organ is one of a user's vocabulary."""
        return self.organ.startswith(OWN)


OWN = "="  # begins the name of an organ that a user's vocabulary brings; alone it is the body part that the images show


_IN_LUNG = frozenset(
    ["", "lung", "lobe", "lingula", "hilum", "retrocardiac", "interstitium", "parenchymal", "pulmonary", "chest"]
)
_VAGUE = frozenset(Place(organ=organ) for organ in ("lung", "pulmonary", "chest"))
# Organs that say little: of two, the other one stands ("pulmonary interstitium", "osseous structures of the spine").
_WEAK = (
    "chest", "cardiopulmonary", "bones", "soft tissue", "other place",
    "pulmonary", "lung", "parenchymal", "interstitium", "lobe", OWN,
)  # fmt: skip


def composed(items: list[Item]) -> list[Item]:
    """Join the words of each place ("left", "and", "right", "upper", "lobe") into one item that holds its places."""
    composed: list[Item] = []
    if "compares" in [item.kind for item in items]:
        items = list(_compared(items))
    i = 0
    while i < len(items):
        if items[i].kind != "place":
            composed.append(items[i])
            i += 1
            continue
        places, end = _run(items, i)
        places = tuple(_elided(place, composed, items[end : end + 1]) for place in places)
        composed.append(Item("places", places, items[i].start, items[end - 1].end))
        i = end
    return composed


def _elided(place: Place, before: list[Item], following: list[Item]) -> Place:
    """Return a side alone as the organ spoken of before: "the right hilum is enlarged, the left is normal"."""
    if place != Place(place.side) or place.side not in ("left", "right") or not following:
        return place
    if following[0].kind not in ("be", "normal", "adjective"):
        return place
    starts = next((item for item in reversed(before) if item.kind not in ("inside", "fresh")), None)
    spoken = next((item.value[0] for item in reversed(before) if item.kind == "places"), None)
    opposite = spoken is not None and spoken.organ and spoken.side in ("left", "right") and spoken.side != place.side
    if starts is None or starts.kind not in (",", "clause", "both") or not opposite or spoken is None:
        return place
    return Place(place.side, spoken.zone, spoken.organ)


def _compared(items: list[Item]) -> Iterable[Item]:
    """Read a comparison of sides as both of them ("effusions, left greater than right", "right base worse than left")."""
    i = 0
    while i < len(items):
        end, place = _comparison(items, i)
        if place is None:
            yield items[i]
            i += 1
            continue
        yield Item("place", place, items[end[0]].start, items[end[1] - 1].end)
        i = end[1] + (end[1] < len(items) and items[end[1]].kind == "," and end[0] > i)


def _comparison(items: list[Item], i: int) -> tuple[tuple[int, int], Place | None]:
    """Return the bounds and the place of the comparison that begins at `i`, or behind a comma there; None for no place."""
    start = i + (items[i].kind == ",")
    nothing = ((i, i), None)
    first = items[start].value if start < len(items) and items[start].kind == "place" else None
    if first is None or first.side not in ("left", "right"):
        return nothing
    j, whole = start + 1, first
    while j < len(items) and items[j].kind == "place":  # "right base"
        whole = merged(whole, items[j].value) or whole
        j += 1
    while j < len(items) and items[j].kind in ("inside", "fresh", "size"):
        j += 1
    if j == len(items) or items[j].kind != "compares":
        return nothing
    j += 1
    while j < len(items) and (items[j].kind in ("inside", "fresh", "within", "size") or items[j].value == "than"):
        j += 1
    other = items[j].value if j < len(items) and items[j].kind == "place" else None
    if other is None or other.side not in ("left", "right") or other.side == first.side:
        return nothing
    j += 1
    if whole.organ and j < len(items) and items[j].kind == "place" and not items[j].value.side:
        return nothing
    return (start, j), Place("both", whole.zone, whole.organ)


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
            if not joined and parts[-1].organ and item.value.side and _begins_place(items, i):
                break  # "of the spine right lower lobe"
            whole = None if joined else merged(parts[-1], item.value)
            if whole is None:
                if not joined and any(between.value == "xxxx" for between in items[end:i]):
                    break  # "the costophrenic XXXX XXXX old pleural scar"
                # "in the left base and right effusion": the second place belongs to the finding behind it
                # "heart size and aortic calcification": so it does
                # "lung bases, right greater than left": it is no place at all
                if joined and (
                    (parts[-1].complete and (inside_phrase or said[-1]) and modifies(items, i))
                    or (i + 1 < len(items) and items[i + 1].kind == "compares" and not _organ_follows(items, i + 1))
                ):
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
        elif item.kind in ("both", "either", ",", "/") or (item.kind == "compares" and _organ_follows(items, i)):
            joined = True
        elif not (item.kind in ("inside", "fresh") or item.value == "of" or (item.kind == "" and item.value[0].isdigit())):
            break
        i += 1
    return tuple(_completed(parts, said)), end


def _begins_place(items: list[Item], i: int) -> bool:
    """Tell whether the side at `i` begins a place ("right lower lobe"), rather than ends one ("lung base right")."""
    following = items[i + 1].value if i + 1 < len(items) and items[i + 1].kind == "place" else Place()
    return items[i - 1].kind in ("place", "fresh") and bool(following.zone) and not following.side


def _organ_follows(items: list[Item], i: int) -> bool:
    """Tell whether behind "greater than" at `i` a whole place stands ("left greater than right hilum")."""
    following = items[i + 1 : i + 3]
    return (
        bool(following)
        and following[0].kind == "place"
        and any(item.kind == "place" and item.value.organ for item in following)
    )


def modifies(items: list[Item], i: int) -> bool:
    """Tell whether the place at `i` stands before a finding that it belongs to."""
    while i < len(items) and items[i].kind in ("place", "inside", "fresh", ""):
        i += 1
    return i < len(items) and items[i].kind == "noun"


def merged(a: Place, b: Place) -> Place | None:
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
    """Let coordinated places share what only one of them says ("right upper and lower lobes")."""
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
        if place.side == "both" and (place.zone == "mid" or (place.organ == "lobe" and place.zone in ("upper", "lower"))):
            yield from (place._replace(side=side) for side in ("left", "right"))
            continue
        yield place


@lru_cache(maxsize=4096)
def row(place: Place) -> str:
    """Return the row of a place, "" for a bare "both sides"."""
    side, zone, organ = place
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


class Rows:
    """The rows that places lie in: those of a vocabulary's own organs, and else the built-in ones (`row`).

    Args:
        own: row by place, of the organs whose names begin with `OWN`.
        chest: False where the images show another part of the body, so that a side or zone alone is one of that part.
    """

    def __init__(self, own: Mapping[Place, str] | None = None, *, chest: bool = True) -> None:
        self._own = own or {}
        self._chest = chest

    def of(self, place: Place) -> tuple[str, ...]:
        """Return the rows of a place: mostly one, both sides' for "both knees", none where it says nothing.

        A side of something that has no row on that side, nor one for both, is what it says: no row of the vocabulary.
        """
        if not place.own and (self._chest or place.organ):
            here = row(place)
            return (here,) if here else ()
        for organ in dict.fromkeys((place.organ or OWN, OWN)):  # what has no row of its own is a part of the whole
            for zone in dict.fromkeys((place.zone, "")):
                sides = ("left", "right") if place.side == "both" else (place.side,)
                found = [self._own.get(Place(side, zone, organ)) for side in sides]
                unsided = self._own.get(Place("", zone, organ))
                if rows := tuple(here for here in found if here) or ((unsided,) if unsided else ()):
                    return rows
        if place.zone and place.organ in ("", OWN):  # "medial narrowing": the one row that has such a zone
            zoned = {here for own, here in self._own.items() if own.zone == place.zone and own.side in ("", place.side)}
            if len(zoned) == 1:
                return tuple(zoned)
        said = (place.side, place.zone, place.organ.removeprefix(OWN))
        return (" ".join(part for part in said if part),) if place.side in ("left", "right") else ()


class _Rule(NamedTuple):
    row: str
    any: frozenset[str]
    needs: tuple[frozenset[str], ...]
    forbids: frozenset[str]
    exact: frozenset[str]

    def matches(self, parts: frozenset[str], whole: str) -> bool:
        return whole in self.exact or (
            not self.any.isdisjoint(parts)
            and self.forbids.isdisjoint(parts)
            and not any(group.isdisjoint(parts) for group in self.needs)
        )


@cache
def _rules() -> tuple[_Rule, ...]:
    return tuple(
        _Rule(
            rule["row"],
            frozenset(rule["any"]),
            tuple(frozenset(group) for group in rule.get("needs", ())),
            frozenset(rule.get("forbids", ())),
            frozenset(rule.get("exact", ())),
        )
        for rule in words("rows")
    )


@lru_cache(maxsize=65536)
def _row(whole: str) -> str:
    if whole == "unspecified":
        return whole
    parts = frozenset(whole.split("|"))
    return next((rule.row for rule in _rules() if rule.matches(parts, whole)), "other")


def row_of(parts: Sequence[str]) -> str:
    """Return the anatomy that the parts of a place name, in their order: the first rule of `words/rows.yaml` that matches.

    `("unspecified",)` stays what it is; a place that no rule knows is "other".
    """
    return _row("|".join(parts))
