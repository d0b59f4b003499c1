"""Retrieval: numbers are those of plain loops, ties are fair, what can't be asked is said, and every method can be asked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeMethod, FakeRecord, FakeStore, shrunk
from medlip.concepts import default_vocabulary
from medlip.data.batch import Batch, evaluation_batches
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.evaluation import Result, retrieve
from medlip.images.preprocessing import Preprocessing
from medlip.methods import Method, build_method, method_names
from medlip.methods.base import EmbedsReports
from medlip.methods.queries import QueryMethod
from plain_loops import plain_precision, plain_recall

pytestmark = pytest.mark.long

SIZE = 16
CLASSES = ("effusion", "nodule", "pneumothorax")
RECALLS = ("recall_at_1", "recall_at_5", "recall_at_10")
DIRECTIONS = ("image_to_text", "text_to_image")


def make_store(n: int = 60, seed: int = 0) -> FakeStore:
    """Images whose corner pixel is their number; one or two a study, two studies a patient, a third of reports repeated."""
    rng = np.random.default_rng(seed)
    store, study = FakeStore(), 0
    while len(store) < n:
        text = ("Normal.",) if rng.random() < 0.3 else ("Heart is normal.", f"Finding {study}.")
        labels = {name: "present" if rng.random() < 0.4 else "absent" for name in CLASSES}
        for _ in range(rng.integers(1, 3)):
            image = np.full((SIZE, SIZE), 100, np.uint8)
            image[0, 0] = len(store)
            store.append(
                FakeRecord(
                    f"i{len(store)}", f"p{study // 2}", "test", image, dict(labels), study=f"s{study}", sentences=text
                )
            )
        study += 1
    return store


class Fake(FakeMethod, EmbedsReports):
    """A method that recognises images by their corner pixel and reports by their words."""

    def __init__(self, store: FakeStore) -> None:
        super().__init__(SIZE)
        self.records = {record.image[0, 0]: record for record in store}

    def _find(self, images: torch.Tensor) -> list[FakeRecord]:
        return [self.records[round(255 * float(image[0, 0, 0]))] for image in images]

    def score(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return torch.tensor([[self.one_score(record, prompt) for prompt in prompts] for record in self._find(images)])

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor(np.array([self.one_vector(record.id, record.sentences) for record in self._find(images)]))

    def embed_reports(self, reports: Any) -> torch.Tensor:
        return torch.tensor(np.array([self.one_vector("", tuple(report)) for report in reports]))


class Coarse(Fake):
    """Small whole numbers that follow from what is seen: many ties."""

    def one_score(self, record: FakeRecord, prompt: str) -> float:
        return float(_draw(record.id + prompt).integers(0, 4)) / 4

    def one_vector(self, image: str, sentences: tuple[str, ...]) -> np.ndarray:
        return _draw(image or str(sentences)).integers(-1, 2, 3).astype(float)


class Constant(Fake):
    def one_score(self, record: FakeRecord, prompt: str) -> float:
        return 0.3

    def one_vector(self, image: str, sentences: tuple[str, ...]) -> np.ndarray:
        return np.linspace(0.1, 0.7, 37)


class Perfect(Fake):
    def one_score(self, record: FakeRecord, prompt: str) -> float:
        return float(record.labels.get(prompt) == "present")

    def one_vector(self, image: str, sentences: tuple[str, ...]) -> np.ndarray:
        return _unit(_draw(str(sentences)).normal(size=64))


def _draw(text: str) -> np.random.Generator:
    return np.random.default_rng(list(text.encode()))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_all_numbers_are_those_of_plain_loops() -> None:
    store = make_store()
    method = Coarse(store)
    result = retrieve(method, store, resamples=20)
    studies = {record.study: record for record in store}
    texts = [record.sentences for record in studies.values()]
    images = np.array([method.one_vector(record.id, ()) for record in store])
    reports = np.array([method.one_vector("", text) for text in texts])
    fits = images @ reports.T
    right = np.array([[record.sentences == text for text in texts] for record in store])
    assert right.sum() > len(store)
    for direction, rows, hits in (("image_to_text", fits, right), ("text_to_image", fits.T, right.T)):
        found = result["retrieval"]
        assert (found[f"{direction}_recall_at_1"].n, found.pool[direction]) == rows.shape
        for k, name in zip((1, 5, 10), RECALLS, strict=True):
            expected = np.mean([plain_recall(row, hit, k) for row, hit in zip(rows, hits, strict=True)])
            assert found[f"{direction}_{name}"].value == pytest.approx(expected)
            chance = np.mean([plain_recall(np.zeros(len(hit)), hit, k) for hit in hits])
            assert found[f"{direction}_{name}"].chance == pytest.approx(chance)
            low, high = found[f"{direction}_{name}"].interval
            assert low <= expected <= high
    for name, row in result["retrieval"].per_class.items():
        scores = np.array([method.one_score(record, name) for record in store])
        labels = np.array([record.labels[name] == "present" for record in store], float)
        for k in (5, 10):
            assert row[f"precision_at_{k}"].value == pytest.approx(plain_precision(scores, labels, k))
            assert row[f"precision_at_{k}"].chance == pytest.approx(labels.mean())
    for k in (5, 10):
        values = [row[f"precision_at_{k}"].value for row in result["retrieval"].per_class.values()]
        assert result["retrieval"][f"macro_precision_at_{k}"].value == pytest.approx(np.mean(values))


def test_chance_is_k_in_the_pool_where_no_report_is_repeated() -> None:
    records = {record.sentences: record for record in make_store(80)}
    result = retrieve(Coarse(store := FakeStore(records.values())), store, resamples=2)
    for k, name in zip((1, 5, 10), RECALLS, strict=True):
        for direction in DIRECTIONS:
            assert result["retrieval"][f"{direction}_{name}"].chance == pytest.approx(k / len(store))
    assert not any("word for word" in note for note in result.notes)


@pytest.mark.parametrize("pool", [None, 12])
def test_the_order_of_the_store_and_the_batches_change_nothing(pool: int | None) -> None:
    store = make_store()
    shuffled = FakeStore(store[i] for i in np.random.default_rng(2).permutation(len(store)))
    first = retrieve(Coarse(store), store, pool=pool, resamples=20)
    second = retrieve(Coarse(store), shuffled, pool=pool, resamples=20, batch_size=7)  # type: ignore[arg-type]
    assert first["retrieval"].n_reports == (pool or len({record.study for record in store}))
    assert _rounded(first["retrieval"].model_dump()) == _rounded(second["retrieval"].model_dump())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


def test_a_constant_method_gets_chance_and_a_perfect_one_everything() -> None:
    store = make_store()
    constant, perfect = (retrieve(kind(store), store, resamples=20) for kind in (Constant, Perfect))
    for direction in DIRECTIONS:
        for name in (*RECALLS, "median_rank"):
            found = constant["retrieval"][f"{direction}_{name}"]
            assert found.value == pytest.approx(found.chance)
            assert perfect["retrieval"][f"{direction}_{name}"].value == pytest.approx(1)
        assert constant["retrieval"][f"{direction}_recall_at_1"].value < 0.3
    for result, by_chance in ((constant, True), (perfect, False)):
        for row in result["retrieval"].per_class.values():
            entry = row["precision_at_10"]
            assert entry.value == pytest.approx(entry.chance if by_chance else 1)


def test_unknown_labels_are_left_out_and_classes_without_a_positive_are_named() -> None:
    store = make_store()
    for i, record in enumerate(store):
        if i % 3 == 0:
            del record.labels["nodule"]
        elif i % 3 == 1:
            record.labels["nodule"] = "uncertain"
        record.labels["pneumothorax"] = "absent"
        record.labels["not a word of the vocabulary"] = "present"
    method = Coarse(store)
    result = retrieve(method, store, resamples=10)
    classes = result["retrieval"]
    known = [record for record in store if record.labels.get("nodule") in ("present", "absent")]
    assert classes.per_class["nodule"].n == len(known)
    scores, labels = (
        np.array([method.one_score(record, "nodule") for record in known]),
        np.array([record.labels["nodule"] == "present" for record in known], float),
    )
    entry = classes.per_class["nodule"]["precision_at_5"]
    assert entry.value == pytest.approx(plain_precision(scores, labels, 5))
    assert entry.chance == pytest.approx(labels.mean())
    lacking = classes.per_class["pneumothorax"]["precision_at_5"]
    assert (lacking.value, lacking.interval, lacking.chance) == (None, None, 0.0)
    assert lacking.reason == classes.left_out_of_macro["pneumothorax"]
    assert "no positive" in lacking.reason
    others = [classes.per_class[name]["precision_at_5"].value for name in ("effusion", "nodule")]
    assert classes["macro_precision_at_5"].value == pytest.approx(np.mean(others))
    assert classes["macro_precision_at_100"].value is None
    assert classes.undefined_in_macro == {"precision_at_100": ["effusion", "nodule"]}
    assert any("pneumothorax" in note for note in result.notes)
    assert any("not a word of the vocabulary" in note for note in result.notes)


def test_images_without_a_report_are_counted_and_still_found_by_class() -> None:
    store = make_store()
    silent = FakeStore(replace(record, sentences=()) if record.study in ("s3", "s4") else record for record in store)
    left_out = sum(record.study in ("s3", "s4") for record in store)
    result = retrieve(Coarse(silent), silent, resamples=5)
    assert result["retrieval"]["image_to_text_recall_at_1"].n == len(store) - left_out
    assert result["retrieval"].per_class["effusion"].n == len(store)
    assert any(f"{left_out} images whose study has no report" in note for note in result.notes)


def test_what_cannot_be_ranked_is_an_error(tmp_path: Path) -> None:
    store = make_store(20)
    reports = len({record.study for record in store})
    silent = FakeStore(replace(record, sentences=()) for record in store)
    with pytest.raises(MedLIPError, match=r"0 of the evaluated studies have a report"):
        retrieve(Coarse(store), silent)  # type: ignore[arg-type]
    for pool in (1, reports + 1):
        with pytest.raises(MedLIPError, match=f"pool={pool}.*have {reports} reports"):
            retrieve(Coarse(store), store, pool=pool)
    with pytest.raises(MedLIPError, match="labels no 'mass'"):
        retrieve(Coarse(store), store, classes=["mass"])
    retrieve(Coarse(store), store, resamples=2, out=tmp_path)
    with pytest.raises(MedLIPError, match="holds a"):
        retrieve(Coarse(store), store, out=tmp_path)


@pytest.mark.parametrize("kind", ["image", "report", "score"])
def test_nan_is_refused_by_name(kind: str) -> None:
    store = make_store(20)

    class Broken(Coarse):
        def one_score(self, record: FakeRecord, prompt: str) -> float:
            return np.nan if kind == "score" and record.id == "i7" else 0.5

        def one_vector(self, image: str, sentences: tuple[str, ...]) -> np.ndarray:
            broken = image == "i7" if kind == "image" else kind == "report" and sentences == store[7].sentences
            return np.full(3, np.nan if broken else 1.0)

    named = next(record.id for record in store if kind != "report" or record.sentences == store[7].sentences)
    with pytest.raises(MedLIPError, match=f"not finite.*'{named if kind == 'report' else 'i7'}'"):
        retrieve(Broken(store), store)


def test_the_pool_and_its_seed_are_part_of_the_protocol() -> None:
    store = make_store()
    settings: tuple[dict[str, int], ...] = ({}, {"pool": 10}, {"pool": 10, "seed": 1}, {"pool": 11})
    hashes = [retrieve(Coarse(store), store, resamples=2, **chosen).protocol.hash for chosen in settings]  # type: ignore[arg-type]
    assert len(set(hashes)) == len(settings)
    assert hashes[1] == retrieve(Coarse(store), store, resamples=2, pool=10).protocol.hash


REPORTS = (
    ("The heart is normal in size.", "No pneumothorax.", "There is a 3.5 cm mass in the left lung."),
    ("There is a large right pleural effusion.",),
    (),
)


@pytest.fixture(scope="module")
def batch(phantom_store: Path) -> Batch:
    return next(evaluation_batches(Store.open(phantom_store).take(range(4)), Preprocessing(64), 4))


def make(name: str, batch: Batch, **settings: Any) -> Method:
    reports = (" ".join(sentences) for sentences in (*batch.sentences, *REPORTS))
    preprocessing = Preprocessing(64)
    return build_method(shrunk({"name": name}) | settings, default_vocabulary(), preprocessing, lambda: reports).eval()


@pytest.mark.parametrize("name", method_names(EmbedsReports))
def test_every_method_that_can_embeds_images_and_reports_one_by_one_alike(name: str, batch: Batch) -> None:
    method = make(name, batch)
    with torch.inference_mode():
        images, reports = method.embed_images(batch.images), method.embed_reports(REPORTS)
        assert (len(images), len(reports)) == (4, 3)
        assert images.shape[1:] == reports.shape[1:]
        assert images.isfinite().all()
        assert reports.isfinite().all()
        assert not torch.equal(images[0], images[1])
        assert not torch.equal(reports[0], reports[1])
        torch.testing.assert_close(method.embed_images(batch.images[1:2]), images[1:2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(method.embed_reports(REPORTS[1:2]), reports[1:2], atol=1e-5, rtol=1e-4)
        if not isinstance(method, QueryMethod):
            torch.testing.assert_close(images.norm(dim=1), torch.ones(4))
            torch.testing.assert_close(reports.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", method_names(EmbedsReports))
def test_what_a_method_does_not_read_of_reports_is_noted(name: str, batch: Batch, phantom_store: Path) -> None:
    store = Store.open(phantom_store).select("test")
    tokens = {"medslip": {}, "medklip": {}, "medlip": {"report_tokens": 8}}.get(name, {"max_tokens": 8})
    notes = retrieve(make(name, batch, **tokens), store, resamples=2).notes
    cut = [note for note in notes if "longer than the 6 tokens" in note]
    assert bool(cut) == bool(tokens)
    studies = {study for study, text in zip(store.column("study"), store.column("sentences"), strict=True) if text}
    assert all(f" of {len(studies):,} reports " in note for note in cut)


@pytest.mark.parametrize(("name", "settings"), [("medslip", {}), ("medslip", {"prototype": "off"}), ("medklip", {})])
def test_a_report_fits_by_the_log_probability_of_what_it_states(name: str, settings: dict[str, Any], batch: Batch) -> None:
    method = make(name, batch, **settings)
    assert isinstance(method, QueryMethod)
    vocabulary = method.vocabulary
    images = method.embed_images(batch.images)
    names = [pathology.name for pathology in vocabulary.pathologies]
    absent = (1 - method.score(batch.images, names)).log()
    places = method.score_anatomies(batch.images, ["effusion"])[:, 0].log()
    right, left = (places[:, vocabulary.anatomy_index[f"{side}_pleural"]] for side in ("right", "left"))
    others = absent.sum(1) - absent[:, names.index("effusion")]
    one, both, unsure, cut, none = method.embed_reports(
        [
            ("There is a right pleural effusion.", "Right pleural effusion.", "No pneumothorax."),
            ("There are a right pleural effusion and a left pleural effusion.",),
            ("There is a right pleural effusion.", "Possible pneumonia."),
            ("There is a right pleural effusion", "No left pleural effusion", "No pneumothorax"),
            (),
        ]
    )
    torch.testing.assert_close(images @ one, right + others)  # said twice it is one fact
    torch.testing.assert_close(images @ both, (right + left) / 2 + others)
    torch.testing.assert_close(images @ unsure, right + others - absent[:, names.index("pneumonia")])
    torch.testing.assert_close(images @ cut, right + others)  # what is absent on the left is not absent
    assert not none.any()
    assert not (images @ none).any()


def test_certainty_stays_finite(batch: Batch) -> None:
    method = make("medklip", batch)
    with torch.no_grad():
        method.exist.bias.copy_(torch.tensor([-1e4, 1e4]))  # type: ignore[union-attr, operator]
    images = method.embed_images(batch.images)
    assert images.isfinite().all()
    assert images.min() == pytest.approx(np.log(1e-6))


def test_a_trained_run_is_asked_and_told_what_it_has_seen(tiny_run: Path, phantom_store: Path) -> None:
    from medlip.training import load_run

    store, method = Store.open(phantom_store), load_run(tiny_run)
    test, train = (retrieve(method, store, split=split, resamples=5) for split in (None, "train"))
    assert Result.parse(test.to_json(), "test") == test
    assert test.split == "test"
    assert test["retrieval"]["image_to_text_recall_at_1"].n == store.splits["test"]
    assert test.run == method.made_by
    assert not any(note.startswith("WARNING") for note in test.notes)
    assert any(note.startswith("WARNING") for note in train.notes)
    assert "Not a medical device" in test.disclaimer


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_a_document_or_a_table(
    as_json: bool,
    tiny_run: Path,
    phantom_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from medlip.app import cli

    arguments = ["retrieve", tiny_run, "--data", phantom_store, "--pool", "4", "--out", tmp_path, *["--json"] * as_json]
    monkeypatch.setattr(sys, "argv", ["medlip", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    kept, printed = json.loads((tmp_path / "retrieval.json").read_text()), capsys.readouterr().out
    assert kept["retrieval"]["n_reports"] == 4
    if as_json:
        assert json.loads(printed) == kept
    else:
        assert "image to report, recall at 1" in printed
        assert "Not a medical device" in printed
