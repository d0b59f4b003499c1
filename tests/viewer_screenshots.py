"""Pictures of the viewer at three sizes and in both themes, to be looked at; the first one opens the README.

    medlip serve demo/run --port 8000 &
    python tests/viewer_screenshots.py http://127.0.0.1:8000/ pictures

They show synthetic X-rays alone: the examples of the server must be its phantoms.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZES = {1440: 900, 1024: 768, 768: 1024}
COLOURS = 256


def shoot(address: str, out: Path, example: int = 5) -> None:
    """Write pictures of each size, theme and part into a folder."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for theme in ("dark", "light"):
            for width, height in SIZES.items():
                context = browser.new_context(viewport={"width": width, "height": height})
                context.add_init_script(f"localStorage.setItem('medlip-theme', '{theme}')")
                page = context.new_page()
                _each_part(page, address, example, out, f"{width}-{theme}")
                context.close()
        browser.close()
    _shrink(out / "findings-1440-dark.png", out / "viewer.png")


def _each_part(page: Page, address: str, example: int, out: Path, name: str) -> None:
    def picture(part: str) -> None:
        page.mouse.move(5, 5)
        page.wait_for_timeout(200)
        page.screenshot(path=out / f"{part}-{name}.png")

    page.goto(address)
    page.locator("#example-list img").last.wait_for()
    picture("welcome")
    page.locator("#example-list button").nth(example - 1).click()
    page.locator(".finding").first.wait_for()
    page.locator(".pane .numbers", has_text=re.compile(r"\d")).first.wait_for()
    page.keyboard.press("1")
    picture("one")
    page.keyboard.press("2")
    picture("findings")
    page.get_by_role("tab", name="Matrix").click()
    page.locator(".cell").first.click()
    picture("matrix")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Report").click()
    page.locator(".verdict").first.wait_for()
    picture("report")
    page.locator("#tab-about").click()
    picture("about")
    page.locator("#tab-findings").click()
    if page.locator("#second option").count() > 1:
        page.keyboard.press("c")
        page.locator(".measure ~ .measure").first.wait_for()
        picture("two")
        page.keyboard.press("c")
    page.keyboard.press("?")
    picture("help")
    page.keyboard.press("Escape")
    films = [(f"{number}.png", page.request.get(f"{address}v1/examples/{number}").body()) for number in (1, 2)]
    page.locator("#files").set_input_files(
        [{"name": film, "mimeType": "image/png", "buffer": content} for film, content in films]
    )
    page.locator(".study li").first.wait_for()
    page.locator(".pane .numbers", has_text=re.compile(r"\d")).first.wait_for()
    page.locator(".pane").click()
    picture("study")


def _shrink(picture: Path, out: Path) -> None:
    """Save a picture with a palette that covers its colours: a third of the bytes, and hardly a difference."""
    from PIL import Image

    colours = Image.open(picture).convert("RGB")
    cover = Image.Quantize.MAXCOVERAGE
    colours.quantize(COLOURS, method=cover, kmeans=1, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    shoot(sys.argv[1], Path(sys.argv[2]))
