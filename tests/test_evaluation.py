"""Evaluation: an oracle gets everything, chance gets chance, and what a number stands on is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import FakeMethod, FakeRecord, FakeStore, without_seconds
from medlip.data.study import Box, Mask
from medlip.errors import MedLIPError
from medlip.evaluation import Result, evaluate
from medlip.evaluation.predictions import Predictions
from medlip.evaluation.protocols import parse_protocol
from medlip.evaluation.selection import label_matrix
from medlip.metrics import auroc

SIZE = 32
CLASSES = ("effusion", "nodule", "pneumothorax")


def make_store(n=120, split="val", first=0, boxes=True, seed=0):
    """Images whose corner pixel is their number; two of each patient; the three classes with about 40 % positives."""
    rng = np.random.default_rng(seed + first)
    store = FakeStore()
    for i in range(first, first + n):
        image = np.full((SIZE, SIZE), 100, np.uint8)
        image[0, 0] = i
        labels = {name: "present" if rng.random() < 0.4 else "absent" for name in CLASSES}
        x, y = rng.integers(0, SIZE // 2, 2).tolist()
        places = tuple(
            Box(name, x, y, 8, 12) for name in CLASSES if boxes and name != "nodule" and labels[name] == "present"
        )
        store.append(FakeRecord(f"s{i}", f"p{i // 2}", split, image, labels, places))
    return store


class Fake(FakeMethod):
    """A method that recognises images by their corner pixel."""

    def __init__(self, *stores):
        super().__init__(SIZE)
        self.records = {record.image[0, 0]: record for store in stores for record in store}
        self.asked = set()
        self.localised = []

    def _find(self, images):
        return [self.records[round(255 * float(image[0, 0, 0]))] for image in images]

    def score(self, images, prompts):
        self.asked.add(tuple(prompts))
        return torch.stack([self.one_score(record, prompts) for record in self._find(images)])

    def localise(self, images, prompts):
        self.localised.extend(record.id for record in self._find(images))
        return torch.stack([self.one_map(record, prompts) for record in self._find(images)])


class Oracle(Fake):
    def one_score(self, record, prompts):
        return torch.tensor([0.9 if record.labels.get(prompt) == "present" else 0.1 for prompt in prompts])

    def one_map(self, record, prompts):
        maps = torch.zeros(len(prompts), SIZE, SIZE)
        for i, prompt in enumerate(prompts):
            for box in record.boxes:
                if box.pathology == prompt:
                    maps[i, box.y : box.y + box.height, box.x : box.x + box.width] = float(record.image[0, 0]) + 1
        return maps


class Random(Fake):
    def one_score(self, record, prompts):
        return torch.from_numpy(np.random.default_rng(int(record.image[0, 0])).random(len(prompts)))

    def one_map(self, record, prompts):
        return torch.from_numpy(np.random.default_rng(int(record.image[0, 0])).random((len(prompts), 4, 4)))


def test_an_oracle_gets_everything():
    store = make_store()
    result = evaluate(Oracle(store), store, resamples=50)
    zero_shot, grounding = result["zero_shot"], result["grounding"]
    assert zero_shot["macro_auroc"].value == 1.0
    low, high = zero_shot["macro_auroc"].interval
    assert 0.9 < low < high == 1.0  # so few patients don't make certain
    for values in zero_shot.per_class.values():
        assert (values["auroc"].value, values["f1"].value, values["accuracy"].value) == (1.0, 1.0, 1.0)
        assert values.threshold == pytest.approx(0.9)
    assert grounding["pointing_game"].value == grounding["iou"].value == grounding["dice"].value == 1.0
    assert grounding["pointing_game_any_pixel_of_cell"].value == 1.0
    assert grounding["iou"].chance == pytest.approx(96 / SIZE**2)
    assert grounding["pointing_game"].chance == pytest.approx(96 / SIZE**2)


def test_the_rule_of_the_maps_is_recorded_and_the_hash_stays():
    store = make_store()

    class Ruled(Oracle):
        map_rule = "evidence"

    usual, ruled = (evaluate(method(store), store, resamples=5).protocol for method in (Oracle, Ruled))
    assert (usual.map_rule, ruled.map_rule) == ("as the method gives it", "evidence")
    assert usual.hash == ruled.hash  # what differs is the method
    assert evaluate(Ruled(store), store, tasks=["zero_shot"], resamples=5).protocol.map_rule == ""


def test_guessing_gets_chance():
    store = make_store(250)
    result = evaluate(Random(store), store, resamples=200)
    zero_shot, grounding = result["zero_shot"], result["grounding"]
    assert zero_shot["macro_auroc"].chance == 0.5
    assert zero_shot["macro_auroc"].interval[0] < 0.5 < zero_shot["macro_auroc"].interval[1]
    assert zero_shot["macro_auroc"].value == pytest.approx(0.5, abs=0.06)
    assert grounding["pointing_game"].value == pytest.approx(grounding["pointing_game"].chance, abs=0.1)


def test_the_result_is_the_documented_json():
    store = make_store()
    result = evaluate(Oracle(store), store, resamples=20)
    document = json.loads(result.to_json())
    assert document["schema_version"] == 2
    assert document["zero_shot"]["macro_auroc"]["value"] == 1.0
    assert document["seconds"] > 0
    assert result.n_images == 120
    assert result.n_patients == 60
    assert "Not a medical device" in result.disclaimer
    nodule = document["zero_shot"]["per_class"]["nodule"]
    assert {"auroc", "f1", "accuracy", "threshold", "positives", "n"} <= set(nodule)
    assert set(nodule["auroc"]) == {"value", "interval", "chance", "n", "reason"}
    present = sum(record.labels[name] == "present" for record in store for name in ("effusion", "pneumothorax"))
    assert result["grounding"]["pointing_game"].n == present
    assert set(result["grounding"].per_class) == {"effusion", "pneumothorax"}
    assert {"medlip", "torch", "python"} <= set(result.versions)


def test_what_was_said_of_every_image_is_kept_with_patients_told_apart_but_not_named(tmp_path):
    store = make_store(40)
    result = evaluate(Random(store), store, resamples=5, out=tmp_path / "out")
    assert Result.load(tmp_path / "out" / "result.json") == result
    kept = Predictions.load(tmp_path / "out" / "predictions.parquet")
    assert kept.ids == [record.id for record in store]
    assert (len(set(kept.patients)), set(kept.patients) & {record.patient for record in store}) == (20, set())
    np.testing.assert_array_equal(kept.labels, label_matrix([record.labels for record in store], CLASSES))
    areas = auroc(kept.scores, kept.labels)
    assert areas.tolist() == [result["zero_shot"].per_class[name]["auroc"].value for name in kept.classes]
    with pytest.raises(MedLIPError, match="holds a result"):
        evaluate(Random(store), store, resamples=5, out=tmp_path / "out")


def test_unknown_labels_and_attributes_are_kept_as_unknown(tmp_path):
    attributes = {"sex": ["F", ""], "age": ["61", ""]}
    kept = Predictions(["a", "b"], ["x", "y"], ["mass"], np.array([[0.1], [0.2]]), np.array([[1.0], [np.nan]]), attributes)
    kept.save(tmp_path / "p.parquet")
    again = Predictions.load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(again.labels, kept.labels)
    assert again.attributes == attributes


def test_predictions_with_nan_are_refused_by_image_and_class(tmp_path):
    import pandas as pd

    pd.DataFrame({"id": ["a", "b"], "patient": ["x", "y"], "score/mass": [0.1, None], "label/mass": [1.0, 0.0]}).to_parquet(
        tmp_path / "p.parquet"
    )
    with pytest.raises(MedLIPError, match=r"p\.parquet: 1 scores .*'b' .*'mass'"):
        Predictions.load(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes(b"broken")
    with pytest.raises(MedLIPError, match="not readable"):
        Predictions.load(tmp_path / "p.parquet")


def test_groups_are_compared_over_the_same_classes_and_small_ones_are_named():
    ages = ("012", "45", "45Y", "85", "")
    store = FakeStore(
        replace(
            record,
            view="lateral" if i < 6 else ("PA", "AP")[i // 2 % 2],
            attributes={"sex": ("F", "Male")[i // 2 % 2], "age": ages[i // 2 % 5]},
        )
        for i, record in enumerate(make_store(240))
    )
    groups = evaluate(Random(store), store, resamples=30)["zero_shot"].subgroups
    assert set(groups) == {"sex", "age", "view"}
    assert set(groups["sex"].groups) == {"female", "male"}
    assert set(groups["age"].groups) == {"under 40", "40 to 59", "80 and over"}
    assert groups["age"].unknown == 48
    assert "6 images" in groups["view"].left_out["lateral"]
    female = groups["sex"].groups["female"]
    assert (female.n, female.n_patients) == (120, 60)
    assert female.macro_auroc.value == pytest.approx(np.mean([female.auroc[name] for name in groups["sex"].classes]))
    assert female.macro_auroc.interval[0] < female.macro_auroc.value < female.macro_auroc.interval[1]
    records = [record for record in store if record.attributes["sex"] == "F"]
    alone = evaluate(Random(store), FakeStore(records), resamples=5)["zero_shot"]
    assert {name: values["auroc"].value for name, values in alone.per_class.items()} == pytest.approx(female.auroc)
    assert "sex" not in alone.subgroups  # one group is none to compare


def test_every_measure_is_there_by_class_and_on_average():
    store = make_store(120)
    zero_shot = evaluate(Oracle(store), store, resamples=20)["zero_shot"]
    assert zero_shot["macro_sensitivity_at_90_specificity"].value == zero_shot["macro_auprc"].value == 1.0
    assert zero_shot["macro_auprc"].interval == zero_shot["macro_auroc"].interval
    assert zero_shot["macro_brier"].value == pytest.approx(0.01)
    assert zero_shot["macro_calibration_error"].value == pytest.approx(0.1)
    assert zero_shot.undefined_in_macro == {}
    assert zero_shot.per_class["nodule"]["brier"].value == pytest.approx(0.01)


def test_scores_that_are_no_probabilities_have_no_calibration_and_it_is_said():
    class Cosine(Oracle):
        def one_score(self, record, prompts):
            return super().one_score(record, prompts) * 2 - 1

    store = make_store(40)
    zero_shot = evaluate(Cosine(store), store, resamples=5)["zero_shot"]
    assert zero_shot["macro_brier"].value is None
    assert zero_shot.undefined_in_macro == {"brier": list(CLASSES), "calibration_error": list(CLASSES)}
    assert "no probabilities" in zero_shot.per_class["nodule"]["brier"].reason
    assert zero_shot["macro_auroc"].value == 1.0


def test_the_result_names_what_made_the_method():
    store = make_store(20)
    method = Random(store)
    assert evaluate(method, store, resamples=5).run is None
    method.made_by = {"recipe": {}, "seed": 3}
    assert evaluate(method, store, resamples=5).run["seed"] == 3


def test_neighbours_in_the_batch_change_nothing():
    store = make_store(60)
    for method in (Random(store), Oracle(store)):  # the oracle's maps differ 60-fold in height
        alone, together = (without_seconds(evaluate(method, store, batch_size=size, resamples=20)) for size in (1, 32))
        assert alone == together


def test_every_batch_is_asked_the_same_prompts_and_every_image_is_read_and_encoded_once():
    class Counting(FakeStore):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

        def select(self, split):
            return Counting(super().select(split))

    read = []
    store = Counting(make_store(60, "test") + make_store(30, "val", first=60))
    method = Random(store)
    evaluate(method, store, batch_size=7, resamples=5)
    assert method.asked == {CLASSES}
    assert method.localised == [record.id for record in store]  # all answers of an image come at once
    assert sorted(read) == sorted([*range(60), *range(30)])


def test_images_of_several_sizes_are_evaluated_together():
    store = make_store(20)
    store[1] = replace(store[1], image=np.full((2 * SIZE, SIZE), 1, np.uint8), boxes=())
    assert evaluate(Oracle(store), store, resamples=5)["zero_shot"]["macro_auroc"].value == 1.0


def test_thresholds_come_from_the_validation_split_where_there_is_one():
    test, val = make_store(60, "test"), make_store(60, "val", first=60)
    method = Random(test, val)
    whole = FakeStore(test + val)
    result = evaluate(method, whole, resamples=5)
    given = evaluate(method, test, split="test", validation=val, resamples=5)
    assert (result.split, result.n_images, result["zero_shot"].n_at_threshold) == ("test", 60, 60)
    assert "val" in result["zero_shot"].threshold_rule
    for name in CLASSES:
        assert result["zero_shot"].per_class[name] == given["zero_shot"].per_class[name]
    other = evaluate(method, val, resamples=5, validation=test)
    thresholds = [r["zero_shot"].per_class["effusion"].threshold for r in (result, other)]
    assert thresholds[0] != thresholds[1]


def test_without_validation_thresholds_come_from_half_of_the_patients_and_the_other_half_is_reported():
    store = make_store(120)
    zero_shot = evaluate(Random(store), store, resamples=5)["zero_shot"]
    assert (zero_shot.n_tuning, zero_shot.n_at_threshold) == (60, 60)
    assert "half" in zero_shot.threshold_rule


def test_validation_data_of_the_same_patients_is_refused():
    store = make_store(40)
    with pytest.raises(MedLIPError, match="20 patients"):
        evaluate(Random(store), store, validation=store)


def test_training_images_are_evaluated_only_when_asked_for_and_then_said():
    train = make_store(40, "train")
    with pytest.raises(MedLIPError, match="kept back"):
        evaluate(Oracle(train), train)
    result = evaluate(Oracle(train), train, split="train", resamples=5)
    assert any("trained" in note for note in result.notes)
    both = FakeStore(train + make_store(40, "val", first=40))
    assert evaluate(Oracle(both), both, resamples=5).split == "val"


def test_all_splits_can_be_evaluated_together():
    store = FakeStore(make_store(40, "test") + make_store(20, "val", first=40))
    result = evaluate(Oracle(store), store, split="all", resamples=5)
    assert result.n_images == 60
    assert not any("trained, are among" in note for note in result.notes)


def test_no_positive_is_null_with_a_reason():
    store = FakeStore(
        replace(record, labels={**record.labels, "edema": "absent", "hernia": "present"}) for record in make_store(60)
    )
    result = evaluate(Oracle(store), store, resamples=5)
    json.loads(result.to_json())
    edema = result["zero_shot"].per_class["edema"]
    assert edema["auroc"].value is None
    assert "no positive" in edema["auroc"].reason
    assert "no negative" in result["zero_shot"].per_class["hernia"]["auroc"].reason
    assert set(result["zero_shot"].left_out_of_macro) == {"edema", "hernia"}


def test_a_rare_class_is_reported_but_left_out_of_the_macro_average_and_named():
    store = FakeStore(
        replace(record, labels={**record.labels, "hernia": "present" if i < 4 else "absent"})
        for i, record in enumerate(make_store(60))
    )
    zero_shot = evaluate(Random(store), store, resamples=5)["zero_shot"]
    assert zero_shot.per_class["hernia"]["auroc"].value is not None
    assert "4 positives" in zero_shot.left_out_of_macro["hernia"]
    assert zero_shot.classes_in_macro == list(CLASSES)
    assert zero_shot["macro_auroc"].value == pytest.approx(
        np.mean([zero_shot.per_class[name]["auroc"].value for name in CLASSES])
    )


def test_unknown_and_uncertain_labels_do_not_count():
    store = make_store(60)
    store[0] = replace(store[0], labels={**store[0].labels, "nodule": "uncertain"})
    store[1] = replace(store[1], labels={"effusion": "absent"}, boxes=())
    per_class = evaluate(Oracle(store), store, resamples=5)["zero_shot"].per_class
    assert {name: values.n for name, values in per_class.items()} == {"effusion": 60, "nodule": 58, "pneumothorax": 59}


def test_without_boxes_there_is_no_grounding_and_without_labels_no_zero_shot():
    store = make_store(20, boxes=False)
    result = evaluate(Oracle(store), store, resamples=5)
    assert "grounding" not in result.tasks
    assert json.loads(result.to_json())["grounding"] is None
    with pytest.raises(MedLIPError, match="nothing of grounding; it has zero_shot"):
        result["grounding"]
    assert any("grounding" in note for note in result.notes)
    store = FakeStore(replace(record, labels={}) for record in make_store(20))
    result = evaluate(Oracle(store), store, resamples=5)
    assert "zero_shot" not in result.tasks
    assert result["grounding"]["pointing_game"].value == 1.0  # a box says present


def test_a_mask_of_a_finding_that_is_not_present_is_no_pair():
    mask = Mask("nodule", np.ones((SIZE, SIZE), bool))
    store = make_store(20, boxes=False)
    store[0] = replace(store[0], masks=(mask,), labels={"nodule": "absent"})
    store[1] = replace(store[1], masks=(mask,), labels={"nodule": "present"})
    result = evaluate(Oracle(store), store, resamples=5)
    assert (result["grounding"]["pointing_game"].n, result["grounding"].pointed_at) == (1, {"masks": 1})
    assert any("1 findings left out" in note and "s0: nodule" in note for note in result.notes)


def masked_store(n=60, first=0):
    """Images of which some show a nodule with a mask, some don't, and some aren't known to."""
    rng = np.random.default_rng(first)
    store = FakeStore()
    for i in range(first, first + n):
        image = np.full((SIZE, SIZE), 100, np.uint8)
        image[0, 0] = i
        pixels = np.zeros((SIZE, SIZE), bool)
        y, x = rng.integers(0, 16, 2)
        pixels[y : y + 9, x : x + 12] = True
        label = ("present", "absent", "absent", "uncertain")[i % 4]
        masks = (Mask("nodule", pixels),) if label == "present" else ()
        store.append(FakeRecord(f"s{i}", f"p{i // 2}", "val", image, {"nodule": label}, (), masks))
    return store


def test_segmentation_judges_raw_maps_of_images_with_and_without_the_finding():
    class Faint(Fake):
        """Sees a nodule where it is, and noise that is weaker; less of it where there is none."""

        def one_score(self, record, prompts):
            return torch.full((len(prompts),), 0.5)

        def one_map(self, record, prompts):
            seed = int(record.image[0, 0])
            noise = np.random.default_rng(seed).random((SIZE, SIZE)) * (0.4 if seed % 8 == 1 else 1)
            return torch.from_numpy(noise + 0.5 * sum((mask.pixels for mask in record.masks), np.zeros_like(noise)))[None]

    store = masked_store()
    method = Faint(store)
    alone = evaluate(method, store, resamples=30, batch_size=1)["segmentation"]
    result = evaluate(method, store, resamples=30)
    segmentation, half = result["segmentation"], result["zero_shot"].n_tuning
    assert alone == segmentation
    assert segmentation.n_positives + segmentation.n_negatives < 60 - half  # uncertain ones don't count

    protocol = parse_protocol({"name": "x", "title": "t", "classes": {"nodule": "nodule"}, "split": "val"}, "x")
    everything = evaluate(method, store, protocol=protocol.model_copy(update={"thresholds": "test"}), resamples=5)
    segmentation = everything["segmentation"]
    positives, everyone = [], []
    for record in store:
        called = np.asarray(method.one_map(record, ["nodule"])[0]) >= segmentation.threshold
        if record.masks:
            truth = record.masks[0].pixels
            positives.append(2 * (called & truth).sum() / (called.sum() + truth.sum()))
            everyone.append(positives[-1])
        elif record.labels["nodule"] == "absent":
            everyone.append(float(not called.any()))
    assert segmentation["dice_positives"].value == pytest.approx(np.mean(positives))
    assert segmentation["dice_all"].value == pytest.approx(np.mean(everyone))
    assert 0 < sum(everyone) - sum(positives) < len(everyone) - len(positives)  # some negatives are left alone, some not
    assert segmentation["dice_positives"].chance < segmentation["dice_positives"].value < 1
    assert (segmentation.n_positives, segmentation.n_negatives) == (15, 30)
    assert "optimistic" in everything.protocol.rules["segmentation threshold"]


def test_the_half_that_chooses_the_segmentation_threshold_is_not_reported():
    store = masked_store()
    result = evaluate(Random(store), store, resamples=5)
    moved = FakeStore(store)
    patients = np.random.default_rng(0).permutation(sorted({record.patient for record in store}))
    for i, record in enumerate(store):  # the masks of those who are reported change
        if record.patient in patients[len(patients) // 2 :]:
            moved[i] = replace(record, masks=tuple(Mask("nodule", ~mask.pixels) for mask in record.masks))
    other = evaluate(Random(moved), moved, resamples=5)
    assert other["segmentation"].threshold == result["segmentation"].threshold
    assert other["segmentation"]["dice_positives"].value != result["segmentation"]["dice_positives"].value
    assert "half" in result["segmentation"].threshold_rule


def test_a_present_finding_without_its_mask_is_named_and_without_masks_there_is_no_segmentation():
    store = masked_store(20)
    store[0] = replace(store[0], masks=())
    result = evaluate(Random(store), store, resamples=5)
    assert any("no mask: s0: nodule" in note for note in result.notes)
    assert "segmentation" not in evaluate(Oracle(make_store()), make_store(), resamples=5).tasks
    assert "segmentation map" not in evaluate(Oracle(make_store()), make_store(), resamples=5).protocol.rules


def test_a_map_that_is_not_finite_is_refused_by_finding_also_where_the_finding_is_absent():
    class Broken(Random):
        def one_map(self, record, prompts):
            return super().one_map(record, prompts) + (torch.nan if record.labels["nodule"] == "absent" else 0)

    store = masked_store(12)
    with pytest.raises(MedLIPError, match="the map of nodule"):
        evaluate(Broken(store), store, resamples=5)


def test_a_box_without_a_phrase_is_named_where_phrases_are_asked_for():
    spoken = (Box("effusion", 2, 2, 9, 9, phrase="small effusion"), Box("effusion", 20, 20, 5, 5))
    store = FakeStore(replace(record, boxes=spoken, labels={"effusion": "present"}) for record in make_store(8))
    protocol = parse_protocol(
        {"name": "x", "title": "t", "classes": {"effusion": "effusion"}, "split": "val", "ask": "phrases"}, "x"
    )
    result = evaluate(Random(store), store, protocol=protocol, resamples=5)
    assert result["grounding"]["pointing_game"].n == 8
    assert any("came without a phrase" in note and "s7: effusion" in note for note in result.notes)


def test_boxes_outside_of_their_image_are_named():
    store = make_store(20)
    store[3] = replace(store[3], labels={"nodule": "present"}, boxes=(Box("nodule", 900, 900, 9, 9),))
    notes = evaluate(Oracle(store), store, resamples=5).notes
    assert any("s3: nodule" in note for note in notes)


def test_a_class_can_be_asked_for_in_words():
    store = FakeStore(replace(record, labels={"covid-19": record.labels["nodule"]}) for record in make_store(40))
    result = evaluate(Random(store), store, classes={"covid-19": "ground glass in both lungs"}, resamples=5)
    assert result.protocol.classes == {"covid-19": "ground glass in both lungs"}
    without = evaluate(Random(store), store, resamples=5)
    assert any("covid-19" in note for note in without.notes)


@pytest.mark.parametrize(
    ("settings", "words"), [({"classes": ["sarcoma"]}, "sarcoma"), ({"split": "tset"}, "'val'"), ({"store": ()}, "no image")]
)
def test_bad_settings_are_said(settings, words):
    store = FakeStore(settings.pop("store", make_store(20)))
    with pytest.raises(MedLIPError, match=words):
        evaluate(Oracle(store), store, **settings)


def test_a_method_that_gives_nan_is_said():
    class Broken(Oracle):
        def one_score(self, record, prompts):
            return torch.full((len(prompts),), torch.nan)

    store = make_store(20)
    with pytest.raises(MedLIPError, match=r"not finite.*'s0'.*'effusion'"):
        evaluate(Broken(store), store)


def test_the_protocol_hash_tells_protocols_apart():
    store = make_store(40)
    method = Random(store)
    first = evaluate(method, store, resamples=5).protocol
    assert evaluate(Oracle(store), store, resamples=5, batch_size=3).protocol == first
    others = [
        evaluate(method, store, resamples=5, seed=1),
        evaluate(method, store, resamples=5, classes=["nodule"]),
        evaluate(method, FakeStore(store[:30]), resamples=5),
    ]
    assert len({first.hash, *(result.protocol.hash for result in others)}) == 4


def test_prompts_are_resolved_to_the_vocabulary():
    store = make_store(20)
    result = evaluate(Random(store), store, classes={"effusion": "Pleural Effusion"}, resamples=5)
    assert result.protocol.classes == {"effusion": "effusion"}


def test_evaluating_leaves_a_method_in_training_as_it_was():
    class Trained(FakeMethod):
        def score(self, images, prompts):
            assert not self.training
            return torch.zeros(len(images), len(prompts))

    method = Trained().train()
    evaluate(method, make_store(20, boxes=False), resamples=5)
    assert method.training


def test_tasks_can_be_chosen_and_unknown_ones_are_named():
    store = make_store(20)
    method = Random(store)
    result = evaluate(method, store, tasks=["zero_shot"], resamples=5)
    assert list(result.tasks) == ["zero_shot"]
    assert method.localised == []  # no map is drawn for it
    assert "pointing game" not in result.protocol.rules
    with pytest.raises(MedLIPError, match=r"no task 'zero-shot'\. There are: zero_shot, grounding"):
        evaluate(method, store, tasks=["zero-shot"])


def test_a_result_of_the_first_schema_or_none_at_all_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "result.json"
    for content, words in (
        ('{"protocol": {"hash": "x"}, "zero_shot": {"macro_auroc": 0.8}}', "schema version 1.*Evaluate the run again"),
        ("{}", "names no protocol"),
        ("[1", "not the result of an evaluation"),
        ('{"schema_version": 2, "protocol": {}}', "not the result of an evaluation .split"),
    ):
        file.write_text(content)
        with pytest.raises(MedLIPError, match=words):
            Result.load(file)
