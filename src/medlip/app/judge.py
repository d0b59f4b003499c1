"""What a calibration makes of a model's answers: probabilities, thresholds, and places without sides that aren't known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medlip.app.reading import AnatomyProbability, CalibratedOn, Finding, Question
from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError, name_some

if TYPE_CHECKING:
    from medlip.evaluation.calibration import Calibration, OperatingPoint

UNCALIBRATED = 0.5
"""From this score on a finding is called present where no calibration says better."""


class Judge:
    """Probabilities and thresholds of a model's findings.

    Args:
        vocabulary: of the model.
        calibration: of the same weights; None where there is none.
        at: which thresholds are used, such as "sensitivity=0.9"; None for those that it was calibrated for.

    Attributes:
        calibrated_on: what the probabilities rest on; None where nothing is calibrated.
        notes: which findings' sides aren't named, and why.

    Raises:
        MedLIPError: thresholds are asked for and there is no calibration, or `at` can't be read.
    """

    def __init__(
        self, vocabulary: Vocabulary, calibration: Calibration | None = None, at: OperatingPoint | str | None = None
    ) -> None:
        if isinstance(at, str):
            from medlip.evaluation.calibration import OperatingPoint  # brings in all of evaluation

            at = OperatingPoint.parse(at)
        self._vocabulary, self._calibration = vocabulary, calibration
        self._thresholds: Mapping[str, float] = {}
        self._unsided: Mapping[str, str] = {}
        self.calibrated_on: CalibratedOn | None = None
        if calibration is None:
            if at is not None:
                raise MedLIPError(f"{at}: the model isn't calibrated. Run `medlip calibrate RUN --data SOURCE` first.")
        else:
            point = at or calibration.at
            data = f"{', '.join(calibration.sources)} ({calibration.split})"
            self.calibrated_on = CalibratedOn(data, calibration.data, calibration.images, calibration.truth, str(point))
            names = [pathology.name for pathology in vocabulary.pathologies]
            thresholds = {name: calibration.threshold(name, point) for name in names}
            self._thresholds = {name: value for name, value in thresholds.items() if value is not None}
            self._unsided = {name: reason for name in names if (reason := calibration.no_side(name))}
        self.notes = tuple(self._notes())

    def finding(self, pathology: str, score: float, places: Sequence[AnatomyProbability]) -> Finding:
        """Return a finding of the model's score and places, likeliest first.

        Where sides aren't known, two sides become one place, as probable as the more probable of them.
        """
        probability, threshold, calibrated = self._judged(pathology, score)
        return Finding(
            pathology=pathology,
            probability=probability,
            score=score,
            threshold=threshold,
            calibrated=calibrated,
            anatomies=self._sided(pathology, places),
        )

    def question(self, text: str, score: float) -> Question:
        """Return a question with the model's score; one that names a finding is as probable as that finding."""
        pathology = self._vocabulary.find_pathology(text)
        probability, threshold, calibrated = self._judged(text if pathology is None else pathology.name, score)
        return Question(text=text, probability=probability, score=score, threshold=threshold, calibrated=calibrated)

    def threshold(self, pathology: str) -> float:
        """Return from which probability on a pathology is called present."""
        return self._thresholds.get(pathology, UNCALIBRATED)

    def _judged(self, name: str, score: float) -> tuple[float, float, bool]:
        """Return probability and threshold, and whether they are calibrated."""
        probability = None if self._calibration is None else self._calibration.probability(name, score)
        return (score, UNCALIBRATED, False) if probability is None else (probability, self._thresholds[name], True)

    def _sided(self, pathology: str, places: Sequence[AnatomyProbability]) -> tuple[AnatomyProbability, ...]:
        if pathology not in self._unsided:
            return tuple(places)
        merged: dict[str, float] = {}
        for place in places:
            merged.setdefault(self._vocabulary.without_side(place.anatomy), place.probability)
        return tuple(AnatomyProbability(name, probability) for name, probability in merged.items())

    def _notes(self) -> list[str]:
        findings_of: dict[str, list[str]] = {}
        for name, reason in self._unsided.items():
            findings_of.setdefault(reason, []).append(name)
        everything = len(self._vocabulary.pathologies)
        return [
            f"the side of {'any finding' if len(names) == everything else name_some(names, 4)} is not named: on the "
            f"calibration data it was {reason}"
            for reason, names in findings_of.items()
        ]
