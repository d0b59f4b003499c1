"""How images, heat maps and masks are drawn."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from markupsafe import Markup
    from PIL.Image import Image

OUTLINE = (64, 224, 160)
CROSS = (255, 255, 255)
MID_GREY = 96  # of an X-ray


def picture(pixels: NDArray[np.uint8]) -> Image:
    """Return grey pixels (H, W), or coloured ones (H, W, 3), as a picture."""
    from PIL import Image

    return Image.fromarray(pixels)


def relative(heat: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale a map by its own minimum and maximum to [0, 1]; one that is the same everywhere becomes 0."""
    low, high = heat.min(), heat.max()
    return np.asarray((heat - low) / max(high - low, 1e-12), np.float32)


def paint(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image:
    """Lay a heat map in [0, 1] (H, W) over grey pixels (H, W): the warmer, the more opaque."""
    from matplotlib import colormaps

    colour = colormaps["inferno"](0.25 + 0.75 * heat)[..., :3]
    weight = 0.7 * heat[..., None] ** 1.5
    grey = pixels[..., None] / 255
    return picture((255 * (grey * (1 - weight) + colour * weight)).astype(np.uint8))


def colour_bar(height: int, width: int) -> Image:
    """Return the colours of `paint` over mid grey, from 1 at the top to 0 at the bottom."""
    column = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    return paint(np.full((height, width), MID_GREY, np.uint8), np.repeat(column, width, 1))


def legend(absolute: bool) -> Markup:
    """Return what the colours of a page's maps mean, as a line of HTML: probabilities, or each map's own scale."""
    from markupsafe import Markup
    from PIL import Image

    bar = jpeg(colour_bar(160, 14).transpose(Image.Transpose.ROTATE_270))
    low, high, what = (
        ("0", "1", "Colours are probabilities: the brightest place has that of the finding, so an improbable one is faint.")
        if absolute
        else ("lowest", "highest", "Each map has its own scale, whatever the finding's probability.")
    )
    image = '<img src="{}" alt="The colours of the maps" width="160" height="14" style="vertical-align:middle">'
    return Markup('<p class="soft">{} ' + image + " {}. {}</p>").format(low, bar, high, what)


def with_legend(image: Image, absolute: bool, value: float) -> Image:
    """Put a bar beside a painted picture that says what its colours mean.

    Args:
        image: the picture.
        absolute: colours stand for probabilities; else for the lowest and the highest place of this map alone.
        value: the finding's probability.
    """
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    size = max(10, image.height // 28)
    font = ImageFont.load_default(size)
    title = "probability" if absolute else "this map alone"
    marks = {1.0: "1", 0.75: "0.75", 0.5: "0.5", 0.25: "0.25", 0.0: "0"} if absolute else {1.0: "highest", 0.0: "lowest"}
    here = f"p = {value:.2f}"
    room = max(int(font.getlength(text)) for text in (title, here, *marks.values()))
    top, bottom, bar = 2 * size, image.height - (2 * size if absolute else 4 * size), max(8, size)
    bottom = max(bottom, top + 2)
    made = Images.new("RGB", (image.width + room + bar + 2 * size, image.height), "black")
    made.paste(image, (0, 0))
    left = image.width + size // 2
    made.paste(colour_bar(bottom - top, bar), (left, top))
    draw = ImageDraw.Draw(made)
    draw.text((left, size // 3), title, "white", font)
    for share, text in marks.items():
        at = bottom - share * (bottom - top)
        draw.text((left + bar + size // 2, at - size / 2), text, "white", font)
    if absolute:
        at = bottom - value * (bottom - top)
        draw.line((left - size // 3, at, left + bar + size // 3, at), "white", max(1, size // 8))
    draw.text((left, image.height - 1.5 * size), here, "white", font)
    return made


def outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image:
    """Draw the outline of a mask (H, W) over pixels, grey (H, W) or coloured (H, W, 3)."""
    drawn = pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    drawn[outline_of(mask)] = OUTLINE
    return picture(drawn)


def outline_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels around a mask (H, W)."""
    from PIL import ImageFilter

    thickness = max(1, min(mask.shape) // 128)
    grown = picture(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * thickness + 1))
    return np.asarray(grown, bool) & ~mask


def with_cross(image: Image, top: tuple[int, int] | None) -> Image:
    """Draw a cross at (row, column) into a coloured picture and return it; none without a place."""
    if top is not None:
        from PIL import ImageDraw

        row, column = top
        arm = max(3, image.height // 40)
        draw = ImageDraw.Draw(image)
        for ends in ((column - arm, row, column + arm, row), (column, row - arm, column, row + arm)):
            draw.line(ends, fill=CROSS, width=max(1, image.height // 128))
    return image


def jpeg(image: Image) -> str:
    """Return a picture as the address of an <img> that needs no file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
