"""The best and the worst cases of an evaluation: for each finding the image whose map fits it best, and the one least."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d, interpolate

from medlip.errors import MedLIPError
from medlip.files import write_atomic
from medlip.metrics import Array, Pixels

CASES = "cases.npz"
FINDINGS = 6
SIDE = 192
_ARRAYS = ("pixels", "heat", "target")


@dataclass(frozen=True, slots=True)
class Choice:
    """A case that is shown.

    Attributes:
        case: its index.
        finding: its name.
        rank: "best" or "worst" of its finding.
        of: how many cases it was chosen from.
        iou: at the threshold, in [0, 1].
        hit: of the pointing game.
    """

    case: int
    finding: str
    rank: Literal["best", "worst"]
    of: int
    iou: float
    hit: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it is shown, small enough to be kept.

    Attributes:
        finding: its name.
        rank: "best" or "worst" of its finding.
        of: how many cases it was chosen from.
        image: the image's id, as the predictions have it.
        iou: of the map at the chosen threshold and the target, in the image's own pixels.
        hit: of the pointing game, in the image's own pixels.
        pixels: uint8 (H, W), the image with neither side above `SIDE`.
        heat: float16 (h, w), the map as the method gave it, from 0 to 1; it covers the whole image.
        target: bool (H, W), what IoU is taken against: the mask, else the union of boxes.
    """

    finding: str
    rank: Literal["best", "worst"]
    of: int
    image: str
    iou: float
    hit: bool
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float16]
    target: Pixels


def make_case(choice: Choice, image: str, pixels: NDArray[np.uint8], heat: Array, target: Pixels) -> Case:
    """Make a case small.

    Args:
        choice: which it is, and why it is shown.
        image: the image's id.
        pixels: (H, W).
        heat: (h, w), any scale.
        target: (H, W), what IoU is taken against.
    """
    reduction = min(1, SIDE / max(pixels.shape))
    shape = [max(1, round(reduction * side)) for side in pixels.shape]
    grey, inside = torch.from_numpy(pixels)[None, None], torch.from_numpy(target)[None].float()
    span = float(np.ptp(heat))
    return Case(
        finding=choice.finding,
        rank=choice.rank,
        of=choice.of,
        image=image,
        iou=choice.iou,
        hit=choice.hit,
        pixels=interpolate(grey, shape, mode="bilinear", antialias=True)[0, 0].numpy(),
        heat=((heat - heat.min()) / (span or 1)).astype(np.float16),
        target=adaptive_max_pool2d(inside, shape)[0].bool().numpy(),  # the smallest finding keeps a pixel
    )


def save_cases(cases: Sequence[Case], path: Path) -> None:
    """Write cases as a compressed NumPy archive, whole or not at all."""
    plain = [{each.name: getattr(case, each.name) for each in fields(Case) if each.name not in _ARRAYS} for case in cases]
    arrays = {f"{name}/{i}": getattr(case, name) for i, case in enumerate(cases) for name in _ARRAYS}
    file = io.BytesIO()
    np.savez_compressed(file, cases=np.array(json.dumps(plain)), **arrays)
    write_atomic(path, file.getvalue())


def load_cases(path: Path) -> list[Case]:
    """Read what `save_cases` wrote.

    Raises:
        MedLIPError: not readable.
    """
    try:
        with np.load(path) as content:
            plain = json.loads(str(content["cases"]))
            return [Case(**case, **{name: content[f"{name}/{i}"] for name in _ARRAYS}) for i, case in enumerate(plain)]
    except Exception as error:  # a damaged archive fails in many ways: zip, zlib, NumPy's header, JSON
        raise MedLIPError(f"{path}: not readable as cases ({error}). Evaluate again with --out.") from error
