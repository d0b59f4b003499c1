"""What a method said of every image, kept beside its result: what methods are compared by, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medlip.errors import MedLIPError
from medlip.metrics import Array

PREDICTIONS = "predictions.parquet"
LABEL, SCORE, ATTRIBUTE = "label/", "score/", "attribute/"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores and labels of N evaluated images and C classes.

    Attributes:
        ids: names of the images in their store, (N,).
        patients: whose they are, by a hash of the patient's id, (N,).
        classes: C names.
        scores: (N, C).
        labels: (N, C): 1, 0, or NaN for unknown.
        attributes: sex, age, view as the data has them, (N,) each, "" where unknown.
    """

    ids: Sequence[str]
    patients: Sequence[str]
    classes: Sequence[str]
    scores: Array
    labels: Array
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is not finite.

        Raises:
            MedLIPError: a score is NaN or infinite; names the first image and class.
        """
        broken = np.argwhere(~np.isfinite(self.scores))
        if len(broken):
            image, c = broken[0]
            raise MedLIPError(
                f"{len(broken)} scores are not finite; the first is of the image {self.ids[image]!r} and the class "
                f"{self.classes[c]!r}. The method gives NaN: check its weights and its training log."
            )

    def save(self, path: Path) -> None:
        """Write them as a Parquet table, a row an image: id, patient, label/CLASS, score/CLASS, attribute/NAME."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"id": list(self.ids), "patient": list(self.patients)}
        columns |= {f"{ATTRIBUTE}{name}": list(values) for name, values in self.attributes.items()}
        numbers = {}
        for c, name in enumerate(self.classes):
            numbers[f"{LABEL}{name}"] = pa.array(self.labels[:, c], from_pandas=True)  # unknown is null, not NaN
            numbers[f"{SCORE}{name}"] = pa.array(self.scores[:, c])
        pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()} | numbers), path)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote.

        Raises:
            MedLIPError: not readable, or a score is missing or not finite; names its image and class.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns = pq.read_table(path).to_pydict()
            ids, patients = columns["id"], columns["patient"]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise MedLIPError(f"{path}: not readable as predictions ({error}). Evaluate again with --out.") from error
        classes = [name.removeprefix(SCORE) for name in columns if name.startswith(SCORE)]
        lacking = [name for name in classes if f"{LABEL}{name}" not in columns]
        if lacking:
            raise MedLIPError(f"{path}: no labels of {', '.join(lacking)}. Evaluate again with --out.")
        scores, labels = (
            np.array([columns[f"{kind}{name}"] for name in classes], float).reshape(len(classes), len(ids)).T
            for kind in (SCORE, LABEL)
        )
        attributes = {name.removeprefix(ATTRIBUTE): values for name, values in columns.items() if name.startswith(ATTRIBUTE)}
        try:
            return cls(ids, patients, classes, scores, labels, attributes)
        except MedLIPError as error:
            raise MedLIPError(f"{path}: {error}") from error
