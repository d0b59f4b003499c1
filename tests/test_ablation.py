"""Ablations: one factor at a time, resumed, and tabulated with differences paired by seed."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import mean

import pytest
from scipy.stats import sem, t

from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation.results import Result
from medlip.experiments.ablation import MEASURES, Ablation, ablate, as_markdown, variants

pytestmark = pytest.mark.long

GRID = ("method.icl=tied,off",)


def test_one_factor_at_a_time_or_all_combinations() -> None:
    grid = ("a.b=1,2", "c.d=null,[0.5, 1]")
    assert variants(grid) == [(), ("a.b=1",), ("a.b=2",), ("c.d=null",), ("c.d=[0.5, 1]",)]
    assert len(variants(grid, full=True)) == 1 + 4


@pytest.mark.parametrize("factor", ["method.icl", "method.icl=", "=off"])
def test_a_factor_without_values_says_how_to_write_it(factor: str) -> None:
    with pytest.raises(MedLIPError, match="key=value,value"):
        variants([factor])


@pytest.fixture(scope="module")
def done(
    tiny_run: Path, phantom_store: Path, tiny_settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Four runs, of which the first was there already."""
    out = tmp_path_factory.mktemp("ablations") / "icl"
    shutil.copytree(tiny_run, out / "default" / "seed-0")
    ablate("medslip-phantom", Store.open(phantom_store), out, GRID, settings=tiny_settings, seeds=2)
    return out


def test_the_table_holds_every_variant_with_paired_differences(done: Path) -> None:
    answer = Ablation.model_validate_json((done / "table.json").read_text())
    assert not answer.failed
    assert answer.split == "val"  # who picks a setting by this table tunes on it: never on test unasked
    assert Result.load(done / "default" / "seed-1" / "result.json").split == "val"
    # "scaled" is the default already, so it is not run twice.
    assert [row.variant for row in answer.rows] == ["default", "method.icl=off"]
    default, off = answer.rows
    assert default.runs == off.runs == 2
    assert list(off.measures) == list(MEASURES)
    side, theirs = off.measures["places.side"], default.measures["places.side"]
    assert side.spread and side.difference and theirs.spread and not theirs.difference
    expected = [a - b for a, b in zip(side.spread.values, theirs.spread.values, strict=True)]
    assert side.difference.values == pytest.approx(expected)
    half = t.ppf(0.975, 1) * sem(expected)  # one degree of freedom: two seeds
    low, high = mean(expected) - half, mean(expected) + half
    assert side.difference.interval == pytest.approx((low, high))
    assert (done / "table.md").read_text() == as_markdown(answer)
    assert f"; 95 % {low:+.3f} to {high:+.3f} |" in as_markdown(answer)
    assert as_markdown(answer).startswith("| variant | runs | AUROC | AUROC, difference |")


def test_what_is_done_is_not_done_again_and_other_measures_can_be_read_from_it(
    done: Path, phantom_store: Path, tiny_settings: tuple[str, ...]
) -> None:
    before = Ablation.model_validate_json((done / "table.json").read_text())
    kept = {file: file.stat().st_mtime_ns for file in done.rglob("*") if file.name in ("metrics.jsonl", "result.json")}
    store = Store.open(phantom_store)
    again = ablate("medslip-phantom", store, done, GRID, settings=tiny_settings, seeds=2)
    assert again == before
    other = ablate("medslip-phantom", store, done, GRID, settings=tiny_settings, seeds=2, measures=["grounding.dice"])
    dice = Result.load(done / "default" / "seed-0" / "result.json")["grounding"]["dice"].value
    spread = other.rows[0].measures["grounding.dice"].spread
    assert spread and spread.values[0] == dice
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_an_unknown_measure_is_answered_with_those_there_are(phantom_store: Path, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"'grounding.depth'.*grounding\.iou"):
        ablate("medslip-phantom", Store.open(phantom_store), tmp_path / "out", (), measures=["grounding.depth"])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_runs_is_not_mixed_in(done: Path, phantom_store: Path, tiny_settings: tuple[str, ...]) -> None:
    other = (*tiny_settings, "training.lr=0.1")
    answer = ablate("medslip-phantom", Store.open(phantom_store), done, GRID, settings=other, seeds=1)
    assert all("another recipe" in entry.reason for entry in answer.failed)
    assert len(answer.failed) == 2


def test_a_model_of_another_recipe_is_not_evaluated_and_an_earlier_result_is_refused(
    tiny_run: Path, phantom_store: Path, tiny_settings: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "default" / "seed-0"
    other = (*tiny_settings, "training.lr=0.1")
    for name in ("model.safetensors", "run.json"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_run / name, folder / name)
    answer = ablate("medslip-phantom", Store.open(phantom_store), tmp_path, (), settings=other, seeds=1)
    assert "another recipe" in answer.failed[0].reason
    assert not (folder / "result.json").exists()
    (folder / "result.json").write_text('{"made_with": {}, "protocol": {}, "zero_shot": {"macro_auroc": 0.5}}')
    answer = ablate("medslip-phantom", Store.open(phantom_store), tmp_path, (), settings=tiny_settings, seeds=1)
    assert "schema version 1" in answer.failed[0].reason
    assert "not trained anew" in answer.failed[0].reason
    (folder / "result.json").unlink()
    answer = ablate("medslip-phantom", Store.open(phantom_store), tmp_path, (), settings=tiny_settings, seeds=1)
    assert not answer.failed
    iou = answer.rows[0].measures["grounding.iou"].spread
    assert iou and iou.interval is None  # one seed says nothing of the spread


def test_a_split_that_is_not_there_is_said_before_any_run(phantom_store: Path, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="no exam"):
        ablate("medslip-phantom", Store.open(phantom_store), tmp_path / "out", (), split="exam")
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_is_named_and_the_rest_goes_on(
    tiny_run: Path, phantom_store: Path, tiny_settings: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(tiny_run, tmp_path / "default" / "seed-0")
    grid = ("method.backbone=no_such_net",)
    answer = ablate("medslip-phantom", Store.open(phantom_store), tmp_path, grid, settings=tiny_settings, seeds=1)
    assert [row.runs for row in answer.rows] == [1, 0]
    assert answer.failed[0].run.startswith("method.backbone=no_such_net")
    assert "no_such_net" in answer.failed[0].reason
    assert "method.backbone=no_such_net | 0" in as_markdown(answer)
