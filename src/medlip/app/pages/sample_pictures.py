"""What a method shows of an image beyond findings and places, drawn for the demo's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from medlip.app.pages.pictures import paint, relative
from medlip.data.store import Record
from medlip.images.preprocessing import enlarge
from medlip.methods.base import Method, SamplePicture, ShowsSamples

if TYPE_CHECKING:
    from PIL.Image import Image


def own_pictures(method: Method, record: Record) -> list[tuple[str, Image]]:
    """Return the pictures that this kind of method has of a record, with captions; maybe none."""
    if not isinstance(method, ShowsSamples):
        return []
    image = method.preprocessing(torch.from_numpy(record.image)[None]).to(method.device)[0]
    return [(picture.caption, _draw(picture, record)) for picture in method.sample_pictures(image, record.sentences)]


def _draw(picture: SamplePicture, record: Record) -> Image:
    from PIL import Image

    values = picture.values.float().numpy()
    if picture.kind == "map":
        return paint(record.image, relative(enlarge(values, record.image.shape)))
    return Image.fromarray(np.uint8(255 * values.clip(0, 1)))
