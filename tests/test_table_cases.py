"""Data sets as people have them: rows that belong together, contradict each other, or say things in their own words."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.data.study import Study
from medlip.errors import MedLIPError

CASES = Path(__file__).parent / "cases" / "tables"


def source(text: str) -> Source:
    opened = open_source(text)
    assert isinstance(opened, Source)
    return opened


def table(folder: Path, *rows: str, images: bool = False) -> str:
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    if images:
        for number, row in enumerate(rows[1:]):
            if name := row.split(",")[0]:
                film(folder / name, number)
    return f"csv:{folder / 't.csv'}"


def film(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path)
    return path


def studies(text: str) -> dict[str, Study]:
    return {study.id: study for study in source(text)}


def prepared(text: str, out: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, str]]]:
    summary = prepare([text], out, workers=0, size=32, **options)
    assert summary["found"] == sum(summary["account"].values())
    with (out / "skipped.csv").open(newline="") as file:
        return summary, list(csv.DictReader(file))


# --- the given cases ---


def test_the_film_is_stored_and_not_the_mask_beside_it(tmp_path: Path) -> None:
    for study in source(f"siim:{CASES / 'siim-mask-beside-the-film'}"):
        assert [view.image.suffix for view in study.views if isinstance(view.image, Path)] == [".dcm"]
    shutil.copytree(CASES / "siim-mask-beside-the-film", tmp_path / "set")
    film_of = tmp_path / "set" / "dicom-images-train" / "1.2.276.0.7230010.3.1.4.11.dcm"
    film_of.unlink()
    summary, skipped = prepared(f"siim:{tmp_path / 'set'}", tmp_path / "store")
    assert summary["images"] == 1 and "no X-ray" in skipped[0]["reason"]


def test_study_numbers_that_start_anew_for_each_patient_are_told_apart() -> None:
    found = studies(f"csv:{CASES / 'study-numbers-per-patient' / 't.csv'}")
    assert {id: (study.patient, study.report) for id, study in found.items()} == {
        "pat7/1": ("t:pat7", "FINDINGS: Large right pleural effusion."),
        "pat7/2": ("t:pat7", "FINDINGS: Lungs are clear."),
        "pat9/1": ("t:pat9", "FINDINGS: Left pneumothorax."),
        "pat9/2": ("t:pat9", "FINDINGS: Cardiomegaly."),
    }


def test_a_report_in_the_second_row_is_the_studys() -> None:
    (study,) = source(f"csv:{CASES / 'report-in-the-second-row' / 't.csv'}")
    assert study.report == "FINDINGS: Left pneumothorax." and len(study.views) == 2


def test_labels_that_differ_are_those_of_each_image(tmp_path: Path) -> None:
    prepared(f"csv:{CASES / 'labels-per-image' / 'm.yaml'}", tmp_path / "s")
    labels = {record.id: dict(record.labels) for record in Store.open(tmp_path / "s")}
    assert labels == {
        "m:s1:0": {"pneumonia": "absent", "edema": "present"}, "m:s1:1": {"pneumonia": "present", "edema": "absent"},
        "m:s2:0": {"pneumonia": "present", "edema": "present"}, "m:s3:0": {"pneumonia": "present", "edema": "uncertain"},
    }  # fmt: skip


def test_laterals_by_any_name_are_left_out_and_unknown_words_named(tmp_path: Path) -> None:
    summary, skipped = prepared(f"csv:{CASES / 'words-for-views' / 't.csv'}", tmp_path / "s")
    kept = {Path(record.study).name for record in Store.open(tmp_path / "s")}
    assert kept == {"s0", "s1", "s10", "s11", "s12", "s14"}
    assert (summary["found"], summary["left_out"], summary["skipped"]) == (18, 11, 1)
    assert [row["study"] for row in skipped if "not a known word" in row["reason"]] == ["s9"]


def test_boxes_of_a_resized_copy_are_scaled(tmp_path: Path) -> None:
    prepared(
        f"vindr:{CASES / 'vindr-resized'}",
        tmp_path / "s",
    )
    (record,) = Store.open(tmp_path / "s")
    height, width = record.image.shape
    box = record.boxes[0]
    assert box.x / width == pytest.approx(700 / 2304) and (box.y + box.height) / height == pytest.approx(2000 / 2880)


@pytest.mark.parametrize("name", ["chexpert:chexpert-batches", "mimic:mimic-two-trees"])
def test_downloads_in_several_folders_are_found(name: str) -> None:
    kind, _, folder = name.partition(":")
    (study,) = source(f"{kind}:{CASES / folder}")
    assert all(view.image.is_file() for view in study.views if isinstance(view.image, Path))
    assert bool(study.report) is (kind == "mimic")


# --- others of their kinds ---


def test_boxes_beyond_the_image_leave_it_out(tmp_path: Path) -> None:
    header = "image_id,class_name,rad_id,x_min,y_min,x_max,y_max"
    lines = ("a,Mass,R1,10,10,40,40", "b,Mass,R1,700,900,1700,2000", "c,Mass,R1,30,10,10,40", "d,Mass,R1,0,0,48.3,64")
    (tmp_path / "train.csv").write_text("\n".join((header, *lines)))
    for number, name in enumerate("abcd"):
        film(tmp_path / "train" / f"{name}.png", number)
    summary, skipped = prepared(f"vindr:{tmp_path}", tmp_path / "s")
    assert [row["study"] for row in skipped] == ["b", "c"] and "not within the image of 48 x 64" in skipped[0]["reason"]
    assert summary["images"] == 2


def test_sizes_of_originals_come_from_their_own_table_too(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\na,Mass,0,0,240,320\n")
    (tmp_path / "train_meta.csv").write_text("image_id,dim0,dim1\na,640,480\n")
    film(tmp_path / "a.png")
    prepared(f"vindr:{tmp_path}", tmp_path / "s")
    (record,) = Store.open(tmp_path / "s")
    assert (record.boxes[0].width, record.boxes[0].height) == pytest.approx(
        (record.image.shape[1] / 2, record.image.shape[0] / 2)
    )


def test_boxes_of_a_turned_or_cropped_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max,width,height\na,Mass,1,1,9,9,640,480\n")
    film(tmp_path / "a.png")
    with pytest.raises(MedLIPError, match="cropped, or turned"):
        prepared(f"vindr:{tmp_path}", tmp_path / "s")


def test_rows_of_a_study_that_contradict_each_other_are_left_out_and_named(tmp_path: Path) -> None:
    text = table(
        tmp_path, "image,study,patient,report,split", "a.png,1,p,Effusion.,train", "b.png,1,p,No effusion.,train",
        "c.png,2,p,Clear.,train", "d.png,2,p,,test", "e.png,3,q,Clear.,val", images=True,
    )  # fmt: skip
    summary, skipped = prepared(text, tmp_path / "s")
    assert summary["images"] == 1 and summary["skipped"] == 4
    assert [row["image"] for row in skipped] == ["a.png", "b.png", "c.png", "d.png"]
    assert "different reports (lines 2 and 3)" in skipped[0]["reason"] and "different splits" in skipped[2]["reason"]


def test_rows_that_do_not_fit_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    text = table(
        tmp_path, "image,study,report", "a.png,1,No effusion, but a mass.", "b.png,2,Clear.", ",3,Clear.", images=True
    )
    summary, skipped = prepared(text, tmp_path / "s")
    assert summary["images"] == 1
    assert ["more cells than columns" in skipped[0]["reason"], "names no image" in skipped[1]["reason"]] == [True, True]


def test_yes_and_no_are_read_and_other_words_named_or_explained(tmp_path: Path) -> None:
    rows = ("image,Mass", "a.png,YES", "b.png,no", "c.png,1.0", "d.png,vielleicht", "e.png,n/a")
    table(tmp_path, *rows)
    (tmp_path / "m.yaml").write_text("table: t.csv\nlabels: [Mass]\n")
    found = source(f"csv:{tmp_path / 'm.yaml'}")
    assert [study.labels.get("mass") for study in found] == ["present", "absent", "present", None, None]
    assert len(found.notes) == 1 and "'vielleicht' is neither yes, no" in found.notes[0] and "(1 rows)" in found.notes[0]
    (tmp_path / "m.yaml").write_text("table: t.csv\nlabels: {Mass: nodule}\nvalues: {vielleicht: -1}\n")
    found = source(f"csv:{tmp_path / 'm.yaml'}")
    assert [study.labels.get("nodule") for study in found][3] == "uncertain" and not found.notes


def test_a_label_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    table(tmp_path, "image,Efusion", "a.png,1", images=True)
    (tmp_path / "m.yaml").write_text("table: t.csv\nlabels: [Efusion]\n")
    summary, _ = prepared(f"csv:{tmp_path / 'm.yaml'}", tmp_path / "s")
    (label,) = summary["notes"]
    assert "did you mean 'effusion'" in label


def test_several_report_columns_semicolons_and_encodings_are_read(tmp_path: Path) -> None:
    content = 'image;befund;impression;id\na.png;"Opacité; à droite";Mass.;12.0\n'
    (tmp_path / "t.csv").write_bytes(content.encode("utf-16"))
    (tmp_path / "m.yaml").write_text("table: t.csv\ncolumns: {report: [befund, impression], study: id}\n")
    (study,) = source(f"csv:{tmp_path / 'm.yaml'}")
    assert (study.id, study.report) == ("12", "BEFUND: Opacité; à droite\n\nIMPRESSION: Mass.")
    (tmp_path / "t.csv").write_text("image,findings,impression\na.png,Clear.,Normal.\n")
    (study,) = source(f"csv:{tmp_path / 't.csv'}")
    assert study.report == "FINDINGS: Clear.\n\nIMPRESSION: Normal."


def test_an_error_about_a_table_says_how_to_map_columns(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"no column 'image'; it has 'file', 'text'.*columns: \{image: YOURS"):
        open_source(table(tmp_path, "file,text", "a.png,Clear."))


def test_images_are_found_by_identifiers_with_blanks(tmp_path: Path) -> None:
    film(tmp_path / "films" / "COVID 1.png")
    table(tmp_path, "image,patient", "COVID 1,p1")
    (tmp_path / "m.yaml").write_text("table: t.csv\nimages: films\n")
    (study,) = source(f"csv:{tmp_path / 'm.yaml'}")
    assert study.views[0].image == tmp_path / "films" / "COVID 1.png"


def test_covidx_names_with_blanks_are_read_by_what_is_there(tmp_path: Path) -> None:
    film(tmp_path / "train" / "img 1.png")
    film(tmp_path / "train" / "b.png")
    lines = ("COVID 1 img 1.png positive cohen", "COVID 2 b.png negative rsna", "7 gone.png negative rsna")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    found = studies(f"covidx:{tmp_path}")
    assert {id: study.patient for id, study in found.items()} == {
        "img 1.png": "covidx:cohen:COVID 1", "b.png": "covidx:rsna:COVID 2", "gone.png": "covidx:rsna:7"
    }  # fmt: skip


def test_spellings_of_one_patient_are_one_person(tmp_path: Path) -> None:
    found = source(table(tmp_path, "image,patient", "a.png,007", "b.png,7.0", "c.png,8"))
    assert [study.patient for study in found] == ["t:007", "t:007", "t:8"] and "'007' and '7'" in found.notes[0]


def test_patients_in_two_splits_are_named(tmp_path: Path) -> None:
    text = table(tmp_path, "image,patient,split", "a.png,p1,train", "b.png,p1,test", "c.png,p2,train", images=True)
    summary, _ = prepared(text, tmp_path / "s")
    assert len(summary["notes"]) == 1 and "t:p1 (test, train)" in summary["notes"][0] and "p2" not in summary["notes"][0]


def test_unknown_views_can_be_left_out(tmp_path: Path) -> None:
    text = table(tmp_path, "image,view", "a.png,PA", "b.png,", "c.png,lateral", images=True)
    for views, kept in (
        ("frontal", ["a.png"]),
        ("frontal,unknown", ["a.png", "b.png"]),
        ("all", ["a.png", "b.png", "c.png"]),
    ):
        prepared(text, tmp_path / views, views=views)
        assert Store.open(tmp_path / views).column("study") == kept


def test_a_mimic_download_without_one_report_says_where_they_belong(tmp_path: Path) -> None:
    shutil.copytree(CASES / "mimic-two-trees", tmp_path / "set")
    report = next((tmp_path / "set").rglob("s50414267.txt"))
    jpg = next((tmp_path / "set").rglob("mimic-cxr-jpg"))
    report.unlink()
    with pytest.raises(
        MedLIPError, match=r"there is no report\. Unpack mimic-cxr-reports\.zip .*p10/p10000032/s50414267\.txt"
    ):
        open_source(f"mimic:{jpg / '2.0.0'}")


def test_a_bitmap_of_black_and_white_is_no_film(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    with pytest.raises(MedLIPError, match="is a mask and no X-ray"):
        prepared(table(tmp_path, "image", "a.png"), tmp_path / "s")
