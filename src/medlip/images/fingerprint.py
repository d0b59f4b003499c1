"""A hash of how an image looks, which hardly changes when it is resized, brightened or saved again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 256


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 256 bits (4,) of pixels (H, W): which of the 16 x 16 lowest frequencies lie above their median."""
    from scipy.fft import dctn

    small = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX), np.float64)
    low = dctn(small, norm="ortho")[:16, :16].ravel()
    low[0] = 0  # the mean brightness
    return np.packbits(low > np.median(low)).view(np.uint64)
