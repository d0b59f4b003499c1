from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medlip.concepts import Vocabulary, default_vocabulary
from medlip.data import prepare as preparing
from medlip.data import writer as writing
from medlip.data.prepare import prepare
from medlip.data.sources import Source, open_source
from medlip.data.store import ROWS_PER_GROUP, Record, Store
from medlip.data.study import Box, Mask, Study, View
from medlip.errors import MedLIPError
from medlip.reports import Fact

EFFUSION = Fact("effusion", "right_pleural", "present", "Right effusion.", 10, 18)


def extract(report: str, vocabulary: Vocabulary) -> list[Fact]:
    anatomy = vocabulary.anatomies[0].name
    return (
        [Fact("effusion", anatomy, "absent"), Fact("effusion", anatomy, "present", report)] if "effusion" in report else []
    )


def study(number: int, split: str = "train", size: int = 40) -> Study:
    pixels = np.random.default_rng(number).integers(0, 256, (size, 2 * size)).astype(np.uint8)
    mask = np.zeros(pixels.shape, bool)
    mask[: size // 2, : size // 2] = True
    view = View(pixels, "PA", (Box("mass", 10, 20, 20, 10, "left_lung"),), (Mask("mass", mask, "left_lung"),))
    report = "INDICATION: cough.\nFINDINGS: Right effusion. Heart is normal."
    return Study(str(number), f"p:{number // 2}", (view,), report, None, {"mass": "present"}, split, {"sex": "F"})


def source(*studies: Study, name: str = "made") -> Source:
    return Source(name, {one.id: one for one in studies})


def made(out: Path, *studies: Study, **options: object) -> Store:
    prepare([source(*studies)], out, **{"workers": 0, "size": 20, "extract": extract, **options})  # type: ignore[arg-type]
    return Store.open(out)


def test_a_record_comes_back_as_it_went_in(tmp_path: Path) -> None:
    (record,) = made(tmp_path / "s", study(3), size=40)
    original = study(3)
    view = original.views[0]
    assert isinstance(view.image, np.ndarray)
    assert np.abs(record.image.astype(int) - view.image).mean() < 2
    assert (record.id, record.study, record.patient, record.split, record.view) == ("made:3:0", "3", "p:1", "train", "PA")
    assert record.report == original.report and record.labels == original.labels and record.boxes == view.boxes
    assert record.attributes == {"sex": "F"} and record.sentences == ("Right effusion.", "Heart is normal.")
    np.testing.assert_array_equal(record.masks[0].pixels, view.masks[0].pixels)
    (fact,) = record.facts
    assert (fact.presence, fact.sentence) == ("present", original.report)


def test_places_shrink_with_the_image(tmp_path: Path) -> None:
    (record,) = made(tmp_path / "s", study(1), size=20)
    assert record.image.shape == (20, 40)
    assert record.boxes == (Box("mass", 5, 10, 10, 5, "left_lung"),)
    assert record.masks[0].pixels.shape == (20, 40) and record.masks[0].pixels.sum() == 100


def test_known_facts_are_not_extracted(tmp_path: Path) -> None:
    known = replace(study(1), facts=(replace(EFFUSION, anatomy=default_vocabulary().anatomies[1].name),))
    (record,) = made(tmp_path / "s", known)
    assert record.facts == known.facts


def test_implied_absences_are_kept_apart(tmp_path: Path) -> None:
    clear = replace(study(1), report="FINDINGS: The lungs are clear.")
    prepare([source(clear)], tmp_path / "s", workers=0)
    record = Store.open(tmp_path / "s")[0]
    stated = {(fact.pathology, fact.anatomy) for fact in record.facts}
    assert record.implied and {fact.presence for fact in record.implied} == {"absent"}
    assert stated.isdisjoint((fact.pathology, fact.anatomy) for fact in record.implied)


def test_splits_are_selected_and_counted(tmp_path: Path) -> None:
    store = made(tmp_path / "s", *(study(i, "val" if i % 3 == 0 else "train") for i in range(9)))
    assert store.splits == {"train": 6, "val": 3} and len(store) == 9
    assert [record.study for record in store.select("val")] == ["0", "3", "6"]
    assert store.select("val").hash != store.hash != store.select("train").hash
    chosen = store.take([2, 6, 8])
    assert chosen.column("study") == [store[2].study, store[6].study, store[8].study] and chosen[-1].study == store[8].study
    assert chosen.select("val").column("study") == ["0", "6"]
    with pytest.raises(MedLIPError, match="no split 'test'; it has 'train'"):
        store.select("test")
    with pytest.raises(IndexError):
        store[9]


def test_studies_without_a_split_are_split_by_patient(tmp_path: Path) -> None:
    studies = [study(i, "") for i in range(60)]
    store = made(tmp_path / "s", *studies)
    assert set(store.splits) == {"train", "val", "test"} and store.splits["train"] > 35
    by_patient: dict[str, set[str]] = {}
    for patient, split in zip(store.column("patient"), store.column("split"), strict=True):
        by_patient.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    reverse = made(tmp_path / "r", *reversed(studies))
    assert dict(zip(reverse.column("study"), reverse.column("split"), strict=True)) == dict(
        zip(store.column("study"), store.column("split"), strict=True)
    )


def test_splits_are_drawn_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    shares = {"train": 0.5, "val": 0.2, "test": 0.3}
    given = made(tmp_path / "given", *(study(i, "test") for i in range(60)), shares=shares)
    assert given.splits == {"test": 60}
    drawn = made(tmp_path / "drawn", *(study(i, "test") for i in range(60)), shares=shares, draw_splits=True)
    undecided = made(tmp_path / "undecided", *(study(i, "") for i in range(60)), shares=shares)
    assert set(drawn.splits) == set(shares) and drawn.column("split") == undecided.column("split")
    with pytest.raises(MedLIPError, match="prepared with draw_splits=True, now False"):
        made(tmp_path / "drawn", study(1, "test"), shares=shares)


def test_a_store_that_is_older_than_a_setting_can_be_added_to(tmp_path: Path) -> None:
    made(tmp_path / "s", study(1))
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    del manifest["settings"]["draw_splits"]
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    assert len(made(tmp_path / "s", study(1), study(2))) == 2


def test_any_row_is_found_across_groups_and_shards(tmp_path: Path) -> None:
    count = 2 * ROWS_PER_GROUP + 7
    store = made(tmp_path / "s", *(study(i) for i in range(count)), shard_size=ROWS_PER_GROUP + 10)
    assert len(store.manifest["shards"]) == 2
    assert [record.study for record in store] == [str(i) for i in range(count)]
    assert store[-1].study == str(count - 1)
    groups = store.groups()
    assert sorted(np.concatenate(groups).tolist()) == list(range(count)) and max(map(len, groups)) == ROWS_PER_GROUP
    assert [len(group) for group in store.take([0, 70, 80]).groups()] == [1, 1, 1]


def test_bad_images_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("<html>")
    bad = [
        replace(study(1), views=(View(broken),)),
        replace(study(2), views=(View(tmp_path / "missing.png"), *study(2).views)),
        replace(study(3), views=(replace(study(3).views[0], position="lateral"),)),
        replace(study(4), facts=(Fact("unheard", "of", "present"),)),
    ]
    prepared = prepare([source(*bad, study(5))], tmp_path / "s", workers=0, extract=extract)
    assert prepared["images"] == 2 and prepared["skipped"] == 3 and prepared["lateral"] == 1
    rows = [line.split(",", 3) for line in (tmp_path / "s" / "skipped.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["1", "2", "3", "4"]
    for (*_, reason), expected in zip(rows, ("web page", "cannot be read", "lateral", "unheard"), strict=True):
        assert expected in reason
    assert str(tmp_path / "missing.png") in rows[1][2]


def test_lateral_views_can_be_kept(tmp_path: Path) -> None:
    lateral = replace(study(3), views=(replace(study(3).views[0], position="lateral"),))
    assert made(tmp_path / "s", lateral, views="all")[0].view == "lateral"


def test_both_views_of_a_study_are_kept_where_both_are_asked_for(tmp_path: Path) -> None:
    prepare(["phantom:4?lateral"], tmp_path / "both", views="frontal,lateral", workers=0)
    studies: dict[str, list[Record]] = {}
    for record in Store.open(tmp_path / "both"):
        studies.setdefault(record.study, []).append(record)
    assert len(studies) == 4
    for frontal, lateral in studies.values():
        assert frontal.view in ("PA", "AP") and lateral.view == "lateral"
        assert (frontal.report, frontal.facts, frontal.split) == (lateral.report, lateral.facts, lateral.split)
        seen = {(mask.pathology, mask.anatomy) for mask in lateral.masks}
        assert seen <= {(mask.pathology, mask.anatomy) for mask in frontal.masks}
    plain = prepare(["phantom:4?lateral"], tmp_path / "plain", workers=0)
    assert (plain["images"], plain["lateral"]) == (4, 4)
    assert plain["account"]["lateral view, left out (--views frontal,unknown)"] == 4


def test_a_source_without_one_good_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match=r"not one image could be prepared: .*nowhere\.png.*skipped\.csv"):
        prepare([source(replace(study(1), views=(View(Path("nowhere.png")),)))], tmp_path / "s", workers=0)
    with pytest.raises(MedLIPError, match="holds no image"):
        Store.open(tmp_path / "s")


def test_a_second_run_adds_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    late = tmp_path / "late.png"
    later = replace(study(5), views=(*study(5).views, View(late)))
    first = prepare([source(study(0), replace(study(1), views=(View(late),)), later)], out, workers=0, extract=extract)
    assert (first["added"], first["already"], first["skipped"]) == (2, 0, 2)
    Image.effect_noise((64, 64), 30).save(late)
    monkeypatch.setattr(preparing, "resize_short_side", lambda pixels, size: pixels)
    again = prepare(
        [source(study(0), replace(study(1), views=(View(late),)), later, study(8))], out, workers=0, extract=extract
    )
    assert (again["added"], again["rebuilt"], again["already"], again["skipped"]) == (2, 2, 1, 0)
    assert sorted(Store.open(out).column("id")) == ["made:0:0", "made:1:0", "made:5:0", "made:5:1", "made:8:0"]
    nothing = prepare([source(study(0))], out, workers=0, extract=extract)
    assert (nothing["added"], nothing["already"]) == (0, 1)


def test_two_sources_with_the_same_ids_keep_both(tmp_path: Path) -> None:
    summary = prepare([source(study(1)), source(study(1), name="other"), source(study(1))], tmp_path / "s", workers=0)
    assert (summary["images"], summary["already"]) == (2, 1)


@pytest.mark.parametrize("kills", [1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    studies = [study(i, "val" if i % 4 == 1 else "train") for i in range(30)]
    whole = made(tmp_path / "whole", *studies, shard_size=4)
    replaced = writing.write_atomic
    for kill in range(kills):
        left = 5 + 3 * kill

        def stop(path: Path, content: bytes) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                path.with_name(f".{path.name}.1").write_bytes(content[:10])
                raise KeyboardInterrupt
            replaced(path, content)

        monkeypatch.setattr(writing, "write_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "s", *studies, shard_size=4)
    monkeypatch.setattr(writing, "write_atomic", replaced)
    resumed = made(tmp_path / "s", *studies, shard_size=4)
    assert resumed.hash == whole.hash and resumed.manifest["counts"] == whole.manifest["counts"]
    assert sorted(path.name for path in (tmp_path / "s" / "data").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole" / "data").iterdir()
    )


def test_the_same_in_several_processes(tmp_path: Path) -> None:
    studies = [study(i) for i in range(5)]
    assert made(tmp_path / "one", *studies).hash == made(tmp_path / "two", *studies, workers=2).hash


def test_a_store_keeps_its_settings(tmp_path: Path) -> None:
    made(tmp_path / "s", study(1))
    with pytest.raises(MedLIPError, match="prepared with size=20, now 30"):
        made(tmp_path / "s", study(2), size=30)
    content = default_vocabulary().model_dump()
    other = Vocabulary.model_validate(content | {"pathologies": content["pathologies"][::-1]})
    with pytest.raises(MedLIPError, match="differ from the vocabulary in use"):
        made(tmp_path / "s", study(2), vocabulary=other)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MedLIPError, match="holds other files"):
        made(tmp_path, study(1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    made(tmp_path / "s", study(1))
    shard = tmp_path / "s" / "data" / "train-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-50])
    with pytest.raises(MedLIPError, match="truncated or changed"):
        Store.open(tmp_path / "s")
    shard.write_bytes(content[:-50] + bytes(50))
    with pytest.raises(MedLIPError, match="unreadable"):
        Store.open(tmp_path / "s")[0]
    shard.unlink()
    with pytest.raises(MedLIPError, match="missing"):
        Store.open(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text("{")
    with pytest.raises(MedLIPError, match="broken"):
        Store.open(tmp_path / "s")
    with pytest.raises(MedLIPError, match="no prepared store here"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    "setting", [{"size": 2}, {"views": "sideways"}, {"shares": {"train": 0.5}}, {"shares": {"test": math.nan}}]
)
def test_a_wrong_setting_is_named(tmp_path: Path, setting: dict[str, object]) -> None:
    with pytest.raises(MedLIPError, match=next(iter(setting))):
        made(tmp_path / "s", study(1), **setting)


def test_shards_say_how_hugging_face_reads_them(tmp_path: Path) -> None:
    made(tmp_path / "s", study(1))
    schema = pq.read_schema(tmp_path / "s" / "data" / "train-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names and features["image"] == {"_type": "Image"}
    assert features["facts"][0]["implied"] == {"dtype": "bool", "_type": "Value"}


def test_hugging_face_reads_a_store_as_it_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    made(tmp_path / "s", study(1), study(2, "val"))
    loaded = datasets.load_dataset(str(tmp_path / "s"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["image"].size == (40, 20) and loaded["validation"].num_rows == 1


def test_a_store_opens_from_a_url(tmp_path: Path) -> None:
    import fsspec

    made(tmp_path / "s", study(1), study(2))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "s"), "/medlip-test", recursive=True)
    assert [record.study for record in Store.open("memory://medlip-test")] == ["1", "2"]
    opened = open_source("memory://medlip-test")  # as the commands open what they are given
    assert isinstance(opened, Store) and opened.hash == Store.open(tmp_path / "s").hash
    with pytest.raises(MedLIPError, match="no prepared store here"):
        open_source("memory://nowhere")
