"""Does a mirrored image give mirrored answers? Left becomes right; what is there stays.

A case is an image and a finding that is present in it; the image is mirrored. Score: how far the score moves. Map: the
correlation of the map of the mirrored image, mirrored back, with that of the image; not defined where either is flat. Side:
whether the likeliest place with a side in the image is less likely than its twin in the mirrored image; only of methods that
tell places, and where the twin is the less likely one in the image. A method that knows no sides has 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medlip.evaluation.tasks.base import register_task
from medlip.evaluation.tasks.probing import ProbeCase, Probing
from medlip.methods.base import TellsPlaces
from medlip.metrics import Array, Measure

if TYPE_CHECKING:
    from medlip.concepts import Vocabulary
    from medlip.data.store import Record


@register_task
class Mirroring(Probing):
    """Does a mirrored image give mirrored answers?"""

    name = "mirroring"
    title = "consistency under mirroring"
    measures = (
        Measure("score_change", "change of the score", better="lower"),
        Measure("map_agreement", "agreement of maps"),
        Measure("side_swapped", "sides that swap", chance="either side"),
    )
    chances: ClassVar[Mapping[str, float]] = {"side_swapped": 0.5}

    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield how the answers of an image's findings change when it is mirrored."""
        findings = self.present(record)
        if not findings:
            return
        both = [record.image, np.ascontiguousarray(record.image[:, ::-1])]
        images = self.method.preprocessing.of_images(both).to(self.method.device)
        answers = self.method.answer(
            images, [self.prompt(finding) for finding in findings], maps=True, anatomies=isinstance(self.method, TellsPlaces)
        )
        scores = answers.scores.double().cpu().numpy()
        maps = None if answers.maps is None else answers.maps.double().cpu().numpy()
        places = None if answers.anatomies is None else answers.anatomies.double().cpu().numpy()
        for column, finding in enumerate(findings):
            yield ProbeCase(
                finding,
                record.patient,
                {
                    "score_change": abs(float(scores[0, column] - scores[1, column])),
                    "map_agreement": np.nan if maps is None else _agreement(maps[0, column], maps[1, column, :, ::-1]),
                    "side_swapped": np.nan if places is None else _swapped(places[:, column], self.cohort.vocabulary),
                },
            )


def _agreement(first: Array, second: Array) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _swapped(places: Array, vocabulary: Vocabulary) -> float:
    """Return whether the likeliest sided place moves to its twin, of probabilities (2, A): in the image, and mirrored."""
    index = vocabulary.anatomy_index
    twins = {
        place: index[anatomy.mirror]
        for place, anatomy in enumerate(vocabulary.anatomies)
        if anatomy.side and vocabulary.anatomies[index[anatomy.mirror]].side
    }
    if not twins:
        return np.nan
    first = max(twins, key=lambda place: float(places[0, place]))
    twin = twins[first]
    if places[0, first] <= places[0, twin]:
        return np.nan
    return float(places[1, twin] > places[1, first]) + float(places[1, twin] == places[1, first]) / 2
