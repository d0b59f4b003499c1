"""How images, heat maps and masks are drawn."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

OUTLINE = (64, 224, 160)
CROSS = (255, 255, 255)


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


def outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image:
    """Draw the outline of a mask (H, W) over pixels, grey (H, W) or coloured (H, W, 3)."""
    from PIL import ImageFilter

    thickness = max(1, min(mask.shape) // 128)
    grown = picture(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * thickness + 1))
    drawn = pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    drawn[np.asarray(grown, bool) & ~mask] = OUTLINE
    return picture(drawn)


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
