"""Stored values to grey as they are to be seen: modality transform, VOI LUT or window, else a stretch; inversion; padding.

All of it works on levels, each value that occurs or may occur, not on pixels: an image of 16 bits has 65,536 at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medlip.images.elements import Elements
from medlip.images.kind import is_for_processing
from medlip.images.stored import StoredPixels

ELEMENTS = """
    RescaleSlope RescaleIntercept ModalityLUTSequence VOILUTSequence VOILUTFunction WindowCenter WindowWidth
    PixelPaddingValue PixelPaddingRangeLimit PresentationLUTShape PixelIntensityRelationshipSign
"""
TAIL = 0.001  # the share of the pixels at either end that may be outliers, or that a window may leave out
MIN_GREYS = 4  # so many greys at least must lie between, or a window shows nothing
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

Numbers = NDArray[Any]


class Deep(NamedTuple):
    """A grey image at the depth at which it is stored, with the window that it is shown through.

    A number's grey is (number - centre) / width + 0.5, cut to 0 (black) to 1 (white): bright is dense, whatever the file's
    photometric interpretation.

    Attributes:
        numbers: uint16 (H, W), from 0 to 2 ** bits - 1; in steps of the stored values, or of the table they are shown by.
        bits: of a number.
        centre: of the window.
        width: of the window, above 0.
    """

    numbers: NDArray[np.uint16]
    bits: int
    centre: float
    width: float

    @classmethod
    def between(cls, numbers: NDArray[np.uint16], bits: int, low: float, high: float) -> Deep:
        """Return an image with the window from `low` (black) to `high` (white)."""
        return cls(numbers, bits, (low + high) / 2, max(high - low, 1e-6))

    @classmethod
    def of_bytes(cls, greys: NDArray[np.uint8]) -> Deep:
        """Return an image of 8 bits, shown as it is."""
        return cls.between(greys.astype(np.uint16), 8, 0, 255)


def stretch(values: Numbers, seen: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Map values of any shape to 0..255, from the smallest to the largest, whatever hot pixels there are.

    A value that lies further from the middle 99.8 % of the pixels than these span is an outlier (a hot or a dead pixel): it
    is cut, and the stretch goes from the smallest to the largest of the others. What is not `seen` counts for nothing and
    becomes black.
    """
    if seen is not None:
        if not seen.any():
            return np.zeros(values.shape, np.uint8)
        return np.where(seen, scale(np.where(seen, values, 0), *_ends(values[seen], None)), 0).astype(np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        low, high, levels = _ends_of(values)
        return _put(scale(levels, low, high), values)
    return scale(values, *_ends(values.ravel(), None))


def stretch_deep(values: NDArray[np.uint16]) -> Deep:
    """Return values (H, W) as they are, with the window that `stretch` shows them through."""
    low, high, _ = _ends_of(values)
    return Deep.between(values, 16, low, high)


def scale(values: Numbers, low: float, high: float) -> NDArray[np.uint8]:
    """Map low..high to 0..255, rounded; what lies beyond is cut."""
    unit = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-300))
    return np.asarray(unit.clip(0, 255).round().astype(np.uint8))


def show(elements: Elements, stored: StoredPixels) -> NDArray[np.uint8]:
    """Show the stored values of a grey image (H, W) as its DICOM says, with a note of what it says in vain."""
    codes = stored.codes
    if codes.dtype.kind == "f" or codes.dtype.itemsize > 2:
        return _greys(elements, stored, codes.ravel(), None).reshape(codes.shape)
    counts = _count(codes)
    return _put(_greys(elements, stored, np.arange(len(counts), dtype=codes.dtype), counts), codes)


def show_deep(elements: Elements, stored: StoredPixels) -> Deep:
    """Return the stored values of a grey image (H, W) with the window that `show` shows them through.

    A file with a VOI LUT gives that table's values. A sigmoid window is given as the straight one with its slope. Pixels of
    more than 16 bits, and floats, are given as 8 bits, as they are shown.
    """
    codes = stored.codes
    if codes.dtype.kind == "f" or codes.dtype.itemsize > 2:
        return Deep.of_bytes(show(elements, stored))
    counts = _count(codes)
    levels = np.arange(len(counts), dtype=codes.dtype)
    tones = _tones(elements, stored, levels, counts)
    numbers, low, high = tones.values, tones.low, tones.high
    if numbers.dtype.kind == "f":  # rescaled: back to what is stored
        numbers = stored.values(levels)
        first, last = numbers.argmin(), numbers.argmax()
        slope = (tones.values[last] - tones.values[first]) / (numbers[last] - numbers[first])
        low, high = ((end - tones.values[first]) / slope + numbers[first] for end in (low, high))
    seen = numbers[(counts > 0) & ~tones.padding]
    least = min(int(seen.min()), 0)
    bits = max(int(seen.max() - least).bit_length(), 0 if least else stored.bits)
    top = (1 << bits) - 1
    numbers, low, high = (numbers - least).clip(0, top), low - least, high - least
    if (low > high) != tones.inverted:
        numbers, low, high = top - numbers, top - low, top - high
    numbers[tones.padding] = 0
    return Deep.between(numbers.astype(np.uint16)[codes], bits, *sorted((low, high)))


def _count(codes: Numbers) -> NDArray[np.int64]:
    """Return how often each value of 8 or 16 bits occurs."""
    if codes.dtype == np.uint8:  # Pillow is several times as fast
        return np.array(Image.fromarray(codes).histogram())
    return np.bincount(codes.ravel(), minlength=np.iinfo(codes.dtype).max + 1)


def _put(greys: NDArray[np.uint8], codes: Numbers) -> NDArray[np.uint8]:
    """Put the grey of each value in its place."""
    if codes.dtype == np.uint8:
        return np.array(Image.fromarray(codes).point(greys.tolist()))
    return np.asarray(greys[codes])


def _ends_of(values: Numbers) -> tuple[float, float, Numbers]:
    """Return the smallest and the largest value of 8 or 16 bits that is no outlier, and all that there may be."""
    counts = _count(values)
    levels = np.arange(len(counts))
    return *_ends(levels[counts > 0], counts[counts > 0]), levels


class _Ramp(NamedTuple):
    """Values (N), the ones of them that are black and white, and the greys between."""

    values: Numbers
    low: float
    high: float
    greys: NDArray[np.uint8]

    @classmethod
    def between(cls, values: Numbers, low: float, high: float) -> _Ramp:
        return cls(values, low, high, scale(values, low, high))


class _Tones(NamedTuple):
    """A ramp, whether it was turned dark to bright, and which of its values (N) are padding."""

    values: Numbers
    low: float
    high: float
    greys: NDArray[np.uint8]
    inverted: bool
    padding: NDArray[np.bool_]


def _greys(elements: Elements, stored: StoredPixels, codes: Numbers, counts: Numbers | None) -> NDArray[np.uint8]:
    """Return the grey of each code (N). `counts`: how many pixels have it; one each when None."""
    return _tones(elements, stored, codes, counts).greys


def _tones(elements: Elements, stored: StoredPixels, codes: Numbers, counts: Numbers | None) -> _Tones:
    """Return how each code (N) is shown. `counts`: how many pixels have it; one each when None."""
    values = stored.values(codes)
    seen = np.ones(len(codes), bool) if counts is None else counts > 0
    padding = _padding(elements, stored, codes, values)
    if padding[seen].all():
        elements.leave_out("PixelPaddingValue", "leaves nothing of the image")
        padding[:] = False
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        elements.note("some pixels are no numbers: shown black")
        padding |= ~finite
        values = np.where(finite, values, 0)
    seen &= ~padding
    weights = None if counts is None else counts[seen]
    values = _through_modality(elements, values, seen)
    ramp = _through_voi(elements, values, seen, weights)
    if ramp is None and stored.allocated <= 8 and not stored.signed:
        ramp = _Ramp.between(values, float(values.min()), float(values.max()))
    elif ramp is None:
        ramp = _Ramp.between(values, *_ends(values[seen], weights))
    greys = ramp.greys
    inverted = stored.photometric == "MONOCHROME1" or "INVERSE" in elements.words("PresentationLUTShape")
    if inverted:
        greys = 255 - greys
    if _bone_is_dark(elements, stored.values(codes[seen]), greys[seen], weights):
        greys, inverted = 255 - greys, not inverted
    greys[padding] = 0
    return _Tones(ramp.values, ramp.low, ramp.high, greys, inverted, padding)


def _ends(values: Numbers, counts: Numbers | None) -> tuple[float, float]:
    """Return the smallest and the largest value that is no outlier."""
    low, high = _quantiles(values, counts, TAIL)
    width = high - low
    inner = values[(values >= low - width) & (values <= high + width)] if width > 0 else values
    return float(inner.min()), float(inner.max())


def _quantiles(values: Numbers, counts: Numbers | None, tail: float) -> tuple[float, float]:
    """Return the values below and above which this share of the pixels lies."""
    if counts is None:
        low, high = np.quantile(values, (tail, 1 - tail), method="nearest")
        return float(low), float(high)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    low, high = values[order[np.searchsorted(below, (tail * below[-1], (1 - tail) * below[-1]))]]
    return float(low), float(high)


def _padding(elements: Elements, stored: StoredPixels, codes: Numbers, values: Numbers) -> NDArray[np.bool_]:
    """Return which codes are padding, whether its value is written with the sign of the pixels or without."""
    value = elements.number("PixelPaddingValue")
    if value is None:
        return np.zeros(len(codes), bool)
    limit = elements.number("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    found = (values >= low) & (values <= high)
    if codes.dtype.kind == "f":
        return np.asarray(found)
    readings = [values & ((1 << stored.bits) - 1)] if stored.signed else []
    if not stored.shift:  # it may also be meant for the code as a whole, unused bits included
        unsigned = codes.astype(np.int64)
        readings += [unsigned, unsigned - ((unsigned >> stored.allocated - 1 & 1) << stored.allocated)]
    for reading in readings:
        found |= (reading >= low) & (reading <= high)
    return np.asarray(found)


def _through_modality(elements: Elements, values: Numbers, seen: NDArray[np.bool_]) -> Numbers:
    for item in elements.items("ModalityLUTSequence"):
        table = _look_up(item, values, seen)
        if table is not None:
            return table[0]
    if "ModalityLUTSequence" in elements:
        elements.leave_out("ModalityLUTSequence", "is unusable")
    slope = elements.number("RescaleSlope", lambda value: value != 0)
    intercept = elements.number("RescaleIntercept")
    if slope is None and intercept is None:
        return values
    return values * (1 if slope is None else slope) + (intercept or 0)


def _through_voi(elements: Elements, values: Numbers, seen: NDArray[np.bool_], counts: Numbers | None) -> _Ramp | None:
    """Return the first VOI LUT or else window that shows something of the image; None without one."""
    for name, ramp in (*_tables(elements, values, seen), *_windows(elements, values)):
        if ramp is not None:
            low, high = _quantiles(ramp.greys[seen], counts, TAIL)
            if high - low >= MIN_GREYS:
                return ramp
        elements.leave_out(name, "is unusable" if ramp is None else "shows nothing of the image")
    return None


def _tables(elements: Elements, values: Numbers, seen: NDArray[np.bool_]) -> Iterator[tuple[str, _Ramp | None]]:
    for item in elements.items("VOILUTSequence"):
        found = _look_up(item, values, seen)
        yield (
            "VOILUTSequence",
            None if found is None else _Ramp.between(found[0], float(found[1].min()), float(found[1].max())),
        )


def _windows(elements: Elements, values: Numbers) -> Iterator[tuple[str, _Ramp | None]]:
    """Yield each window, by the functions of DICOM PS3.3 C.11.2.1; None for one that is unusable."""
    centres, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    if not centres and not widths and "WindowCenter" in elements:
        elements.leave_out("WindowCenter", "is empty")
    named = [word.replace(" ", "_") for word in elements.words("VOILUTFunction")]
    function = next((word for word in named if word in _FUNCTIONS), "LINEAR")
    if named and function not in named:
        elements.leave_out("VOILUTFunction", "is none of the standard's")
    for index in range(max(len(centres), len(widths))):
        centre, width = (found[index] if index < len(found) else None for found in (centres, widths))
        if centre is None or width is None or width <= 0:
            yield "WindowCenter" if centre is None else "WindowWidth", None
        elif function == "SIGMOID":
            unit = 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-700, 700)))
            yield "WindowCenter", _Ramp(values, centre - width / 2, centre + width / 2, scale(unit, 0, 1))
        elif function == "LINEAR_EXACT" or width < 1:
            greys = scale((values - centre) / width + 0.5, 0, 1)
            yield "WindowCenter", _Ramp(values, centre - width / 2, centre + width / 2, greys)
        else:
            width = max(width - 1, 1e-6)
            greys = scale((values - centre + 0.5) / width + 0.5, 0, 1)
            yield "WindowCenter", _Ramp(values, centre - 0.5 - width / 2, centre - 0.5 + width / 2, greys)


def _look_up(item: Elements, values: Numbers, seen: NDArray[np.bool_]) -> tuple[Numbers, Numbers] | None:
    """Return values through the table of an item, and the table itself; None when the table is unusable."""
    descriptor = item.numbers("LUTDescriptor")
    if len(descriptor) != 3 or None in descriptor:
        return None
    length, first, bits = (int(number or 0) for number in descriptor)
    length = length % (1 << 16) or 1 << 16
    table = _entries(item, length, bits)
    if table is None or table.min() == table.max():
        return None
    index = values.astype(np.int64)
    # The first value may be written with the sign of the values or without: the reading that meets more of them is right.
    ends = int(index[seen].min()), int(index[seen].max())
    first = max((first, first - (1 << 16), first + (1 << 16)), key=lambda start: _shared(ends, (start, start + length - 1)))
    return table[(index - first).clip(0, length - 1)], table


def _shared(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(min(one[1], other[1]) - max(one[0], other[0]) + 1, 0)


def _entries(item: Elements, length: int, bits: int) -> NDArray[np.int64] | None:
    """Return the entries of a table: words, or bytes two to a word where each has 8 bits; None when there are too few."""
    data = item.value("LUTData")
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if item.little_endian else ">u2")
        if len(data) % 2:
            words = np.append(words, np.uint16(data[-1]))
    else:
        numbers = [number for number in item.numbers("LUTData") if number is not None]
        words = np.array(numbers, np.int64).astype(np.uint16)
    if len(words) >= length:
        return words[:length].astype(np.int64)
    packed = words.astype("<u2").view(np.uint8)
    return packed[:length].astype(np.int64) if bits <= 8 and len(packed) >= length else None


def _bone_is_dark(elements: Elements, values: Numbers, greys: NDArray[np.uint8], counts: Numbers | None) -> bool:
    """Whether a detector's own image comes out with bone darker than air; that is noted, for other images too."""
    raw = is_for_processing(elements)
    sign = elements.number("PixelIntensityRelationshipSign", lambda value: value in (-1, 1))
    if sign is None:
        if raw:
            elements.note("made for processing, not to be looked at, and it doesn't say whether bone is bright in it")
        return False
    weights = np.ones(len(values)) if counts is None else counts
    more = np.average(values, weights=weights)
    slope = np.sum(weights * (values - more) * greys.astype(np.float64))
    if slope * sign <= 0:  # 1: more beam, so less body, is a larger value
        if raw:
            elements.note("made for processing, not to be looked at")
        return False
    if not raw:
        elements.note("bone is dark in it, Pixel Intensity Relationship Sign says: shown as it is meant to be seen")
        return False
    elements.note(
        "made for processing, not to be looked at; turned dark to bright, as Pixel Intensity Relationship Sign says"
    )
    return True
