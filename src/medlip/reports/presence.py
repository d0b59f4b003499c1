"""What each finding of a clause is said to be: present, absent or uncertain, by which cue, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medlip.reports.facts import Presence
from medlip.reports.lexicon import Item
from medlip.reports.statements import FINDING

REACH = 12  # how many phrases a word looks to each side
_BRIEF = ("not", "non")  # their reach ends at the next comma or "and"


_OVER = ("than", "over")  # what weighs alternatives: "more likely X than Y", "favor X over Y"
_ACTS = frozenset(
    [
        *FINDING,
        "absent",
        "alternative",
        "uncertain",
        "earlier",
        "limits",
        "cause",
        "weighs",
        "clause",
        "there",
        ",",
        "both",
        "either",
        "artefact",
        "absent_behind",
        "uncertain_behind",
    ]
)  # kinds of phrases that a judgement looks at


class Judgement(NamedTuple):
    """What a finding is said to be: with the rule of `words/rules.yaml`, and the cue's index in the clause (none: -1).

    `presence` is None where it is said of an earlier image alone.
    """

    presence: Presence | None
    rule: str
    cue: int = -1


def modal(cue: str) -> bool:
    """Tell whether a hedge covers all that is explained ("may represent edema with pneumonia"), not one noun alone."""
    return any(word in cue.split() for word in ("may", "might", "could", "versus", "vs", "whether"))


def judged(items: Sequence[Item]) -> dict[int, Judgement]:
    """Return each finding's judgement by its index: cues change the state of what follows, until something ends it."""
    return _Judge(items).judged


class _Judge:
    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.judged: dict[int, Judgement] = {}
        self.lists = any(item.kind in ("either", "both", "/") for item in items)
        self.state = self.stated = Judgement("present", "stated")
        self.cue = ""  # the words that set the state
        self.said = False  # whether a finding followed them
        self.weighed = False  # whether alternatives are weighed: "more likely X than Y"
        for i, item in enumerate(items):
            if item.kind in _ACTS or item.value in _OVER:
                self._read(i, item)

    def _set(self, presence: Presence | None, rule: str, i: int) -> None:
        self.state, self.cue, self.said = Judgement(presence, rule, i), str(self.items[i].value), False

    def _read(self, i: int, item: Item) -> None:
        kind = item.kind
        if kind in FINDING:
            self.judged[i] = self.state
            self.said = True
        elif kind == "absent":
            self._set("absent", "denied", i)
        elif kind == "alternative" or (item.value in _OVER and self.weighed):
            self._set("absent", "alternative", i)
        elif kind == "uncertain":
            if self.state.presence != "absent":
                self._set("uncertain", "hedged", i)
            if item.value in ("versus", "vs"):
                self._doubt_before(i, "versus")
        elif kind == "earlier":
            self._set(None, "earlier", i)
        elif kind in ("limits", "cause", "weighs", "clause", "there"):
            self._limit(i, kind)
            self.weighed = kind == "weighs"
        elif kind in (",", "both"):
            listed = self.state.presence == "uncertain" and (
                modal(self.cue) if kind == "both" else self.cue == "differential"
            )
            ends = self.state.presence in ("absent", "uncertain") and (
                self.cue in _BRIEF or self.cue == "?" or (self.said and not listed and self._begins_anew(i))
            )
            if ends:
                self.state = self.stated
        elif kind == "either":
            if self.state.presence != "absent" and self._doubt_before(i, "alternatives"):
                self._set("uncertain", "alternatives", i)
                self.said = True
        elif kind == "artefact":
            self._explain_away(i)
        elif kind in ("absent_behind", "uncertain_behind"):
            presence: Presence = "absent" if kind == "absent_behind" else "uncertain"
            rule = "answered" if item.value == "answered" else "denied behind" if presence == "absent" else "hedged behind"
            if not self._reaches_back(i, Judgement(presence, rule, i)):
                self._set(presence, rule.replace(" behind", ""), i)

    def _limit(self, i: int, kind: str) -> None:
        hedged = self.state.presence == "uncertain"
        covered = (
            hedged and kind == "limits" and (not self.said or modal(self.cue)) and not (self.said and self._begins_anew(i))
        )
        if not (covered or (hedged and kind in ("cause", "weighs"))):
            self.state = self.stated

    def _begins_anew(self, i: int) -> bool:
        """Tell whether behind the comma or "and" at `i` a new item begins, outside the list that was negated or hedged."""
        following = self.items[i + 1 : i + 2]
        if not following or not (following[0].kind in ("fresh", "normal", "adjective") or following[0].value == "the"):
            return False
        if following[0].kind == "adjective" and following[0].value.only:
            return False
        return not any(item.kind == "either" for item in self.items[i:]) or following[0].value == "there"

    def _doubt_before(self, i: int, rule: str) -> bool:
        """Make the finding before "versus" or "or" uncertain; return whether there was one that is stated."""
        oxford = i > 0 and self.items[i - 1].kind == ","
        done = False
        for j in range(i - 1, max(i - 1 - REACH, -1), -1):
            item = self.items[j]
            if item.kind == "noun":
                if self.judged[j].presence == "absent":
                    return done
                self.judged[j] = Judgement("uncertain", rule, i)
                done = True
                if not oxford:
                    return done
            elif item.kind == ",":
                if done and not oxford:
                    return done
            elif item.kind not in ("", "fresh", "places", "inside", "within"):
                return done
        return done

    def _reaches_back(self, i: int, judgement: Judgement) -> bool:
        """Apply "… is not seen" at `i` to the findings before it; False if it is rather said of what follows."""
        before = self.items[i - 1].kind if i else ""
        following = self.items[i + 1].kind if i + 1 < len(self.items) else None
        if before not in ("be", "noun") and following in (*FINDING, "places", "fresh", ""):
            return False
        reached = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind in FINDING:
                if item.kind == "noun" or (judgement.rule == "answered" and item.kind == "adjective"):
                    self.judged[j] = judgement
                    reached = True
            elif (
                item.kind in ("absent", "alternative", "there", "clause")
                or (reached and item.kind in ("be", "limits", "explains", "cause", "weighs"))
                or (item.kind == "," and reached and not self.lists)
            ):
                break
        return reached or following is None

    def _explain_away(self, i: int) -> None:
        """Take back the finding that is said to be an artefact: absent where firmly, uncertain where that is hedged."""
        hedge = link = False
        for j in range(i - 1, -1, -1):
            item = self.items[j]
            if item.kind in ("uncertain", "uncertain_behind", "either"):
                hedge = True
            elif item.kind in ("be", "explains", "cause", "weighs"):
                link = True
            elif item.kind in ("absent", "alternative", "clause", "there"):
                return
            elif item.kind == "noun":
                if (link or hedge) and self.judged[j].presence == "present":
                    self.judged[j] = Judgement("uncertain" if hedge else "absent", "artefact", i)
                return
