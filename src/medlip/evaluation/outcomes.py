"""What became of every case that a reported mean is over: what results are compared by, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medlip.errors import MedLIPError
from medlip.metrics import Array

OUTCOMES = "outcomes.parquet"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One measure of N cases, in an order that the data and the protocol give: the same for every method.

    Attributes:
        measure: task and name of the measure, such as "grounding/iou": the result holds the mean over them (the median,
            of ranks).
        findings: what each case is about, (N,); "" where it is about a whole report.
        patients: whose it is, by a hash of the patient's id, (N,).
        values: (N,), NaN where the measure isn't defined for a case.
    """

    measure: str
    findings: Sequence[str]
    patients: Sequence[str]
    values: Array


def save_outcomes(outcomes: Iterable[Outcomes], path: Path) -> None:
    """Write them as one Parquet table, a row a case: measure, finding, patient, value (null where undefined)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = list(outcomes)
    table = pa.table(
        {
            "measure": pa.array([part.measure for part in parts for _ in part.patients], pa.string()),
            "finding": pa.array([name for part in parts for name in part.findings], pa.string()),
            "patient": pa.array([patient for part in parts for patient in part.patients], pa.string()),
            "value": pa.array(np.concatenate([np.empty(0), *(part.values for part in parts)]), from_pandas=True),
        }
    )
    pq.write_table(table, path)


def load_outcomes(path: Path) -> Mapping[str, Outcomes]:
    """Read what `save_outcomes` wrote, by measure.

    Raises:
        MedLIPError: not readable.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path, columns=["measure", "finding", "patient", "value"]).astype({"value": float})
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MedLIPError(f"{path}: not readable as outcomes ({error}). Evaluate again with --out.") from error
    return {
        str(measure): Outcomes(str(measure), rows["finding"].tolist(), rows["patient"].tolist(), rows["value"].to_numpy())
        for measure, rows in table.groupby("measure", sort=False)
    }
