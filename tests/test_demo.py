"""The demo: one command from nothing to a page, which goes on where it was stopped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import medlip
from medlip.app import demo
from medlip.app.demo import Scale, run_demo
from medlip.errors import MedLIPError

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def scale(tiny_settings: tuple[str, ...]) -> Scale:
    return Scale("tiny", 200, tiny_settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scale: Scale) -> Path:
    """A demo that was interrupted before every stage, and went on each time."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("demos") / "demo"
    for stage in ("prepare", "fit", "evaluate", "render"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(demo, stage, interrupt)
            run_demo(out, scale, "medlip demo")
        assert not (out / "metrics.json").exists()
    run_demo(out, scale, "medlip demo")
    return out


def test_metrics_have_the_promised_numbers(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    auroc, pointing, iou = (
        metrics[task][measure]
        for task, measure in (("zero_shot", "macro_auroc"), ("grounding", "pointing_game"), ("grounding", "iou"))
    )
    assert 0 <= auroc["value"] <= 1
    assert len(auroc["interval"]) == 2
    assert 0 <= pointing["value"] <= 1
    assert 0 < iou["chance"] < 1
    assert metrics["seconds"] > 0
    assert metrics["n_images"] == metrics["demo"]["images"]["test"]


def test_the_run_can_be_loaded(finished: Path, xray: Path) -> None:
    assert medlip.load(finished / "run").read(xray).findings


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def all(self, *names: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_the_page_needs_nothing_beside_it(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert not page.all("script", "link", "iframe")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert text.count("url(") == text.count("url(#")  # of the drawings' own parts


def test_the_page_can_be_read_without_seeing_it(finished: Path) -> None:
    page = Page((finished / "report.html").read_text())
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert {link["href"][1:] for link in page.all("a")} <= set(identifiers)
    assert all("scope" in header for header in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_page_shows_every_part_and_says_what_it_is_not(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    for part in ("training", "zero_shot", "grounding", "places", "cases", "matrix", "origin"):
        assert f'<section id="{part}"' in text
    assert text.count('alt="The X-ray with the true mask') == text.count("heat map of") > 0
    assert "Not a medical device" in text
    assert "<svg" in text


def test_the_page_shows_places_by_the_rule_of_predict(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    captions = re.findall(r"Truth: [^<]*? Model: \d+ %(.*?)\.\s*<", text)
    assert captions
    assert all(re.fullmatch(r", [a-z ]+ [1-9]\d* %|, no place at 1 % or above", caption) for caption in captions)


def test_a_finished_demo_is_not_done_again(finished: Path, scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "fit", None)
    result = run_demo(finished, scale, "medlip demo")
    assert result.model_dump(mode="json") == json.loads((finished / "metrics.json").read_text())


def test_interrupted_stages_are_gone_through_once(finished: Path) -> None:
    steps = [line["step"] for line in map(json.loads, (finished / "run" / "metrics.jsonl").read_text().splitlines())]
    assert steps == sorted(steps)
    assert json.loads((finished / "demo.json").read_text())["seconds"].keys() == {"prepare", "pretrain", "evaluate"}


def test_another_demo_or_other_files_are_left_alone(finished: Path, scale: Scale, tmp_path: Path) -> None:
    with pytest.raises(MedLIPError, match="tiny demo of medlip-phantom"):
        run_demo(finished, demo.QUICK, "medlip demo")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MedLIPError, match="not of a demo"):
        run_demo(tmp_path, scale, "medlip demo")


def test_a_mistyped_method_leaves_the_folder_free(tmp_path: Path, scale: Scale) -> None:
    with pytest.raises(MedLIPError, match="no such recipe"):
        run_demo(tmp_path / "demo", replace(scale, recipe="medsleep-phantom"), "medlip demo")
    assert not (tmp_path / "demo").exists()


def test_an_unknown_method_is_answered_with_those_that_have_a_demo() -> None:
    assert demo.phantom_recipe("mlip") == "mlip-phantom"
    with pytest.raises(MedLIPError, match=r"--method medsleep.*medslip, mlip\."):
        demo.phantom_recipe("medsleep")
