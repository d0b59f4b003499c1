"""A hash of how an image looks, by which copies of it are found again, however they were changed.

It hardly changes when an image is resized, saved again, brightened, equalised or put on a larger canvas: edges that hold
nothing are cut off, and intensities count by their rank. A mirrored copy has the signs of the odd horizontal frequencies
turned round, an inverted one all of them, so `distances` finds both from the one hash.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 256
_SIDE = 16  # frequencies either way; the first of all, the mean, says nothing and its bit stays 0
_LOOK = 256  # side of what is searched for edges
_EMPTY = 0.05  # a line whose ranks spread less, as a share of the image's, holds nothing
_LEAST = 0.3  # an image that would become smaller than this share of a side keeps its edges
_ODD = np.tile(np.arange(_SIDE) % 2 == 1, _SIDE)  # the horizontal frequencies whose sign a mirror turns round
_FIRST = np.arange(BITS) == 0
_TURNED = [np.packbits(bits).view(np.uint64) for bits in (_ODD & _FIRST, _ODD, ~_FIRST, ~_FIRST ^ _ODD)]
_MEAN = np.packbits(_FIRST).view(np.uint64)[0]
_VERSION = "2:"  # before the text of a hash: those of other versions can't be compared


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 256 bits (4,) of pixels (H, W): which of the 16 x 16 lowest frequencies of the ranks are positive."""
    from scipy.fft import dctn

    look = Image.fromarray(pixels).resize((_LOOK, _LOOK), Image.Resampling.BOX)
    small = ranks(np.asarray(look.resize((64, 64), Image.Resampling.BOX, box=content_box(np.asarray(look)))))
    low = dctn(small, norm="ortho")[:_SIDE, :_SIDE].ravel()
    low[0] = 0
    return np.packbits(low > 0).view(np.uint64)


def distances(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Return in how many bits hashes (N, 4) and (M, 4) differ (N, M), or one and the other mirrored, inverted or both."""
    different = first[:, None] ^ second[None]
    found = [np.bitwise_count(different ^ turned).sum(2, dtype=np.int16) for turned in _TURNED]
    return np.asarray(np.where(different[:, :, 0] & _MEAN, BITS, np.minimum.reduce(found)))  # the mean's bit never turns


def to_text(bits: NDArray[np.uint64]) -> str:
    """Return a hash as text, with its version."""
    return _VERSION + bits.tobytes().hex()


def from_texts(texts: Sequence[str]) -> NDArray[np.uint64] | None:
    """Return the hashes (N, 4) of `to_text`'s texts, None when one is of another version."""
    if not all(text.startswith(_VERSION) for text in texts):
        return None
    joined = "".join(text.removeprefix(_VERSION) for text in texts)
    return np.frombuffer(bytes.fromhex(joined), np.uint64).reshape(-1, BITS // 64)


def ranks(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of pixels below each pixel, half of its equals among them."""
    counts = np.bincount(pixels.ravel(), minlength=256)
    shares = (np.cumsum(counts) - counts / 2) / pixels.size
    return np.asarray(shares[pixels])


def content_box(pixels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what lies inside of edges that hold nothing, of pixels (S, S)."""
    left, top, right, bottom = 0, 0, pixels.shape[1], pixels.shape[0]
    while True:  # under a canvas may lie another: the black around a film
        inner = ranks(pixels[top:bottom, left:right])
        rows, columns = (np.flatnonzero(inner.std(axis) > _EMPTY) for axis in (1, 0))
        if not len(rows) or not len(columns):
            break
        inside = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        if inside == (left, top, right, bottom):
            break
        left, top, right, bottom = map(int, inside)
    if min(right - left, bottom - top) < _LEAST * min(pixels.shape):
        return 0, 0, pixels.shape[1], pixels.shape[0]
    return left, top, right, bottom
