"""A contact sheet: many phantoms on one page, half of each pair with its findings outlined and named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medlip.data.study import Study
from medlip.phantom.generator import phantom

COLUMNS = 6
CAPTION = 26
COLOURS = ((255, 209, 102), (6, 214, 160), (239, 111, 108), (120, 190, 255), (220, 150, 255), (255, 160, 70))


def contact_sheet(
    count: int = 24, seed: int = 0, size: int = 256, *, independent: bool = False, lateral: bool = False
) -> NDArray[np.uint8]:
    """Return a page of `count` phantoms, uint8 (height, width, 3), each with its findings outlined and named below.

    Args:
        count: of phantoms, those from 0.
        seed: as for `phantom`.
        size: width and height of a view in pixels.
        independent: as for `phantom`.
        lateral: lay the lateral view of each beside its frontal one.
    """
    wide = size * (1 + lateral)
    columns = min(COLUMNS // (1 + lateral), count)
    rows = -(-count // columns)
    page = Image.new("RGB", (columns * wide, rows * (size + CAPTION)))
    for k in range(count):
        study = phantom(k, seed, size, independent=independent, lateral=lateral)
        page.paste(_tile(study, wide, size), (k % columns * wide, k // columns * (size + CAPTION)))
    return np.asarray(page)


def _tile(study: Study, wide: int, size: int) -> Image.Image:
    films = [np.repeat(np.asarray(view.image)[..., None], 3, 2) for view in study.views]
    tile = Image.new("RGB", (wide, size + CAPTION))
    pen = ImageDraw.Draw(tile)
    line, x = 0, 3
    for shown, colour in zip(study.views[0].masks, COLOURS, strict=False):
        for film, view in zip(films, study.views, strict=True):
            for mask in view.masks:
                if (mask.pathology, mask.anatomy) == (shown.pathology, shown.anatomy):
                    film[_outline(mask.pixels)] = colour
        words = f"{shown.pathology}"
        length = pen.textlength(words + "  ")
        if x + length > wide and not line:
            line, x = 1, 3
        pen.text((x, size + 1 + 12 * line), words, fill=colour)
        x += int(length)
    if not study.views[0].masks:
        pen.text((3, size + 1), "no finding", fill=(150, 150, 150))
    tile.paste(Image.fromarray(np.concatenate(films, 1)), (0, 0))
    return tile


def _outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = region.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            inner &= np.roll(region, shift, axis)
    return region & ~inner
