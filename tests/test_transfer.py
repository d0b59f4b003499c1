"""Transfer: labels are drawn nested and by patient, heads learn what is there, and the encoder stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from medlip.app.cli import main
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Mask, Study, View
from medlip.errors import MedLIPError
from medlip.evaluation.compare import Evaluated, compare
from medlip.evaluation.selection import label_matrix
from medlip.experiments.labels import levels, nested_share, nested_shots
from medlip.experiments.transfer import transfer
from medlip.experiments.transfer_protocols import TransferProtocol, load_transfer_protocol, transfer_protocols
from medlip.images.preprocessing import Preprocessing
from medlip.methods.base import HasEncoder
from medlip.nn.unet import UNetDecoder
from medlip.nn.vision_encoder import Features, VisionEncoder, vision_encoder

pytestmark = pytest.mark.long

SIDE = 32
QUICK = {
    "epochs": 1,
    "minimum_steps": 40,
    "batch_size": 8,
    "lr": 1e-2,
    "checks": 2,
    "scale": [1, 1],
    "rotate": 0,
    "precision": "fp32",
}


class Blocks(nn.Module):
    """An encoder of mean grey: of blocks of 4 pixels, then of 16, with a weight that can be trained."""

    width, widths = 3, [3, 3]

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor, visible: None = None, *, pyramid: bool = False) -> Features:
        levels = [nn.functional.avg_pool2d(images, side) * self.weight[:, None, None] for side in (4, 16)]
        return Features(levels[-1].flatten(2).transpose(1, 2), (SIDE // 16, SIDE // 16), tuple(levels))


class Encoding(SimpleNamespace, HasEncoder):
    """All of a method that transfer needs."""


@pytest.fixture
def method() -> Any:
    return Encoding(encoder=Blocks(), preprocessing=Preprocessing(size=SIDE), made_by=None, seen=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Noise. An image with a mass is brighter in one square, its mask. A nodule is no more than a label, or unknown."""
    random = np.random.default_rng(0)
    studies = []
    for number in range(120):
        pixels = random.integers(80, 120, (SIDE, SIDE)).astype(np.uint8)
        shown = random.random() < 0.5
        mask = np.zeros(pixels.shape, bool)
        if shown:
            x, y = random.integers(0, SIDE // 2, 2)
            mask[y : y + 12, x : x + 12] = True
            pixels[mask] = 250
        labels = {"mass": "present" if shown else "absent", "nodule": "present" if random.random() < 0.5 else "absent"}
        if number % 10 == 9:
            del labels["nodule"]
        view = View(pixels, "PA", (), (Mask("mass", mask),) if shown else ())
        split = ("train", "train", "train", "val", "test", "test")[number % 6]
        studies.append(Study(str(number), f"p{number // 12}-{number % 6}", (view,), "", (), labels, split))
    out = tmp_path_factory.mktemp("transfer") / "store"
    prepare([Source("made", {study.id: study for study in studies})], out, workers=0, size=SIDE)
    return Store.open(out)


def protocol(**changes: Any) -> TransferProtocol:
    return TransferProtocol.model_validate(
        {"name": "mine", "title": "", "task": "classification", "encoder": "frozen", "shares": (0.5, 1.0)} | changes
    )


class Watched(Blocks):
    """An encoder that notes in which precision it and its copies compute."""

    half: ClassVar[set[bool]] = set()

    def forward(self, images: torch.Tensor, visible: None = None, *, pyramid: bool = False) -> Features:
        self.half.add(torch.is_autocast_enabled("cpu"))
        return super().forward(images, visible, pyramid=pyramid)


@pytest.mark.parametrize("training", [None, QUICK | {"minimum_steps": 1}])
def test_networks_compute_in_the_precision_that_is_asked_for(store: Store, training: Any, tmp_path: Path) -> None:
    Watched.half.clear()
    method: Any = Encoding(encoder=Watched(), preprocessing=Preprocessing(size=SIDE), made_by=None, seen=None)
    wanted = protocol(shares=(0.1,), training=training)
    full = transfer(method, store, wanted, resamples=20, out=tmp_path / "out")
    assert Watched.half == {False}
    assert transfer(method, store, wanted, precision="fp32", resamples=20, out=tmp_path / "out") == full
    with pytest.raises(MedLIPError, match="another encoder, protocol"):
        transfer(method, store, wanted, precision="bf16", resamples=20, out=tmp_path / "out")
    half = transfer(method, store, wanted, precision="bf16", resamples=20)
    assert True in Watched.half and half.protocol.hash != full.protocol.hash


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=5),
    st.integers(0, 9),
)
def test_shares_are_nested_and_by_patient(numbers: list[int], shares: list[float], seed: int) -> None:
    patients = [f"p{number}" for number in numbers]
    before: set[int] = set()
    for share in sorted(shares):
        labels = np.random.default_rng(seed).choice([0.0, 1.0, np.nan], (len(patients), 3))
        rows = set(nested_share(patients, share, seed, labels).tolist())
        assert before <= rows
        before = rows
        chosen = {patients[row] for row in rows}
        assert rows == {row for row, patient in enumerate(patients) if patient in chosen}
        assert len(chosen) == max(1, round(share * len(set(patients))))


@given(st.integers(0, 99))
def test_every_class_has_a_positive_and_a_negative_where_the_share_has_room(seed: int) -> None:
    random = np.random.default_rng(seed)
    patients = [f"p{number}" for number in random.integers(0, 600, 1000)]
    labels = (random.random((1000, 18)) < np.linspace(0.003, 0.997, 18)).astype(float)
    labels[random.random(labels.shape) < 0.2] = np.nan
    there = [(labels == value).any(0) for value in (1, 0)]
    small = nested_share(patients, 0.03, seed, labels)  # 18 or so of 600
    for value, possible in zip((1, 0), there, strict=True):
        assert ((labels[small] == value).any(0) == possible).all()
    common = np.where(np.isnan(labels[:, 9:10]), 0, labels[:, 9:10])
    drawn = nested_share(patients, 0.5, seed, labels)
    assert abs(common[drawn].mean() - common.mean()) < 0.1  # but for a few, patients are drawn at random


def test_a_share_is_the_first_of_a_random_order_where_all_classes_are_there_anyway() -> None:
    patients = [f"p{number:03}" for number in range(200)]
    labels = np.tile([[1.0], [0.0]], (100, 1))
    order = np.random.default_rng(3).permutation(patients)
    assert {patients[row] for row in nested_share(patients, 0.2, 3, labels)} == set(order[:40])


def test_shots_are_nested_one_image_a_patient_and_as_many_of_both_kinds() -> None:
    random = np.random.default_rng(1)
    labels = random.choice([0.0, 1.0, np.nan], 200)
    patients = [f"p{number}" for number in random.integers(0, 90, 200)]
    before: set[int] = set()
    for shots in (1, 2, 4, 8, 16):
        rows = nested_shots(labels, patients, shots, 3)
        assert before <= set(rows.tolist())
        before = set(rows.tolist())
        for value in (0.0, 1.0):
            own = [patients[row] for row in rows if labels[row] == value]
            assert len(own) == len(set(own)) == shots
    assert len(nested_shots(np.array([1.0, 1.0, 0.0]), ["a", "a", "b"], 4, 0)) == 2


def test_a_linear_probe_is_scikit_learns(method: Any, store: Store) -> None:
    result = transfer(method, store, protocol(), classes=["mass"], resamples=50)
    assert [level.level for level in result.levels] == ["50 %", "100 %"]
    parts = {split: store.select(split) for split in ("train", "val", "test")}
    features, labels = {}, {}
    for split, part in parts.items():
        images = method.preprocessing(torch.stack([torch.from_numpy(record.image) for record in part]))
        features[split] = method.encoder(images, pyramid=True).pyramid[-1].mean((2, 3)).detach().numpy()
        labels[split] = np.array([record.labels["mass"] == "present" for record in part])
    scaler = StandardScaler().fit(features["train"])
    areas = []
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        model = LogisticRegression(C=strength).fit(scaler.transform(features["train"]), labels["train"])
        areas.append(
            [roc_auc_score(labels[s], model.decision_function(scaler.transform(features[s]))) for s in ("val", "test")]
        )
    assert result.levels[1].value == pytest.approx(max(areas, key=lambda pair: pair[0])[1], abs=1e-6)
    assert result.levels[1].value > 0.95
    low, high = result.levels[1].interval
    assert low <= result.levels[1].value <= high


def test_what_is_not_in_the_image_stays_near_chance_and_unknown_labels_are_left_out(method: Any, store: Store) -> None:
    result = transfer(method, store, protocol(shares=(1.0,)), resamples=50)
    per_class = result.results[0]["zero_shot"].per_class
    assert per_class["mass"]["auroc"].value > 0.95
    assert 0.2 < per_class["nodule"]["auroc"].value < 0.8
    assert per_class["nodule"].n < per_class["mass"].n == 40


@pytest.mark.parametrize("head", ["linear", "normalised"])
@pytest.mark.parametrize("encoder", ["frozen", "trained"])
def test_a_network_learns_and_the_methods_own_encoder_stays(method: Any, store: Store, encoder: str, head: str) -> None:
    before = method.encoder.weight.detach().clone()
    wanted = protocol(encoder=encoder, head=head, training=QUICK, shares=(1.0,))
    result = transfer(method, store, wanted, classes=["mass"], resamples=50)
    assert result.levels[0].value > 0.9
    assert torch.equal(method.encoder.weight, before)
    assert method.encoder.weight.requires_grad
    again = transfer(method, store, wanted, classes=["mass"], resamples=50)
    assert again.results == result.results


@pytest.mark.parametrize("dice", ["positives", "all"])
def test_a_bright_square_is_outlined(method: Any, store: Store, dice: str) -> None:
    wanted = protocol(task="segmentation", dice=dice, training=QUICK | {"minimum_steps": 90}, shares=(1.0,))
    result = transfer(method, store, wanted, resamples=50)
    segmentation = result.results[0]["segmentation"]
    assert result.levels[0].measure == f"dice_{dice}"
    assert segmentation["dice_positives"].value > 0.7 > segmentation["dice_positives"].chance
    assert segmentation.n_positives + segmentation.n_negatives == 40


def test_few_shots_come_in_several_draws_that_do_not_mix(method: Any, store: Store, tmp_path: Path) -> None:
    result = transfer(method, store, protocol(shots=(1, 4), draws=3), classes=["mass"], resamples=50, out=tmp_path)
    assert [level.level for level in result.levels] == ["1 shot", "4 shots"]
    assert [level.draws for level in result.levels] == [3, 3]
    few, more = result.levels
    assert few.lowest <= few.value <= few.highest
    assert (few.images, more.images) == (2, 8)
    first, second = (Evaluated.load(tmp_path / "1shot" / f"draw-{draw}") for draw in (0, 1))
    with pytest.raises(MedLIPError, match=r"another protocol.*draw \(0 and 1\)"):
        compare([first, second])


def test_levels_that_are_there_are_not_learned_again_and_can_be_compared(method: Any, store: Store, tmp_path: Path) -> None:
    first = transfer(method, store, protocol(), out=tmp_path / "a", resamples=50)
    files = [tmp_path / "a" / level / "result.json" for level in ("50%", "100%")]
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    again = transfer(method, store, protocol(), out=tmp_path / "a", resamples=50)
    assert again == first
    assert files[0].stat().st_mtime_ns == before[0]
    assert files[1].stat().st_mtime_ns != before[1]
    method.encoder.weight.data[0] = 2
    with pytest.raises(MedLIPError, match="another encoder"):
        transfer(method, store, protocol(), out=tmp_path / "a", resamples=50)
    transfer(method, store, protocol(), out=tmp_path / "b", resamples=50)
    both = compare([Evaluated.load(tmp_path / name / "50%") for name in "ab"], resamples=20)
    assert len(both.differences) == 1
    assert first.levels[0].value == both.results[0].measures["zero_shot.macro_auroc"].value
    with pytest.raises(MedLIPError, match=r"one level: .*/100%, .*/50%"):
        Evaluated.load(tmp_path / "b")
    transfer(method, store, protocol(), out=tmp_path / "c", resamples=50)
    with pytest.raises(MedLIPError, match=r"another protocol.*level \('50 %' and '100 %'\)"):
        compare([Evaluated.load(tmp_path / "b" / "50%"), Evaluated.load(tmp_path / "c" / "100%")])


def test_a_class_without_labels_is_left_out_of_the_levels_mean_and_named(method: Any, store: Store) -> None:
    result = transfer(method, store, protocol(shares=(0.02, 1.0)), resamples=50)
    few, all_of_them = (each["zero_shot"] for each in result.results)
    assert result.levels[0].patients == 1
    train = store.select("train")
    labels = label_matrix(train.column("labels"), ["mass", "nodule"])
    rows = nested_share(train.column("patient"), 0.02, 0, labels)
    lacking = [n for n, own in zip(("mass", "nodule"), labels[rows].T, strict=True) if not {0, 1} <= set(own.tolist())]
    assert list(few.left_out_of_macro) == lacking
    assert not all_of_them.left_out_of_macro
    kept = [few.per_class[name]["auroc"].value for name in ("mass", "nodule") if name not in lacking]
    assert few["macro_auroc"].value == (pytest.approx(np.mean(kept)) if kept else None)
    assert any("the means leave out" in note and ", ".join(lacking) in note for note in result.notes) == bool(lacking)


def of_patients(name: str, values: dict[str, list[tuple[str, str]]], tmp_path: Path) -> Store:
    """Noise, some of it bright, as `values` says of each split: patient and whether there is a mass."""
    random = np.random.default_rng(0)
    studies = {}
    for split, images in values.items():
        for number, (patient, mass) in enumerate(images):
            pixels = random.integers(80, 120, (SIDE, SIDE)).astype(np.uint8) + np.uint8(100 * (mass == "present"))
            id = f"{split}{number}"
            studies[id] = Study(id, patient, (View(pixels, "PA"),), "", (), {"mass": mass}, split)
    prepare([Source("made", studies)], tmp_path / name, workers=0, size=SIDE)
    return Store.open(tmp_path / name)


PRESENCES = ["present", "absent"]


def test_patients_on_two_sides_are_refused_and_named(method: Any, tmp_path: Path) -> None:
    sides = {split: [(f"{split}-{n}", PRESENCES[n % 2]) for n in range(12)] for split in ("train", "val", "test")}
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        mixed = sides | {other: [*sides[other], (f"{one}-3", "absent")]}
        mixed_store = of_patients(f"{one}-{other}", mixed, tmp_path)
        with pytest.raises(MedLIPError, match=rf"1 patients are both in the {one} and in the {other} data \({one}-3\)"):
            transfer(method, mixed_store, protocol(), resamples=20)
    assert transfer(method, of_patients("apart", sides, tmp_path), protocol(), resamples=20).levels


def test_labels_of_validation_beyond_the_levels_share_change_nothing(method: Any, tmp_path: Path) -> None:
    """A tenth of the labels is a tenth of those that anything is chosen on, too."""
    sides = {split: [(f"{split}-{n}", PRESENCES[n % 2]) for n in range(40)] for split in ("train", "val", "test")}
    labels = np.tile([[1.0], [0.0]], (20, 1))
    patients = [patient for patient, _ in sides["val"]]
    chosen = nested_share(patients, 0.1, 0, labels)
    turned = {"present": "absent", "absent": "present"}
    others = [(p, mass if row in chosen else turned[mass]) for row, (p, mass) in enumerate(sides["val"])]
    assert len(chosen) == 4 and others != sides["val"]
    shares = protocol(shares=(0.1, 1.0))
    same, other = (
        transfer(method, of_patients(name, sides | {"val": val}, tmp_path), shares, resamples=20)
        for name, val in (("same", sides["val"]), ("turned", others))
    )
    few, all_of_them = zip(same.results, other.results, strict=True)
    assert few[0]["zero_shot"] == few[1]["zero_shot"]
    assert all_of_them[0]["zero_shot"] != all_of_them[1]["zero_shot"]
    assert few[0]["zero_shot"].n_tuning == 4
    assert "same share of val's patients" in same.protocol.rules["chosen"]


def test_bad_input_is_said(method: Any, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="no val, test"):
        transfer(method, store.select("train"), protocol())
    with pytest.raises(MedLIPError, match="no positive of hernia"):
        transfer(method, store, protocol(), classes=["hernia"])
    with pytest.raises(MedLIPError, match="no mask or box of nodule"):
        transfer(method, store, protocol(task="segmentation", training=QUICK), classes=["nodule"])
    with pytest.raises(MedLIPError, match="There are: linear-probe"):
        load_transfer_protocol("unknown")
    file = tmp_path / "mine.yaml"
    for text, words in (
        ("[1]", "expected name"),
        ("{name: a, title: b, task: classification, encoder: trained}", "without training settings"),
        ("{name: a, title: b, task: classification, encoder: frozen, shares: [2]}", "shares are above 0"),
        ("{name: a, title: b, task: classification, encoder: frozen, shots: [1], training: {}}", "shots go with"),
        ("{name: a, title: b, task: dance, encoder: frozen}", "task"),
    ):
        file.write_text(text)
        with pytest.raises(MedLIPError, match=words):
            load_transfer_protocol(str(file))
    with pytest.raises(MedLIPError, match="there is no such file"):
        load_transfer_protocol(str(tmp_path / "nowhere.yaml"))


def test_named_protocols_are_whole_and_told_apart() -> None:
    assert {"linear-probe", "finetune-medklip", "finetune-benchx", "few-shot", "unet-mgca", "unet-medklip"} <= set(
        transfer_protocols()
    )
    assert len({entry.hash for entry in transfer_protocols().values()}) == len(transfer_protocols())
    assert [level.name for level in levels(transfer_protocols()["linear-probe"])] == ["1 %", "10 %", "100 %"]
    assert len(levels(transfer_protocols()["few-shot"])) == 25


@pytest.mark.parametrize(
    "encoder",
    [vision_encoder("resnet18", 16), vision_encoder("vit_tiny_patch16_224", image_size=64, depth=4)],
    ids=["resnet", "transformer"],
)
def test_every_encoder_has_a_pyramid_that_a_unet_takes(encoder: VisionEncoder) -> None:
    images = torch.rand(2, 3, 64, 64)
    encoder.eval()
    features = encoder(images, pyramid=True)
    pyramid = features.pyramid
    assert [features.shape[1] for features in pyramid] == encoder.widths
    torch.testing.assert_close(pyramid[-1].flatten(2).transpose(1, 2), features.tokens)
    assert torch.equal(encoder(images).tokens, features.tokens)
    assert not encoder(images).pyramid
    assert UNetDecoder(encoder.widths, 5)(pyramid, 64).shape == (2, 5, 64, 64)


def test_the_command_probes_a_run_and_an_untrained_encoder(
    tiny_run: Path, phantom_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, more in ((str(tiny_run), []), ("medslip-phantom", ["--untrained", "--set", "image.size=64"])):
        monkeypatch.setattr("sys.argv", ["medlip", "transfer", run, "--data", str(phantom_store), "--json", *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        result = json.loads(capsys.readouterr().out)
        assert [level["level"] for level in result["levels"]] == ["1 %", "10 %", "100 %"]


def test_an_untrained_encoder_needs_no_reports(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["transfer", "medlip-phantom", "--untrained", "--set", "image.size=64", "--data", str(store.root)]
    monkeypatch.setattr("sys.argv", ["medlip", *args, "--out", str(tmp_path / "out"), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert (tmp_path / "out" / "result.json").exists()
