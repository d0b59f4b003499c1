"""The terms that reports are read by in a vocabulary: the built-in words (`words/*.yaml`), and its own, which win over them.

A word of one's own has the sense of its concept: that of the default vocabulary's concept of the same name, or of the one
that the concept is said to be `like`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from medlip.concepts import Anatomy, Pathology, Vocabulary, default_vocabulary
from medlip.concepts.vocabulary import CATCH_ALL_ANATOMIES
from medlip.reports.clauses import Sense
from medlip.reports.lexicon import Item, Lexicon, words
from medlip.reports.places import OWN, Place, Rows, composed, merged, row
from medlip.reports.text import Layout, built_in_layout


class Terms(NamedTuple):
    """What the words and places of reports mean, and how reports are laid out."""

    lexicon: Lexicon
    rows: Rows
    layout: Layout


def terms(vocabulary: Vocabulary) -> Terms:
    """Return the terms of a vocabulary."""
    return _built_in() if vocabulary is default_vocabulary() else _Own(vocabulary).terms()


# --- built-in ---


class _Entry(NamedTuple):
    """A sense of `words/findings.yaml` with its words."""

    sense: Sense
    nouns: Sequence[str]
    adjectives: Sequence[str]


@cache
def _built_in() -> Terms:
    return Terms(_lexicon(_entries()).finish(), Rows(), built_in_layout())


@cache
def _entries() -> tuple[_Entry, ...]:
    return tuple(
        _Entry(
            Sense(pathology, **{key: value for key, value in entry.items() if key not in ("nouns", "adjectives")}),
            entry.get("nouns", ()),
            entry.get("adjectives", ()),
        )
        for pathology, entries in words("findings").items()
        for entry in entries
    )


def _lexicon(entries: Iterable[_Entry]) -> Lexicon:
    lexicon = Lexicon()
    for sense, nouns, adjectives in entries:
        lexicon.add(nouns, "noun", sense)
        lexicon.add(adjectives, "normal" if sense.normal else "adjective", sense)
    for phrases, place in _places():
        lexicon.add(phrases, "place", place)
    for kind in ("inside", "size", "contour"):
        lexicon.add(words("places")[kind], kind)
    for kind, phrases in words("cues").items():
        if kind == "silent":
            lexicon.silent = frozenset(phrases)
        else:
            lexicon.add(phrases, kind)
    return lexicon


def _places() -> Iterator[tuple[Sequence[str], Place]]:
    places = words("places")
    for field in ("side", "zone", "organ"):
        for name, phrases in places[f"{field}s"].items():
            yield phrases, Place(**{field: name})
    for parts, phrases in places["shortened"]:
        yield phrases, Place(**parts)


# --- a vocabulary's own ---


class _Own:
    """Builds the terms of a vocabulary: its words are put onto the built-in ones, cues first, pathologies last."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.wording, self.default = vocabulary, vocabulary.wording, default_vocabulary()
        built_in = self.default.anatomy_index.keys() - CATCH_ALL_ANATOMIES
        self.chest = not self.wording.body_part and not built_in.isdisjoint(vocabulary.anatomy_index)
        self.lexicon = _lexicon(_entries() if self.chest else self._away_from_the_chest())
        self.rows: dict[Place, str] = {}

    def terms(self) -> Terms:
        lexicon, wording = self.lexicon, self.wording
        lexicon.silent |= frozenset(wording.cues.get("silent", ()))
        for pathology in self.vocabulary.pathologies:
            self._add_aliases(pathology)
        lexicon.respell(wording.spelling)
        for kind, phrases in wording.cues.items():
            if kind != "silent":
                lexicon.put(phrases, kind)
        lexicon.put(wording.body_part, "place", Place(organ=OWN))
        for zone, phrases in wording.zones.items():
            lexicon.put(phrases, "place", Place(zone=zone))
        for anatomy in self.vocabulary.anatomies:
            self._add_anatomy(anatomy)
        for pathology in self.vocabulary.pathologies:
            self._add_pathology(pathology)
        return Terms(lexicon.finish(), Rows(self.rows, chest=self.chest), Layout(wording.sections, wording.openers))

    # Pathologies

    def _add_aliases(self, pathology: Pathology) -> None:
        """Let new words for a pathology of the default vocabulary stand where its own word does ("pericardial effusion")."""
        _, word = self._built_in_sense(pathology.name)
        for synonym in map(_phrase, pathology.synonyms) if word else ():
            self.lexicon.alias(synonym, word)

    def _add_pathology(self, pathology: Pathology) -> None:
        usual = _words_of(self.default.pathologies, pathology.name)
        sense = self._sense(pathology)
        nouns = (pathology.name, pathology.display, *pathology.synonyms)
        for kind, said in (("noun", nouns), ("adjective", pathology.adjectives)):
            own = [word for word in map(_phrase, said) if word not in usual]
            self.lexicon.put(own, "normal" if sense.normal else kind, sense)

    def _sense(self, pathology: Pathology) -> Sense:
        """Return the sense of a pathology's own words: the one of the built-in words for it, a noun's first."""
        known = pathology.name in self.default.pathology_index
        sense, _ = self._built_in_sense(pathology.name if known else pathology.like)
        sense = sense or Sense(pathology.name, normal=pathology.kind == "normal")
        if not self.chest:
            sense = self._anywhere(sense)
        return sense if known else replace(sense, pathology=pathology.name, at={})

    def _built_in_sense(self, name: str) -> tuple[Sense | None, str]:
        """Return the sense of the built-in words for a pathology, a noun's first, and the one word that is a noun for it."""
        lexicon = _built_in().lexicon
        found: list[tuple[Sense, str]] = []
        for kind in ("noun", "adjective", "normal"):
            for spelled in map(lexicon.spelled, _words_of(self.default.pathologies, name)):
                items = lexicon.items(spelled)
                if len(items) == 1 and items[0].kind == kind and items[0].value.pathology == name:
                    found.append((items[0].value, spelled[0] if kind == "noun" and len(spelled) == 1 else ""))
        sense = found[0][0] if found else None
        return sense, next((word for one, word in found if word and one is sense), "")

    def _away_from_the_chest(self) -> Iterator[_Entry]:
        """Yield the built-in findings for another part of the body: those whose words name no place can be anywhere."""
        places = {word for phrases, _ in _places() for phrase in phrases for word in phrase.split()}

        def placed(phrases: Sequence[str], named: bool) -> list[str]:
            return [phrase for phrase in phrases if places.isdisjoint(phrase.replace("|", " ").split()) != named]

        for sense, nouns, adjectives in _entries():
            yield _Entry(sense, placed(nouns, True), placed(adjectives, True))
            yield _Entry(self._anywhere(sense), placed(nouns, False), placed(adjectives, False))

    def _anywhere(self, sense: Sense) -> Sense:
        """Return a sense without its place in the chest, which shares places as findings of the lung do."""
        known = sense.row in self.vocabulary.anatomy_index
        return replace(
            sense, organ="", row=sense.row if known else "unspecified", fixed=sense.fixed and known, device=False,
            lung=not sense.normal, anywhere=True,
        )  # fmt: skip

    # Anatomies

    def _add_anatomy(self, anatomy: Anatomy) -> None:
        usual = _words_of(self.default.anatomies, anatomy.name)
        built_in = next((place for word in usual if (place := self._place(word, anatomy.name))), None)
        for word in map(_phrase, anatomy.words):
            if word in usual:
                continue
            if built_in:
                self.lexicon.put([word], "place", built_in)
            else:
                self._add_organ(word, anatomy.name)

    def _place(self, word: str, anatomy: str) -> Place | None:
        """Return the place that a built-in word is read as, None if it isn't read as one of this anatomy."""
        items = composed(self._read(word))
        if len(items) != 1 or items[0].kind != "places" or len(items[0].value) != 1:
            return None
        place: Place = items[0].value[0]
        return place if row(place) == anatomy else None

    def _add_organ(self, phrase: str, anatomy: str) -> None:
        """Add an organ by its words, apart from the side and the zone in front of them or behind them."""
        self.lexicon.unabbreviate(phrase)
        said, place = self.lexicon.spelled(phrase), Place()
        while ends := next(self._ends(said, place), None):
            said, place = ends
        organ = " ".join(said)
        if organ in [" ".join(self.lexicon.spelled(word.lower())) for word in self.wording.body_part]:
            organ = ""
        place = place._replace(organ=OWN + organ)
        if organ:
            self.lexicon.put([organ], "place", Place(organ=place.organ))
        self.rows.setdefault(place, anatomy)

    def _ends(self, said: list[str], place: Place) -> Iterator[tuple[list[str], Place]]:
        """Yield the words without a side or zone at either end, with the place that it adds to; the longest first."""
        sides = ((phrase, Place(side=side)) for side in ("left", "right") for phrase in words("places")["sides"][side])
        zones = ((phrase.lower(), Place(zone=zone)) for zone, phrases in self.wording.zones.items() for phrase in phrases)
        for phrase, part in sorted((*sides, *zones), key=lambda pair: -len(pair[0])):
            end, whole = self.lexicon.spelled(phrase), merged(place, part)
            if whole and said[: len(end)] == end:
                yield said[len(end) :], whole
            elif whole and said[-len(end) :] == end:
                yield said[: -len(end)], whole

    def _read(self, word: str) -> list[Item]:
        lexicon = _built_in().lexicon
        return lexicon.items(lexicon.spelled(word))


def _words_of(concepts: Sequence[Pathology | Anatomy], name: str) -> tuple[str, ...]:
    """Return the words of the concept of that name, none if there is none."""
    return next((tuple(map(_phrase, concept.words)) for concept in concepts if concept.name == name), ())


def _phrase(word: str) -> str:
    return word.replace("_", " ").strip().lower()
