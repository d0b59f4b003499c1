"""What `prepare` says of films that are something else or lie otherwise, and of reports that it doesn't read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicoms import chest, dataset, encoded
from medlip.concepts import Vocabulary
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Box, Mask, Study, View
from medlip.reports import Fact

GREY = chest(8).astype(np.uint8)


def films(folder: Path, **made: dict[str, Any]) -> list[Study]:
    """Write a film for each name, of the elements that it is given, and return their studies."""
    for name, elements in made.items():
        pixels = np.ascontiguousarray(elements.pop("pixels", GREY))
        (folder / f"{name}.dcm").write_bytes(encoded(dataset(pixels, **elements)))
    return [Study(name, name, (View(folder / f"{name}.dcm"),)) for name in made]


def prepared(folder: Path, studies: list[Study], **options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Prepare studies; return the summary, and the reasons of skipped.csv by study."""
    out = folder / "store"
    summary = prepare([Source("made", {one.id: one for one in studies})], out, workers=0, size=40, **options)
    assert summary["found"] == sum(summary["account"].values())
    with (out / "skipped.csv").open(newline="") as file:
        return summary, {row["study"]: row["reason"] for row in csv.DictReader(file)}


def test_films_that_say_they_are_something_else_are_left_out_by_rule(tmp_path: Path) -> None:
    studies = films(
        tmp_path,
        frontal={"ViewPosition": "PA"},
        unknown={},
        lateral={"ViewPosition": "LL"},
        sideways={"PatientOrientation": ["A", "F"]},
        knee={"BodyPartExamined": "KNEE"},
        ct={"Modality": "CT"},
        oblique={"ViewPosition": "RAO"},
    )
    summary, reasons = prepared(tmp_path, studies)
    rule = "left out (--views frontal,unknown)"
    assert reasons == {
        "lateral": f"lateral view, {rule}",
        "sideways": f"lateral view, {rule}",
        "knee": f"no frontal chest X-ray (the body part is KNEE), {rule}",
        "ct": f"no frontal chest X-ray (the modality is CT), {rule}",
        "oblique": f"no frontal chest X-ray (the view is oblique), {rule}",
    }
    assert (summary["images"], summary["skipped"], summary["lateral"], summary["left_out"]) == (2, 0, 2, 5)
    assert sorted(Store.open(tmp_path / "store").column("view")) == ["", "PA"]


@pytest.mark.parametrize(
    ("views", "kept"),
    [("lateral", {"lateral"}), ("other", {"knee"}), ("frontal,lateral,other", {"frontal", "lateral", "knee"})],
)
def test_they_are_kept_on_request(views: str, kept: set[str], tmp_path: Path) -> None:
    studies = films(
        tmp_path,
        frontal={"ViewPosition": "PA"},
        lateral={"ViewPosition": "LL"},
        knee={"BodyPartExamined": "KNEE"},
    )
    summary, reasons = prepared(tmp_path, studies, views=views)
    assert set(Store.open(tmp_path / "store").column("study")) == kept
    assert set(reasons) == {"frontal", "lateral", "knee"} - kept and summary["skipped"] == 0


def test_films_that_lie_otherwise_are_stored_upright_and_counted(tmp_path: Path) -> None:
    studies = films(
        tmp_path,
        upright={"PatientOrientation": ["L", "F"]},
        quarter={"PatientOrientation": ["F", "L"], "pixels": GREY.T},
        mirrored={"PatientOrientation": ["R", "F"], "pixels": GREY[:, ::-1]},
        upside_down={"PatientOrientation": ["L", "H"], "pixels": GREY[::-1]},
    )
    summary, reasons = prepared(tmp_path, studies)
    assert summary["images"] == 4 and not reasons
    assert sorted(summary["remarks"]) == [
        "mirrored left to right, as Patient Orientation says (1)",
        "turned by a quarter, as Patient Orientation says (1)",
        "turned head up, as Patient Orientation says (1)",
    ]
    first, *others = [record.image for record in Store.open(tmp_path / "store")]
    for image in others:
        np.testing.assert_array_equal(image, first)


def test_boxes_and_masks_lie_on_a_turned_film_where_they_lay_before(tmp_path: Path) -> None:
    films(tmp_path, turned={"PatientOrientation": ["F", "L"], "pixels": GREY.T})
    mask = np.zeros(GREY.T.shape, bool)
    mask[10:30, 40:56] = True
    view = View(tmp_path / "turned.dcm", "", (Box("mass", 40, 10, 16, 20),), (Mask("mass", mask),))
    prepared(tmp_path, [Study("turned", "p", (view,))])
    (record,) = Store.open(tmp_path / "store")
    (box,) = record.boxes
    assert (box.x, box.y, box.width, box.height) == (5, 20, 10, 8)  # half as large as in the file
    (shown,) = record.masks
    assert shown.pixels[20:28, 5:15].all() and shown.pixels.sum() == 80


# Reports that are not English

REPORTS = {
    "english": "FINDINGS: Small right pleural effusion. No pneumothorax.",
    "telegraphic": "AP supine. ETT ok. Lungs clear.",
    "german": "BEFUND: Kein Pleuraerguss. Infiltrat im rechten Unterlappen, keine Stauung.",
    "spanish": "Derrame pleural derecho sin neumotórax. Silueta cardiaca normal.",
    "silent": "",
}


def studies_of(folder: Path, reports: dict[str, str]) -> list[Study]:
    for name in reports:
        Image.fromarray(GREY).save(folder / f"{name}.png")
    return [Study(name, name, (View(folder / f"{name}.png", "PA"),), report) for name, report in reports.items()]


def test_reports_that_are_not_english_are_named_and_their_images_stay(tmp_path: Path) -> None:
    summary, reasons = prepared(tmp_path, studies_of(tmp_path, REPORTS))
    records = {record.study: record for record in Store.open(tmp_path / "store")}
    assert records.keys() == REPORTS.keys() and not reasons
    assert summary["not_english"] == ["made:german", "made:spanish"]
    assert summary["notes"] == [
        "reports that are not English, so that no facts were read from them: made:german, made:spanish"
    ]
    for name, record in records.items():
        assert record.report == REPORTS[name]
        read = name in ("english", "telegraphic")
        assert (bool(record.facts), bool(record.sentences)) == (read, read)


def test_many_of_them_are_counted(tmp_path: Path) -> None:
    reports = {f"report {number}": REPORTS["german"] for number in range(5)}
    summary, _ = prepared(tmp_path, studies_of(tmp_path, reports))
    assert len(summary["not_english"]) == 5 and summary["notes"][0].endswith("report 2 and 2 more")


def test_prepare_and_facts_have_the_same_rule(medlip: Callable[..., Any], tmp_path: Path) -> None:
    reports = {name: report for name, report in REPORTS.items() if report}
    for study in studies_of(tmp_path, reports):
        (tmp_path / f"{study.id}.txt").write_text(study.report, encoding="utf-8")
    outcome = medlip("facts", *tmp_path.glob("*.txt"), "--out", tmp_path / "f.csv", "--workers", 0, "--json")
    summary, _ = prepared(tmp_path, studies_of(tmp_path, reports))
    assert sorted(outcome.document["not_english"]) == [name.removeprefix("made:") for name in summary["not_english"]]


def test_the_command_says_so_with_exit_code_3(medlip: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "study_id,patient_id,image,report\n"
        + "".join(f'{study.id},{study.id},{study.id}.png,"{study.report}"\n' for study in studies_of(tmp_path, REPORTS)),
        encoding="utf-8",
    )
    outcome = medlip("prepare", f"csv:{tmp_path / 'table.csv'}", "--out", tmp_path / "store", "--workers", 0)
    assert outcome.code == 3 and "not English" in outcome.err and "german" in outcome.err


@pytest.mark.parametrize("shares", ["0,0.25,0.75", "0.5,0.5", "0.5,half,0", "0.5,0.2,0.2", "1,1,-1", "nan,0,1"])
def test_the_command_draws_splits_in_the_shares_that_it_is_given(
    medlip: Callable[..., Any], tmp_path: Path, shares: str
) -> None:
    outcome = medlip("prepare", "phantom:40", "--out", tmp_path / "store", "--workers", 0, "--draw-splits", shares, "--json")
    if shares == "0,0.25,0.75":
        assert outcome.code == 0
        splits = outcome.document["splits"]
        assert set(splits) == {"val", "test"} and splits["test"] > splits["val"] > 0
    else:
        assert outcome.code == 1 and "0.8" in outcome.last_line and not (tmp_path / "store").exists()


def german(report: str, vocabulary: Vocabulary) -> list[Fact]:
    return [Fact("effusion", vocabulary.anatomies[0].name, "absent", report)] if "Kein Pleuraerguss" in report else []


def test_an_extraction_of_ones_own_may_read_any_language(tmp_path: Path) -> None:
    summary, _ = prepared(tmp_path, studies_of(tmp_path, REPORTS), extract=german)
    facts = {record.study: record.facts for record in Store.open(tmp_path / "store")}
    assert [name for name, read in facts.items() if read] == ["german"] and not summary["not_english"]
