"""Readers on the real label files that torchxrayvision ships, and on fixture folders in the documented layouts."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tarfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medlip.data.labels import hold_back
from medlip.data.prepare import prepare
from medlip.data.readers.chexpert import LABELS as CHEXPERT_LABELS
from medlip.data.readers.siim import decode_runs
from medlip.data.sources import Source, data_sets, open_source
from medlip.data.store import Store
from medlip.data.study import Study
from medlip.errors import MedLIPError
from medlip.evaluation.provenance import patients_rule


def real(name: str) -> Path:
    spec = find_spec("torchxrayvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchxrayvision, which ships the real label files, is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def studies(text: str) -> dict[str, Study]:
    source = open_source(text)
    assert isinstance(source, Source)
    return {study.id: study for study in source}


def stand_ins(text: str) -> int:
    source = open_source(text)
    assert isinstance(source, Source)
    return source.stand_ins


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path.parent


def present(study: Study) -> set[str]:
    return {name for name, presence in study.labels.items() if presence == "present"}


@pytest.mark.slow
def test_real_nih_tables_have_the_published_counts(tmp_path: Path) -> None:
    for name in ("Data_Entry_2017_v2020.csv.gz", "BBox_List_2017.csv.gz"):
        shutil.copy(real(name), tmp_path)
    found = studies(f"nih:{tmp_path}")
    assert len(found) == 112_120 and len({study.patient for study in found.values()}) == 30_805
    assert sum(len(study.views[0].boxes) for study in found.values()) == 984
    assert sum("hernia" in present(study) for study in found.values()) == 227
    assert sum(not present(study) for study in found.values()) == 60_361
    box = found["00013118_008"].views[0].boxes[0]
    assert box.pathology == "atelectasis" and round(box.x) == 225 and round(box.height) == 79


@pytest.mark.parametrize("header", ["Patient Gender", "Patient Sex"])
def test_nih_lists_split_and_old_versions_are_read(tmp_path: Path, header: str) -> None:
    name = "Data_Entry_2017.csv"
    write(
        tmp_path / name,
        f"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,{header},View Position,OriginalImage[Width,Height],",
        *(f"{patient:08d}_000.png,No Finding,0,{patient},058Y,M,PA,2682,2749" for patient in range(1, 41)),
    )
    write(tmp_path / "train_val_list.txt", *(f"{patient:08d}_000.png" for patient in range(1, 31)))
    write(tmp_path / "test_list.txt", *(f"{patient:08d}_000.png" for patient in range(31, 41)))
    write(tmp_path / "images_001" / "images" / "00000001_000.png", "")
    found = studies(f"nih:{tmp_path}")
    splits = Counter(study.split for study in found.values())
    assert splits["test"] == 10 and splits["val"] >= 1 and splits["train"] + splits["val"] == 30
    first = found["00000001_000"]
    assert first.views[0].image == tmp_path / "images_001" / "images" / "00000001_000.png"
    assert first.attributes == {"age": "58", "sex": "M"} and first.split == hold_back("nih:1")


def test_an_age_in_months_or_no_age_stops_nothing(tmp_path: Path) -> None:
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    ages = {"a": "006M", "b": "020D", "c": "", "d": "412", "e": "?"}
    write(tmp_path / "Data_Entry_2017.csv", columns, *(f"{name}.png,Mass,0,1,{age},F,PA" for name, age in ages.items()))
    found = studies(f"nih:{tmp_path}")
    assert [study.attributes.get("age") for study in found.values()] == ["0", "0", None, "412", None]


def test_real_rsna_labels_have_the_published_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(real("kaggle_stage_2_train_labels.csv.zip")) as archive:
        archive.extractall(tmp_path)
    found = studies(f"rsna:{tmp_path}")
    assert len(found) == 26_684 and sum(bool(present(study)) for study in found.values()) == 6_012
    assert sum(len(study.views[0].boxes) for study in found.values()) == 9_555


def test_rsna_patients_carry_their_nih_id(tmp_path: Path) -> None:
    write(
        tmp_path / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", "a,1,2,3,4,1", "a,5,6,7,8,1", "b,,,,,0"
    )
    assert {study.patient for study in studies(f"rsna:{tmp_path}").values()} == {"rsna:a", "rsna:b"}
    assert stand_ins(f"rsna:{tmp_path}") == 2
    mapping = tmp_path / "pneumonia-challenge-dataset-mappings_2018.json"
    mapping.write_text(json.dumps([{"subset_img_id": "a", "img_id": "00019124_104.png"}]))
    found = studies(f"rsna:{tmp_path}")
    assert found["a"].patient == "nih:19124" and found["b"].patient == "rsna:b" and len(found["a"].views[0].boxes) == 2
    assert stand_ins(f"rsna:{tmp_path}") == 1
    mapping.write_text("[1]")
    with pytest.raises(MedLIPError, match="not the published mapping"):
        open_source(f"rsna:{tmp_path}")


def test_real_siim_masks_have_the_published_counts(tmp_path: Path) -> None:
    shutil.copy(real("siim-pneumothorax-train-rle.csv.gz"), tmp_path)
    source = open_source(f"siim:{tmp_path}")
    assert isinstance(source, Source) and len(source) == 12_047
    masks = {image: [text for text in runs if text != "-1"] for image, (_, _, runs) in source.items.items()}
    assert sum(bool(found) for found in masks.values()) == 2_669 and sum(map(len, masks.values())) == 3_576
    several = next(image for image, found in masks.items() if len(found) == 2)
    first, second = source.read(source.items[several]).views[0].masks
    assert first.pixels.shape == (1024, 1024) and 0 < (first.pixels | second.pixels).mean() < 0.5


def test_runs_go_down_the_columns_from_the_last_runs_end() -> None:
    expected = np.zeros((4, 4), bool)
    expected[1:3, 0] = True
    expected[3, 0] = expected[0, 1] = False
    expected[1, 1] = True
    np.testing.assert_array_equal(decode_runs("1 2 2 1", 4), expected)
    for broken in ("1 2 3", "a b", "10 9", "-3 2", "9999999999999999999 1", "9223372036854775807 9223372036854775807"):
        with pytest.raises(MedLIPError, match="its mask"):
            decode_runs(broken, 4)


@given(st.one_of(st.text(), st.lists(st.integers()).map(lambda runs: " ".join(map(str, runs)))))
def test_any_text_is_a_mask_or_a_clear_error(text: str) -> None:
    try:
        mask = decode_runs(text, 8)
    except MedLIPError as error:
        assert "its mask" in str(error)
    else:
        assert mask.shape == (8, 8) and mask.dtype == bool


def test_a_path_without_patient_or_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    labels = ",".join(CHEXPERT_LABELS)
    write(tmp_path / "train.csv", f"Path,{labels}", "x.jpg" + "," * len(CHEXPERT_LABELS))
    with pytest.raises(MedLIPError, match=r"'x\.jpg' names no patient"):
        open_source(f"chexpert:{tmp_path}")
    write(tmp_path / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", "a,nan,2,3,4,1")
    with pytest.raises(MedLIPError, match="x='nan' is no number"):
        open_source(f"rsna:{tmp_path}")


@pytest.mark.slow
def test_real_chexpert_table_has_the_published_counts(tmp_path: Path) -> None:
    with gzip.open(real("chexpert_train.csv.gz"), "rt") as file:
        (tmp_path / "train.csv").write_text(file.read())
    found = studies(f"chexpert:{tmp_path}")
    views = Counter(view.position for study in found.values() for view in study.views)
    contradicted = (
        17  # their column Frontal/Lateral and their name say frontal, AP/PA says LL or RL: no frontal film for sure
    )
    assert views.total() == 223_414 and views["lateral"] == 32_387 + contradicted
    assert len({study.patient for study in found.values()}) == 64_540
    second = found["patient00002/study2"]
    assert second.labels["cardiomegaly"] == "uncertain" and second.labels["opacity"] == "present"
    assert "lesion" not in second.labels and second.split == "train"


def test_chexpert_splits_by_table(tmp_path: Path) -> None:
    labels = (
        "Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
        "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
    )
    for name in ("valid", "test"):
        row = f"CheXpert-v1.0/{name}/patient1/study1/view1_frontal.jpg" + ",0.0" * 13
        write(tmp_path / f"{name}.csv", f"Path,{labels}", row)
    image = write(tmp_path / "valid" / "patient1" / "study1" / "view1_frontal.jpg", "") / "view1_frontal.jpg"
    source = open_source(f"chexpert:{tmp_path}")
    assert isinstance(source, Source)
    valid, test = source
    assert (valid.split, test.split) == ("val", "test") and valid.views[0].image == image
    assert set(valid.labels.values()) == {"absent"}


def test_real_vinbigdata_table_is_read(tmp_path: Path) -> None:
    shutil.copy(real("vinbigdata-train.csv.gz"), tmp_path)
    found = studies(f"vindr:{tmp_path}")
    assert len(found) == 15_000 and sum(not study.views[0].boxes for study in found.values()) == 10_606
    assert sum(len(study.views[0].boxes) for study in found.values()) == 36_096


def test_vindr_readers_vote(tmp_path: Path) -> None:
    write(
        tmp_path / "annotations_train.csv",
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
        "a,R1,Cardiomegaly,1,2,11,22", "a,R2,Cardiomegaly,2,2,12,22", "a,R3,Atelectasis,5,5,6,6", "b,R1,No finding,,,,",
    )  # fmt: skip
    found = studies(f"vindr:{tmp_path}")
    assert found["a"].labels == {"atelectasis": "uncertain", "cardiomegaly": "present"}
    assert set(found["b"].labels.values()) == {"absent"} and found["a"].split == "train"
    box = found["a"].views[0].boxes[0]
    assert (box.x, box.y, box.width, box.height) == (1, 2, 10, 20)


def test_real_openi_xml_is_read(tmp_path: Path) -> None:
    with tarfile.open(real("NLMCXR_reports.tgz")) as archive:
        archive.extractall(tmp_path, filter="data")
    found = studies(f"openi:{tmp_path}")
    assert len(found) == 3_955 and sum(len(study.views) for study in found.values()) == 7_470
    assert set(found["1"].labels.values()) == {"absent"} and found["1"].report.startswith("INDICATION: Positive TB test")
    assert found["1"].views[0].image == tmp_path / "CXR1_1_IM-0001-3001.png"


def test_openi_as_on_kaggle_tells_lateral_views(tmp_path: Path) -> None:
    write(tmp_path / "indiana_reports.csv", "uid,MeSH,findings,impression", "1,Cardiomegaly/mild;Hernia,Large heart.,")
    projections = ("uid,filename,projection", "1,1_IM-0001-4001.dcm.png,Frontal", "1,1_IM-0001-3001.dcm.png,Lateral")
    write(tmp_path / "indiana_projections.csv", *projections)
    write(tmp_path / "images" / "1_IM-0001-4001.png", "")
    write(tmp_path / "images" / "1_IM-0001-3001.dcm.png", "")  # as published there
    (study,) = studies(f"openi:{tmp_path}").values()
    assert [view.position for view in study.views] == ["frontal", "lateral"] and present(study) == {"cardiomegaly"}
    assert study.views[0].image == tmp_path / "images" / "1_IM-0001-4001.png"
    assert study.views[1].image == tmp_path / "images" / "1_IM-0001-3001.dcm.png"


MIMIC_LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)


def mimic_folder(folder: Path) -> Path:
    write(
        folder / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id,ViewPosition",
        "d1,10000032,50414267,PA", "d2,10000032,50414267,LATERAL", "d3,10000764,57375967,AP",
    )  # fmt: skip
    write(
        folder / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split",
        "d1,50414267,10000032,validate", "d2,50414267,10000032,validate", "d3,57375967,10000764,train",
    )  # fmt: skip
    write(folder / "mimic-cxr-2.0.0-chexpert.csv", MIMIC_LABELS, "10000032,50414267,1.0,0.0,,,,,,,,-1.0,,,,")
    write(folder / "files" / "p10" / "p10000032" / "s50414267.txt", "FINDINGS: Clear.")
    return folder


def test_mimic_joins_its_tables_and_reports(tmp_path: Path) -> None:
    found = studies(f"mimic:{mimic_folder(tmp_path)}")
    first = found["50414267"]
    assert [view.position for view in first.views] == ["PA", "lateral"] and first.split == "val"
    assert first.views[0].image == tmp_path / "files/p10/p10000032/s50414267/d1.jpg"
    assert first.report == "FINDINGS: Clear.\n" and first.patient == "mimic:10000032"
    assert first.labels == {"atelectasis": "present", "cardiomegaly": "absent", "effusion": "uncertain"}
    assert found["57375967"].report == "" and not found["57375967"].labels


def test_ms_cxr_boxes_carry_their_phrase(tmp_path: Path) -> None:
    path = "files/p10/p10000032/s50414267/d1.jpg"
    write(
        tmp_path / "MS_CXR_Local_Alignment_v1.1.0.csv",
        "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id",
        f"Pneumonia,opacity in the left base,{path},10,20,30,40,2544,3056,d1",
        f"Pleural Effusion,small effusion.,{path},1,2,3,4,2544,3056,d1",
    )
    (study,) = studies(f"ms_cxr:{tmp_path}").values()
    assert [box.phrase for box in study.views[0].boxes] == ["opacity in the left base", "small effusion."]
    assert study.report == "FINDINGS: opacity in the left base. small effusion." and study.split == "test"
    assert study.views[0].frame == (2544, 3056) and study.patient == "mimic:10000032"


def chestxdet_folder(folder: Path, **changes: object) -> Path:
    entry = {
        "file_name": "36.png", "syms": ["Fibrosis", "Diffuse Nodule"], "boxes": [[100, 200, 300, 250], [0, 0, 10, 20]],
        "polygons": [[[100, 200], [300, 200], [300, 250], [100, 250]], [[0, 0], [10, 0], [10, 20]]],
    }  # fmt: skip
    empty = {"file_name": "37.png", "syms": [], "boxes": [], "polygons": []}
    write(folder / "ChestX_Det_train.json", json.dumps([entry | changes]))
    write(folder / "ChestX_Det_test.json", json.dumps([empty]))
    write(folder / "train_data" / "train" / "36.png", "")
    return folder


def test_chestxdet_outlines_are_painted(tmp_path: Path) -> None:
    found = studies(f"chestxdet:{chestxdet_folder(tmp_path)}")
    first, second = found["36"], found["37"]
    assert present(first) == {"scar", "diffuse nodule"} and len(first.labels) == 13
    assert set(second.labels.values()) == {"absent"} and second.split == "test" and not second.views[0].masks
    assert first.split == hold_back("chestxdet:36") and second.views[0].image == tmp_path / "test_data" / "test" / "37.png"
    (view,) = first.views
    assert view.image == tmp_path / "train_data" / "train" / "36.png" and view.frame == (1024, 1024)
    box = view.boxes[0]
    assert (box.pathology, box.x, box.y, box.width, box.height) == ("scar", 100, 200, 200, 50)
    rectangle, triangle = (mask.pixels for mask in view.masks)
    expected = np.zeros((1024, 1024), bool)
    expected[200:251, 100:301] = True
    np.testing.assert_array_equal(rectangle, expected)
    assert 100 <= triangle.sum() <= 131 and triangle[5, 9] and not triangle[15, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"syms": ["Fibrosis"]}, "36.png has 1 syms, 2 boxes and 2 polygons"),
        ({"syms": ["Fibrosis", "Hernia"]}, "36.png has the finding 'Hernia'"),
        ({"boxes": [[1, 2, 3], [0, 0, 1, 1]]}, r"36.png: \[\[1, 2, 3\]\]… is no box"),
        ({"polygons": [[], [[0, 0]]]}, r"36.png: \[\]… is no box"),
        ({"polygons": [3, [[0, 0]]]}, "36.png: 3… is no box"),
        ({"polygons": None}, "has something else than lists"),
        ({"file_name": "37.png"}, "37.png is listed twice"),
    ],
)
def test_a_broken_chestxdet_entry_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(MedLIPError, match=words):
        studies(f"chestxdet:{chestxdet_folder(tmp_path, **changes)}")


def test_covidx_lists_are_read(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "12 a b.png positive bimcv", "13 c.png negative cohen")
    write(tmp_path / "test.txt", "14 d.png normal rsna")
    found = studies(f"covidx:{tmp_path}")
    assert found["a b.png"].labels == {"covid-19": "present"} and found["d.png"].labels == {"covid-19": "absent"}
    assert found["a b.png"].views[0].image == tmp_path / "train" / "a b.png" and found["d.png"].split == "test"
    write(tmp_path / "val.txt", "nonsense")
    with pytest.raises(MedLIPError, match="the line 'nonsense'"):
        open_source(f"covidx:{tmp_path}")


def test_any_table_is_read_through_a_map(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "file,person,text,Mass,proj", "a.png,p1,Clear.,1,PA", "b.png,p1,Mass.,-1,LATERAL")
    write(
        tmp_path / "map.yaml",
        "table: t.csv", "images: pictures", "labels: [Mass]",
        "columns: {image: file, patient: person, report: text, view: proj}",
    )  # fmt: skip
    found = studies(f"csv:{tmp_path / 'map.yaml'}")
    first, second = found["a.png"], found["b.png"]
    assert first.patient == second.patient == "map:p1" and first.views[0].image == tmp_path / "pictures" / "a.png"
    assert first.labels == {"mass": "present"} and second.labels == {"mass": "uncertain"}
    assert second.views[0].position == "lateral" and first.report == "Clear."
    write(tmp_path / "plain.csv", "image,study", "a.png,1", "b.png,1")
    (plain,) = studies(f"csv:{tmp_path / 'plain.csv'}").values()
    assert len(plain.views) == 2


def test_a_column_of_words_makes_labels(tmp_path: Path) -> None:
    write(
        tmp_path / "t.csv",
        "image,diagnosis,split", "a.png,viral,training", "b.png,normal,test", "c.png,,dev",
        "d.png,bacterial,",
    )  # fmt: skip
    write(tmp_path / "map.yaml", "table: t.csv", "classes: {Pneumonia: {diagnosis: {viral: 1, bacterial: -1, normal: 0}}}")
    found = studies(f"csv:{tmp_path / 'map.yaml'}")
    assert [study.labels for study in found.values()] == [
        {"pneumonia": "present"}, {"pneumonia": "absent"}, {}, {"pneumonia": "uncertain"}
    ]  # fmt: skip
    assert [study.split for study in found.values()] == ["train", "test", "val", ""]
    write(tmp_path / "t.csv", "image,diagnosis,split", "a.png,Viral pneumonia,train")
    with pytest.raises(MedLIPError, match="has no 'viral', 'bacterial', 'normal', only 'Viral pneumonia'"):
        open_source(f"csv:{tmp_path / 'map.yaml'}")
    write(tmp_path / "t.csv", "image,diagnosis,split", "a.png,viral,holdout", "b.png,bacterial,", "c.png,normal,")
    with pytest.raises(MedLIPError, match="there is a split 'holdout'"):
        open_source(f"csv:{tmp_path / 'map.yaml'}")


def shared(name: str) -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/data/{name} is not there")
    return folder


def test_real_paediatric_images_are_read_through_a_map(tmp_path: Path) -> None:
    folder = shared("kermany")
    write(
        tmp_path / "kermany.yaml",
        f"table: {folder / 'labels.csv'}", f"images: {folder / 'images'}",
        "columns: {image: file, split: split_in_source_repo}",
        "classes: {pneumonia: {label: {bacterial pneumonia: 1, viral pneumonia: 1, normal: 0}}}",
    )  # fmt: skip
    found = studies(f"csv:{tmp_path / 'kermany.yaml'}")
    positive = sum(present(study) == {"pneumonia"} for study in found.values())
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(found) == 640 and positive == sum(row["label"] != "normal" for row in rows) and 0 < positive < 640
    assert all(isinstance(view.image, Path) and view.image.is_file() for study in found.values() for view in study.views)


def test_real_covid_images_are_read_through_a_map(tmp_path: Path) -> None:
    folder = shared("covid")
    write(
        tmp_path / "covid.yaml",
        f"table: {folder / 'metadata.csv'}", f"images: {folder / 'images'}",
        "columns: {image: file, patient: patientid, view: view, report: clinical_notes}",
        "classes: {covid-19: {finding: {COVID-19: 1, 'COVID-19, ARDS': 1, No Finding: 0, Pneumonia: 0}}}",
    )  # fmt: skip
    found = studies(f"csv:{tmp_path / 'covid.yaml'}")
    labels = Counter(presence for study in found.values() for presence in study.labels.values())
    assert len(found) == 392 and labels["present"] > 100 and labels["absent"] == 20
    assert len({study.patient for study in found.values()}) < 392
    assert all(isinstance(view.image, Path) and view.image.is_file() for study in found.values() for view in study.views)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("columns: {}", "table is required"),
        ("table: t.csv\ncolumns: {picture: x}", "names picture"),
        ("a: [", "readable YAML"),
        ("table: t.csv\ncolumns:", "Give a map"),
        ("table: t.csv\nclasses: {pneumonia: viral}", "Give a column and its words"),
    ],
)
def test_a_wrong_map_is_named(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path / "map.yaml", text)
    with pytest.raises(MedLIPError, match=reason):
        open_source(f"csv:{tmp_path / 'map.yaml'}")


@pytest.mark.parametrize("name", sorted(set(data_sets()) - {"csv"}))
def test_a_folder_of_something_else_says_what_is_missing(tmp_path: Path, name: str) -> None:
    write(tmp_path / "holiday.txt", "sea")
    with pytest.raises(MedLIPError, match=r"Complete the download|Put it into the folder"):
        open_source(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", ["siim", "vindr", "chestxdet", "openi", "csv"])
def test_data_that_name_no_patient_say_so_when_prepared_and_when_evaluated(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    images = [folder / f"{image}.png" for image in ("36", "37")]
    if name == "siim":
        write(folder / "train-rle.csv", "ImageId,EncodedPixels", "36,-1", "37,-1")
    elif name == "vindr":
        rows = [f"{image}.png,No finding,,,,".replace(".png", "") for image in ("36", "37")]
        write(folder / "train.csv", "image_id,class_name,x_min,y_min,x_max,y_max", *rows)
    elif name == "chestxdet":
        chestxdet_folder(folder)
        images = [folder / split / file for split, file in (("train_data/train", "36.png"), ("test_data/test", "37.png"))]
    elif name == "openi":
        header = "uid,image,findings,impression,mesh,split"
        write(folder / "studies.csv", header, *(f"{n},{n}.png,Clear lungs.,Normal.,normal,test" for n in ("36", "37")))
    else:
        write(folder / "t.csv", "image,split", "36.png,test", "37.png,test")
    for number, image in enumerate(images):
        image.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (1024, 1024)).astype(np.uint8)
        Image.fromarray(pixels).save(image)
    place = folder / "t.csv" if name == "csv" else folder
    out = tmp_path / "store"
    summary = prepare([f"{name}:{place}"], out, workers=0, size=32, shares={"test": 1.0})
    (note,) = (note for note in summary["remarks"] if "stands for a patient of its own" in note)
    assert "2 of the studies" in note
    prepare([f"{name}:{place}"], out, workers=0, size=32, shares={"test": 1.0})  # again, as it was
    assert not summary["notes"]
    assert patients_rule(Store.open(out)) == {"patients": note}


def test_data_that_name_every_patient_say_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / "a.png")
    write(tmp_path / "t.csv", "image,patient", "a.png,p1")
    summary = prepare([f"csv:{tmp_path / 't.csv'}"], tmp_path / "store", workers=0, size=32)
    assert not summary["remarks"] and not Store.open(tmp_path / "store").stand_ins
