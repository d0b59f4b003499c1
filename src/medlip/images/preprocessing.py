"""What a model sees of an image: resized, repeated over three channels, normalised. It travels with the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from medlip.errors import MedLIPError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Squash grey images to a square and normalise them.

    The whole image is kept and its aspect is not, so a map over the square goes back onto the image by a plain resize.

    Attributes:
        size: side of the square in pixels.
        mean: of each channel, for intensities in [0, 1].
        std: of each channel.

    Raises:
        MedLIPError: a size below 1, or a mean or std that is not three numbers (std positive).
    """

    size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1:
            raise MedLIPError(f"preprocessing: size={self.size} is no image size. Give the side of the square in pixels.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise MedLIPError(
                f"preprocessing: mean={self.mean}, std={self.std}: give three numbers each, std greater than 0."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, size, size) of uint8 images (B, H, W) or (B, 1, H, W).

        Raises:
            MedLIPError: the images are not uint8, or not of one of these shapes.
        """
        if images.dtype != torch.uint8:
            raise MedLIPError(
                f"preprocessing: got {images.dtype} images; give uint8 from 0 (dark) to 255 (bright), as read_image returns "
                "them, neither scaled nor normalised. Floats in [0, 1] go to Preprocessing.normalise."
            )
        if images.ndim == 4 and images.shape[1] == 1:
            images = images[:, 0]
        if images.ndim != 3:
            raise MedLIPError(
                f"preprocessing: got images of shape {tuple(images.shape)}; give grey (B, H, W) or (B, 1, H, W)."
            )
        return self.normalise(squash(images, self.size).float().div_(255))

    def of_images(self, images: Iterable[NDArray[np.uint8]]) -> Tensor:
        """Return float32 (B, 3, size, size) of grey uint8 images (H, W), which may differ in size."""
        # Each is squashed by itself, for sizes differ; the rest is done at once.
        return self(torch.cat([squash(torch.tensor(image)[None], self.size) for image in images]))

    def normalise(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, size, size) of float images (B, size, size) in [0, 1].

        Raises:
            MedLIPError: another size, or intensities outside [0, 1].
        """
        if images.shape[1:] != (self.size, self.size):
            raise MedLIPError(
                f"preprocessing: got images of shape {tuple(images.shape)}; give (B, {self.size}, {self.size}), "
                "or uint8 images of any size to the Preprocessing itself."
            )
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise MedLIPError(
                f"preprocessing: intensities go from {low:.4g} to {high:.4g}; give floats in [0, 1] that are not normalised "
                "yet, or uint8 images to the Preprocessing itself."
            )
        return self.standardize(images)

    def standardize(self, images: Tensor) -> Tensor:
        """Return `normalise` of images that are known to be of this size and in [0, 1]: an accelerator need not be asked."""
        return torch.stack([(images - mean) / std for mean, std in zip(self.mean, self.std, strict=True)], 1)

    def to_dict(self) -> dict[str, object]:
        """Return plain data for a checkpoint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Rebuild it from `to_dict`'s plain data.

        Raises:
            MedLIPError: a setting is missing or unknown.
        """
        try:
            return cls(size=int(content["size"]), mean=tuple(content["mean"]), std=tuple(content["std"]))
        except KeyError as error:
            raise MedLIPError(f"preprocessing: {error.args[0]!r} is missing. Save it with Preprocessing.to_dict.") from error


def enlarge(heat: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return an (h, w) map of a squashed image bilinearly enlarged to the image's (H, W).

    Cell centres keep their place (corners not aligned).
    """
    tensor = torch.as_tensor(np.asarray(heat, float))[None, None]
    large: NDArray[np.float64] = interpolate(tensor, shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    return large


def squash(images: Tensor, size: int) -> Tensor:
    """Return uint8 images (B, H, W) as (B, size, size), antialiased, the aspect not kept."""
    if images.shape[1:] == (size, size):
        return images
    return interpolate(images[:, None], (size, size), mode="bilinear", antialias=True)[:, 0]
