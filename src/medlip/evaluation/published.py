"""Published numbers with their protocol and source, to be shown beside our own and never as our own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from medlip.errors import MedLIPError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedRow(_Part):
    """One method: its values in percent, None where none was given, and which source prints them."""

    method: str
    source: str
    values: tuple[float | None, ...]


class PublishedTable(_Part):
    """Numbers of one task under one protocol."""

    title: str
    protocol: str
    note: str = ""
    measures: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _has_a_value_for_each_measure(self) -> Self:
        if any(len(row.values) != len(self.measures) for row in self.rows):
            raise ValueError(f"{self.title}: a row has not {len(self.measures)} values")
        return self


@cache
def published_tables() -> Mapping[str, PublishedTable]:
    """Return all tables by name, each row with its source spelt out."""
    content = yaml.safe_load((files("medlip.evaluation") / "published.yaml").read_text(encoding="utf-8"))
    for table in content["tables"].values():
        for row in table["rows"]:
            row["source"] = content["sources"][row["source"]]
    return {name: PublishedTable.model_validate(table) for name, table in content["tables"].items()}


def published_table(name: str) -> PublishedTable:
    """Return one table.

    Raises:
        MedLIPError: there is none of this name; names those there are.
    """
    tables = published_tables()
    if name not in tables:
        raise MedLIPError(f"no published table {name!r}. There are: {', '.join(tables)}.")
    return tables[name]
