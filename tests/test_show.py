"""Pages to look at data, runs, results and facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medlip.app.pages.store_page import highlighted, store_page
from medlip.data.store import Store, row_of
from medlip.data.writer import Prepared, open_writer
from medlip.reports import extract_facts

pytestmark = pytest.mark.long

Medlip = Callable[..., Any]


def page(medlip: Medlip, what: object, tmp_path: Path, *options: object) -> str:
    out = tmp_path / "page.html"
    outcome = medlip("show", what, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    text = out.read_text(encoding="utf-8")
    assert "Not a medical device" in text and "<script src" not in text and 'href="http' not in text
    return text


def test_a_store_shows_images_with_all_that_is_known_of_them(medlip: Medlip, phantom_store: Path, tmp_path: Path) -> None:
    store = Store.open(phantom_store)
    text = page(medlip, phantom_store, tmp_path)
    assert text.count("<article") == len(store) == 60
    assert text.count('class="masks"') == sum(bool(record.masks) for record in store)
    assert text.count("<rect") == sum(len(record.boxes) for record in store)
    for what in ("Images by split", "Images by finding", "Places of present findings", 'data-filter="finding"'):
        assert what in text
    stated = [fact for record in store for fact in record.facts if fact.start >= 0]
    assert stated and text.count("<mark") > len(stated) / 4  # facts of one span are marked together
    for split, count in store.splits.items():
        assert f'<th scope="row">{split}</th><td>{count}</td>' in text


def test_of_many_images_some_are_shown_of_every_kind_and_all_are_counted(phantom_store: Path) -> None:
    store = Store.open(phantom_store)
    text = store_page(store, images=20)
    assert text.count("<article") == 20 and "20 of 60" in text
    shown = {split for split in store.splits if f'data-split="{split}"' in text}
    assert shown == set(store.splits)
    many = store.take(np.arange(60).repeat(400))  # 24,000 images
    assert len(store_page(many, images=20)) < 1.2 * len(text)


@pytest.fixture(scope="module")
def large_store(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 100,000 images: phantoms, over and over, under other names."""
    small, out = Store.open(phantom_store), tmp_path_factory.mktemp("large") / "store"
    rows: dict[str, list[dict[str, object]]] = {}
    for record in small:
        rows.setdefault(record.split, []).append(row_of(record))
    with open_writer(out, small.manifest["settings"], small.vocabulary, shard_size=5000) as writer:
        for copy in range(-(-100_000 // len(small))):
            for split, known in rows.items():
                again = [
                    row | {"id": f"phantom:{copy}-{split}:{number}", "patient": f"{copy}-{row['patient']}"}
                    for number, row in enumerate(known)
                ]
                writer.add(Prepared("phantom", f"{copy}-{split}", split, tuple(again)))
        writer.finish()
    return out


@pytest.mark.slow
def test_the_page_of_100_000_images_opens_as_that_of_few(
    medlip: Medlip, phantom_store: Path, large_store: Path, tmp_path: Path
) -> None:
    text = page(medlip, large_store, tmp_path)
    assert "200 of 100,020, drawn so that" in text and text.count("<article") == 200
    assert len(text) < 1.2 * 200 / 60 * len(page(medlip, phantom_store, tmp_path)) < 20e6


def test_a_fact_is_marked_where_it_was_read() -> None:
    report = "The heart is normal. There is a small left pleural effusion. No pneumothorax."
    parts = list(highlighted(report, extract_facts(report)))
    assert "".join(part["text"] for part in parts) == report
    marked = {part["text"]: part["presence"] for part in parts if part["facts"]}
    assert any("effusion" in text and presence == "present" for text, presence in marked.items())
    assert any("pneumothorax" in text and presence == "absent" for text, presence in marked.items())


def test_what_was_skipped_is_shown_with_its_reason(medlip: Medlip, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"no image")
    rows = "".join(f"{number}.png,p{number},Effusion <b>seen</b>.\n" for number in range(4))
    (folder / "reports.csv").write_text("image,patient,report\n" + rows)
    assert medlip("prepare", f"csv:{folder / 'reports.csv'}", "--out", tmp_path / "store").code == 3
    text = page(medlip, tmp_path / "store", tmp_path)
    assert "Left out" in text and "3.png" in text
    assert "&lt;b&gt;seen" in text and "<b>seen" not in text


def test_runs_results_and_facts_have_pages_too(medlip: Medlip, tiny_run: Path, phantom_store: Path, tmp_path: Path) -> None:
    assert "<svg" in page(medlip, tiny_run, tmp_path) and "method.layers" in page(medlip, tiny_run, tmp_path)
    medlip("evaluate", tiny_run, "--data", phantom_store, "--out", tmp_path / "result", "--task", "places")
    assert "laterality accuracy" in page(medlip, tmp_path / "result", tmp_path)
    reports = tmp_path / "reports.csv"
    reports.write_text('study,report\na,"There is a left pleural effusion. The heart is normal."\nb,Edema.\n')
    medlip("facts", reports, "--out", tmp_path / "facts.parquet")
    text = page(medlip, tmp_path / "facts.parquet", tmp_path)
    assert re.search(r'<mark class="present"[^>]*>[^<]*effusion', text) and text.count("<article") == 2


@pytest.mark.parametrize("what", ["nowhere", "facts.csv", "empty"])
def test_what_can_not_be_shown_is_named(medlip: Medlip, what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "facts.csv").write_text("a,b\n1,2\n")
    outcome = medlip("show", tmp_path / what, "--out", tmp_path / "page.html")
    assert outcome.code == 1 and what in outcome.last_line and "Traceback" not in outcome.err
