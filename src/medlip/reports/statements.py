"""A sentence's phrases made plain: what is not of this image is left out, answers and pronouns are filled in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from medlip.reports.lexicon import Item
from medlip.reports.places import Place

FINDING = frozenset(["noun", "adjective", "normal"])
LINKS = frozenset(["explains", "cause", "weighs", "uncertain"])
_BEHIND = ("absent_behind", "uncertain_behind")
_YES = frozenset(["yes", "y", "positive", "pos", "+", "present", "ye"])
_NOTHING = frozenset(["none", "nil", "negative", "neg"])
_NO = frozenset(["no", "n", "none", "nil", "negative", "neg", "nad", "normal", "absent"])


def plain(items: list[Item]) -> list[Item]:
    """Return the phrases of a sentence as those of plain statements about the image at hand."""
    kinds = {item.kind for item in items}
    if kinds.isdisjoint(FINDING):
        return []
    if items[0].kind == "alternative":
        items = _fronted(items)
    if not kinds.isdisjoint(_UNHEEDED) or items[0].value == "if":
        items = heeded(items)
    if not kinds.isdisjoint(_ANSWERS):
        items = answered(items)
    return referred(items) if "place" in kinds else items


_UNHEEDED = frozenset(["advice", "aside", "shown"])
_ANSWERS = frozenset(["be", "dash"])  # a colon is one of "be"


# --- not about the image ---


def heeded(items: list[Item]) -> list[Item]:
    """Leave out what is not about the image: advice to the end of the sentence, asides to the next comma or clause."""
    kept: list[Item] = []
    aside = ""  # the kind of what is left out
    found = False
    for i, item in enumerate(items):
        if item.kind == "advice" or (i == 0 and item.value == "if"):
            break
        if item.kind in ("aside", "shown"):
            # "consistent with the patient's history of emphysema" is said of the image
            said = any(before.kind in ("explains", "cause", "weighs") for before in kept[-2:])
            aside = item.kind if item.kind == "shown" or not said else ""
            continue
        relative = item.kind == "," and i + 1 < len(items) and items[i + 1].value == "which"  # "the CT, which showed …"
        if (
            aside
            and not relative
            and (
                item.kind in (",", "clause", "there", "normal")
                or (kept and item.value == "with")  # "similar to the prior study with a small effusion"
                or (found and (item.kind in _BEHIND or item.value in _SAYS))
                or (aside == "shown" and item.kind in ("be", *LINKS))
            )
        ):
            aside = ""
        if not aside:
            kept.append(item)
            found = found or item.kind in FINDING
    return kept


_SAYS = frozenset(["is", "are", "has", "have"])


def _fronted(items: list[Item]) -> list[Item]:
    """End the alternative that a sentence begins with where its statement does ("Rather than effusion, this is …")."""
    ends = next((i for i, item in enumerate(items) if item.kind == ","), 0)
    ends = ends or next((i for i, item in enumerate(items) if item.kind in ("refers", "there")), len(items))
    at = items[ends - 1].end
    return [*items[:ends], Item("clause", ",", at, at), *items[ends:]]


# --- "key: answer" ---


def answered(items: list[Item]) -> list[Item]:
    """Let an answer behind its finding be said of it ("Pneumothorax: none", "Effusion: yes, left, small").

    The key's own words are no findings where others are behind it ("Support devices: right PICC"), or nothing is.
    """
    colons = [i for i, item in enumerate(items) if item.kind == "be" and item.value in _COLONS]
    if not colons:
        return _dashed(items)
    plainly: list[Item] = []
    done = 0
    for n, colon in enumerate(colons):
        if colon < done:
            continue
        start = _key_start(items, colon, done)
        end = _key_start(items, colons[n + 1], colon + 1) if n + 1 < len(colons) else len(items)
        plainly += items[done:start]
        plainly += _said_of(items[start:colon], items[colon], items[colon + 1 : end])
        done = end
    return _dashed([*plainly, *items[done:]])


_COLONS = frozenset([":", "="])


def _key_start(items: Sequence[Item], colon: int, done: int) -> int:
    """Return where the key of the colon begins: behind the statement before it."""
    start = colon
    while start > done and items[start - 1].kind in (
        "noun",
        "place",
        "inside",
        "size",
        "contour",
        "/",
        "both",
        "",
        "adjective",
        "fresh",
    ):
        if (
            items[start - 1].kind in ("", "fresh")
            and start - 1 > done
            and items[start - 2].kind not in ("noun", "place", "/", "both")
        ):
            break
        start -= 1
    return start


def _said_of(key: list[Item], colon: Item, value: list[Item]) -> list[Item]:
    """Return a key and its value as a statement."""
    asked = [i for i, item in enumerate(key) if item.kind == "noun"]
    if not asked:
        return [*key, colon, *value]
    answer = value[0] if value else None
    if answer is None:
        return _unsaid(key)
    # "no change" denies nothing
    spelled = str(answer.value) if isinstance(answer.value, str) and answer.kind != "nothing" else ""
    following = value[1] if len(value) > 1 else None
    closed = (
        following is None
        or following.kind in (",", "clause", "dash", "/")
        or following.kind in _BEHIND
        or following.kind == "place"
        or (spelled in _NOTHING and not _finds(value[1:]))  # "nil of note"
    )
    end = Item("clause", ".", colon.start, colon.end)
    if (spelled in _NO or answer.kind == "normal" or answer.value == "no evidence of") and closed:
        behind = Item("absent_behind", "answered", answer.start, answer.end)
        rest = value[1:]
        while rest and (rest[0].kind in (",", "/") or rest[0].kind in _BEHIND):
            rest = rest[1:]
        return [*key, behind, end, *rest]
    if answer.kind in _BEHIND:
        return [*key, answer, *_place_of(value[1:]), end]
    if any(item.kind == "noun" for item in value) or (answer.kind in FINDING and spelled not in _YES):
        return [*_unsaid(key), end, *value]
    hedged = [item._replace(kind="uncertain_behind") for item in value if item.kind == "uncertain"]
    return [*key, *hedged, *_place_of(value), end]


def _finds(value: Sequence[Item]) -> bool:
    """Tell whether the first statement of a value names a finding."""
    first = takewhile(lambda item: item.kind not in (",", "clause", "dash"), value)
    return any(item.kind in FINDING for item in first)


def _place_of(value: Sequence[Item]) -> list[Item]:
    """Return a value without its commas and its "yes", so that its place stands beside the finding."""
    return [item for item in value if item.kind not in (",", "uncertain", "cause", "weighs") and item.value not in _YES]


def _unsaid(key: Sequence[Item]) -> list[Item]:
    return [item._replace(kind="", value="heading") if item.kind in ("noun", "adjective") else item for item in key]


def _dashed(items: list[Item]) -> list[Item]:
    """Let a dash stand for a colon before a value ("Heart - enlarged"), and else for the end of a statement."""
    if all(item.kind != "dash" for item in items):
        return items
    whole: list[Item] = []
    for i, item in enumerate(items):
        if item.kind != "dash":
            whole.append(item)
            continue
        behind = items[i + 1 : i + 8]
        stop = next((k for k, other in enumerate(behind) if other.kind in ("dash", "clause")), len(behind))
        value = [other.kind for other in behind[:stop]]
        before = whole[-1].kind if whole else ""
        if before == "place" and value and value[0] in ("adjective", "normal", "fresh") and "noun" not in value:
            whole.append(item._replace(kind="be", value=":"))
        elif before == "noun" and value and set(value) <= {"fresh", "place", "inside", ",", "size"}:
            pass  # "Effusion - small, left"
        else:
            whole.append(item._replace(kind="clause", value="-"))
    return whole


# --- pronouns and what is left out ---

_SIDES = frozenset(["left", "right"])
_PRONOUNS = ("", "refers", "absent_behind", "inside", "places")
_LIKE = frozenset(["one", "that", "those", "area", "component", "amount", "none", "nothing", "another"])


def referred(items: list[Item]) -> list[Item]:
    """Put the finding where its place alone is said: "a small one on the right", "none on the right"."""
    sides = {item.value.side for item in items if item.kind == "place"} & _SIDES
    if not sides or (len(sides) == 1 and _LIKE.isdisjoint([item.value for item in items if item.kind in _PRONOUNS])):
        return items
    whole: list[Item] = []
    last: Item | None = None  # the finding that was spoken of
    spoken = Place()  # where it was said to be
    pending = False  # whether the next side is said of it by a pronoun
    for i, item in enumerate(items):
        if item.kind == "noun" and not item.value.general:
            last = item
        if last is not None and isinstance(item.value, str) and item.value in _LIKE and _side_near(items, i):
            if item.value in ("none", "nothing"):
                whole.append(item._replace(kind="absent"))
            whole.append(item._replace(kind="noun", value=last.value))
            pending = True
            continue
        if item.kind == "place":
            place: Place = item.value
            other = place.side in ("left", "right") and spoken.side in ("left", "right") and place.side != spoken.side
            if other and not pending and last is not None and _said_alone(items, i):
                whole.insert(_preposition(whole), Item("noun", last.value, item.start, item.end))
                pending = True
            if other and pending and place == Place(place.side):  # "at the left base, and a smaller area on the right"
                item = item._replace(value=Place(place.side, spoken.zone, spoken.organ))
                pending = False
            spoken = Place(place.side or spoken.side, place.zone or spoken.zone, place.organ or spoken.organ)
        whole.append(item)
    return whole


def _side_near(items: Sequence[Item], i: int) -> bool:
    """Tell whether a side alone stands near the pronoun at `i`: "that on the right", "on the right a small one"."""
    behind = [item for item in items[i + 1 : i + 5] if item.kind not in ("inside", "fresh")]
    if len(behind) > 1 and behind[0].kind == "within" and behind[1].kind == "place" and behind[1].value.side:
        return True
    before = [item for item in items[max(0, i - 5) : i] if item.kind not in ("inside", "fresh")]
    return items[i].value == "one" and bool(before) and before[-1].kind == "place" and bool(before[-1].value.side)


def _said_alone(items: Sequence[Item], i: int) -> bool:
    """Tell whether the place at `i` is all that its part of the sentence names: "… , improved on the left"."""
    j = i - 1
    prepositions = False
    while j >= 0 and items[j].kind not in (",", "clause", "both"):
        if items[j].kind == "within":
            prepositions = True
        elif items[j].kind not in ("fresh", "inside", "nothing", "", "be", "both"):
            return False
        j -= 1
    behind = items[i + 1] if i + 1 < len(items) else None
    return prepositions and j > 0 and items[j].kind in (",", "clause") and (behind is None or behind.kind in (",", "clause"))


def _preposition(items: Sequence[Item]) -> int:
    at = len(items)
    while at and items[at - 1].kind in ("inside", "within"):
        at -= 1
    return at
