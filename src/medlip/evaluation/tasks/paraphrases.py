"""Does the wording matter? The same finding, asked for in other words, should have the same score.

A case is an image and a finding that is present in it. It is asked for by its name and in up to `WORDINGS` other wordings,
made of the vocabulary's words for it; none of them is a name that the vocabulary knows, so that a method reads every one
with its text encoder. Range: the highest less the lowest score of the wordings. Mean: of their scores. Drift: that mean less
the score by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from medlip.concepts import Vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.tasks.base import register_task
from medlip.evaluation.tasks.probing import ProbeCase, Probing
from medlip.metrics import Measure

if TYPE_CHECKING:
    from medlip.data.store import Record

WORDINGS = 5
FRAMES = ("there is {}", "findings of {}", "evidence of {}", "{} is seen", "chest X-ray with {}", "signs of {} are present")


@register_task
class Paraphrases(Probing):
    """Does a finding have the same score in other words?"""

    name = "paraphrases"
    title = "stability under other wordings"
    measures = (
        Measure("range", "range over wordings", better="lower"),
        Measure("mean", "mean over wordings"),
        Measure("drift", "mean less score by name", better="lower"),
    )
    unanswered = ""
    """Why the method answers no open questions, "" if it does."""

    def probe(self, record: Record) -> Iterator[ProbeCase]:
        """Yield how the scores of an image's findings vary with the wording."""
        if not self.method.open_prompts or self.unanswered:
            self.unanswered = self.unanswered or f"method {self.method.name!r} answers no open questions"
            return
        vocabulary = self.cohort.vocabulary
        wordings = {finding: paraphrases(self.prompt(finding), vocabulary) for finding in self.present(record)}
        asked = [text for finding, texts in wordings.items() for text in (self.prompt(finding), *texts)]
        if not asked:
            return
        try:
            scores = dict(zip(asked, self.score([record.image], asked)[0], strict=True))
        except MedLIPError as error:  # its text encoder is not at hand
            self.unanswered = str(error)
            return
        for finding, texts in wordings.items():
            found = np.array([scores[text] for text in texts])
            drift = float(found.mean() - scores[self.prompt(finding)])
            values = {"range": float(np.ptp(found)), "mean": float(found.mean()), "drift": drift}
            yield ProbeCase(finding, record.patient, values)

    def rules(self) -> Mapping[str, str]:
        """Return what the wordings are."""
        return {"wordings": f"{WORDINGS} of each finding, its words in the frames {', '.join(map(repr, FRAMES))}"}

    def notes(self) -> Iterator[str]:
        """Say why there is nothing."""
        if self.unanswered:
            yield f"no stability under other wordings: {self.unanswered}"


def paraphrases(finding: str, vocabulary: Vocabulary, count: int = WORDINGS) -> Sequence[str]:
    """Return other wordings of a finding, none of which is a name in the vocabulary."""
    pathology = vocabulary.find_pathology(finding)
    words = [finding] if pathology is None else [pathology.display.lower(), *pathology.synonyms]
    frames = (frame.format(word) for frame, word in zip(cycle(FRAMES), cycle(dict.fromkeys(words)), strict=False))
    fresh = (text for text in islice(frames, 10 * count) if vocabulary.find_pathology(text) is None)
    return list(islice(dict.fromkeys(fresh), count))
