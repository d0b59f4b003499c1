"""Turning an image upright: head up, the patient's right on the image's left, square pixels; and what goes with it along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.images.elements import Elements, label

ELEMENTS = """
    PatientOrientation FieldOfViewRotation FieldOfViewHorizontalFlip ImageRotation ImageHorizontalFlip
    PixelAspectRatio PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing
"""
SQUARE = 0.01  # pixels that differ less than this from a square stay as they are
MOST_STRETCHED = 8  # a larger ratio of the sides of a pixel is taken for a mistake


@dataclass(frozen=True, slots=True)
class Turn:
    """How the pixels of a file became those of an image: swapped axes, then flips, then a stretch to square pixels.

    Attributes:
        shape: rows and columns in the file.
        transposed: rows and columns were swapped first.
        flipped_down: the rows were reversed then.
        flipped_across: the columns were reversed then.
        stretch: factors of height and width at last; one of them is 1.
    """

    shape: tuple[int, int]
    transposed: bool = False
    flipped_down: bool = False
    flipped_across: bool = False
    stretch: tuple[float, float] = (1.0, 1.0)

    @property
    def turns(self) -> bool:
        """Whether anything is done at all."""
        return self != Turn(self.shape)

    def then(self, *, transposed: bool = False, flipped_down: bool = False, flipped_across: bool = False) -> Turn:
        """Return this turn followed by another one, before any stretch."""
        down, across = self.flipped_down, self.flipped_across
        if transposed:
            down, across = across, down
        return Turn(self.shape, self.transposed != transposed, down != flipped_down, across != flipped_across)

    def rotated(self, quarters: int) -> Turn:
        """Return this turn followed by a rotation by so many quarters, clockwise."""
        turn = self
        for _ in range(quarters % 4):
            turn = turn.then(transposed=True, flipped_across=True)
        return turn

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (H, W) that lies as the file's pixels do: the image itself, or a boolean mask on it."""
        if self.transposed:
            pixels = pixels.T
        pixels = pixels[:: -1 if self.flipped_down else 1, :: -1 if self.flipped_across else 1]
        if self.stretch == (1.0, 1.0):
            return np.ascontiguousarray(pixels)
        height, width = (round(side * factor) for side, factor in zip(pixels.shape, self.stretch, strict=True))
        method = Image.Resampling.NEAREST if pixels.dtype == bool else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Turn a box in the file's pixels (x to the right, y down, from the top left corner) into one in the image's."""
        rows, columns = self.shape
        if self.transposed:
            x, y, width, height, rows, columns = y, x, height, width, columns, rows
        if self.flipped_down:
            y = rows - y - height
        if self.flipped_across:
            x = columns - x - width
        down, across = self.stretch
        return x * across, y * down, width * across, height * down


def turn_of(elements: Elements, shape: tuple[int, int]) -> Turn:
    """Return how to turn a DICOM's pixels of this shape upright, with a note of what is done.

    Patient Orientation says how the pixels lie, and decides alone where it is usable. Otherwise a rotation and a flip that
    were applied to the detector's field of view are undone, and those that Image Rotation and Image Horizontal Flip ask for
    are done.
    """
    turn = _by_patient(elements, Turn(shape))
    if turn is None:
        turn = _by_detector(elements, Turn(shape))
    return _to_squares(elements, turn)


def _by_patient(elements: Elements, turn: Turn) -> Turn | None:
    words = elements.words("PatientOrientation")
    if not words:
        return None
    right, down = ([*(word[0] for word in words), "", ""])[
        :2
    ]  # where the patient's side lies; further letters say how obliquely
    axes = {frozenset("LR"), frozenset("AP"), frozenset("HF")}
    axis = {letter: axis for axis in axes for letter in axis}
    if len(words) != 2 or axis.get(right) is None or axis.get(down) is None or axis[right] == axis[down]:
        elements.leave_out("PatientOrientation", "is unusable")
        return None
    if right not in "HF" and down not in "HF":
        return turn  # a cross-section: neither end is up
    if right in "HF":
        turn, right, down = turn.then(transposed=True), down, right
        elements.note("turned by a quarter, as Patient Orientation says")
    if down == "H":
        turn = turn.then(flipped_down=True)
        elements.note("turned head up, as Patient Orientation says")
    if right == "R":
        turn = turn.then(flipped_across=True)
        elements.note("mirrored left to right, as Patient Orientation says")
    return turn


def _by_detector(elements: Elements, turn: Turn) -> Turn:
    # What was applied to the detector's field of view: turned first, mirrored then; undone in reverse.
    if "YES" in elements.words("FieldOfViewHorizontalFlip"):
        turn = turn.then(flipped_across=True)
        elements.note("mirrored left to right: Field of View Horizontal Flip was undone")
    if quarters := _quarters(elements, "FieldOfViewRotation"):
        turn = turn.rotated(-quarters)
        elements.note(f"turned by {90 * quarters} degrees: Field of View Rotation was undone")
    if quarters := _quarters(elements, "ImageRotation"):
        turn = turn.rotated(quarters)
        elements.note(f"turned by {90 * quarters} degrees, as Image Rotation says")
    if "Y" in elements.words("ImageHorizontalFlip"):
        turn = turn.then(flipped_across=True)
        elements.note("mirrored left to right, as Image Horizontal Flip says")
    return turn


def _quarters(elements: Elements, name: str) -> int:
    degrees = elements.number(name, lambda value: value % 90 == 0)
    return 0 if degrees is None else int(degrees // 90) % 4


def _to_squares(elements: Elements, turn: Turn) -> Turn:
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        if name not in elements:
            continue
        sides = elements.numbers(name)[:2]  # vertical, horizontal
        if len(sides) < 2 or any(side is None or side <= 0 for side in sides):
            elements.leave_out(name, "is unusable")
            continue
        ratio = float(sides[0] or 1) / float(sides[1] or 1)
        if not 1 / MOST_STRETCHED <= ratio <= MOST_STRETCHED:
            elements.leave_out(name, "is unusable")
            continue
        if abs(ratio - 1) < SQUARE:
            return turn
        if turn.transposed:
            ratio = 1 / ratio
        elements.note(f"stretched to square pixels, as {label(name)} says")
        stretch = (ratio, 1.0) if ratio > 1 else (1.0, 1 / ratio)
        return Turn(turn.shape, turn.transposed, turn.flipped_down, turn.flipped_across, stretch)
    return turn
