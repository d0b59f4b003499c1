"""A study: what every reader of a data set gives, whatever layout the data set ships in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlip.reports import Fact, Presence

FRACTIONS = (1, 1)  # frame of boxes that are given as shares of their image's sides
LUNGS = {"left": "left_lung_unspec", "right": "right_lung_unspec"}
"""The anatomies that masks of whole lungs have, by side."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where a finding is: a rectangle in pixels of its image, x to the right and y down from the top left corner.

    `phrase` is what the report says of it, "" where the box came without words.
    """

    pathology: str
    x: float
    y: float
    width: float
    height: float
    anatomy: str = ""
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class Mask:
    """Where a finding is, pixel by pixel: boolean (H, W), the size of its image. Without a finding, where its anatomy is."""

    pathology: str
    pixels: NDArray[np.bool_]
    anatomy: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One image of a study.

    Attributes:
        image: the file, or the pixels themselves: uint8 (H, W).
        position: "PA", "AP", "frontal" (which of them is not said), "lateral", "other", or "" when unknown; a word
            that `medlip.data.views` doesn't know is as the source has it.
        boxes: findings with a box, in pixels of this image.
        masks: findings with a mask.
        frame: width and height of the published image that boxes and masks refer to, where the file may be a resized copy
            (preparing scales them to it), or `FRACTIONS`; None when they refer to the file itself.
        labels: of this image alone, None where it has those of its study.
        problem: why the image can't be used, "" if it can.
        notes: what reading its file left out, assumed or turned.
    """

    image: Path | NDArray[np.uint8]
    position: str = ""
    boxes: tuple[Box, ...] = ()
    masks: tuple[Mask, ...] = ()
    frame: tuple[int, int] | None = None
    labels: Mapping[str, Presence] | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """One examination of one patient.

    Attributes:
        id: unique in its source.
        patient: what splits and bootstraps go by; two studies of one person share it.
        views: its images.
        report: the report's text with section headings ("FINDINGS: …"), "" when there is none.
        facts: facts that are known without reading the report, None when they are to be extracted from it.
        labels: image-level labels by name (a pathology of the vocabulary where one fits); a name that is not there is
            unknown.
        split: "train", "val", "test", or "" when the source has none.
        attributes: sex, age and the like, for subgroups; never an identifier.
        language: of the report, by its ISO 639 code; only English ones are read.
    """

    id: str
    patient: str
    views: tuple[View, ...]
    report: str = ""
    facts: tuple[Fact, ...] | None = None
    labels: Mapping[str, Presence] = field(default_factory=dict)
    split: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    language: str = "en"
