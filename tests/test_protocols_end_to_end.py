"""Every data set with a named protocol, from a folder in its documented layout to a result in both forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fakes import FakeMethod, without_seconds
from medlip.data.labels import canonical, hold_back
from medlip.data.prepare import prepare
from medlip.data.readers.chestxdet import LABELS as CHESTXDET
from medlip.data.readers.chexpert import LABELS as CHEXPERT
from medlip.data.readers.nih import LABELS as NIH
from medlip.data.store import Store
from medlip.evaluation import Result, evaluate
from medlip.evaluation.protocols import FORMS, load_protocol, named_protocols, parse_protocol
from test_data_sets import write
from test_read_image import dicom_file

pytestmark = pytest.mark.long

VAL, TEST = 9, 15
SPLITS = ("val",) * VAL + ("test",) * TEST
BOXED = {
    label: label for label in ("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
}
BOXED["Infiltration"] = "Infiltrate"  # as the table of boxes calls it
PHRASED = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Lung Opacity", "Pleural Effusion", "Pneumonia",
           "Pneumothorax")  # fmt: skip


class StandIn(FakeMethod):
    """A method that needs no training: how bright an image is, and where, seen from a corner that the prompt decides."""

    def __init__(self) -> None:
        super().__init__()
        self.located: list[tuple[str, ...]] = []

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean((1, 2, 3))[:, None] ** torch.tensor([1 + crc32(p.encode()) % 7 / 7 for p in prompts])

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.located.append(tuple(prompts))
        maps = torch.nn.functional.avg_pool2d(images[:, 0], 4)
        return torch.stack([maps.roll((crc32(p.encode()) % 3, crc32(p.encode()) % 5), (1, 2)) for p in prompts], 1)


def xray(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60 + 5 * (number % 24), (64, 64), dtype=np.uint8)
    image[8 : 8 + number % 40, 16:40] += 60
    return image


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        dicom_file(path, xray(number))
    else:
        Image.fromarray(xray(number)).save(path)


def shown(number: int, labels: Sequence[str]) -> list[str]:
    """Return the labels of an image: a third of them, another third in the next one."""
    return [label for c, label in enumerate(labels) if (number + c) % 3 == 0]


def numbers(prefix: str, training_split: str) -> Iterator[tuple[int, str]]:
    """Yield numbers of patients whose share of a training list is "val", then those that a list calls "test"."""
    held = (n for n in range(1, 9999) if hold_back(f"{prefix}:{n}") == training_split)
    yield from ((next(held), "val") for _ in range(VAL))
    yield from ((n, "test") for n in range(20_000, 20_000 + TEST))


def nih(folder: Path, train: int = 0) -> None:
    """Write images of a training list, some held back as "val" and `train` of them not, and images of a test list."""
    kept = islice((n for n in range(1, 9999) if hold_back(f"nih:{n}") == "train"), train)
    patients = [*numbers("nih", "val"), *((n, "train") for n in kept)]
    names = {split: [f"{n:08d}_000.png" for n, found in patients if found == split] for split in ("val", "test", "train")}
    rows, boxes = [], []
    for number, name in enumerate(names["val"] + names["test"] + names["train"]):
        found = shown(number, NIH)
        rows.append(f"{name},{'|'.join(found) or 'No Finding'},0,{int(name[:8])},058Y,M,PA")
        boxes += [f"{name},{BOXED[label]},{100 + number},200,300,250" for label in found if label in BOXED]
        picture(folder / "images_001" / "images" / name, number)
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    write(folder / "Data_Entry_2017.csv", columns, *rows)
    write(folder / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h]", *boxes)
    write(folder / "train_val_list.txt", *names["val"], *names["train"])
    write(folder / "test_list.txt", *names["test"])


def rsna(folder: Path) -> None:
    rows = []
    for number in range(VAL + TEST):
        picture(folder / "stage_2_train_images" / f"a{number}.dcm", number)
        boxes = [f"a{number},{x},300,200,250,1" for x in (100, 600)[: 1 + number % 2]]
        rows += boxes if number % 3 else [f"a{number},,,,,0"]
    write(folder / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)


def siim(folder: Path) -> None:
    rows = []
    for number in range(VAL + TEST):
        picture(folder / "dicom-images-train" / f"1.2.{number}.dcm", number)
        runs = " ".join(f"{1024 * 100 + 300 if run == 0 else 824} 200" for run in range(150))  # 150 columns, 200 rows
        rows.append(f"1.2.{number},{runs if number % 2 else '-1'}")
    write(folder / "train-rle.csv", "ImageId,EncodedPixels", *rows)


def chexpert(folder: Path) -> None:
    for table, split in (("valid", "val"), ("test", "test")):
        rows = []
        for number in (number for number, found in enumerate(SPLITS) if found == split):
            place = f"CheXpert-v1.0/{table}/patient{number:05d}/study1/view1_frontal.jpg"
            picture(folder / place, number)
            found = shown(number, CHEXPERT)
            rows.append(",".join([place, *("1.0" if label in found else "0.0" for label in CHEXPERT)]))
        write(folder / f"{table}.csv", ",".join(["Path", *CHEXPERT]), *rows)


def covidx(folder: Path, train: int = 0) -> None:
    splits = (*SPLITS, *("train",) * train)
    for split in sorted(set(splits)):
        found = [number for number, where in enumerate(splits) if where == split]
        for number in found:
            picture(folder / split / f"{number}.png", number)
        lines = (f"{number} {number}.png {'positive' if number % 2 else 'negative'} bimcv" for number in found)
        write(folder / f"{split}.txt", *lines)


def openi(folder: Path) -> None:
    classes = json.loads((files("medlip.data.readers") / "openi_classes.json").read_text())
    terms = [terms[0] for terms in classes.values()]
    reports, projections = ["uid,MeSH,findings,impression"], ["uid,filename,projection"]
    for number in range(2 * (VAL + TEST)):
        picture(folder / "images" / f"{number}_IM-0001-4001.dcm.png", number)
        reports.append(f"{number},{';'.join(shown(number, terms))},As coded.,")
        projections.append(f"{number},{number}_IM-0001-4001.dcm.png,Frontal")
    write(folder / "indiana_reports.csv", *reports)
    write(folder / "indiana_projections.csv", *projections)


def mimic(folder: Path) -> None:
    metadata, splits, labels = [], [], []
    for number, split in enumerate(SPLITS):
        subject, study = 10_000_000 + number, 50_000_000 + number
        place = folder / "files" / "p10" / f"p{subject}"
        picture(place / f"s{study}" / f"d{number}.jpg", number)
        write(place / f"s{study}.txt", "FINDINGS: As labelled.")
        metadata.append(f"d{number},{subject},{study},PA")
        splits.append(f"d{number},{study},{subject},{'validate' if split == 'val' else split}")
        found = shown(number, CHEXPERT)
        labels.append(",".join([str(subject), str(study), *("1.0" if label in found else "0.0" for label in CHEXPERT)]))
    write(folder / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id,ViewPosition", *metadata)
    write(folder / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", *splits)
    write(folder / "mimic-cxr-2.0.0-chexpert.csv", ",".join(["subject_id", "study_id", *CHEXPERT]), *labels)


def ms_cxr(folder: Path) -> None:
    rows = []
    for number, split in enumerate(SPLITS):
        path = f"files/p10/p{10_000_000 + number}/s{50_000_000 + number}/d{number}.jpg"
        picture(folder / path, number)
        for c, box in ((number, "8,10,20,30"), (number, "40,10,15,30"), (number + 3, "10,40,30,20")):
            label = PHRASED[c % len(PHRASED)]
            rows.append(f"{label},{label.lower()} as seen in {c % 11},{path},{box},64,64,d{number},{split}")
    columns = "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split"
    write(folder / "MS_CXR_Local_Alignment_v1.1.0.csv", columns, *rows)


def chestxdet(folder: Path) -> None:
    tables: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number, (name, split) in enumerate(numbers("chestxdet", "val")):
        table, syms = "test" if split == "test" else "train", shown(number, CHESTXDET)
        corners = [(100 + 20 * c, 150 + 10 * number, 400 + 20 * c, 600) for c in range(len(syms))]
        outlines = [[[left, top], [right, top], [left, bottom]] for left, top, right, bottom in corners]
        tables[table].append({"file_name": f"{name}.png", "syms": syms, "boxes": corners, "polygons": outlines})
        picture(folder / f"{table}_data" / table / f"{name}.png", number)
    for table, entries in tables.items():
        write(folder / f"ChestX_Det_{table}.json", json.dumps(entries))


FOLDERS: dict[str, Callable[[Path], None]] = {
    "nih": nih, "rsna": rsna, "siim": siim, "chexpert": chexpert, "covidx": covidx, "openi": openi, "mimic": mimic,
    "ms_cxr": ms_cxr, "chestxdet": chestxdet,
}  # fmt: skip
LOCATED = {
    "nih": {canonical(label) for label in BOXED},
    "rsna": {"pneumonia"},
    "siim": {"pneumothorax"},
    "ms_cxr": {canonical(label) for label in PHRASED},
    "chestxdet": {canonical(label) for label in CHESTXDET},
}
SEGMENTED = ("siim", "chestxdet")


def thresholds(result: Result) -> dict[str, float | None]:
    per_class = {name: values.threshold for name, values in result["zero_shot"].per_class.items()}
    return per_class | {part: result[part].threshold for part in ("grounding", "segmentation") if part in result.tasks}


def findings(result: Result, task: str) -> set[str]:
    return set(result[task].per_class) if task in result.tasks else set()


def test_every_named_protocol_is_tried() -> None:
    assert {name.rpartition("-")[0] for name in named_protocols()} == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_data_set_is_evaluated_under_its_protocol_in_both_forms(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    FOLDERS[name](folder)
    summary = prepare([f"{name}:{folder}"], tmp_path / "store", size=64, shares={"val": 0.4, "test": 0.6}, workers=0)
    assert summary["skipped"] == 0
    store = Store.open(tmp_path / "store")
    protocols = {form: load_protocol(f"{name}-{form}") for form in FORMS}
    results = {
        form: evaluate(StandIn(), store, protocol=protocol, resamples=5, out=tmp_path / form)
        for form, protocol in protocols.items()
    }
    for form, result in results.items():
        assert (result.split, result.protocol.name) == ("test", f"{name}-{form}")
        assert result.n_images == store.splits["test"] >= TEST - 3
        assert findings(result, "zero_shot") == set(protocols[form].classes)
        assert findings(result, "grounding") == LOCATED.get(name, set())
        assert findings(result, "segmentation") == (LOCATED[name] if name in SEGMENTED else set())
        assert any("optimistic" in note for note in result.notes) is (form == "medklip")
        assert any("another test" in note for note in result.notes) is (protocols[form].images is not None)
        for part in ("grounding", "segmentation"):
            if part in result.tasks:
                found = result[part]
                assert None not in (found["iou"].value, found["iou"].interval, found.threshold)
    sound, published = results["sound"], results["medklip"]
    again = evaluate(StandIn(), store, protocol=protocols["sound"], resamples=5)
    assert without_seconds(again) == without_seconds(sound)
    assert sound.protocol.hash != published.protocol.hash

    # What the sound form chooses is what validation images alone give, and the other form's choice is another one.
    on_validation = protocols["sound"].model_copy(update={"split": "val", "thresholds": "test"})
    assert thresholds(sound) == thresholds(evaluate(StandIn(), store, protocol=on_validation, resamples=5))
    if name != "ms_cxr":  # all its labels are present: no threshold of a class can be chosen
        assert thresholds(sound) != thresholds(published)


def test_phrases_are_asked_for_by_themselves(tmp_path: Path) -> None:
    ms_cxr(tmp_path / "data")
    prepare([f"ms_cxr:{tmp_path / 'data'}"], tmp_path / "store", size=64, workers=0)
    store, protocol = Store.open(tmp_path / "store"), load_protocol("ms_cxr-sound")
    method = StandIn()
    result = evaluate(method, store, protocol=protocol, batch_size=4, resamples=5)
    phrases = {box.phrase for record in store for box in record.boxes}
    classes = set(protocol.classes.values())
    assert {prompt for prompts in method.located for prompt in prompts} == phrases | classes
    assert max(len(set(prompts) - classes) for prompts in method.located) <= 8  # those of the batch alone, two an image
    assert result["grounding"]["pointing_game"].n == 2 * TEST  # two boxes of one phrase are one pair
    assert "phrase" in result.protocol.rules["grounding asks for"]
    alone = evaluate(StandIn(), store, protocol=protocol, batch_size=1, resamples=5)
    assert without_seconds(alone) == without_seconds(result)  # whatever else is in a batch
    by_class = parse_protocol({**protocol.model_dump(), "ask": "classes"}, "own")
    other = evaluate(StandIn(), store, protocol=by_class, resamples=5)
    assert other.protocol.hash != result.protocol.hash
    assert other["grounding"]["contrast_to_noise"] != result["grounding"]["contrast_to_noise"]


def test_phantoms_stand_in_for_masks_of_a_data_set(phantom_store: Path) -> None:
    store = Store.open(phantom_store)
    sound, published = (
        evaluate(StandIn(), store, protocol=load_protocol(f"chexpert-{form}"), resamples=5) for form in ("sound", "medklip")
    )
    for result in (sound, published):
        assert findings(result, "segmentation") == {"cardiomegaly", "edema"}
        for name, row in result["segmentation"].per_class.items():
            labels = [record.labels[name] for record in store.select("test")]
            assert (row.positives, row.n) == (labels.count("present"), labels.count("present") + labels.count("absent"))
            assert row["dice_all"].chance == labels.count("absent") / len(labels)
    assert sound["segmentation"].threshold_rule == "the split val"
    assert "optimistic" in published["segmentation"].threshold_rule
    assert "reported images" in published.protocol.rules["segmentation threshold"]
    assert sound.protocol.hash != published.protocol.hash
