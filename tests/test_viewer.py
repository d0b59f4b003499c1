"""The viewer in a real browser: every gesture, what each part shows, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicoms import dataset, encoded
from medlip.data.store import Store
from medlip.evaluation.calibration import calibrate
from medlip.training import load_run
from medlip.training.load import CALIBRATION
from viewer_server import DISCLAIMER, EXAMPLES, LIMITS, Trouble, ViewerServer, png, study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SIZES = {"desk": (1440, 900), "laptop": (1024, 768), "tablet": (768, 1024), "small": (1000, 700)}
MOUSE_STEPS = 6
RAMP = 1000
PATIENCE = 30_000  # ms: machines that test are busy


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("needs Chromium: `apt-get install chromium`, or CHROMIUM=its program")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[ViewerServer]:
    server = ViewerServer().start()
    yield server
    server.stop()


@dataclass(frozen=True)
class Viewer:
    """The page, and what a person does with it."""

    page: Page
    server: ViewerServer

    def go(self, fragment: str = "") -> Viewer:
        self.page.goto(self.server.address + fragment)
        self.page.locator("#example-list li").first.wait_for()
        return self

    def example(self, number: int = 1) -> Viewer:
        self.go().page.get_by_role("button", name=f"Synthetic X-ray {number}").click()
        return self.read()

    def choose(self, *files: Path) -> Viewer:
        self.page.locator("#files").set_input_files(files)
        return self

    def drop(self, *paths: Path) -> Viewer:
        """Drop files or folders as an operating system does: dragged over the page until that takes them, then let go.

        A busy browser may find that what is let go lies nowhere; a person drags it there again.
        """
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        self.page.evaluate(
            "() => ['dragover', 'drop'].forEach((kind) => addEventListener(kind, () => (window.drag = kind)))"
        )

        def drag(*kinds: str) -> object:
            for kind in kinds:
                session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 400, "data": data})
                self.settle()
            return self.page.evaluate("window.drag")

        def dropped() -> bool:
            drag("dragEnter")
            self.page.locator("#drop").wait_for()
            self.until(lambda: drag("dragOver") == "dragover")
            return drag("drop") == "drop"

        return self.until(dropped)

    def until(self, happened: Callable[[], object]) -> Viewer:
        """Wait for what no locator can: the page's policy forbids the browser to wait for an expression itself."""
        end = monotonic() + PATIENCE / 1000
        while not happened():
            assert monotonic() < end, f"it didn't happen; the page says: {self.text('body')}"
            self.page.wait_for_timeout(50)
        return self

    def read(self) -> Viewer:
        """Wait until the film is there and read."""
        self.page.locator(".finding").first.wait_for()
        self.page.locator(".pane .numbers", has_text=re.compile(r"\d")).first.wait_for()
        return self.settle()

    def settle(self) -> Viewer:
        """Wait until what changed is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self

    def press(self, *keys: str) -> Viewer:
        for key in keys:
            self.page.keyboard.press(key)
        return self.settle()

    def drag(self, dx: int, dy: int, **options: Any) -> Viewer:
        box = self.pane()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down(**options)
        self.page.mouse.move(x + dx, y + dy, steps=MOUSE_STEPS)
        self.page.mouse.up(**options)
        return self.settle()

    def hover_film(self, x: float, y: float) -> Viewer:
        """Move to a place of the film, in [0, 1]: the film is square and fills the height or the width."""
        self.page.mouse.move(*self._on_screen(x, y))
        return self.settle()

    def click_film(self, x: float, y: float) -> Viewer:
        """Click a place of the film, as for `hover_film`."""
        self.page.mouse.click(*self._on_screen(x, y))
        return self.settle()

    def _on_screen(self, x: float, y: float) -> tuple[float, float]:
        box = self.pane()
        side = min(box["width"], box["height"])
        left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
        return left + x * side, top + y * side

    def pane(self) -> Any:
        return self.page.locator(".pane").first.bounding_box()

    def pixels(self, layer: str = "film", pane: int = 0) -> NDArray[np.uint8]:
        """Return what a canvas of a pane shows, (H, W, 4)."""
        data = self.page.evaluate(
            "([layer, pane]) => document.querySelectorAll(`canvas.${layer}`)[pane].toDataURL('image/png')", [layer, pane]
        )
        return np.asarray(Image.open(BytesIO(b64decode(data.partition(",")[2]))).convert("RGBA"))

    def finding(self, name: str) -> Any:
        return self.page.locator(f'.finding[data-id="{name}"]')

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).inner_text().split())

    def numbers(self) -> tuple[int, int, int]:
        """Return window, level and zoom in per cent, as they stand on the film."""
        found = re.match(r"W (-?[\d.]+) L (-?[\d.]+) · (\d+) %", self.text(".pane .numbers"))
        assert found
        return round(float(found[1])), round(float(found[2])), int(found[3])


@pytest.fixture
def open_viewer(browser: Browser, server: ViewerServer) -> Iterator[Callable[..., Viewer]]:
    """Open the page in a window of its own. What it complains of in its console fails the test: a refused script, say."""
    contexts, complaints = [], []

    def make(size: str = "small", **options: Any) -> Viewer:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        return Viewer(page, server)

    yield make
    for context in contexts:
        context.close()
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@pytest.fixture(scope="module")
def real_server(tiny_run: Path, phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`medlip serve` with a model, and the same one calibrated; its address."""
    calibrated = tmp_path_factory.mktemp("served") / "calibrated"
    shutil.copytree(tiny_run, calibrated)
    calibrate(load_run(calibrated), Store.open(phantom_store), split="all").save(calibrated / CALIBRATION)
    command = [sys.executable, "-m", "medlip", "serve", tiny_run, calibrated, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as served:
        try:
            assert served.stdout is not None
            yield json.loads(served.stdout.readline())["address"]
        finally:
            served.terminate()


@pytest.fixture
def viewer(open_viewer: Callable[..., Viewer]) -> Viewer:
    return open_viewer()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of every kind that is dropped on a viewer."""
    folder = tmp_path_factory.mktemp("films")
    picture = Image.open(BytesIO(png(2)))
    grey = np.asarray(picture).astype(np.uint16)
    deep = (grey * 16 + np.arange(grey.shape[1], dtype=np.uint16) % 16).astype(np.uint16)
    ramp = np.tile(np.arange(RAMP, RAMP + 512, dtype=np.uint16), (512, 1))  # each column has a code of its own
    contents: dict[str, bytes] = {
        "ramp.dcm": encoded(dataset(ramp, BitsStored=12, HighBit=11)),
        "film.png": png(2),
        "film.dcm": encoded(dataset(deep, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)),
        "lateral.dcm": encoded(dataset(deep, BitsStored=12, HighBit=11, ViewPosition="LL")),
        "knee.dcm": encoded(dataset(deep, BitsStored=12, HighBit=11, Modality="CT")),
        "broken.png": png(2)[:2000],
        "notes.txt": b"This is no image.",
        "huge.png": png(2) + bytes(LIMITS["upload_bytes"]),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    picture.save(folder / "film.jpg", quality=95)
    (folder / "study" / "series").mkdir(parents=True)
    (folder / "study" / "1.png").write_bytes(png(0))
    (folder / "study" / "series" / "2.png").write_bytes(png(4))
    return {path.name: path for path in folder.iterdir()}


# What comes in


@pytest.mark.parametrize("name", ["film.png", "film.jpg", "film.dcm"])
def test_a_film_that_is_dropped_is_read(viewer: Viewer, films: dict[str, Path], name: str) -> None:
    viewer.go().drop(films[name]).read()
    assert viewer.text('.finding[data-id="pneumothorax"] .name') == "Pneumothorax"
    assert viewer.pixels().std() > 20


def test_films_can_be_chosen_and_each_is_one_key_away(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().choose(films["film.png"], films["film.jpg"])
    viewer.read()
    viewer.page.locator('.thumb[data-status="ready"]').nth(1).wait_for()
    assert "film.png" in viewer.text(".pane .title")
    assert "film.jpg" in viewer.press("n").text(".pane .title")


def test_a_folder_is_a_study_of_all_films_in_it_and_has_one_report(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().drop(films["study"])
    viewer.page.locator(".thumb").nth(1).wait_for()
    viewer.page.get_by_role("tab", name="Report").click()
    viewer.page.locator("#report").fill("FINDINGS: No effusion.")
    viewer.page.locator(".thumb-main").nth(1).click()
    assert viewer.page.locator("#report").input_value() == "FINDINGS: No effusion."


def test_an_example_comes_with_its_report(viewer: Viewer) -> None:
    viewer.example(3).press("g", "g")
    assert viewer.page.locator("#report").input_value() == study(2).report


def test_another_example_is_a_key_away_and_the_first_one_stays(viewer: Viewer) -> None:
    viewer.example(1).press("o")
    viewer.page.get_by_role("button", name="Synthetic X-ray 2").click()
    viewer.page.locator(".thumb-main").nth(1).wait_for()
    assert "Synthetic X-ray 2" in viewer.read().text(".pane .title")
    assert viewer.page.locator(".thumb-main").count() == 2


def test_the_page_is_painted_before_the_server_says_anything(viewer: Viewer) -> None:
    viewer.page.route("**/v1/**", lambda route: None)  # no answer, ever
    viewer.page.goto(viewer.server.address)
    viewer.until(lambda: viewer.page.evaluate("performance.getEntriesByName('first-contentful-paint').length"))
    assert "What does the model see?" in viewer.text("#welcome")


def test_nothing_is_asked_of_another_site_and_no_file_name_is_sent(viewer: Viewer, films: dict[str, Path]) -> None:
    hosts = set()
    viewer.page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    viewer.go().choose(films["film.png"])
    viewer.read()
    assert hosts - {""} == {urlsplit(viewer.server.address).netloc}
    assert len(viewer.server.received) >= 2
    assert not any(b"film.png" in body for body in viewer.server.received)


# Findings and maps


def test_findings_are_sorted_and_say_probability_threshold_and_place(viewer: Viewer) -> None:
    viewer.example(3)
    shown = [float(text.strip("< ")) for text in viewer.page.locator(".finding .row .number").all_inner_texts()]
    assert shown == sorted(shown, reverse=True) and shown[0] > 0.8
    assert viewer.page.locator('.finding[data-present="true"]').count() == len(
        {mask.pathology for mask in study(2).views[0].masks}
    )
    assert viewer.page.locator('.finding .gauge[data-threshold="true"]').count() == len(shown)
    assert "Right lung apex" in viewer.finding("pneumothorax").inner_text()
    assert "not calibrated" in viewer.text(".list") and "one half for all" in viewer.text(".list")


def test_all_findings_can_be_listed(viewer: Viewer) -> None:
    viewer.example(3)
    before = viewer.page.locator(".finding").count()
    viewer.page.get_by_role("button", name=re.compile("Show all .* below")).click()
    assert viewer.page.locator(".finding").count() > 2 * before


def test_a_finding_that_is_clicked_shows_its_map_where_the_finding_is(viewer: Viewer) -> None:
    viewer.example(3)
    assert viewer.pixels("maps").max() == 0
    viewer.finding("pneumothorax").locator(".row").click()
    drawn = viewer.settle().pixels("maps")[..., 3] > 0
    (mask,) = (mask.pixels for mask in study(2).views[0].masks if mask.pathology == "pneumothorax")
    row, column = np.argwhere(drawn).mean(0) - (np.array(drawn.shape) - 1) / 2
    wanted = (np.argwhere(mask).mean(0) - 255.5) * min(drawn.shape) / 512
    assert np.hypot(*(np.array([row, column]) - wanted)) < 0.05 * min(drawn.shape)
    viewer.finding("pneumothorax").locator(".row").click()  # again: it is hidden
    assert viewer.settle().pixels("maps").max() == 0


def test_sliders_change_how_maps_are_drawn(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.finding("pneumothorax").locator(".row").click()
    viewer.settle()

    def drawn(slider: str, value: str) -> NDArray[np.uint8]:
        viewer.page.locator(slider).fill(value)
        return viewer.settle().pixels("maps")[..., 3]

    assert drawn("#opacity", "0.9").max() > drawn("#opacity", "0.3").max()
    assert (drawn("#floor", "0.05") > 0).sum() > (drawn("#floor", "0.6") > 0).sum() > 0


def test_the_scale_says_what_a_colour_means(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.finding("pneumothorax").locator(".row").click()
    viewer.page.locator("#floor").fill("0.25")
    label = viewer.page.locator(".scale").get_attribute("aria-label")
    assert label == "Scale of Pneumothorax: 0 to 1, probability; below 0.25 nothing is drawn"
    viewer.press("s")
    assert "0 to 0.87, probability" in str(viewer.page.locator(".scale").get_attribute("aria-label"))


def test_a_map_without_an_absolute_scale_says_so(viewer: Viewer) -> None:
    viewer.example(3).page.locator("#model").select_option("plain")
    viewer.page.locator('.finding[data-id="pneumothorax"] .row').click()
    viewer.page.locator(".scale").wait_for()
    assert "own scale" in str(viewer.page.locator(".scale").get_attribute("aria-label"))


def test_several_findings_have_colours_of_their_own(viewer: Viewer) -> None:
    viewer.example(3).press("1", "2")
    colours = [
        row.evaluate("row => row.style.getPropertyValue('--tint')")
        for row in viewer.page.locator('.swatch[aria-pressed="true"]').all()
    ]
    assert len(colours) == len(set(colours)) == 2
    assert viewer.page.locator(".scale").count() == 2
    painted = viewer.pixels("maps")
    strong = painted[painted[..., 3] > 100]
    assert (strong[:, 2] > strong[:, 0] + 60).any() and (strong[:, 0] > strong[:, 2] + 60).any()  # blue and orange


def test_a_study_is_summed_up_by_the_film_that_shows_a_finding_most(viewer: Viewer, films: dict[str, Path]) -> None:
    first, second = films["study"] / "1.png", films["study"] / "series" / "2.png"
    viewer.go().choose(first, second, films["lateral.dcm"]).read()
    summary = viewer.page.locator(".study")
    summary.filter(has_text="Without a reading").wait_for(state="detached")
    assert "highest of 3 films" in summary.inner_text()
    assert "Left out because of doubts: lateral.dcm" in summary.inner_text()
    there = [{mask.pathology for mask in study(index).views[0].masks} for index in (0, 4)]
    told = dict(row.evaluate("row => [row.dataset.of, row.querySelector('.name .soft').textContent.trim()]")
                for row in summary.locator("li").all())  # fmt: skip
    assert told.keys() == there[0] | there[1]
    assert all(told[name] == "1.png" for name in there[0] - there[1])
    assert all(told[name] == "2.png" for name in there[1] - there[0])
    only = next(iter(there[1] - there[0]))
    summary.locator(f'[data-of="{only}"] button').click()
    assert "2.png" in viewer.settle().text(".pane .title")
    assert viewer.page.locator(".scale").count() == 1


def test_a_film_of_its_own_has_no_summary(viewer: Viewer) -> None:
    viewer.example(1).press("o").page.get_by_role("button", name="Synthetic X-ray 2").click()
    viewer.page.locator(".thumb-main").nth(1).wait_for()
    assert viewer.read().page.locator(".study").count() == 0


def test_a_place_that_is_clicked_tells_what_is_said_there(viewer: Viewer) -> None:
    viewer.example(3)
    (mask,) = (mask.pixels for mask in study(2).views[0].masks if mask.pathology == "pneumothorax")
    y, x = np.argwhere(mask).mean(0) / 512
    viewer.click_film(x, y)
    assert "Pneumothorax" in viewer.text("#inquiry li:first-child")
    assert "Not a medical device" in viewer.text("#inquiry")
    assert "Pneumothorax" not in viewer.click_film(0.9, 0.6).text("#inquiry")


def test_a_place_names_the_anatomy_in_which_what_is_seen_there_lies(viewer: Viewer) -> None:
    viewer.example(3)
    (mask,) = (mask.pixels for mask in study(2).views[0].masks if mask.pathology == "pneumothorax")
    y, x = np.argwhere(mask).mean(0) / 512
    assert "Right lung apex" in viewer.hover_film(x, y).text(".pane .under")
    viewer.click_film(x, y).page.locator("#inquiry .chip", has_text="Right lung apex").click()
    assert viewer.settle().text("#inquiry h2") == "Right lung apex"
    assert re.fullmatch(r"value \d+", viewer.hover_film(0.9, 0.6).text(".pane .under"))  # nothing is seen there
    assert viewer.click_film(0.9, 0.6).page.locator("#inquiry .chip").count() == 0


def test_an_anatomy_that_is_clicked_tells_what_is_said_there_and_in_the_report(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.finding("pneumothorax").locator(".row").click()
    viewer.page.get_by_role("button", name="Right lung apex").click()
    said = viewer.text("#inquiry")
    assert said.startswith("Right lung apex Pneumothorax") and "Right apical pneumothorax, moderate-sized." in said


def test_a_text_is_asked_and_answered_with_probability_and_map(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.finding("air outside the lung").wait_for()
    assert re.search(r"0\.\d\d", viewer.finding("air outside the lung").inner_text())
    assert viewer.settle().pixels("maps").max() > 0


def test_a_finding_that_is_asked_by_name_is_not_asked_again(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.locator("#ask").fill("pneumothorax")
    viewer.page.keyboard.press("Enter")
    assert viewer.settle().page.locator(".scale").count() == 1
    assert "/v1/ask" not in viewer.server.asked


def test_a_text_that_can_not_be_answered_is_not_lost(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.locator("#ask").fill("unanswerable")
    viewer.page.keyboard.press("Enter")
    viewer.page.locator("#ask-note", has_text="no words for it").wait_for()
    assert viewer.page.locator("#ask").input_value() == "unanswerable"
    assert viewer.page.locator(".finding").count() > 5


# Matrix and report


def test_a_cell_of_the_matrix_shows_its_finding_and_its_place(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.get_by_role("tab", name="Matrix").click()
    viewer.page.get_by_role("button", name=re.compile("^Pneumothorax, Right lung apex: 0.7")).click()
    assert viewer.settle().page.locator(".scale").count() == 1
    assert viewer.text("#inquiry").startswith("Right lung apex Pneumothorax")
    assert viewer.page.locator('.cell[data-said="present"]').count() == 2


def test_the_matrix_can_be_walked_by_arrows_and_seen_whole(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.get_by_role("tab", name="Matrix").click()
    viewer.page.locator('.cell[tabindex="0"]').focus()
    viewer.press("ArrowRight", "ArrowDown")
    assert viewer.page.evaluate("document.activeElement.dataset.part") == "1,1"
    viewer.page.get_by_role("button", name=re.compile("^All ")).click()
    assert viewer.page.locator(".cell").count() == 75 * 51


def test_a_model_without_places_says_that_there_is_no_matrix(viewer: Viewer) -> None:
    viewer.example(3).page.locator("#model").select_option("plain")
    viewer.page.get_by_role("tab", name="Matrix").click()
    viewer.page.locator("#panel-matrix", has_text="there is no matrix").wait_for()


def test_a_report_stands_beside_the_image_with_its_sentences(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.get_by_role("tab", name="Report").click()
    viewer.page.locator("#report").fill(
        "FINDINGS: Left apical pneumothorax. Large left effusion. No tube in the trachea. Possible edema."
    )
    viewer.page.locator(".verdict", has_text="Possible edema.").wait_for()

    def verdict(pathology: str) -> tuple[str, str]:
        card = viewer.page.locator(f'.verdict[data-pathology="{pathology}"]')
        return str(card.get_attribute("data-kind")), card.locator("blockquote").inner_text()

    assert verdict("pneumothorax") == ("side", "Left apical pneumothorax.")
    assert verdict("effusion") == ("contradicts", "Large left effusion.")
    assert verdict("tube") == ("contradicts", "No tube in the trachea.")
    assert verdict("edema") == ("hedged", "Possible edema.")
    assert "2 contradictions" in viewer.text(".summary")


def test_what_report_and_image_agree_on_and_what_only_the_image_says(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.get_by_role("tab", name="Report").click()
    viewer.page.locator("#report").fill("FINDINGS: Right apical pneumothorax. 😀 No effusion.")
    viewer.page.locator('.verdict[data-kind="agrees"]').nth(1).wait_for()
    assert viewer.page.locator('.verdict[data-kind="image"]').get_attribute("data-pathology") == "tube"
    marked = viewer.page.locator('.verdict[data-pathology="effusion"] mark').inner_text()
    assert marked == "effusion"  # offsets count code points: the emoji before it is one


def test_a_report_that_can_not_be_read_says_why_and_stays(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.page.get_by_role("tab", name="Report").click()
    viewer.page.locator("#report").fill("Befund: Kein Erguss.")
    viewer.page.locator(".verdicts", has_text="not in English").wait_for()
    assert viewer.page.locator("#report").input_value() == "Befund: Kein Erguss."


# The film


def test_dragging_sets_window_and_level(viewer: Viewer) -> None:
    viewer.example(3)
    width, level, _ = viewer.numbers()
    wider, higher, _ = viewer.drag(100, 60).numbers()
    assert wider > width and higher > level
    assert viewer.page.locator("#inquiry").is_hidden()  # that was no click


def test_a_film_of_12_bits_is_windowed_without_loss(viewer: Viewer, films: dict[str, Path]) -> None:
    """Codes that 8 bits would make one grey are greys of their own in a window that is narrow enough."""
    viewer.go("#window=1256,64&view=1,0.5,0.5").choose(films["ramp.dcm"])
    viewer.read()
    assert "12 bit" in viewer.text(".pane .numbers")
    assert viewer.numbers()[:2] == (64, 1256)
    shown = viewer.pixels()[..., 0].astype(float)
    height, width = shown.shape
    scale = min(height, width) / 512
    column = (np.arange(width) + 0.5 - (width - 512 * scale) / 2) / scale - 0.5
    wanted = ((RAMP + column - 1256) / 64 + 0.5).clip(0, 1) * 255
    inside = (column > 1) & (column < 510)
    assert np.abs(shown[height // 2] - wanted)[inside].max() <= 255 / 64 / 2 + 1
    assert len(np.unique(shown[height // 2])) > 50  # of 8 bits there would be four


def test_wheel_zooms_and_shift_drags(viewer: Viewer) -> None:
    viewer.example(3)
    whole = viewer.numbers()[2]
    box = viewer.pane()
    viewer.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    viewer.page.mouse.wheel(0, -300)
    assert viewer.settle().numbers()[2] == pytest.approx(2 * whole, rel=0.02)
    before = viewer.pixels()[..., 0].astype(int)
    viewer.page.keyboard.down("Shift")
    viewer.drag(80, 0)
    viewer.page.keyboard.up("Shift")
    after = viewer.pixels()[..., 0].astype(int)
    assert np.abs(after[:, 80:] - before[:, :-80]).mean() < 2 < np.abs(after - before).mean()


def test_flipping_mirrors_film_map_and_side_markers_together(viewer: Viewer) -> None:
    viewer.example(3)
    viewer.finding("pneumothorax").locator(".row").click()
    viewer.settle()
    film, maps = viewer.pixels().astype(int), viewer.pixels("maps").astype(int)
    right, left = (viewer.page.locator(".marker", has_text=side).bounding_box() for side in "RL")
    assert right["x"] < left["x"]  # the patient's right is on the image's left
    viewer.press("f")
    assert np.abs(viewer.pixels()[:, ::-1].astype(int) - film).mean() < 1
    assert np.abs(viewer.pixels("maps")[:, ::-1].astype(int) - maps).mean() < 1
    right, left = (viewer.page.locator(".marker", has_text=side).bounding_box() for side in "RL")
    assert right["x"] > left["x"]


def test_inverting_and_resetting(viewer: Viewer) -> None:
    viewer.example(3)
    before = viewer.pixels()
    shown = before[..., 3] == 255
    assert np.abs(255 - viewer.press("i").pixels()[shown][:, 0].astype(int) - before[shown][:, 0]).max() <= 1
    viewer.press("f", "+", "+").drag(60, 40)
    assert (viewer.pixels() != before).any()
    assert (viewer.press("r").pixels() == before).all()


def test_two_fingers_zoom(open_viewer: Callable[..., Viewer]) -> None:
    viewer = open_viewer("tablet", has_touch=True).example(3)
    before = viewer.numbers()[2]
    box = viewer.pane()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = viewer.page.context.new_cdp_session(viewer.page)

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}] if kind != "touchEnd" else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 50)
    for apart in (60, 80, 100):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    assert viewer.settle().numbers()[2] == pytest.approx(2 * before, rel=0.1)


# The keyboard


def test_every_gesture_has_its_key(viewer: Viewer) -> None:
    """Example, maps, opacity, window, zoom, pan, the crosshair, the tabs: with no mouse at all."""
    viewer.go().page.locator("#example-list button").nth(2).focus()
    viewer.press("Enter").read().press("j")
    assert viewer.settle().pixels("maps").max() > 0
    opaque = viewer.pixels("maps")[..., 3].max()
    assert viewer.press("[", "[").pixels("maps")[..., 3].max() < opaque
    assert viewer.press("m").pixels("maps").max() == 0
    viewer.page.locator(".pane").focus()
    width, level, zoom = viewer.press("m").numbers()
    assert viewer.press("w", "ArrowRight", "ArrowDown").numbers()[0] > width
    assert viewer.numbers()[1] > level
    assert viewer.press("z", "ArrowUp").numbers()[2] > zoom
    before = viewer.pixels()
    assert (viewer.press("p", "ArrowLeft").pixels() != before).any()
    viewer.press("x", "ArrowUp", "Enter")
    assert "At this place" in viewer.text("#inquiry")
    assert viewer.press("Escape").page.locator("#inquiry").is_hidden()
    viewer.press("g")
    assert viewer.page.locator("#panel-matrix").is_visible()


def test_arrows_walk_the_list_and_space_adds_to_what_is_shown(viewer: Viewer) -> None:
    viewer.example(3).page.locator(".finding .row").first.focus()
    viewer.press("Enter", "ArrowDown", "Space")
    assert viewer.page.locator(".scale").count() == 2
    viewer.press("Space")
    assert viewer.page.locator(".scale").count() == 1


def test_the_help_names_every_key_and_single_keys_can_be_turned_off(viewer: Viewer) -> None:
    viewer.example(3).press("?")
    for word in ("Window and level", "invert", "flip", "opacity", "next, previous finding", "export", "dark or light"):
        assert word.lower() in viewer.text("#help-dialog").lower()
    viewer.page.get_by_label("Single keys do something").uncheck()
    viewer.press("Escape", "i")
    assert viewer.page.locator("#tool-invert").get_attribute("aria-pressed") == "false"


# Looks


def test_the_theme_is_kept(viewer: Viewer) -> None:
    viewer.go().press("t")
    assert viewer.page.evaluate("document.documentElement.dataset.theme") == "light"
    viewer.page.reload()
    assert viewer.page.evaluate("document.documentElement.dataset.theme") == "light"


CONTRAST = """() => {
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((k) => top[k] * top[3] + under[k] * (1 - top[3]));
  const behind = (element) => {
    if (!element) return [0, 0, 0];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] >= 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!text || !seen || element.closest(".unseen, noscript, option, :disabled")) continue;
    const back = behind(element);
    const front = over(rgba(getComputedStyle(element).color), back);
    const [lighter, darker] = [luminance(front), luminance(back)].sort((x, y) => y - x);
    const ratio = (lighter + 0.05) / (darker + 0.05);
    if (ratio < 4.5) poor.push(`${element.className || element.tagName} "${text.slice(0, 30)}" ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_all_text_can_be_read(viewer: Viewer, theme: str) -> None:
    """Contrast of 4.5 at least, as WCAG 2.2 AA asks, of every text that is seen."""
    viewer.example(3)
    if theme == "light":
        viewer.press("t")
    assert viewer.page.evaluate(CONTRAST) == []
    viewer.press("1", "2").click_film(0.4, 0.3)
    for _ in range(4):
        assert viewer.press("g").page.evaluate(CONTRAST) == []
    for key in ("?", "e"):
        assert viewer.press(key).page.evaluate(CONTRAST) == []
        viewer.press("Escape")
    assert viewer.press("o").page.evaluate(CONTRAST) == []


@pytest.mark.skipif("AXE" not in os.environ, reason="needs AXE=axe.min.js, of the package axe-core of npm")
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_has_nothing_against_any_part_of_the_page(
    open_viewer: Callable[..., Viewer], films: dict[str, Path], theme: str
) -> None:
    viewer = open_viewer(bypass_csp=True).go()
    viewer.page.add_script_tag(path=os.environ["AXE"])

    def complaints() -> list[str]:
        return list(
            viewer.page.evaluate(
                """async () => (await axe.run({ resultTypes: ["violations"] })).violations.flatMap(
                    ({ id, help, nodes }) => nodes.map(({ html }) => `${id}: ${help}: ${html.slice(0, 120)}`))"""
            )
        )

    if theme == "light":
        viewer.press("t")
    assert complaints() == []
    viewer.choose(films["film.png"], films["lateral.dcm"]).read().press("1", "2").click_film(0.4, 0.3)
    viewer.page.locator(".study", has_text="Without a reading").wait_for(state="detached")
    for _ in range(4):  # findings, matrix, report, about
        assert complaints() == []
        viewer.press("g")
    viewer.press("c").page.locator(".measure ~ .measure").first.wait_for()
    assert complaints() == []
    for key in ("?", "e"):
        assert viewer.press(key).page.locator("dialog[open]").count() == 1
        assert complaints() == []
        viewer.press("Escape")


@pytest.mark.parametrize("size", ["desk", "laptop", "tablet"])
def test_every_part_fits_the_screen(open_viewer: Callable[..., Viewer], size: str) -> None:
    viewer = open_viewer(size).example(3).press("1")
    width, height = SIZES[size]
    for tab in ("Findings", "Matrix", "Report", "About"):
        viewer.page.get_by_role("tab", name=tab).click()
        wide, high = viewer.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert (wide, high) == (width, height)
    viewer.page.get_by_role("tab", name="Findings").click()
    pane = viewer.pane()
    assert pane["width"] * pane["height"] > 0.42 * width * height  # the film is what is looked at
    for part in ("#not-medical", "#panel .foot", "#model", "#open", "#help", "#opacity"):
        box = viewer.page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height


def test_everything_that_acts_has_a_name_and_is_reached_by_tab(viewer: Viewer) -> None:
    viewer.example(3).press("1")
    nameless = viewer.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [tabindex]")]
            .filter((one) => one.checkVisibility() && !one.matches("[tabindex='-1']"))
            .filter((one) => !one.ariaLabel && !one.textContent.trim() && !one.labels?.length)
            .filter((one) => !one.getAttribute("aria-labelledby"))
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    viewer.page.locator(".skip").focus()
    reached = ["skip"]
    for _ in range(40):
        viewer.page.keyboard.press("Tab")
        reached.append(viewer.page.evaluate("(document.activeElement.id || document.activeElement.className)"))
    order = ["skip", "model", "open", "theme", "help", "tool-window", "pane", "tab-findings", "ask", "opacity", "floor"]
    places = [next((k for k, name in enumerate(reached) if part in name), None) for part in order]
    assert None not in places, dict(zip(order, places, strict=True))
    assert places == sorted(places)


# Two models


def test_two_models_stand_side_by_side_on_one_film(viewer: Viewer) -> None:
    viewer.example(3).press("c")
    viewer.page.locator('.finding[data-id="pneumothorax"] .measure').nth(1).wait_for()
    assert viewer.page.locator(".pane").count() == 2
    first, second = (float(text) for text in viewer.finding("pneumothorax").locator(".row .number").all_inner_texts())
    assert first > 0.8 > second > 0.5
    viewer.finding("pneumothorax").locator(".row").click()
    viewer.settle()
    assert 0 < viewer.pixels("maps", 1)[..., 3].max() < viewer.pixels("maps", 0)[..., 3].max()
    viewer.press("f", "i")
    assert (viewer.pixels("film", 0) == viewer.pixels("film", 1)).all()


# What is taken away


def _saved(viewer: Viewer, button: str, tmp_path: Path) -> Path:
    viewer.press("e")
    with viewer.page.expect_download() as download:
        viewer.page.locator(button).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_the_picture_holds_the_view_and_says_that_it_is_no_medical_device(
    viewer: Viewer, films: dict[str, Path], tmp_path: Path
) -> None:
    viewer.go().choose(films["film.png"])
    viewer.read().press("1")
    saved = np.asarray(Image.open(_saved(viewer, "#export-png", tmp_path)).convert("RGB")).astype(int)
    film = viewer.pixels()
    height = film.shape[0]
    assert saved.shape[1] == film.shape[1] and saved.shape[0] > height + 40
    assert (np.ptp(saved[:height], axis=2) > 60).any()  # the map's colours
    orange = (saved[height:, :, 0] > 200) & (saved[height:, :, 2] < 150)
    assert orange.sum() > 100  # the disclaimer's line


def test_the_json_holds_reading_report_and_disclaimer_and_no_file_name(
    viewer: Viewer, films: dict[str, Path], tmp_path: Path
) -> None:
    viewer.go().choose(films["film.png"])
    viewer.read().press("1", "g", "g")
    viewer.page.locator("#report").fill("FINDINGS: No pneumothorax.")
    viewer.page.locator(".verdict").first.wait_for()
    viewer.page.locator("#tab-report").focus()
    saved = _saved(viewer, "#export-json", tmp_path)
    document = json.loads(saved.read_text())
    assert document["disclaimer"] == DISCLAIMER
    assert document["readings"][0]["findings"][0]["pathology"] == "pneumothorax"
    assert document["readings"][0]["model"]["hash"] == "0123456789abcdef"
    assert {"verdict": "contradicts", "pathology": "pneumothorax", "report": "absent"}.items() <= document["report"][
        "compared"
    ][0].items()
    assert len(document["film"]["sha256"]) == 64
    assert "film.png" not in saved.read_text()


def test_a_link_shows_the_same_view_to_somebody_else(viewer: Viewer, open_viewer: Callable[..., Viewer]) -> None:
    viewer.example(3)
    viewer.page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.finding("air outside the lung").wait_for()
    viewer.press("Escape", "2", "c").page.locator("#opacity").fill("0.5")
    viewer.page.locator("#floor").fill("0.1")
    viewer.settle().drag(60, 40).press("+", "+", "f", "i", "e")
    link = viewer.page.locator("#link").input_value()
    viewer.press("Escape")
    other = open_viewer()
    other.page.goto(link)
    other.page.locator('.finding[data-id="pneumothorax"] .measure').nth(1).wait_for()
    other.read().finding("air outside the lung").wait_for()
    other.settle()
    for layer in ("film", "maps"):
        for pane in (0, 1):
            assert np.abs(other.pixels(layer, pane).astype(int) - viewer.pixels(layer, pane).astype(int)).max() <= 2


def test_a_link_to_a_film_of_ones_own_asks_for_it_and_holds_neither_its_name_nor_the_report(
    viewer: Viewer, films: dict[str, Path]
) -> None:
    viewer.go().choose(films["film.png"])
    viewer.read().press("i", "g", "g")
    viewer.page.locator("#report").fill("FINDINGS: Smith has an effusion.")
    viewer.page.locator("#tab-findings").click()
    viewer.press("e")
    link = viewer.page.locator("#link").input_value()
    assert "film" not in link.partition("#")[2] and "Smith" not in link
    viewer.page.goto("about:blank")
    viewer.page.goto(link)
    viewer.page.locator("#welcome", has_text="Drop the same file").wait_for()
    viewer.choose(films["film.png"])
    viewer.read()
    assert viewer.page.locator("#tool-invert").get_attribute("aria-pressed") == "true"


# Trouble


@pytest.mark.parametrize(("name", "said"), [("broken.png", "broken or truncated"), ("notes.txt", "The image can't be read")])
def test_a_file_that_can_not_be_read_says_why_and_the_others_stay(
    viewer: Viewer, films: dict[str, Path], name: str, said: str
) -> None:
    viewer.go().choose(films[name], films["film.png"])
    viewer.page.locator(".pane-state.failed", has_text=said).wait_for()
    viewer.page.get_by_role("button", name="Take it away").click()
    assert "film.png" in viewer.read().text(".pane .title")


def test_an_image_that_is_no_frontal_chest_film_is_shown_with_a_warning(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().choose(films["knee.dcm"])
    viewer.read()
    assert "What is read here may mean little: the modality is CT" in viewer.text(".list")


def test_a_huge_file_is_not_even_sent(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().choose(films["huge.png"])
    viewer.page.locator(".pane-state.failed", has_text="too large").wait_for()
    assert "the server takes 4 MB" in viewer.text(".pane-state")
    assert viewer.server.asked == []


def test_nothing_is_lost_when_the_server_goes_and_all_goes_on_when_it_is_back(
    viewer: Viewer, films: dict[str, Path]
) -> None:
    viewer.example(3)
    viewer.server.stop()
    viewer.page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.page.locator("#notice", has_text="The server doesn't answer").wait_for()
    viewer.choose(films["film.jpg"])
    viewer.page.locator(".pane-state.failed").wait_for()
    viewer.server.start()
    viewer.page.locator("#notice").wait_for(state="hidden")
    viewer.read().finding("air outside the lung").wait_for()
    assert viewer.page.locator('.thumb[data-status="ready"]').count() == 2


def test_a_busy_server_is_asked_again_quietly(viewer: Viewer) -> None:
    viewer.go().server.trouble.busy = 1
    viewer.page.get_by_role("button", name="Synthetic X-ray 3").click()
    viewer.read()
    assert viewer.page.locator("#notice").is_hidden()


def test_an_answer_that_breaks_off_while_the_film_comes_is_asked_for_again(viewer: Viewer) -> None:
    viewer.go().server.trouble = Trouble(broken_off=["/v1/read"], slow={"/v1/pixels": 3})
    viewer.page.get_by_role("button", name="Synthetic X-ray 1").click()
    viewer.read()
    assert viewer.server.asked.count("/v1/read") == 2


def test_any_answer_that_breaks_off_is_asked_for_again(viewer: Viewer) -> None:
    viewer.go().server.trouble.broken_off = ["/v1/pixels", "/v1/ask", "/v1/facts", "/v1/read"]
    viewer.page.get_by_role("button", name="Synthetic X-ray 3").click()
    viewer.read().page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.finding("air outside the lung").wait_for()
    viewer.page.locator("#tab-report").click()
    viewer.page.locator(".verdict").first.wait_for()
    assert viewer.server.trouble.broken_off == []
    viewer.page.locator("#notice").wait_for(state="hidden")


def test_what_broke_off_of_one_film_is_asked_for_again_while_another_is_looked_at(
    viewer: Viewer, films: dict[str, Path]
) -> None:
    viewer.go().server.trouble.broken_off = ["/v1/read", "/v1/read"]
    viewer.choose(films["film.png"], films["film.jpg"]).read()
    assert "Without a reading" in viewer.text(".study") or viewer.server.asked.count("/v1/read") == 4
    viewer.page.locator(".study", has_text="Without a reading").wait_for(state="detached")


def test_a_film_that_is_closed_while_its_answers_come_troubles_nobody(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().server.trouble.slow = {"/v1/pixels": 2}
    requests: list[str] = []
    viewer.page.on("request", lambda request: requests.append(urlsplit(request.url).path))
    with viewer.page.expect_response("**/v1/pixels"):  # of which half came
        viewer.choose(films["film.png"], films["film.jpg"])
    with viewer.page.expect_event("requestfailed"):
        viewer.page.locator(".thumb-close").first.click()
    assert viewer.read().page.locator("#notice").is_hidden()
    assert "film.jpg" in viewer.text(".pane .title")
    assert "/health" not in requests  # nobody took the server for one that is gone


def test_another_model_may_be_chosen_and_another_film_while_a_text_is_asked(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().choose(films["film.png"]).read()
    viewer.choose(films["film.jpg"]).page.locator('.thumb[data-status="ready"]').nth(1).wait_for()
    viewer.read().server.trouble.slow = {"/v1/ask": 1}
    viewer.page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.page.locator("#ask-note", has_text="Asking").wait_for()
    viewer.page.locator(".thumb-main").first.click()
    viewer.page.locator("#model").select_option("doubter")
    viewer.page.locator("#ask-note").wait_for(state="hidden")
    viewer.finding("air outside the lung").wait_for()
    assert 0.5 < float(viewer.page.locator('.finding[data-id="pneumothorax"] .row .number').inner_text()) < 0.7


def test_a_text_that_is_refused_takes_none_with_it_that_is_asked_meanwhile(viewer: Viewer) -> None:
    viewer.example(3).server.trouble.slow = {"/v1/ask": 1}
    for text in ("unanswerable", "air outside the lung"):
        viewer.page.locator("#ask").fill(text)
        viewer.page.keyboard.press("Enter")
    viewer.finding("air outside the lung").wait_for()
    assert viewer.finding("unanswerable").count() == 0


def test_films_and_links_that_come_before_the_server_answers_are_not_lost(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.server.trouble.token = "s3cret"
    viewer.page.goto(viewer.server.address + "#model=fedcba9876543210&floor=0.4")
    viewer.page.locator("#token-dialog[open]").wait_for()
    viewer.choose(films["film.png"])
    viewer.page.locator("#token").fill("s3cret")
    viewer.page.get_by_role("button", name="Go on").click()
    viewer.read()
    assert viewer.page.locator("#model").input_value() == "doubter"
    assert viewer.page.locator("#floor").input_value() == "0.4"


def test_a_server_that_came_back_with_another_token_asks_for_it_and_all_goes_on(viewer: Viewer) -> None:
    viewer.example(3).server.trouble.token = "another"
    viewer.page.locator("#ask").fill("air outside the lung")
    viewer.page.keyboard.press("Enter")
    viewer.page.locator("#token").fill("another")
    viewer.page.get_by_role("button", name="Go on").click()
    viewer.finding("air outside the lung").wait_for()
    assert viewer.page.locator("#notice").is_hidden()


def test_a_server_that_stays_busy_says_so_and_is_asked_again_on_demand(viewer: Viewer, films: dict[str, Path]) -> None:
    viewer.go().server.trouble.busy = 100
    viewer.choose(films["film.png"])
    viewer.page.locator("#notice", has_text="The server is busy").wait_for()
    viewer.server.trouble.busy = 0
    viewer.page.locator("#notice").get_by_role("button", name="Try again").click()
    viewer.read()


def test_a_server_with_a_token_asks_for_it(viewer: Viewer) -> None:
    viewer.server.trouble.token = "s3cret"
    viewer.page.goto(viewer.server.address)
    viewer.page.locator("#token").fill("s3cret")
    viewer.page.get_by_role("button", name="Go on").click()
    viewer.page.locator("#example-list img").first.wait_for()
    assert viewer.page.locator("#example-list li").count() == EXAMPLES


# The real server


def test_a_trained_model_is_served_to_the_viewer(open_viewer: Callable[..., Viewer], real_server: str) -> None:
    viewer = open_viewer()
    viewer.page.goto(real_server)
    viewer.page.get_by_role("button", name="Synthetic X-ray 1").click()
    viewer.read().press("1")
    assert viewer.pixels().std() > 20
    assert viewer.page.locator(".scale").count() == 1
    assert "one half for every finding" in viewer.text(".list")
    viewer.page.locator("#tab-matrix").click()
    assert viewer.page.locator(".cell").count() > 50
    viewer.page.locator("#tab-report").click()
    viewer.page.locator(".verdict").first.wait_for()


def test_a_calibrated_model_says_where_its_thresholds_are_from_and_what_there_is_to_doubt_about_a_film(
    open_viewer: Callable[..., Viewer], real_server: str, films: dict[str, Path]
) -> None:
    viewer = open_viewer()
    viewer.page.goto(real_server)
    viewer.page.locator("#model").select_option("calibrated")
    viewer.choose(films["film.dcm"], films["lateral.dcm"], films["knee.dcm"]).read()
    viewer.page.locator(".study", has_text="Without a reading").wait_for(state="detached")
    assert "Probabilities are calibrated." in viewer.text(".list")
    assert "Threshold: specificity=0.9 on 60 images of phantom (all), by their labels." in viewer.text(".list")
    assert "Left out because of doubts: lateral.dcm, knee.dcm." in viewer.text(".study")
    thresholds = viewer.page.locator(".finding .gauge").evaluate_all(
        "gauges => gauges.map((gauge) => gauge.style.getPropertyValue('--threshold'))"
    )
    assert len(set(thresholds)) > 1  # each finding has its own
    for doubt in ("the view is lateral", "the modality is CT"):
        assert f"What is read here may mean little: {doubt}" in viewer.press("n").text(".list")


# Not a medical device


def test_the_page_says_everywhere_that_it_is_no_medical_device(viewer: Viewer) -> None:
    html = (Path(__file__).parents[1] / "src/medlip/app/viewer/index.html").read_text(encoding="utf-8")
    assert html.count("Not a medical device") >= 2
    viewer.example(3)
    for selector in ("#not-medical", "#panel .foot"):
        assert "Not a medical device" in viewer.text(selector)
    for key, dialog in (("?", "#help-dialog"), ("e", "#export-dialog")):
        assert "Not a medical device" in viewer.press(key).text(dialog)
        viewer.press("Escape")
