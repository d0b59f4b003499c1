"""What a store has to learn from is known before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medlip.concepts import default_vocabulary
from medlip.data.prepare import prepare
from medlip.data.sources import Source
from medlip.data.store import Store
from medlip.data.study import Study, View
from medlip.data.supervision import require_classes, require_facts, require_masks, require_sentences, supervision
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method
from medlip.methods.base import EmbedsReports
from medlip.reports import Presence
from medlip.training import fit, load_recipe


def store(out: Path, reports: list[str], labels: list[Presence] | None = None) -> Store:
    draw = np.random.default_rng(0)
    items = {
        str(number): Study(
            str(number), str(number), (View(draw.integers(0, 256, (20, 20)).astype(np.uint8)),) * 2, report,
            labels={"mass": labels[number]} if labels else {}, split="train",
        )
        for number, report in enumerate(reports)
    }  # fmt: skip
    prepare([Source("made", items)], out, workers=0, size=16)
    return Store.open(out)


def test_studies_with_facts_are_counted_and_not_images(tmp_path: Path) -> None:
    found = supervision(store(tmp_path / "s", ["Left effusion.", "Whatever else.", "", ""]))
    assert (found.studies, found.with_report, found.with_facts, found.with_sentences) == (4, 2, 1, 2)
    assert str(found) == "of 4 studies 1 (25%) have facts, 2 (50%) have sentences"


def test_training_on_nothing_is_an_error(tmp_path: Path) -> None:
    nothing = store(tmp_path / "s", ["", ""])
    with pytest.raises(MedLIPError, match=r"not one of 2 studies \(0 with a report\) states a fact"):
        require_facts(nothing)
    with pytest.raises(MedLIPError, match="has a sentence"):
        require_sentences(nothing)
    with pytest.raises(MedLIPError, match="not one of 4 images has any"):
        require_masks(nothing)


@pytest.mark.parametrize(
    ("method", "noted"), [("mlip", True), ("gloria", True), ("convirt", True), ("medslip", False), ("medklip", False)]
)
def test_what_is_cut_off_the_reports_is_said_before_the_first_step(
    method: str, noted: bool, phantom_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [
        "image.size=32",
        "method.backbone=resnet10t",
        "method.weights=null",
        "training.epochs=1",
        "training.batch_size=8",
    ]
    small = ["method.max_tokens=8", "method.text_width=32", "method.text_layers=1"]
    tokens = [*small, "method.texts=report", "method.apart=false"] if noted else []
    train = Store.open(phantom_store).select("train").take(range(8))
    fit(load_recipe(f"{method}-phantom", [*quick, *tokens]), train, tmp_path / "run")
    found = [line for line in capsys.readouterr().err.splitlines() if "longer than the 6 tokens" in line]
    assert [line.partition(" of ")[2].startswith("8 reports are") for line in found] == [True] * noted


def test_one_class_is_too_few(tmp_path: Path) -> None:
    one = store(tmp_path / "one", ["", ""], ["present", "present"])
    with pytest.raises(MedLIPError, match="'mass' has 4 present, none absent"):
        require_classes(one, "mass")
    with pytest.raises(MedLIPError, match=r"'nodule' has not one image.*Its labels are mass"):
        require_classes(one, "nodule")
    assert require_classes(store(tmp_path / "two", ["", ""], ["present", "absent"]), "mass").labels["mass"]["absent"] == 2


def test_what_is_cut_off_facts_as_sentences_is_said_too(phantom_store: Path) -> None:
    sentences = Store.open(phantom_store).column("sentences")

    def said(*settings: str) -> str:
        small = ["method.backbone=resnet10t", "method.weights=null", "method.text_width=32", "method.text_layers=1"]
        recipe = load_recipe("mlip-phantom", [*small, *settings])
        method = build_method(recipe.method, default_vocabulary(), Preprocessing(32), lambda: map(" ".join, sentences))
        assert isinstance(method, EmbedsReports)
        cut = method.cut(sentences, training=True)
        assert cut is not None
        return cut.describe()

    assert "facts as sentences are longer than the 6 tokens" in said("method.max_tokens=8")
    assert not said()
