"""One command fills the papers' tables: from folders of data sets to tables beside the quoted figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medlip.data.sources import data_sets
from medlip.errors import MedLIPError
from medlip.evaluation.protocols import named_protocols
from medlip.evaluation.published import published_tables
from medlip.experiments.reproduction import (
    SHOWN,
    Shortcuts,
    find_sets,
    paper_tables,
    reproduce,
    reproduction_tables,
)
from medlip.experiments.transfer_protocols import transfer_protocols
from medlip.tables import Form, write_tables
from test_protocols_end_to_end import FOLDERS, StandIn, covidx, nih

TRIAL = Shortcuts(shares={"train": 0.4, "val": 0.2, "test": 0.4}, workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set in its own layout, a folder each, with images to learn from."""
    folder = tmp_path_factory.mktemp("data")
    for name, make in (FOLDERS | {"nih": partial(nih, train=40), "covidx": partial(covidx, train=40)}).items():
        make(folder / name)
    return folder


def test_every_table_names_what_there_is() -> None:
    protocols = {*named_protocols(), *transfer_protocols()}
    for table in paper_tables().values():
        assert table.set in data_sets() and table.protocol in protocols
        assert (table.protocol in named_protocols()) is (table.kind in SHOWN)
    quoted = [name for table in paper_tables().values() for name in table.quoted]
    assert sorted(quoted) == sorted(published_tables())  # each stands once beside a number of ours


def test_data_sets_are_found_in_a_folder_of_folders(data: Path) -> None:
    found = find_sets([str(data)])
    assert {table.set for table in paper_tables().values()} <= set(found)
    assert find_sets([str(data / "nih")]) == {"nih": f"nih:{data / 'nih'}"}
    assert find_sets([f"siim:{data / 'siim'}"]) == {"siim": f"siim:{data / 'siim'}"}
    with pytest.raises(MedLIPError, match="none of the data sets"):
        find_sets([str(data / "nih" / "images_001")])
    with pytest.raises(MedLIPError, match="no such folder"):
        find_sets([str(data / "nowhere")])


@pytest.mark.processes
def test_zero_shot_and_grounding_tables_are_filled_for_every_set_and_resumed(data: Path, tmp_path: Path) -> None:
    sets = find_sets([str(data)])
    method = StandIn()
    found = reproduce(method, sets, tmp_path, kinds=("zero-shot", "grounding"), resamples=5, shortcuts=TRIAL)
    assert [table.missing for table in found.tables if table.missing] == []
    tables = list(reproduction_tables(found))
    nih = next(table for table in tables if "NIH" in table.title and "nih-medklip" in table.title)
    assert nih.rows[0][0] == "fake (measured here)" and all("(quoted)" in row[0] for row in nih.rows[1:])
    assert any(row[0] == "MedKLIP (quoted)" and "72.6" in row for row in nih.rows)
    assert r"\begin{tabular}" in write_tables(tables, Form.latex)
    asked = len(method.located)
    again = reproduce(method, sets, tmp_path, kinds=("zero-shot", "grounding"), resamples=5, shortcuts=TRIAL)
    assert len(method.located) == asked  # nothing was computed again
    assert again == found
    with pytest.raises(MedLIPError, match="no kind"):
        reproduce(method, sets, tmp_path, kinds=("zeroshot",))  # type: ignore[arg-type]


@pytest.mark.processes
def test_the_command_says_what_is_missing_and_where_to_get_it(
    medlip: Callable[..., Any], tiny_run: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tables"
    options = ("--only", "zero-shot", "--only", "linear", "--workers", 0)
    outcome = medlip("reproduce", data / "covidx", data / "rsna", "--model", tiny_run, "--out", out, *options, "--json")
    assert outcome.code == 0, outcome.err
    by_name = {table["name"]: table for table in outcome.document["tables"]}
    assert by_name["covidx-zero-shot"]["measured"]["auroc"]["value"] is not None
    assert set(by_name["rsna-linear-probe"]["measured"]) == {"1 %", "10 %", "100 %"}
    assert "nihcc.app.box.com" in by_name["nih-zero-shot"]["missing"]
    page = (out / "reproduction.html").read_text(encoding="utf-8")
    assert "(measured here)" in page and "MedKLIP (quoted)" in page and "Not measured" in page
    assert "(quoted)" in (out / "reproduction.tex").read_text(encoding="utf-8")
    assert json.loads((out / "reproduction.json").read_text())["sets"].keys() == {"covidx", "rsna"}
    (out / "model.txt").write_text("0" * 16)
    refused = medlip("reproduce", data / "rsna", "--model", tiny_run, "--out", out, "--only", "linear")
    assert refused.code == 1 and "another model" in refused.last_line


@pytest.mark.slow
def test_all_kinds_of_tables_are_filled_with_a_model_that_was_trained_on_phantoms(
    medlip: Callable[..., Any], tiny_run: Path, data: Path, tmp_path: Path
) -> None:
    outcome = medlip(
        "reproduce", data, "--model", tiny_run, "--out", tmp_path / "t", "--epochs", 1, "--workers", 0, "--json"
    )
    assert outcome.code == 0, outcome.err
    assert {table["name"]: table["missing"] for table in outcome.document["tables"] if table["missing"]} == {}
    assert {table["name"] for table in outcome.document["tables"]} == paper_tables().keys()
