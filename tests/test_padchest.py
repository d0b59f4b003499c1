"""PadChest and PadChest-GR on fixtures in their published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import Store
from medlip.errors import MedLIPError

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,Report,Labels"
)
LISTED = "['pleural effusion', ' laminar atelectasis']"
ROWS = (
    f'0,20536_a.png,0,20140915.0,s1,p1,1930.0,F,PA,Physician,derram pleural izquierd,"{LISTED}"',
    f'1,20536_b.png,0,20140915.0,s1,p1,1930.0,F,L,Physician,derram pleural izquierd,"{LISTED}"',
    "2,20537_c.png,1,20150101.0,s2,p2,,M,AP_horizontal,RNN_model,sin hallazg,\"['normal']\"",
    "3,20538_d.png,1,20150101.0,s3,p3,,M,PA,Physician,,\"['exclude']\"",
    "4,20539_e.png,1,20150101.0,s4,p4,,M,PA,Physician,sin cambi,",
)
GROUNDED = [
    {
        "StudyID": "s1", "ImageID": "20536_a.png",
        "findings": [
            {"sentence_en": "Left pleural effusion.", "sentence_es": "Derrame.", "abnormal": True,
             "labels": ["pleural effusion"], "boxes": [[0.5, 0.25, 1.0, 0.75]], "locations": ["left"]},
            {"sentence_en": "No pneumothorax", "sentence_es": "", "abnormal": False, "labels": ["Normal"], "boxes": []},
        ],
    }
]  # fmt: skip


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 4096, (60, 40)).astype(np.uint16)  # 16 bits, as published
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / TABLE).write_text("\n".join((HEADER, *ROWS)) + "\n")
    for number, name in enumerate("abcde"):
        film(tmp_path / str(int(number > 1)) / f"2053{min(6 + max(0, number - 1), 9)}_{name}.png")
    return tmp_path


def test_labels_are_mapped_by_name_and_the_rest_is_absent(folder: Path) -> None:
    source = open_source(f"padchest:{folder}")
    assert isinstance(source, Source)
    first, second, fourth = source
    present = {name for name, presence in first.labels.items() if presence == "present"}
    assert present == {"effusion", "atelectasis"} and first.labels["pneumothorax"] == "absent"
    assert set(second.labels.values()) == {"absent"} and fourth.labels == {}
    assert (first.patient, first.attributes, first.language) == ("padchest:p1", {"sex": "F", "age": "84"}, "es")
    assert [view.position for view in (*first.views, *second.views)] == ["PA", "lateral", "AP"]
    assert [left.study for left in source.left_out] == ["s3"]


def test_spanish_reports_are_kept_named_and_not_read(folder: Path) -> None:
    summary = prepare([f"padchest:{folder}"], folder / "store", workers=0, size=32)
    records = list(Store.open(folder / "store"))
    assert len(records) == 3 and records[0].report and not any(record.facts or record.sentences for record in records)
    assert summary["remarks"] == ["reports that are not English (es) and not read (3)"]
    assert summary["found"] == 5 == sum(summary["account"].values())


def test_grounded_findings_bring_boxes_and_english_phrases(folder: Path) -> None:
    (folder / "grounded_reports_20240819.json").write_text(json.dumps(GROUNDED))
    (folder / "master_table.csv").write_text("StudyID,ImageID,PatientID,split\ns1,20536_a.png,p1,validation\n")
    prepare([f"padchest_gr:{folder}"], folder / "store", workers=0, size=64)
    (record,) = Store.open(folder / "store")
    (box,) = record.boxes
    assert (box.pathology, box.phrase) == ("effusion", "Left pleural effusion.")
    assert (box.x, box.y, box.width, box.height) == (20, 15, 20, 30)
    assert record.report == "FINDINGS: Left pleural effusion. No pneumothorax." and record.patient == "padchest:p1"
    assert {(fact.pathology, fact.presence) for fact in record.facts} == {
        ("effusion", "present"),
        ("pneumothorax", "absent"),
    }
    assert record.split == "val" and record.labels["effusion"] == "present" and record.labels["cardiomegaly"] == "absent"
    source = open_source(f"padchest:{folder}")  # and the images of PadChest itself have them, too
    assert isinstance(source, Source) and len(next(iter(source)).views[0].boxes) == 1


@pytest.mark.parametrize(("content", "words"), [("{", "not a list"), ('[{"ImageID": "a"}]', "not a list of StudyID")])
def test_broken_files_are_named(folder: Path, content: str, words: str) -> None:
    (folder / "grounded_reports_20240819.json").write_text(content)
    with pytest.raises(MedLIPError, match=words):
        open_source(f"padchest_gr:{folder}")
    (folder / TABLE).write_text(
        "\n".join((HEADER, ROWS[0].replace("['pleural effusion', ' laminar atelectasis']", "pleural")))
    )
    (folder / "grounded_reports_20240819.json").unlink()
    with pytest.raises(MedLIPError, match="study s1: Labels='pleural' is no list"):
        open_source(f"padchest:{folder}")
