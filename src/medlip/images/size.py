"""How small and how large an image may be."""

from __future__ import annotations

from medlip.errors import MedLIPError

MIN_SIDE = 16
MAX_PIXELS = 100_000_000


def check_size(width: int, height: int) -> None:
    """Raise a MedLIPError when an image of so many pixels is too small for an X-ray, or too large to be read."""
    if min(width, height) < MIN_SIDE:
        raise MedLIPError(f"has only {width} x {height} pixels, too few for an X-ray. Leave the file out.")
    if width * height > MAX_PIXELS:
        raise MedLIPError(f"claims {width} x {height} pixels, over the limit of {MAX_PIXELS:,}. Shrink it, or leave it out.")
