"""How soon the viewer is painted, and how long a frame takes while the window is dragged, by the browser's own clock.

    medlip serve demo/run --port 8000 &
    python tests/viewer_speed.py http://127.0.0.1:8000/

It prints milliseconds as JSON: the median of the first paint over fresh visits, and of the time between two frames while
window and level of a film of 512 and of 3,000 pixels are dragged, with the slowest of twenty.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import statistics
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VISITS, STEPS = 5, 120
WATCH = """() => {
  window.frames_seen = [];
  const see = (time) => { window.frames_seen.push(time); requestAnimationFrame(see); };
  requestAnimationFrame(see);
}"""


def measure(address: str) -> dict[str, float]:
    """Visit the viewer of a server, and return the milliseconds."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        found = {"first_paint": statistics.median(_first_paint(browser, address) for _ in range(VISITS))}
        for size in (512, 3000):
            between = _dragged(browser, address, size)
            found[f"frame_{size}"] = statistics.median(between)
            found[f"slow_frame_{size}"] = statistics.quantiles(between, n=20)[-1]
        browser.close()
    return {name: round(value, 1) for name, value in found.items()}


def _first_paint(browser: Browser, address: str) -> float:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(address)
    page.locator("#example-list img").last.wait_for()
    painted: float = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return painted


def _dragged(browser: Browser, address: str, size: int) -> list[float]:
    """Return the milliseconds between frames while window and level are dragged over a film with a map."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(address)
    film = page.request.get(f"{address}v1/examples/1").body()
    page.locator("#files").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": _enlarged(film, size)})
    page.locator(".finding").first.wait_for()
    page.locator(".pane .numbers", has_text=re.compile(r"\d")).first.wait_for()
    page.keyboard.press("1")
    page.evaluate(WATCH)
    _drag(page)
    times: list[float] = page.evaluate("window.frames_seen")
    page.context.close()
    return [after - before for before, after in pairwise(times)]


def _drag(page: Page) -> None:
    page.mouse.move(500, 300)
    page.mouse.down()
    for step in range(STEPS):
        page.mouse.move(500 + step, 300 + step)
    page.mouse.up()


def _enlarged(film: bytes, size: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(film)).resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1]), indent=2))
