"""Calibration: probabilities that hold, thresholds with a stated sensitivity, sides that are named where they are known."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import medlip as package
from fakes import FakeMethod, FakeRecord, FakeStore
from medlip.app.reader import Reader
from medlip.errors import MedLIPError
from medlip.evaluation.calibration import Calibration, OperatingPoint, calibrate
from medlip.methods.base import TellsPlaces
from medlip.metrics import calibration_error
from medlip.metrics.recalibration import OperatingCurve, fit
from medlip.reports import Fact
from medlip.training.load import CALIBRATION

pytestmark = pytest.mark.long


def distorted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores that claim too much, what is so, and the true probabilities."""
    rng = np.random.default_rng(seed)
    true = rng.beta(1, 3, n)
    logits = np.log(true / (1 - true))
    return 1 / (1 + np.exp(-(2.5 * logits + 2))), (rng.random(n) < true).astype(float), true


@pytest.mark.parametrize(("kind", "close"), [("platt", 0.02), ("isotonic", 0.05)])
def test_a_fitted_curve_gives_back_the_probabilities(kind: Any, close: float) -> None:
    scores, labels, true = distorted(4000)
    curve = fit(kind, scores, labels)
    assert np.abs(curve(scores) - true).mean() < close
    new, truth, _ = distorted(4000, seed=1)
    before, after = (calibration_error(p[:, None], truth[:, None])[0] for p in (new, curve(new)))
    assert after < before / 4
    assert (np.diff(curve(np.linspace(0, 1, 500))) >= 0).all()
    assert 0 < curve([0, 1])[0] < curve([0, 1])[1] < 1


def test_scores_that_speak_against_a_finding_are_not_turned_round() -> None:
    scores, labels, _ = distorted(500)
    assert np.ptp(fit("platt", 1 - scores, labels)(scores)) == 0


@pytest.mark.parametrize("labels", [np.zeros(9), np.ones(9), np.full(9, np.nan)])
def test_without_both_kinds_of_images_nothing_is_fitted(labels: np.ndarray) -> None:
    for kind in ("platt", "isotonic"):
        with pytest.raises(MedLIPError):
            fit(kind, np.linspace(0, 1, 9), labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [0, 0.333, 0.5, 0.9, 0.95, 1])
def test_a_threshold_has_what_is_stated_and_none_better_does(wanted: float) -> None:
    scores, labels, _ = distorted(300)
    scores = scores.round(2)  # with ties
    curve = OperatingCurve.of(scores, labels)

    def reached(threshold: float) -> dict[str, float]:
        called = scores >= threshold
        return {"sensitivity": called[labels == 1].mean(), "specificity": 1 - called[labels == 0].mean()}

    rounded = np.ceil(wanted * 100 - 1e-9) / 100
    for measure, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        threshold = curve.threshold(measure, wanted)  # type: ignore[arg-type]
        assert reached(threshold)[measure] >= wanted
        candidates = [reached(t) for t in (*np.unique(scores), 2)]
        best = max(found[other] for found in candidates if found[measure] >= rounded)
        assert reached(threshold)[other] == pytest.approx(best)


class Claims(FakeMethod, TellsPlaces):
    """A method that knows effusions, claims too much of them, and tells their side as often as it is let."""

    def __init__(self, right: float = 1.0) -> None:
        super().__init__()
        self.right = right

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = images[:, 0, 0, 0]
        return torch.stack([seen if prompt == "effusion" else 1 - seen for prompt in prompts], 1)

    def score_anatomies(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        index = self.vocabulary.anatomy_index
        found = torch.zeros(len(images), len(prompts), len(index))
        for row, image in enumerate(images):
            left = bool(image[0, -1, -1] > 0.5) is bool(image[0, 0, -1] < self.right)
            found[row, :, index["left_pleural" if left else "right_pleural"]] = 0.4
            found[row, :, index["right_pleural" if left else "left_pleural"]] = 0.3
        return found


def data(count: int = 400, *, labels: bool = True) -> FakeStore:
    """Images whose corners say what a method may see: its score, which side, and a number between 0 and 1."""
    scores, present, _ = distorted(count)
    rng = np.random.default_rng(2)
    records = []
    for number, (score, there) in enumerate(zip(scores, present, strict=True)):
        image = np.zeros((32, 32), np.uint8)
        left = number % 2 == 0
        image[0, 0], image[-1, -1], image[0, -1] = 255 * score, 255 * left, 254 * rng.random()
        facts: tuple[Fact, ...] = ()
        if there:
            facts = (Fact("effusion", "left_pleural" if left else "right_pleural", "present"),)
        elif number % 3:  # two thirds of the others deny it, one third say nothing, but for one that can't tell
            facts = (Fact("effusion", "pleural_unspec", "absent"),)
        elif number == 0 or not facts:
            facts = (Fact("effusion", "pleural_unspec", "uncertain"),) if number % 30 == 0 else ()
        said = {"effusion": "present" if there else "absent"} if labels else {}
        records.append(FakeRecord(f"i{number}", f"p{number}", "val", image, labels=said, facts=facts))
    return FakeStore(records)


class Reported(FakeStore):
    root = "fake"

    def column(self, name: str) -> list[Any]:
        return ["A report." for _ in self] if name == "report" else super().column(name)

    def select(self, split: str) -> Reported:
        return Reported(super().select(split))


def test_what_is_reported_of_a_curve_is_measured_on_other_patients() -> None:
    found = calibrate(Claims(), Reported(data()), at=OperatingPoint.parse("sensitivity=0.8")).findings["effusion"]
    assert (found.images, found.curve is not None) == (400, True)
    before, after = found.calibration_error_before, found.calibration_error_after
    assert before and after and before.value > 3 * after.value > 0  # type: ignore[operator]
    assert found.sensitivity and found.sensitivity.n == found.positives
    low, high = found.sensitivity.interval or (0, 0)
    assert low < 0.8 < high


def test_without_labels_reports_are_the_truth_and_what_they_leave_open_does_not_count() -> None:
    with_labels, without = Reported(data()), Reported(data(labels=False))
    by_labels, by_reports = calibrate(Claims(), with_labels), calibrate(Claims(), without)
    assert (by_labels.truth, by_reports.truth) == ("labels", "reports")
    ours, theirs = by_reports.findings["effusion"], by_labels.findings["effusion"]
    uncertain = sum(fact.presence == "uncertain" for facts in without.column("facts") for fact in facts)
    assert uncertain > 0
    assert (ours.images, ours.positives) == (theirs.images - uncertain, theirs.positives)
    assert set(by_reports.findings) == {"effusion"}


def test_too_few_images_calibrate_nothing_and_it_is_said() -> None:
    found = calibrate(Claims(), Reported(data(12)))
    assert found.threshold("effusion") is None
    assert "at least 5 are needed" in found.findings["effusion"].reason


def test_a_side_is_named_only_where_the_data_showed_that_it_is_known() -> None:
    image = data(1)[0].image
    for right, named in ((1.0, "left_pleural"), (0.5, "pleural")):
        method = Claims(right)
        calibration = calibrate(method, Reported(data()))
        assert calibration.side is not None and calibration.side.value == pytest.approx(right, abs=0.15)
        reading = Reader(method, calibration).read(image)
        places = [place.anatomy for place in reading.finding("effusion").anatomies]
        assert places[0] == named and len(places) == (2 if right == 1 else 1)
        assert any("is not named" in note for note in reading.notes) is (right < 1)


@pytest.fixture(scope="module")
def run(tiny_run: Path, phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a calibration, on the images that it was trained on: no other ones are at hand."""
    from medlip.data.store import Store
    from medlip.training import load_run

    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(tiny_run, folder)
    calibrate(load_run(folder), Store.open(phantom_store), split="all").save(folder / CALIBRATION)
    return folder


def test_a_reading_says_what_its_probabilities_rest_on(run: Path, tiny_run: Path, xray: Path) -> None:
    plain, calibrated = package.load(tiny_run).read(xray, ask="effusion"), package.load(run).read(xray, ask="effusion")
    assert plain.calibrated is None
    assert {(finding.threshold, finding.calibrated) for finding in plain.findings} == {(0.5, False)}
    assert calibrated.calibrated is not None and calibrated.calibrated.at == "specificity=0.9"
    known = [finding for finding in calibrated.findings if finding.calibrated]
    assert known
    for finding in calibrated.findings:
        assert finding.score == pytest.approx(plain.finding(finding.pathology).probability)
        assert finding.likely is (finding.probability >= finding.threshold)
        assert finding.calibrated or (finding.probability, finding.threshold) == (finding.score, 0.5)
    (asked,) = calibrated.asked
    effusion = calibrated.finding("effusion")
    assert (asked.probability, asked.threshold) == (effusion.probability, effusion.threshold)


def test_another_threshold_can_be_asked_for_when_reading(run: Path, tiny_run: Path, xray: Path) -> None:
    careful, strict = (package.load(run, at=f"sensitivity={value}").read(xray) for value in (1, 0.2))
    assert careful.calibrated and careful.calibrated.at == "sensitivity=1"
    pairs = [(careful.finding(one.pathology), one) for one in strict.findings if one.calibrated]
    assert all(low.threshold <= high.threshold for low, high in pairs)
    assert any(low.threshold < high.threshold for low, high in pairs)
    from medlip.training import load_run, save_run

    save_run(load_run(run), run.parent / "copy")
    assert package.load(run.parent / "copy").calibration == package.load(run).calibration
    with pytest.raises(MedLIPError, match="isn't calibrated"):
        package.load(tiny_run, at="sensitivity=0.9")
    for wrong in ("sensitivity", "accuracy=0.9", "specificity=1.1", "specificity=x"):
        with pytest.raises(MedLIPError, match="no operating point"):
            package.load(run, at=wrong)


def test_a_calibration_of_other_weights_or_a_broken_one_is_refused(run: Path, tmp_path: Path) -> None:
    text = (run / CALIBRATION).read_text()
    for name, content, says in (
        ("other", text.replace(package.load(run).model.hash, "0" * 16), "weights"),
        ("broken", text[:50], "not readable"),
        ("later", text.replace('"schema_version": 1', '"schema_version": 9'), "schema version 9"),
    ):
        folder = tmp_path / name
        shutil.copytree(run, folder)
        (folder / CALIBRATION).write_text(content)
        with pytest.raises(MedLIPError, match=says):
            package.load(folder)


def test_the_commands_calibrate_and_say_what_predict_uses(
    medlip: Callable[..., Any], tiny_run: Path, phantom_store: Path, xray: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    assert "not calibrated: probabilities are the model's scores" in medlip("predict", folder, xray).out
    outcome = medlip("calibrate", folder, "--data", phantom_store, "--split", "all", "--truth", "reports", "--json")
    assert outcome.code == 3 and "THE METHOD WAS TRAINED ON WHAT IS EVALUATED" in outcome.err
    assert Calibration.model_validate(outcome.document).truth == "reports"
    shown = medlip("predict", folder, xray, "--at", "sensitivity=0.9")
    assert shown.code == 0
    assert "calibrated on 60 images of phantom (all) by their reports, thresholds for sensitivity=0.9" in shown.out
    assert medlip("predict", tiny_run, xray, "--at", "sensitivity=0.9").code == 1
    assert medlip("calibrate", tiny_run / "model.safetensors", "--data", phantom_store).code == 1
