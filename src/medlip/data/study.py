"""A study: what every reader of a data set gives, whatever layout the data set ships in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medlip.reports import Fact, Presence


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
    """Where a finding is, pixel by pixel: boolean (H, W), the size of its image."""

    pathology: str
    pixels: NDArray[np.bool_]
    anatomy: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One image of a study.

    Attributes:
        image: the file, or the pixels themselves: uint8 (H, W).
        position: "PA", "AP", "lateral", or "" when unknown; PA and AP are frontal.
        boxes: findings with a box, in pixels of this image.
        masks: findings with a mask.
        frame: width and height of the published image that boxes and masks refer to, where the file may be a resized copy
            (preparing scales them to it); None when they refer to the file itself.
    """

    image: Path | NDArray[np.uint8]
    position: str = ""
    boxes: tuple[Box, ...] = ()
    masks: tuple[Mask, ...] = ()
    frame: tuple[int, int] | None = None


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
    """

    id: str
    patient: str
    views: tuple[View, ...]
    report: str = ""
    facts: tuple[Fact, ...] | None = None
    labels: Mapping[str, Presence] = field(default_factory=dict)
    split: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
