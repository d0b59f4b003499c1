"""Whether answers can be trusted: what is no chest film is doubted, and an audit finds out what a score rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import medlip as package
from fakes import FakeMethod
from medlip.data.prepare import prepare
from medlip.data.store import Record, Store
from medlip.errors import MedLIPError
from medlip.evaluation import evaluate
from medlip.evaluation.calibration import Appearance
from medlip.evaluation.tasks.faithfulness import Removal, filled_in, removals
from medlip.evaluation.tasks.paraphrases import paraphrases
from medlip.images.frontal import appearance, doubts, frontal_score
from medlip.images.read import read_xray
from medlip.phantom import phantom

pytestmark = pytest.mark.long


def film(index: int) -> np.ndarray:
    image = phantom(index, seed=901).views[0].image
    assert isinstance(image, np.ndarray)
    return image


def page_of_text() -> np.ndarray:
    page = Image.new("L", (300, 380), 255)
    for line in range(10, 370, 14):
        ImageDraw.Draw(page).text((20, line), "The lungs are clear. No effusion.", fill=0)
    return np.array(page)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)


def test_frontal_films_are_read_without_a_doubt() -> None:
    doubted = [found for index in range(30) if (found := doubts(film(index)))]
    assert len(doubted) <= 1


@pytest.mark.parametrize("other", [page_of_text(), noise(), np.eye(128, dtype=np.uint8) * 255])
def test_what_looks_like_no_chest_is_doubted(other: np.ndarray) -> None:
    assert doubts(other)
    assert frontal_score(other) < 0.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pixels: np.ascontiguousarray(np.rot90(pixels)), "lies on its right side"),
        (lambda pixels: np.ascontiguousarray(np.rot90(pixels, 3)), "lies on its left side"),
        (lambda pixels: np.ascontiguousarray(pixels[::-1, ::-1]), "is upside down"),
        (lambda pixels: 255 - pixels, "is inverted"),
        (lambda pixels: np.uint8(np.clip(pixels.astype(int) * 5 // 2, 0, 255)), "saturated"),
        (lambda pixels: np.uint8(pixels // 100 + 80), "blank"),
        (lambda pixels: np.pad(pixels, 260), "collimated"),
    ],
)
def test_a_fault_is_named(change: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    named = [any(says in doubt for doubt in doubts(change(film(index)))) for index in range(8)]
    assert np.mean(named) > 0.7


def test_colour_is_noted_unless_it_is_a_mark_or_two() -> None:
    pixels = np.repeat(film(0)[..., None], 3, 2)
    marked, coloured = pixels.copy(), pixels.copy()
    marked[10:30, 10:30] = (255, 0, 0)
    coloured[..., 2] //= 3
    for picture, expected in ((pixels, False), (marked, False), (coloured, True)):
        found = read_xray(Image.fromarray(picture)).doubts
        assert ("the picture is in colour" in found) is expected


def test_an_image_unlike_those_of_the_calibration_is_doubted() -> None:
    usual = Appearance.of(np.array([appearance(film(index)) for index in range(60)]))
    assert sum(usual.is_far(appearance(film(index))) for index in range(60, 80)) <= 2
    assert usual.is_far(appearance(noise())) and usual.is_far(appearance(page_of_text()))


def test_predict_warns_and_with_strict_refuses_and_says_why(
    medlip: Callable[..., Any], tiny_run: Path, tmp_path: Path
) -> None:
    for name, pixels in (("film", film(1)), ("page", page_of_text())):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    warned = medlip("predict", tiny_run, tmp_path / "film.png", tmp_path / "page.png", "--json")
    assert warned.code == 3
    assert [bool(entry["doubts"]) for entry in warned.document] == [False, True]
    assert "1 images may be no sound frontal chest X-rays" in warned.err
    refused = medlip("predict", tiny_run, tmp_path / "film.png", tmp_path / "page.png", "--json", "--strict")
    assert [("error" in entry) for entry in refused.document] == [False, True]
    assert "doesn't look like a frontal chest X-ray" in refused.document[1]["error"]
    reader = package.load(tiny_run)
    with pytest.raises(MedLIPError, match="refused"):
        reader.read(page_of_text(), strict=True)
    assert reader.read(film(1), strict=True).doubts == ()


# --- audit ---


def test_a_region_that_is_filled_in_continues_its_surround() -> None:
    pixels = np.tile(np.linspace(40, 200, 96), (96, 1)).astype(np.uint8)
    region = np.zeros((96, 96), bool)
    region[30:60, 40:70] = True
    blotted = pixels.copy()
    blotted[region] = 255
    filled = filled_in(blotted, region)
    np.testing.assert_array_equal(filled[~region], pixels[~region])
    assert np.abs(filled[region].astype(float) - pixels[region]).mean() < 12


def _all_removals(record: Record) -> list[Removal]:
    return list(removals(record, {mask.pathology for mask in record.masks}))


def test_a_phantom_is_drawn_anew_without_its_finding(phantom_store: Path) -> None:
    store = Store.open(phantom_store)
    record = next(record for record in store if record.masks)
    found = _all_removals(record)
    assert [removal.finding for removal in found] == sorted({mask.pathology for mask in record.masks})
    for removal in found:
        changed = np.abs(removal.before.astype(int) - removal.after) > 3
        assert removal.rendered and changed.any()
        assert removal.before.shape == record.image.shape
        if removal.elsewhere is not None:
            other = removal.elsewhere != removal.before
            assert other.any() and not (other & removal.region).any()


def test_a_finding_is_taken_from_the_view_that_a_record_shows(tmp_path: Path) -> None:
    prepare(["phantom:4?lateral"], tmp_path / "store", size=128, views="frontal,lateral", workers=0)
    seen = [(record, removal) for record in Store.open(tmp_path / "store") for removal in _all_removals(record)]
    assert {record.view for record, _ in seen} >= {"lateral", "PA"}
    for record, removal in seen:
        assert np.abs(removal.before.astype(int) - record.image).mean() < 3


class Sees(FakeMethod):
    """A method that answers by the image's brightest corner of what it is told to look at, or from memory."""

    def __init__(self, look: Callable[[Tensor], Tensor]) -> None:
        super().__init__(size=64)
        self.look = look

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.look(images[:, 0])[:, None].expand(-1, len(prompts))

    def localise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, :1, ::8, ::8].expand(-1, len(prompts), -1, -1)


TASKS = ("faithfulness", "paraphrases", "mirroring", "dependence")


def test_a_method_that_answers_from_memory_is_found_out(phantom_store: Path) -> None:
    method = Sees(lambda images: torch.full((len(images),), 0.7))
    result = evaluate(method, Store.open(phantom_store), split="test", tasks=TASKS, resamples=50)
    for task, measure in (
        ("faithfulness", "faithfulness"), ("faithfulness", "fall"), ("paraphrases", "range"), ("mirroring", "score_change"),
        ("dependence", "own_minus_other"), ("dependence", "own_minus_shuffled"),
    ):  # fmt: skip
        assert result[task][measure].value == pytest.approx(0, abs=1e-6)
    assert result["mirroring"]["side_swapped"].value is None  # it tells no places


def test_a_method_that_looks_at_its_image_passes(phantom_store: Path) -> None:
    """It answers with how much the image differs from its mirror image: findings on one side make it so."""
    store = Store.open(phantom_store)
    method = Sees(lambda images: images.std((1, 2)))
    result = evaluate(method, store, split="test", tasks=TASKS, resamples=50)
    assert result["faithfulness"]["fall"].value != 0
    assert result["dependence"]["own_minus_other"].value != 0
    assert result["mirroring"]["map_agreement"].value is not None
    assert result["faithfulness"].per_class


def test_paraphrases_are_new_texts_about_the_same_finding() -> None:
    vocabulary = FakeMethod().vocabulary
    texts = paraphrases("effusion", vocabulary)
    assert len(set(texts)) == len(texts) == 5
    assert all(vocabulary.find_pathology(text) is None for text in texts)
    assert any("effusion" in text for text in texts)


def test_the_audit_is_a_page_with_pictures_and_a_result(
    medlip: Callable[..., Any], tiny_run: Path, phantom_store: Path, tmp_path: Path
) -> None:
    outcome = medlip("audit", tiny_run, "--data", phantom_store, "--images", 6, "--out", tmp_path / "audit", "--json")
    assert outcome.code == 0
    found = outcome.document
    for task in ("faithfulness", "mirroring", "dependence"):
        assert found[task]["per_class"]
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") > 6 and "without it" in page and "Not a medical device" in page
    assert medlip("audit", tiny_run, "--data", phantom_store, "--out", tmp_path / "audit").code == 1
