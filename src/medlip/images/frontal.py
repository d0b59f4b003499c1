"""Whether pixels look like a frontal chest X-ray that a model can be asked about: told from the image alone.

A small linear model over hand-made features: how bright each part of the image is among its other parts, its symmetry, how
much of it is texture, edge or empty. It was trained by `examples/frontal_check/train.py`; docs/images.md says how
often it errs, and on which images. What is turned or inverted is found by asking it again about the image turned back.

Faults that no model is needed for come beside it: blank, saturated, collimated to a small part, in colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.images.fingerprint import content_box, ranks

Array = NDArray[np.float64]
MODEL = "frontal.safetensors"
SIDE = 16
"""Cells a side of the picture that is looked at."""
FRAME = 128
"""Pixels a side that edges which hold nothing are looked for in."""
LOOK = 64
"""Pixels a side from which texture and edges are counted."""
APPEARANCE = 9 + 12
"""Numbers that say how an image looks: those of the whole, then the first components."""
SURE = 0.02
"""A score from here on is that of a frontal chest X-ray; chosen on real films so that about one in a hundred lies below."""
TURNED = 0.9
"""From here on an image that doesn't look like one when it lies as it does is one that lies otherwise."""
EMPTY, WHITE, BLACK, SMALL = 0.9, 0.25, 0.65, 0.4
"""Shares of pixels: of one value, white, black, of the film in the picture; beyond them it is a fault."""
FLAT = 6.0
"""Grey levels that a picture's middle 90 % spread over at least."""


def doubts(pixels: NDArray[np.uint8], *, known: bool = False) -> tuple[str, ...]:
    """Return what speaks against reading pixels (H, W) as a frontal chest X-ray, each in a few words; mostly nothing.

    Args:
        pixels: uint8, 0 black.
        known: that it isn't one is known already: only its faults are looked for.
    """
    film = _Film.of(pixels)
    faults = tuple(film.faults())
    blank = any(fault.startswith("blank") for fault in faults)
    return faults if blank or known else (*_kind(film), *faults)


def frontal_score(pixels: NDArray[np.uint8]) -> float:
    """Return how much pixels (H, W) look like a frontal chest X-ray that hangs as it should, from 0 to 1."""
    return _model().score(features(pixels))


def appearance(pixels: NDArray[np.uint8]) -> Array:
    """Return how pixels (H, W) look, in a few numbers (K,), to tell data sets apart by."""
    return _model().inputs(features(pixels))[:APPEARANCE]


def features(pixels: NDArray[np.uint8]) -> Array:
    """Return what the check looks at in pixels (H, W): ranks of SIDE x SIDE parts, then nine numbers of the whole."""
    return _Film.of(pixels).features()


@dataclass(frozen=True, slots=True)
class _Film:
    """An image in small.

    Attributes:
        shape: of the image, (H, W).
        counts: share of its pixels by grey level, (256,).
        small: it, squashed to a square.
        box: left, top, right, bottom of what lies inside of edges that hold nothing.
    """

    shape: tuple[int, ...]
    counts: Array
    small: Image.Image
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> _Film:
        picture = Image.fromarray(pixels)
        small = picture.resize((FRAME, FRAME), Image.Resampling.BOX, reducing_gap=2.0)
        return cls(pixels.shape, np.array(picture.histogram()) / pixels.size, small, content_box(np.asarray(small)))

    def features(self) -> Array:
        left, top, right, bottom = self.box
        inner = self.small.resize((LOOK, LOOK), Image.Resampling.BOX, box=self.box)
        cells = ranks(np.asarray(inner)).reshape(SIDE, LOOK // SIDE, SIDE, LOOK // SIDE).mean((1, 3))
        look = np.asarray(inner, np.float32) / 255
        fine, coarse = _edges(look, 1) + 1e-3, _edges(look, 4) + 1e-3
        smooth = (np.abs(np.diff(look, axis=1)) < 1 / 255).mean()
        counts = np.array(inner.histogram()).reshape(32, 8).sum(1) / LOOK**2
        entropy = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
        aspect = np.abs(np.log(self.shape[0] * (bottom - top) / (self.shape[1] * (right - left))))
        whole = [_correlation(cells, cells[:, ::-1]), _correlation(cells, cells[::-1])]
        whole += [np.log(fine), np.log(coarse), np.log(fine / coarse), smooth, entropy, counts.max(), aspect]
        return np.append(cells.ravel(), whole)

    def faults(self) -> Iterator[str]:
        """Say what is wrong with the picture, whatever it shows."""
        low, high = np.searchsorted(self.counts.cumsum(), (0.05, 0.95))
        if high - low < FLAT or self.counts.max() > EMPTY:
            yield "blank: hardly any contrast"
            return
        if (white := self.counts[254:].sum()) > WHITE:
            yield f"saturated: {white:.0%} of the pixels are white"
        if (black := self.counts[:2].sum()) > BLACK:
            yield f"saturated: {black:.0%} of the pixels are black"
        left, top, right, bottom = self.box
        if (share := (right - left) * (bottom - top) / FRAME**2) < SMALL:
            yield f"collimated: the film fills {share:.0%} of the picture"


@dataclass(frozen=True, slots=True)
class FrontalModel:
    """A linear model over features, their first components, and the squares of these.

    Attributes:
        mean: of the features, (F,).
        scale: of the features, (F,).
        components: (F, K), of the scaled cells and numbers.
        weights: of scaled features that stand by themselves (the last nine), of components and their squares.
        bias: of the logit.
    """

    mean: Array
    scale: Array
    components: Array
    weights: Array
    bias: float

    def inputs(self, found: Array) -> Array:
        """Return what the weights are for, of features (…, F)."""
        scaled = ((found - self.mean) / self.scale).clip(-6, 6)
        projected = (scaled @ self.components).clip(-4, 4)
        return np.concatenate([scaled[..., SIDE**2 :], projected, projected**2], -1)

    def score(self, found: Array) -> float:
        """Return the probability of features (F,)."""
        logit = float(self.inputs(found) @ self.weights + self.bias)
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


@cache
def _model() -> FrontalModel:
    from safetensors.numpy import load

    kept = load((files(__package__) / MODEL).read_bytes())
    parts = {name: kept[name].astype(float) for name in ("mean", "scale", "components", "weights")}
    return FrontalModel(**parts, bias=float(kept["bias"][0]))


def _kind(film: _Film) -> Iterator[str]:
    """Say what else a picture looks like than a frontal chest X-ray that hangs as it should."""
    if _model().score(film.features()) >= SURE:
        return
    small = np.asarray(film.small)
    others = {
        "lies on its left side": np.rot90(small),
        "lies on its right side": np.rot90(small, 3),
        "is upside down": small[::-1, ::-1],
        "is inverted: bones are dark": 255 - small,
    }
    scores = {name: frontal_score(np.ascontiguousarray(other)) for name, other in others.items()}
    best = max(scores, key=lambda name: scores[name])
    yield f"the image {best}" if scores[best] >= TURNED else "the image doesn't look like a frontal chest X-ray"


def _edges(look: NDArray[np.floating[Any]], step: int) -> float:
    """Return how much neighbours differ that are so many pixels apart."""
    return float(np.abs(look[step:] - look[:-step]).mean() + np.abs(look[:, step:] - look[:, :-step]).mean())


def _correlation(first: Array, second: Array) -> float:
    a, b = first - first.mean(), second - second.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))
