from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from medlip.concepts import default_vocabulary
from medlip.data.labels import combine
from medlip.data.readers.openi import mesh_labels
from medlip.data.sources import DataSet, Source, open_source, register_source
from medlip.errors import MedLIPError
from medlip.reports.compose import compose_report

SHARED = Path(__file__).parents[2] / "shared" / "data"
OPENI = {
    "uid": "7", "split": "val", "image": "images/7.png",
    "indication": "Cough.", "comparison": "", "findings": "Clear lungs.",
    "impression": "Normal.", "mesh": "Opacity/lung/base|Cardiomegaly", "license": "free",
}  # fmt: skip
NIH = {
    "file": "a.jpg", "image_index": "00000001_000.png", "finding_labels": "Mass|Pleural_Thickening", "patient_id": "1",
    "age": "57", "sex": "M", "view": "PA", "w": "512", "h": "256",
}  # fmt: skip
BOX = {"image_index": "00000001_000.png", "label": "Lung Opacity", "x": "512", "y": "512", "w": "256", "h": "128"}


def table(path: Path, *rows: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path.parent


def source(text: str) -> Source:
    opened = open_source(text)
    assert isinstance(opened, Source)
    return opened


def without(row: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in names}


def test_openi_rows_of_one_uid_are_one_study(tmp_path: Path) -> None:
    folder = table(tmp_path / "studies.csv", OPENI, OPENI | {"image": "images/8.png"}, OPENI | {"uid": "9"})
    first, second = source(f"openi:{folder}")
    assert [view.image for view in first.views] == [folder / "images/7.png", folder / "images/8.png"]
    assert (first.id, first.patient, first.split, second.id) == ("7", "openi:7", "val", "9")
    assert first.report == "INDICATION: Cough.\n\nFINDINGS: Clear lungs.\n\nIMPRESSION: Normal."
    present = {name for name, presence in first.labels.items() if presence == "present"}
    assert present == {"opacity", "cardiomegaly"} and len(first.labels) == 18


def test_openi_takes_the_folders_own_classes(tmp_path: Path) -> None:
    folder = table(tmp_path / "studies.csv", OPENI)
    (folder / "classes.json").write_text(json.dumps({"scar": ["Cicatrix"], "opacity": ["Opacity/lung"]}))
    assert next(iter(source(f"openi:{folder}"))).labels == {"scar": "absent", "opacity": "present"}
    (folder / "classes.json").write_text("{")
    with pytest.raises(MedLIPError, match=r"classes\.json: not readable JSON"):
        open_source(f"openi:{folder}")


def test_a_mesh_term_matches_whole_codes_only() -> None:
    classes = {"effusion": ["Pleural Effusion"], "elevation": ["Diaphragm/elevated"]}
    assert mesh_labels("Pleural Effusions/left", classes)["effusion"] == "absent"
    assert mesh_labels("pleural effusion/left|Diaphragm/left/elevated", classes) == {
        "effusion": "present", "elevation": "absent"
    }  # fmt: skip
    assert mesh_labels("", classes) == {}


def test_a_study_with_an_indication_alone_has_no_report() -> None:
    assert compose_report({"indication": "Cough.", "findings": "", "impression": ""}) == ""


def test_nih_boxes_are_scaled_to_the_file(tmp_path: Path) -> None:
    table(tmp_path / "boxes.csv", BOX)
    (study,) = source(f"nih:{table(tmp_path / 'labels.csv', NIH)}")
    (box,) = study.views[0].boxes
    assert (box.pathology, box.x, box.y, box.width, box.height) == ("pneumonia", 256, 128, 128, 32)
    assert (study.patient, study.split, study.views[0].position) == ("nih:1", "test", "PA")
    assert study.attributes == {"age": "57", "sex": "M"}


def test_nih_labels_carry_the_vocabularys_names(tmp_path: Path) -> None:
    (study,) = source(f"nih:{table(tmp_path / 'labels.csv', NIH)}")
    assert len(study.labels) == 14 and set(study.labels) <= set(default_vocabulary().pathology_index)
    assert {name for name, presence in study.labels.items() if presence == "present"} == {"mass", "thicken"}


def test_where_labels_share_a_name_present_wins() -> None:
    assert combine([("mass", "absent"), ("mass", "present"), ("mass", "uncertain")]) == {"mass": "present"}


def test_phantoms_differ_by_seed() -> None:
    assert set(source("phantom:3").items).isdisjoint(source("phantom:3@1").items)
    first = next(iter(source("phantom:3@1")))
    assert first.id != next(iter(source("phantom:3"))).id


def test_phantoms_differ_by_setting() -> None:
    plain, independent = source("phantom:3@1"), source("phantom:3@1?independent")
    assert len(independent) == 3
    assert set(plain.items).isdisjoint(independent.items)
    assert {study.id for study in plain}.isdisjoint(study.id for study in independent)


WRONG: Sequence[tuple[str, str]] = [
    ("openi:{0}/none", "no folder"),
    ("openi:{0}/empty", "the folder is empty"),
    ("openi:{0}/columns", "no column 'mesh'; it has 'uid', 'split'"),
    ("openi:{0}/rowless", "names no study"),
    ("nih:{0}/columns", "neither Data_Entry_2017"),
    ("nih:{0}/number", "w='wide' is no number"),
    ("phantom:many", "a number of phantoms"),
    ("phantom:0", "a number of phantoms"),
    ("phantom:3?indep", r"no setting 'indep'. Did you mean 'independent'\? Settings, several joined by &: independent"),
    ("phantom:3@1?", r"no setting after the \?. Settings, several joined by &: independent, lateral"),
    ("phantom:3?independent&laterl", "no setting 'laterl'. Did you mean 'lateral'"),
    ("phantom:3?independent&", "no setting after"),
    ("phantom:?independent", "a number of phantoms"),
    ("{0}/empty", r"holds no manifest\.json"),
    ("mimik:{0}", "no data set 'mimik'. Give a prepared store's folder or one of phantom:N, openi:DIR, nih:DIR"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_a_wrong_source_says_what_is_expected(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    table(tmp_path / "columns" / "studies.csv", without(OPENI, "mesh"))
    table(tmp_path / "number" / "labels.csv", NIH | {"w": "wide"})
    rowless = table(tmp_path / "rowless" / "studies.csv", OPENI) / "studies.csv"
    rowless.write_text(rowless.read_text().splitlines()[0])
    with pytest.raises(MedLIPError, match=reason):
        open_source(text.format(tmp_path))


def test_real_openi_counts() -> None:
    if not (SHARED / "openi").is_dir():
        pytest.skip("../shared/data is not there")
    studies = list(source(f"openi:{SHARED / 'openi'}"))
    assert Counter(study.split for study in studies) == {"train": 2560, "val": 366}
    assert sum(len(study.views) for study in studies) == 3029
    positives = Counter(name for s in studies if s.split == "val" for name, p in s.labels.items() if p == "present")
    assert len(positives) == 18 and sum(count >= 5 for count in positives.values()) == 16
    shipped = json.loads((Path(__file__).parents[1] / "src/medlip/data/readers/openi_classes.json").read_text())
    assert shipped == json.loads((SHARED / "openi" / "classes.json").read_text())


def test_real_nih_counts() -> None:
    if not (SHARED / "nih").is_dir():
        pytest.skip("../shared/data is not there")
    studies = list(source(f"nih:{SHARED / 'nih'}"))
    assert len(studies) == 718
    boxes = Counter(box.pathology for study in studies for box in study.views[0].boxes)
    assert boxes["pneumonia"] == 132 + 27 and boxes.total() == 160


OWN = """
from medlip.data.sources import Source
from medlip.data.study import Study, View

def read(folder):
    return Source("own", {path.stem: Study(path.stem, path.stem, (View(path),)) for path in sorted(folder.glob("*.png"))})
"""


def test_a_reader_of_another_package_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_reader.py").write_text(OWN)
    (tmp_path / "a.png").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    register_source("own_set", DataSet(title="Own", reader="own_reader:read"))
    assert [study.id for study in source(f"own_set:{tmp_path}")] == ["a"]
    with pytest.raises(MedLIPError, match="there is a data set 'nih' already"):
        register_source("nih", DataSet(title="Own", reader="own_reader:read"))
    register_source("own_broken", DataSet(title="Own", reader="own_reader:none"))
    with pytest.raises(MedLIPError, match="own_reader:none can't be loaded"):
        source(f"own_broken:{tmp_path}")


def test_a_reader_is_found_by_its_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "own-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[medlip.sources]\nown_set = own_reader:read\n")
    (tmp_path / "own_reader.py").write_text(OWN)
    (tmp_path / "a.png").touch()
    code = f"from medlip.data.sources import open_source; print([s.id for s in open_source('own_set:{tmp_path}')])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a']"
