"""Does a method say where a finding lies: the place by its name, and the side?

A case is a finding that a report states as present in one or more places. Candidates are the places that have a finding in
any evaluated report. Both measures read the probability of each place that the method gives for the finding; ties count by
the expectation over their orders.

Conditional place: the first place, over findings that are not where they usually are. Who names each finding's commonest
place has 0, so it is the first figure to look at. From memory: that commonest place is one of those stated. It comes from
the training split of the same data; of a finding that isn't stated there, from phantoms.

First place: the most probable candidate is one of those stated. Chance is their share of the candidates.

Side: a stated place is more probable than its mirror image, where that is not stated as well; mean over the case's sided
places. Chance is 0.5. A method trained on mirrored images whose reports kept their sides can't tell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from medlip.concepts import Vocabulary
from medlip.concepts.vocabulary import is_place
from medlip.data.overlap import pseudonym
from medlip.errors import MedLIPError, name_some
from medlip.evaluation.nulls import commonest_places, phantom_places
from medlip.evaluation.outcomes import Outcomes
from medlip.evaluation.selection import Cohort, EvaluationOptions, Questions
from medlip.evaluation.task_result import TaskResult
from medlip.evaluation.tasks.base import ImageBatch, Needs, Task, register_task
from medlip.methods.base import TellsPlaces
from medlip.metrics import Array, Measure, mean_estimate

if TYPE_CHECKING:
    from medlip.data.store import Record
    from medlip.methods.base import Answers, Method
    from medlip.reports import Fact


@dataclass(frozen=True, slots=True)
class PlaceCase:
    """How a method places one finding.

    Attributes:
        finding: its name.
        patient: whose image it is.
        first: whether the most probable place is a stated one, 0 to 1.
        chance: of that.
        memory: whether the finding's commonest place is a stated one, 0 or 1; NaN where that isn't known.
        side: whether the stated side is the more probable one, 0 to 1; NaN where no side is stated, or both are.
    """

    finding: str
    patient: str
    first: float
    chance: float
    side: float
    memory: float = np.nan

    @property
    def conditional(self) -> float:
        """`first`, where the finding is not in its commonest place; else NaN."""
        return self.first if self.memory == 0 else np.nan


@register_task
class Places(Task):
    """Does a method say in which anatomy, and on which side, a finding lies?"""

    name = "places"
    title = "where a finding is said to be"
    measures = (
        Measure(
            "conditional_place",
            "top-1 location accuracy where the finding is not in its commonest place",
            chance="naming the commonest place",
        ),
        Measure("first_place", "top-1 location accuracy", chance="share of the places that are right"),
        Measure("first_place_from_memory", "the finding's commonest place"),
        Measure("side", "laterality accuracy", chance="either side"),
    )

    def __init__(self, cohort: Cohort, questions: Questions, options: EvaluationOptions) -> None:
        super().__init__(cohort, questions, options)
        of_studies = stated_places(cohort.study_facts, cohort.vocabulary)
        self.stated: list[Mapping[str, frozenset[str]]] = [{}] * len(cohort)
        for rows, found in zip(cohort.studies, of_studies, strict=True):
            self.stated[rows[0]] = found  # once, of a study whose views are read together
        self.findings = sorted({name for found in self.stated for name in found})
        self.candidates = sorted({place for found in self.stated for places in found.values() for place in places})
        self.needs = Needs(anatomies=bool(self.findings))
        self.asks = True
        self.placed: list[PlaceCase] = []
        training = cohort.training
        usual = stated_places(training.facts, cohort.vocabulary) if training and self.findings else ()
        known = cohort.vocabulary.anatomy_index
        trained = commonest_places(usual)
        others = {name: place for name, place in phantom_places().items() if name not in trained and place in known}
        self.from_phantoms = [name for name in self.findings if name in others]
        self.commonest = trained | others

    def begin(self, method: Method) -> None:
        """Note whether the method tells places: one that doesn't need not know these findings either."""
        self.asks = isinstance(method, TellsPlaces)

    def prompts(self, records: Sequence[Record]) -> Iterable[str]:
        """Return all findings that any report states in a place; none of a method that tells no places."""
        return self.findings if self.asks else ()

    def update(self, batch: ImageBatch, answers: Answers) -> None:
        """Hold the places that a method gives against those stated; nothing of a method that gives none.

        Raises:
            MedLIPError: a probability is not finite; names the image.
        """
        if answers.anatomies is None or not self.findings:
            return
        likely = answers.anatomies[:, batch.columns_of(self.findings)].double().numpy()
        for row, record, of_image in zip(batch.rows, batch.records, likely, strict=True):
            if self.stated[row] and not np.isfinite(of_image).all():
                raise MedLIPError(
                    f"image {record.id!r}: the places of its findings are not finite. The method gives NaN: check its "
                    "weights and its training log."
                )
            for name, places in self.stated[row].items():
                of_finding = of_image[self.findings.index(name)]
                usual = self.commonest.get(name)
                case = place_case(of_finding, places, self.candidates, self.cohort.vocabulary, name, record.patient)
                self.placed.append(replace(case, memory=np.nan if usual is None else float(usual in places)))

    def result(self, tuned_on: Self | None, rule: str) -> TaskResult | None:
        """Return the numbers; None where no report states a finding's place, and of methods that don't say one."""
        return places_result(self.placed, self.options.resamples, self.options.seed) if self.placed else None

    def cases(self, tuned_on: Self | None) -> Iterable[Outcomes]:
        """Return every finding's part in the means."""
        return places_outcomes(self.placed) if self.placed else ()

    def rules(self) -> Mapping[str, str]:
        """Return what counts as right."""
        if not self.findings:
            return {}
        memory = f"those of the training split, of phantoms for {name_some(self.from_phantoms)}"
        return {
            "first place": (
                "most probable of the places with a finding in any evaluated report, among those stated for the finding"
            ),
            "side": "a stated place is more probable than its mirror image, where that isn't stated too",
        } | ({"commonest places": memory} if self.from_phantoms else {})


def stated_places(facts: Iterable[Sequence[Fact]], vocabulary: Vocabulary) -> list[dict[str, frozenset[str]]]:
    """Return for each image its present abnormal findings with the places where its report states them.

    Args:
        facts: of each image.
        vocabulary: of the facts.
    """
    abnormal = {pathology.name for pathology in vocabulary.pathologies if pathology.kind == "abnormal"}
    places = {name for name in vocabulary.anatomy_index if is_place(name)}
    stated = []
    for of_image in facts:
        found: dict[str, set[str]] = {}
        for fact in of_image:
            if fact.presence == "present" and fact.pathology in abnormal and fact.anatomy in places:
                found.setdefault(fact.pathology, set()).add(fact.anatomy)
        stated.append({name: frozenset(where) for name, where in found.items()})
    return stated


def place_case(
    likely: Array, stated: frozenset[str], candidates: Sequence[str], vocabulary: Vocabulary, finding: str, patient: str
) -> PlaceCase:
    """Hold the probabilities of a finding in each anatomy, (A,), against the places that its report states.

    Args:
        likely: (A,), in the order of the vocabulary.
        stated: places.
        candidates: places to choose from, those stated among them.
        vocabulary: of the anatomies.
        finding: its name.
        patient: whose image it is.
    """
    index = vocabulary.anatomy_index
    chances = likely[[index[place] for place in candidates]]
    right = np.array([place in stated for place in candidates])
    first = float(np.mean(right[chances == chances.max()]))
    return PlaceCase(finding, patient, first, float(np.mean(right)), _side(likely, stated, vocabulary))


def places_result(cases: Sequence[PlaceCase], resamples: int = 1000, seed: int = 0) -> TaskResult:
    """Return both measures with intervals over patients; the side has no value where no finding has one side.

    Args:
        cases: at least one.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    patients = [case.patient for case in cases]
    unknown = "neither a training split nor phantoms tell where findings usually are"
    usual = unknown if all(np.isnan(case.memory) for case in cases) else "every finding is in its commonest place"
    return TaskResult(
        conditional_place=mean_estimate(
            [case.conditional for case in cases], patients, chance=0.0, reason=usual, resamples=resamples, seed=seed
        ),
        first_place_from_memory=mean_estimate(
            [case.memory for case in cases], patients, reason=unknown, resamples=resamples, seed=seed
        ),
        first_place=mean_estimate(
            [case.first for case in cases], patients, chance=[case.chance for case in cases], resamples=resamples, seed=seed
        ),
        side=mean_estimate(
            [case.side for case in cases],
            patients,
            chance=0.5,
            reason="no finding has one side",
            resamples=resamples,
            seed=seed,
        ),
    )


def places_outcomes(cases: Sequence[PlaceCase]) -> list[Outcomes]:
    """Return every finding's part in the means of `places_result`."""
    findings, patients = [case.finding for case in cases], [pseudonym(case.patient) for case in cases]
    return [
        Outcomes(f"{Places.name}/{name}", findings, patients, np.array(values, float))
        for name, values in (
            ("conditional_place", [case.conditional for case in cases]),
            ("first_place", [case.first for case in cases]),
            ("first_place_from_memory", [case.memory for case in cases]),
            ("side", [case.side for case in cases]),
        )
    ]


def _side(likely: Array, stated: frozenset[str], vocabulary: Vocabulary) -> float:
    """Return how often a stated place is more probable than its twin, (A,) given; NaN without a twin that isn't stated."""
    right = []
    for place in stated:
        anatomy = vocabulary.anatomies[vocabulary.anatomy_index[place]]
        twin = vocabulary.anatomies[vocabulary.anatomy_index[anatomy.mirror]]
        if anatomy.side and twin.side and twin.name not in stated:
            own, other = (likely[vocabulary.anatomy_index[each.name]] for each in (anatomy, twin))
            right.append(float(own > other) + float(own == other) / 2)
    return float(np.mean(right)) if right else np.nan
