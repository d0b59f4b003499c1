"""The page of a file of facts: counts of all of them, and some studies with the sentences that state theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medlip.about import DISCLAIMER
from medlip.app.pages.store_page import PER_PAGE, PRESENCES, chip, choices, counted
from medlip.app.pages.templates import fill_template
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.reports.stream import FIELDS
from medlip.tables import Table

if TYPE_CHECKING:
    from pandas import DataFrame


def read_facts(path: Path) -> DataFrame:
    """Read what `medlip facts --out` wrote.

    Raises:
        MedLIPError: it can't be read, or has other columns.
    """
    import pandas as pd
    import pyarrow as pa

    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".jsonl": lambda file: pd.read_json(file, lines=True)}
    if path.suffix not in read:
        raise MedLIPError(f"{path}: is no file of facts. Give the .parquet, .csv or .jsonl that medlip facts wrote.")
    try:
        table = read[path.suffix](path)  # type: ignore[operator]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MedLIPError(f"{path}: not readable as facts ({error}). Run medlip facts again.") from error
    lacking = [name for name in FIELDS if name not in table]
    if lacking:
        raise MedLIPError(f"{path}: holds no facts: it has no {', '.join(lacking)}. Give what medlip facts wrote.")
    filled: DataFrame = table.fillna({"sentence": ""}).astype({"study": str, "sentence": str})
    return filled


def facts_page(facts: DataFrame, name: str, studies: int = 500, seed: int = 0) -> str:
    """Return the page of facts as HTML.

    Args:
        facts: a row each, as `read_facts` gives them.
        name: of the file, for people.
        studies: how many are shown at most.
        seed: of their draw.
    """
    every = facts["study"].unique()
    shown = np.sort(np.random.default_rng(seed).choice(len(every), min(studies, len(every)), replace=False))
    kept = facts[facts["study"].isin(every[shown])]
    items = [_item(str(study), rows) for study, rows in kept.groupby("study", sort=False)]
    pairs = Counter(zip(facts["pathology"], facts["presence"], strict=True))
    rows = [
        [pathology, *(f"{pairs[pathology, presence]:,}" for presence in PRESENCES)]
        for pathology, _ in Counter(facts["pathology"]).most_common()
    ]
    return fill_template(
        "show.html",
        title=f"Facts of {name}",
        lead=[f"{len(facts):,} facts of {len(every):,} studies."],
        tables=[
            Table("By finding", ["finding", *PRESENCES], rows),
            Table("By place, of present findings", ["place", "facts"], counted(
                Counter(facts.loc[facts["presence"] == "present", "anatomy"])
            )),
        ],
        heading="Studies with the sentences that state their facts",
        sampled="All of them." if len(items) == len(every) else f"{len(items):,} of {len(every):,}, drawn at random.",
        items=items,
        filters=choices(items),
        regions=False,
        per_page=PER_PAGE,
        extra="",
        made_by=[f"The file {name}."],
        disclaimer=DISCLAIMER,
    )  # fmt: skip


def _item(study: str, rows: DataFrame) -> dict[str, object]:
    facts: list[Mapping[str, Any]] = rows.to_dict("records")  # type: ignore[assignment]
    sentences: dict[str, list[Mapping[str, Any]]] = {}
    for fact in facts:
        sentences.setdefault(fact["sentence"], []).append(fact)
    report: list[dict[str, str]] = []
    for sentence, stated in sentences.items():
        report += [*_marked(sentence, stated), {"text": "\n", "facts": "", "presence": ""}] if sentence else []
    present = [fact for fact in facts if fact["presence"] == "present"]
    return {
        "title": study,
        "about": f"{len(facts)} facts",
        "report": report,
        "chips": [("facts", [chip(f"{fact['pathology']} @ {fact['anatomy']}", fact["presence"]) for fact in facts])],
        "filters": {
            "finding": sorted({fact["pathology"] for fact in present}),
            "place": sorted({fact["anatomy"] for fact in present}),
        },
    }


def _marked(sentence: str, facts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the parts of a sentence; its facts are marked where a word for the finding, as long as theirs, stands in it."""
    found: list[tuple[int, int, Mapping[str, Any]]] = []
    for fact in facts:
        start = _where(sentence, fact)
        length = int(fact["end"]) - int(fact["start"])
        if start >= 0 and all(start >= end or start + length <= begin for begin, end, _ in found):
            found.append((start, start + length, fact))
    at = 0
    for begin, end, fact in sorted(found, key=lambda entry: entry[0]):
        yield {"text": sentence[at:begin], "facts": "", "presence": ""}
        names = f"{fact['pathology']} @ {fact['anatomy']}: {fact['presence']}"
        yield {"text": sentence[begin:end], "facts": names, "presence": str(fact["presence"])}
        at = end
    yield {"text": sentence[at:], "facts": "", "presence": ""}


def _where(sentence: str, fact: Mapping[str, Any]) -> int:
    """Return where in its sentence a finding is named, -1 where no word for it is found: the file counts from the report."""
    pathology = default_vocabulary().find_pathology(str(fact["pathology"]))
    words = [str(fact["pathology"])] if pathology is None else [word.lower() for word in pathology.words]
    length = int(fact["end"]) - int(fact["start"])
    starts = (sentence.lower().find(word) for word in words if abs(len(word) - length) <= 2)
    return next((start for start in starts if start >= 0), -1)
