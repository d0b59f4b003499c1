"""The elements of a DICOM, read with care: one that makes no sense is left out, with a note, and the rest is read."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset


class Elements:
    """What a DICOM data set says, by keyword.

    Notes and errors name elements, never their values: those may hold anything, a patient's name among it.

    Attributes:
        dataset: the data set.
        notes: what was left out or assumed, for people; shared with the items of its sequences.
        little_endian: the byte order of its words.
    """

    def __init__(self, dataset: Dataset, notes: list[str] | None = None, little_endian: bool | None = None) -> None:
        self.dataset = dataset
        self.notes = [] if notes is None else notes
        self.little_endian = _is_little_endian(dataset) if little_endian is None else little_endian

    def __contains__(self, name: str) -> bool:
        return name in self.dataset

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def leave_out(self, name: str, why: str) -> None:
        """Note that an element is not used."""
        self.note(f"{label(name)} {why}: left out")

    def value(self, name: str) -> Any:
        """Return the value of an element as pydicom reads it, its raw bytes where it can't, None when there is none."""
        if name not in self.dataset:
            return None
        try:
            return self.dataset[name].value
        except Exception:  # pydicom raises anything at values that don't fit their type
            return getattr(self.dataset.get_item(name), "value", None)

    def values(self, name: str) -> list[Any]:
        """Return the values of an element, [] when it is missing or empty."""
        value = self.value(name)
        if isinstance(value, bytes):
            return self._from_bytes(name, value)
        if value is None or value == "":
            return []
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]

    def numbers(self, name: str) -> list[float | None]:
        """Return the values of an element as numbers, None in the place of each that is none."""
        return [_number(value) for value in self.values(name)]

    def find(self, name: str, usable: Callable[[float], bool] = lambda value: True) -> float | None:
        """Return the first number of an element that is usable, None if none is."""
        return next((number for number in self.numbers(name) if number is not None and usable(number)), None)

    def number(self, name: str, usable: Callable[[float], bool] = lambda value: True) -> float | None:
        """Return what `find` does, with a note where the element is there and has no usable number."""
        found = self.find(name, usable)
        if found is None and name in self:
            self.leave_out(name, "is unusable" if self.values(name) else "is empty")
        return found

    def required(self, name: str, usable: Container[float], otherwise: int) -> int:
        """Return a whole number that the image can't be read without; the only sensible one, with a note, where it lacks."""
        found = self.find(name, lambda value: value in usable)
        if found is None:
            self.note(f"{label(name)} is {'unusable' if name in self else 'missing'}: taken to be {otherwise}")
        return otherwise if found is None else int(found)

    def words(self, name: str) -> list[str]:
        """Return the values of an element as upper-case words; what is no text is left out."""
        texts = (value for value in self.values(name) if isinstance(value, str))
        return [word for word in (text.strip(" \0").upper() for text in texts) if word]

    def items(self, name: str) -> list[Elements]:
        """Return the items of a sequence, with a note where it is none."""
        value = self.value(name)
        if value is None:
            return []
        if not isinstance(value, Sequence) or not all(hasattr(item, "get_item") for item in value):
            self.leave_out(name, "is unusable")
            return []
        return [Elements(item, self.notes, self.little_endian) for item in value]

    def _from_bytes(self, name: str, value: bytes) -> list[Any]:
        """Read the bytes of an element whose type got lost by the type that the standard gives it."""
        from pydicom.datadict import dictionary_VR

        if dictionary_VR(name).startswith(("US", "SS")):
            words = value if len(value) % 2 == 0 else value + b"\0"
            return list(np.frombuffer(words, "<u2" if self.little_endian else ">u2").tolist())
        text = value.decode("ascii", "replace").strip(" \0")
        return text.split("\\") if text else []


def label(name: str) -> str:
    """Return an element's name as the standard writes it: WindowCenter -> Window Center."""
    from pydicom.datadict import dictionary_description, tag_for_keyword

    tag = tag_for_keyword(name)
    return name if tag is None else dictionary_description(tag)


def _number(value: object) -> float | None:
    try:
        number = float(value.strip(" \0") if isinstance(value, str) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _is_little_endian(dataset: Dataset) -> bool:
    encoding = getattr(dataset, "original_encoding", (None, None))[1]
    return True if encoding is None else bool(encoding)
