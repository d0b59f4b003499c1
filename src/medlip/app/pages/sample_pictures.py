"""What a method that matches sentences with patches, and predicts hidden ones, shows on the demo's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medlip.app.pages.pictures import paint, relative
from medlip.data.store import Record
from medlip.evaluation.grounding import enlarge

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class MatchesSentences(Protocol):
    """A method that says which patches a sentence goes to."""

    def match(self, images: Tensor, reports: Sequence[Sequence[str]]) -> Tensor:
        """Return transport plans (B, M, h, w)."""


@runtime_checkable
class PredictsPatches(Protocol):
    """A method that predicts hidden patches."""

    def hide_and_predict(self, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return which pixels were hidden, bool (B, S, S), and the grey values predicted for all, in [0, 1]."""


def own_pictures(method: Any, record: Record) -> list[tuple[str, Image]]:
    """Return what this kind of method can show of a record beyond findings and places, with captions; maybe nothing."""
    with torch.inference_mode():
        return [*_prediction_pictures(method, record), *_matching_pictures(method, record)]


def _matching_pictures(method: Any, record: Record) -> list[tuple[str, Image]]:
    if not isinstance(method, MatchesSentences) or len(record.sentences) < 2:  # one sentence alone gets every patch
        return []
    plans = method.match(_input(method, record), [record.sentences])[0].float().cpu().numpy()
    return [
        (sentence, paint(record.image, relative(enlarge(plan, record.image.shape))))
        for sentence, plan in zip(record.sentences, plans, strict=True)
        if plan.any()
    ]


def _prediction_pictures(method: Any, record: Record) -> list[tuple[str, Image]]:
    from PIL import Image

    if not isinstance(method, PredictsPatches) or getattr(method, "decoder", None) is None:
        return []
    hidden, predicted = (values[0].cpu().numpy() for values in method.hide_and_predict(_input(method, record), 0))
    side = hidden.shape[0]
    grey = np.asarray(Image.fromarray(record.image).resize((side, side)), np.float32) / 255
    filled = np.where(hidden, predicted, grey)
    return [(name, _grey(values)) for name, values in (("Hidden", grey * ~hidden), ("Predicted", filled))]


def _input(method: Any, record: Record) -> Tensor:
    tensor: Tensor = method.preprocessing(torch.from_numpy(record.image)[None])
    return tensor


def _grey(values: NDArray[np.floating[Any]]) -> Image:
    from PIL import Image

    return Image.fromarray(np.uint8(255 * values.clip(0, 1)))
