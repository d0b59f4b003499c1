"""Comparing results: one protocol, the same images, paired differences, quoted numbers marked as quoted."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from medlip.app import cli
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation.compare import Evaluated, compare, measure_titles
from medlip.evaluation.driver import QUERIES
from medlip.evaluation.outcomes import OUTCOMES, Outcomes, load_outcomes, save_outcomes
from medlip.evaluation.predictions import PREDICTIONS, Predictions
from medlip.evaluation.published import published_tables
from medlip.evaluation.record import EvaluationRecord
from medlip.evaluation.results import Result
from medlip.evaluation.seeds import compare_seeds
from medlip.evaluation.tables import write_comparison
from medlip.evaluation.tasks import measures
from medlip.evaluation.tasks.zero_shot import Tuning, zero_shot_result
from medlip.metrics import auroc
from medlip.tables import Form

pytestmark = pytest.mark.long

CLASSES = ("effusion", "mass_&_nodule")
AUROC = "zero_shot.macro_auroc"
N = 300


@pytest.fixture
def folder(tmp_path):
    """Make the folder of an evaluation whose scores have this much noise."""

    def make(name, noise=1.0, *, ids=None, keep=True, label_seed=0, run=None, **changes):
        ids = ids or [f"image{i}" for i in range(N)]
        labels = (np.random.default_rng(label_seed).random((N, 2)) < 0.4).astype(float)
        scores = labels + noise * np.random.default_rng(len(name)).normal(size=(N, 2))
        scores = 1 / (1 + np.exp(-scores))
        patients = [f"p{i // 2}" for i in range(N)]
        tuning = Tuning(scores, labels, np.ones(N, bool), "the split val")
        record = {
            "name": "zero-shot", "data": "d", "split": "test", "images": str(hash(tuple(ids))), "tuning": "t",
            "classes": {name: name for name in CLASSES}, "findings": {}, "rules": {}, "resamples": 20, "seed": 0,
        }  # fmt: skip
        result = Result(
            zero_shot=zero_shot_result(CLASSES, scores, labels, patients, tuning, resamples=20),
            grounding=None,
            split="test",
            n_images=N,
            n_patients=N // 2,
            run=run or {"seed": 7},
            protocol=EvaluationRecord(**record | changes),
        )
        out = tmp_path / name
        out.mkdir()
        result.save(out / "result.json")
        if keep:
            Predictions(ids, patients, CLASSES, scores, labels).save(out / PREDICTIONS)
        return out

    return make


def compared(*folders, **settings):
    return compare([Evaluated.load(path) for path in folders], resamples=100, **settings)


def test_differences_are_to_the_first_and_paired(folder):
    good, bad = folder("good", 0.5), folder("bad", 4.0)
    document = compared(good, bad)
    assert [row.name for row in document.results] == [str(good), str(bad)]
    (difference,) = document.differences
    kept = [Predictions.load(path / PREDICTIONS) for path in (good, bad)]
    first, second = (auroc(one.scores, one.labels) for one in kept)
    assert difference.to == str(good)
    assert difference.measures[AUROC].value == pytest.approx((second - first).mean())
    for c, name in enumerate(CLASSES):
        entry = difference.per_class[AUROC][name]
        assert entry.value == pytest.approx(second[c] - first[c])
        assert entry.interval[0] < entry.value < entry.interval[1] < 0
        assert 2 / 101 < entry.p < 0.025  # the least that 100 resamples give, and a little for the few patients


def test_different_map_rules_stand_in_one_column_that_says_so(folder):
    one, two = folder("one", map_rule="attention mean"), folder("two", map_rule="evidence")
    (note,) = (note for note in compared(one, two).notes if "maps are made by different rules" in note)
    assert f"{one}: attention mean; {two}: evidence" in note
    assert not any("rules" in note for note in compared(one, folder("six", map_rule="attention mean")).notes)


def test_the_same_result_twice_does_not_differ(folder):
    (difference,) = compared(folder("one"), folder("two")).differences  # names of one length: one seed
    found = difference.measures[AUROC]
    assert (found.value, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "val"}, "split .'test' and 'val'"),
        ({"classes": {"effusion": "fluid in the chest"}}, "classes .*effusion: 'effusion' and 'fluid in the chest'"),
        ({"rules": {"classification threshold": "test"}, "seed": 3}, "rules .*classification threshold.*seed"),
    ],
)
def test_another_protocol_is_refused_and_what_differs_is_named(folder, changes, words):
    with pytest.raises(MedLIPError, match=f"another protocol.*{words}"):
        compared(folder("one"), folder("two", **changes))


def test_other_test_images_are_refused_by_name(folder):
    ids = [f"image{i}" for i in range(1, N)] + ["other"]
    with pytest.raises(MedLIPError, match=r"different test images: 1 are only in .*one: image0\."):
        compared(folder("one"), folder("two", ids=ids))


def test_other_labels_of_the_same_images_are_refused(folder):
    with pytest.raises(MedLIPError, match="different labels; the first is of the image 'image"):
        compared(folder("one"), folder("two", label_seed=1))


def test_predictions_with_nan_are_refused_by_image_and_class(folder):
    out = folder("one")
    table = pd.read_parquet(out / PREDICTIONS)
    table.loc[3, "score/effusion"] = np.nan
    table.to_parquet(out / PREDICTIONS)
    with pytest.raises(MedLIPError, match="'image3' and the class 'effusion'"):
        Evaluated.load(out)


def test_without_predictions_results_stand_side_by_side_and_the_lack_is_said(folder):
    document = compared(folder("one"), folder("two", keep=False))
    assert document.differences[0].measures == {}
    assert "two: no predictions.parquet to test differences on" in document.notes[0]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_folder_without_a_result_is_named(tmp_path, content):
    if content:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(MedLIPError, match="not the result" if content else "medlip evaluate"):
        Evaluated.load(tmp_path)


def test_every_form_holds_the_same_numbers_and_marks_what_is_quoted(folder):
    document = compared(folder("one"), folder("three", 3.0), quoted=["nih-zero-shot"])
    value = document.results[0].measures[AUROC].value
    for form in (Form.text, Form.markdown, Form.latex):
        text = write_comparison(document, form)
        assert f"{value:.3f}" in text
        assert text.index("Quoted, not measured here") < text.index("ConVIRT")
        assert "G2D (NeurIPS 2024)" in text
    assert "| ---: |" in write_comparison(document, Form.markdown)
    assert r"mass\_\&\_nodule" in write_comparison(document, Form.latex)
    rows = list(csv.DictReader(io.StringIO(write_comparison(document, Form.csv))))
    assert {row["kind"] for row in rows} == {"result", "difference", "quoted"}
    (own,) = [row for row in rows if row["name"].endswith("one") and row["measure"].startswith("AUROC") and not row["class"]]
    assert float(own["value"]) == value
    assert all(row["source"] for row in rows if row["kind"] == "quoted")


def test_an_unknown_quoted_table_is_refused_and_the_known_are_named(folder):
    with pytest.raises(MedLIPError, match=r"no published table 'nih'.*nih-zero-shot"):
        compared(folder("one"), quoted=["nih"])


def test_published_numbers_are_percentages_with_source_and_protocol():
    for table in published_tables().values():
        assert table.protocol
        assert table.rows
        assert len({(row.method, row.source) for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert "20" in row.source  # a year
            assert all(value is None or 0 < value <= 100 for value in row.model_dump()["values"])


def with_cases(out, **values):
    """Keep cases of two images a patient, by measure."""
    kept = [
        Outcomes(f"grounding/{name}", ["mass"] * len(own), [f"p{i // 2}" for i in range(len(own))], np.array(own, float))
        for name, own in values.items()
    ]
    save_outcomes(kept, out / OUTCOMES)
    return out


def test_differences_in_places_are_paired_by_case(folder):
    better = np.random.default_rng(0).random(80)
    one = with_cases(folder("one"), iou=better, dice=better, pointing_game=[0, 1] * 40)
    undefined = np.where(better > 0.5, np.nan, better)
    two = with_cases(folder("two"), iou=better - 0.1, dice=undefined, pointing_game=[0, 1] * 20 + [1, 1] * 20)
    found = compared(one, two).differences[0].measures
    ranked = [AUROC, "zero_shot.macro_auprc"]
    assert list(found) == [*ranked, "grounding.pointing_game", "grounding.iou", "grounding.dice"]
    assert found["grounding.iou"].value == pytest.approx(-0.1)
    assert found["grounding.iou"].interval == pytest.approx([-0.1, -0.1])  # cases vary by far more, and are paired
    assert 2 / 101 < found["grounding.iou"].p < 0.03
    assert found["grounding.dice"].value == pytest.approx(0)  # over the cases for which both are defined
    assert found["grounding.dice"].left_out == (better > 0.5).sum()
    assert found["grounding.pointing_game"].value == pytest.approx(0.25)
    assert found["grounding.pointing_game"].interval[0] < 0.25 < found["grounding.pointing_game"].interval[1]


def test_cases_that_are_not_the_same_are_refused(folder):
    one, two = with_cases(folder("one"), iou=[0.1] * 8), with_cases(folder("two"), iou=[0.1] * 6)
    with pytest.raises(MedLIPError, match="grounding/iou of different cases"):
        compared(one, two)


def test_a_broken_file_of_cases_is_named(folder):
    out = folder("one")
    (out / OUTCOMES).write_text("nothing")
    with pytest.raises(MedLIPError, match=f"{OUTCOMES}: not readable"):
        Evaluated.load(out)


def trained(seed, alpha=1.0):
    return {"recipe": {"method": {"alpha": alpha}, "training": {"seed": seed}}, "seed": seed, "data": {"hash": "d"}}


def over_seeds_of(*folders):
    return compare_seeds([Evaluated.load(path) for path in folders])


def test_over_seeds_a_recipe_is_a_row_and_differences_are_paired_by_seed(folder):
    default = [folder(f"default-{seed}", 0.5 + 0.1 * seed, run=trained(seed)) for seed in range(3)]
    other = [folder(f"other-with-{seed}", 2.0 + seed, run=trained(seed, 2.0)) for seed in (2, 0, 3)]
    document = over_seeds_of(*default, *other)
    assert [row.name.rsplit("/", 1)[1] for row in document.results] == ["default (3 seeds)", "other-with (3 seeds)"]
    areas = {path.name: Result.load(path / "result.json")["zero_shot"]["macro_auroc"].value for path in default + other}
    own = [areas[f"default-{seed}"] for seed in range(3)]
    mean = document.results[0].measures[AUROC]
    assert mean.value == pytest.approx(np.mean(own))
    assert (mean.interval, mean.range, mean.seeds) == (None, (min(own), max(own)), 3)
    assert document.results[1].run["recipe"]["method"] == {"alpha": 2.0}
    pairs = [areas[f"other-with-{seed}"] - areas[f"default-{seed}"] for seed in (0, 2)]  # 1 and 3 have no partner
    difference = document.differences[0].measures[AUROC]
    expected = ttest_1samp(pairs, 0)
    assert difference.value == pytest.approx(np.mean(pairs))
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.interval == pytest.approx(list(expected.confidence_interval()))
    assert difference.seeds == 2
    assert "differences are over the seeds 0, 2 alone" in document.notes[0]
    for form in (Form.text, Form.markdown, Form.latex):
        text = write_comparison(document, form)
        assert f"{np.mean(own):.3f} ({min(own):.3f} to {max(own):.3f})" in text
        assert "lowest to highest" in text
    rows = list(csv.DictReader(io.StringIO(write_comparison(document, Form.csv))))
    assert {row["kind"]: row["ends"] for row in rows if row["measure"].startswith("AUROC") and not row["class"]} == {
        "result": "range over seeds",
        "difference": "95 % interval",
    }


def test_over_seeds_a_recipe_from_before_a_setting_was_there_is_the_one_with_its_default(folder):
    def run(seed, **data):
        recipe = trained(seed)["recipe"]
        return trained(seed) | {"recipe": recipe | ({"data": data} if data else {})}

    before, since = folder("run-0", 1.0, run=run(0)), folder("run-1", 1.0, run=run(1, views="each", most_views=4))
    assert [len(over_seeds_of(before, since).results), over_seeds_of(before, since).results[0].run["seeds"]] == [1, [0, 1]]
    assert len(over_seeds_of(before, folder("run-2", 1.0, run=run(1, views="set", most_views=4))).results) == 2


def test_over_seeds_recipes_have_names_of_their_own_and_one_seed_has_no_range(folder, tmp_path):
    folders = []
    for seed in range(2):
        (tmp_path / f"s{seed}").mkdir()
        folders += [folder(f"s{seed}/{name}", run=trained(seed, alpha)) for name, alpha in (("one", 1.0), ("other", 2.0))]
    document = over_seeds_of(*folders)
    assert [row.name.rsplit("/", 2)[1:] for row in document.results] == [
        ["s0", "one (2 seeds)"],
        ["s0", "other (2 seeds)"],
    ]
    tens = over_seeds_of(*(folder(f"run-1{seed}", run=trained(10 + seed)) for seed in range(3)))
    assert tens.results[0].name.endswith("/run (3 seeds)")
    assert "lowest to highest" in write_comparison(tens, Form.markdown)  # also where nothing is compared
    (alone,) = over_seeds_of(folders[0]).results
    assert alone.name.endswith("one (1 seed)")
    assert alone.measures[AUROC].range is None


def test_over_seeds_the_drawing_of_labels_may_follow_the_seed_and_nothing_else_may_differ(folder):
    one = [folder(f"one-{seed}", run=trained(seed), seed=seed) for seed in range(2)]
    other = [folder(f"two-{seed}", run=trained(seed, 2.0), seed=seed) for seed in range(2)]
    assert len(over_seeds_of(*one, *other).differences) == 1
    with pytest.raises(MedLIPError, match=r"another protocol.*seed \(0 and 5\)"):
        over_seeds_of(*one, folder("three-0", run=trained(0, 3.0), seed=5))
    with pytest.raises(MedLIPError, match=r"another protocol.*split"):
        over_seeds_of(*one, folder("four-2", run=trained(2), split="val"))


def test_over_seeds_what_cannot_be_told_apart_is_refused(folder):
    one = folder("one", run=trained(0))
    with pytest.raises(MedLIPError, match="one recipe and one seed, 0"):
        over_seeds_of(one, folder("two", run=trained(0)))
    with pytest.raises(MedLIPError, match="unknown: not known which recipe"):
        over_seeds_of(one, folder("unknown", run={"seed": 7}))
    alone = over_seeds_of(one, folder("other", run=trained(1, 2.0)))
    assert alone.differences[0].measures == {}
    assert "no seed in common" in write_comparison(alone, Form.markdown)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["medlip", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), *capsys.readouterr()


def test_the_command_prints_a_table_and_writes_a_page_that_stands_alone(folder, tmp_path, monkeypatch, capsys):
    one, other, page = folder("one"), folder("o<b>", 3.0), tmp_path / "pages" / "page.html"
    code, out, _ = run(monkeypatch, capsys, "compare", one, other, "--html", page, "--quoted", "rsna-zero-shot")
    assert code == 0
    assert "Difference to" in out
    html = page.read_text()
    assert html.count("<svg") == 2
    assert "o&lt;b&gt;" in html
    assert "<b>" not in html
    assert "Quoted" in html
    assert not any(word in html for word in ("<script", "<link", 'src="http', "NaN"))
    code, out, _ = run(monkeypatch, capsys, "compare", one, other, "--json")
    assert json.loads(out)["results"][0]["run"] == {"seed": 7}
    code, out, err = run(monkeypatch, capsys, "compare", one, tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1].startswith("error: ")


def test_two_evaluations_of_a_run_can_be_compared(tiny_run: Path, phantom_store: Path, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        assert run(monkeypatch, capsys, "evaluate", tiny_run, "--data", phantom_store, "--out", tmp_path / name)[0] == 0
    code, out, _ = run(
        monkeypatch, capsys, "compare", tmp_path / "a", tmp_path / "b", "--html", tmp_path / "p.html", "--json"
    )
    assert code == 0
    document = json.loads(out)
    assert document["results"][0]["run"]["recipe"]["method"]["name"] == "medslip"
    assert document["differences"][0]["measures"][AUROC]["value"] in (0.0, None)
    assert document["results"][0]["measures"]["grounding.pointing_game"]["value"] is not None
    found = document["differences"][0]["measures"]
    grounding = {f"grounding.{name}" for name in ("pointing_game", "contrast_to_noise", "iou", "dice")}
    assert grounding | {"segmentation.dice_all"} <= set(found)
    assert found["grounding.iou"] == {"value": 0.0, "interval": [0.0, 0.0], "p": 1.0, "left_out": 0, "seeds": None}
    kept = Evaluated.load(tmp_path / "a").cases
    assert kept
    assert (tmp_path / "p.html").read_text().count("<img ") == 2 * len(kept) + 1  # and the colours' legend


def test_reported_means_are_those_of_the_kept_cases(tiny_run: Path, phantom_store: Path, tmp_path, monkeypatch, capsys):
    for command in ("evaluate", "retrieve"):
        assert run(monkeypatch, capsys, command, tiny_run, "--data", phantom_store, "--out", tmp_path / "a")[0] == 0
    patients = set(Store.open(phantom_store).column("patient"))
    for path, file, task_names in (
        (tmp_path / "a", OUTCOMES, {"grounding", "maps", "segmentation", "places"}),
        (tmp_path / "a" / "retrieval.json", QUERIES, {"retrieval"}),
    ):
        result = Evaluated.load(path).result
        kept = load_outcomes(tmp_path / "a" / file)
        assert {name.split("/")[0] for name in kept} == task_names
        for name, cases in kept.items():
            assert not patients & set(cases.patients)
            task, measure = name.split("/")
            summary = np.nanmedian if "median" in name else np.nanmean
            assert result[task][measure].value == pytest.approx(summary(cases.values)), name


def test_retrievals_can_be_compared(tiny_run: Path, phantom_store: Path, tmp_path, monkeypatch, capsys):
    for name in "ab":
        assert run(monkeypatch, capsys, "retrieve", tiny_run, "--data", phantom_store, "--out", tmp_path / name)[0] == 0
    code, out, _ = run(monkeypatch, capsys, "compare", tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    document = json.loads(out)
    result = json.loads((tmp_path / "a" / "retrieval.json").read_text())
    measures = document["results"][0]["measures"]
    for name in ("text_to_image_recall_at_5", "macro_precision_at_5"):
        assert measures[f"retrieval.{name}"]["value"] == result["retrieval"][name]["value"]
    differences = document["differences"][0]["measures"]
    assert len(differences) == 8
    rank = differences["retrieval.image_to_text_median_rank"]
    assert (rank["value"], rank["interval"], rank["p"], rank["left_out"]) == (0.0, [0.0, 0.0], 1.0, 0)
    assert run(monkeypatch, capsys, "evaluate", tiny_run, "--data", phantom_store, "--out", tmp_path / "c")[0] == 0
    code, _, err = run(monkeypatch, capsys, "compare", tmp_path / "a", tmp_path / "c")
    assert code == 1
    assert "another protocol" in err


def test_every_declared_measure_has_a_title_of_its_own():
    titles = measure_titles()
    assert set(titles) == {f"{task}.{measure.name}" for task, measure in measures()}
    assert len(set(titles.values())) == len(titles)


def test_a_result_of_the_version_before_is_refused_in_a_sentence(tmp_path):
    old = {"zero_shot": {"macro_auroc": 0.5, "interval": [0.4, 0.6]}, "grounding": None, "protocol": {"hash": "h"}}
    (tmp_path / "result.json").write_text(json.dumps(old))
    with pytest.raises(MedLIPError, match=r"schema version 1.*[Ee]valuate"):
        Evaluated.load(tmp_path)
