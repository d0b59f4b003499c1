"""Studies read as one: which images of a store are read together, and what their reports say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medlip.concepts import Vocabulary
from medlip.data.store import Record, Store
from medlip.data.views import ViewKind, read_as
from medlip.errors import MedLIPError, name_some
from medlip.reports import Fact, Presence, resolve

_STRONGEST: tuple[Presence, ...] = ("present", "uncertain", "absent")


@dataclass(frozen=True, slots=True)
class Studies:
    """The studies of a store.

    Attributes:
        rows: of each study, the records that are read together, frontal views first.
        kinds: of each study, as what each of them is read.
        notes: what was left out, for people.
    """

    rows: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[ViewKind, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def most(self) -> int:
        """The most views of a study."""
        return max(map(len, self.rows))

    def groups(self, store: Store) -> list[NDArray[np.int64]]:
        """Return the studies' indices by the row group that holds their first view: what is cheap to read together."""
        group = np.empty(len(store), np.int64)
        for number, rows in enumerate(store.groups()):
            group[rows] = number
        own = group[[rows[0] for rows in self.rows]]
        order = np.argsort(own, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(own[order])) + 1)

    def first(self, count: int) -> Studies:
        """Return so many of them at most."""
        return replace(self, rows=self.rows[:count], kinds=self.kinds[:count])

    def alone(self, store: Store) -> tuple[Store, Studies]:
        """Return the part of the store that is read, a study's records one behind the other, with its studies."""
        order = [row for rows in self.rows for row in rows]
        part = store if order == list(range(len(store))) else store.take(order)
        ends = np.cumsum([len(rows) for rows in self.rows]).tolist()
        rows = tuple(tuple(range(end - len(own), end)) for end, own in zip(ends, self.rows, strict=True))
        return part, replace(self, rows=rows)


def studies_of(store: Store, *, kinds: Collection[ViewKind] | None = None, most: int | None = None) -> Studies:
    """Group a store by study.

    Args:
        store: the images.
        kinds: of views that can be read; None for all.
        most: views of a study that are read: the first, frontal ones before lateral ones before others, and each in the
            order of the store; None for all.

    Raises:
        MedLIPError: no study has a view that can be read.
    """
    views, ids = [read_as(view) for view in store.column("view")], store.column("id")
    every = store.studies()
    usable = [tuple(row for row in rows if kinds is None or views[row] in kinds) for rows in every]
    rows = tuple(own[:most] for own in usable if own)
    unread = sorted({row for own in every for row in own} - {row for own in usable for row in own})
    blind = [ids[own[0]] for own, left in zip(every, usable, strict=True) if not left]
    trained = f"the run was trained on {', '.join(kinds or ())} views alone"
    if not rows:
        raise MedLIPError(
            f"{store.root}: no study has a view that can be read: {trained}. Prepare the data with --views "
            f"{','.join(kinds or ())}, or train on what it has."
        )
    notes = []
    if unread:
        other = ", ".join(sorted({views[row] for row in unread}))
        notes.append(f"left out: {len(unread)} views ({other}), for {trained}: {name_some([ids[row] for row in unread])}")
    if blind:
        notes.append(f"left out: {len(blind)} studies without any other view: {name_some(blind)}")
    if long := [ids[own[0]] for own in usable if most is not None and len(own) > most]:
        notes.append(
            f"{len(long)} studies have more than {most} views, of which the first are read, frontal ones before others "
            f"(data.most_views): {name_some(long)}"
        )
    if unread or long:
        reports = store.column("report")
        partly = ((own, left[:most]) for own, left in zip(every, usable, strict=True) if left)
        silent = [
            ids[own[0]]
            for own, read in partly
            if {reports[row] for row in own if reports[row]} - {reports[row] for row in read}
        ]
        if silent:
            notes.append(f"left out: reports that came with no view that is read ({len(silent):,}): {name_some(silent)}")
    return Studies(rows, tuple(tuple(views[row] for row in own) for own in rows), tuple(notes))


def contradictions(store: Store, studies: Studies, becomes: str = "") -> list[str]:
    """Return a note on the studies whose reports contradict each other, each with a fact that they do so about; or none.

    Args:
        store: the images.
        studies: of the store.
        becomes: what an uncertain fact counts as, for the note.
    """
    stated, ids, vocabulary = store.stated(), store.column("id"), store.vocabulary
    found = []
    for rows in studies.rows:
        if len(rows) > 1 and any(stated[row] != stated[rows[0]] for row in rows[1:]):
            facts = [[Fact(*fact) for fact in stated[row]] for row in rows]
            found += [f"{ids[rows[0]]} ({name}, {anatomy})" for name, anatomy in _contradicted(facts, vocabulary)][:1]
    many = "1 study" if len(found) == 1 else f"{len(found)} studies"
    told = f"in {many}, reports contradict each other; what one calls present and another absent is uncertain"
    return [f"{told}{becomes and f' ({becomes})'}: {name_some(found)}"] if found else []


def joined(records: Sequence[Record], vocabulary: Vocabulary) -> Record:
    """Return a study as one record: the first one's image, and what all of them say.

    Reports that differ stand one behind the other, one that several records share once. Each fact counts once: what is
    present by one report and absent by another, there or in an anatomy that covers it (`Vocabulary.covers`), is uncertain;
    otherwise present wins over uncertain, and uncertain over absent, as within one report. An implied absence gives way to
    anything that is stated. A label is the strongest of any view. Boxes and masks, which belong to an image, are left out.
    """
    by_words: dict[object, Record] = {}
    for record in records:
        by_words.setdefault((record.report, record.sentences), record)
    different = list(by_words.values())
    facts = united([record.facts for record in records], vocabulary)
    stated = {(fact.pathology, fact.anatomy) for fact in facts}
    implied = resolve(fact for record in records for fact in record.implied)
    return replace(
        records[0],
        report="\n\n".join(record.report for record in different if record.report),
        sentences=tuple(sentence for record in different for sentence in record.sentences),
        facts=facts,
        implied=tuple(fact for fact in implied if (fact.pathology, fact.anatomy) not in stated),
        labels=united_labels([record.labels for record in records]),
        boxes=(),
        masks=(),
    )


def united(facts: Sequence[Sequence[Fact]], vocabulary: Vocabulary) -> tuple[Fact, ...]:
    """Return the facts of several reports of a study, each once; what they contradict each other about is uncertain."""
    if all(own == facts[0] for own in facts[1:]):
        return tuple(facts[0])
    doubted = _contradicted(facts, vocabulary)
    return resolve(
        replace(fact, presence="uncertain") if (fact.pathology, fact.anatomy) in doubted else fact
        for own in facts
        for fact in own
    )


def united_labels(labels: Sequence[Mapping[str, Presence]]) -> dict[str, Presence]:
    """Return the labels of a study: what any of its views shows, the study has."""
    return {
        name: min((own[name] for own in labels if name in own), key=_STRONGEST.index)
        for name in dict.fromkeys(name for own in labels for name in own)
    }


def _contradicted(facts: Sequence[Sequence[Fact]], vocabulary: Vocabulary) -> dict[tuple[str, str], None]:
    """Return what is present by one report and denied by another, as (pathology, anatomy), in the order of the facts.

    A denial of more than the finding's own anatomy ("no effusion", where another report says "left effusion") is doubted
    with it, unless its report calls the finding present somewhere there: it then denies the rest.
    """
    by_name: defaultdict[str, list[tuple[int, Fact]]] = defaultdict(list)
    for report, own in enumerate(facts):
        for fact in own:
            by_name[fact.pathology].append((report, fact))
    doubted: dict[tuple[str, str], None] = {}
    for name, found in by_name.items():
        present = {(report, fact.anatomy) for report, fact in found if fact.presence == "present"}
        absent = {(report, fact.anatomy) for report, fact in found if fact.presence == "absent"}
        for (denies, whole), (calls, part) in product(sorted(absent), sorted(present)):
            there = (vocabulary.covers(whole, each) for report, each in present if report == denies)
            if calls != denies and vocabulary.covers(whole, part) and not any(there):
                doubted |= {(name, part): None, (name, whole): None}
    return doubted
