"""Augmentation of a whole batch at once: mirror, crop, rotation and shift in one resampling, then intensity.

Every sample has a seed of its own, so the result is the same whatever the batches or workers. Boxes and masks follow through
`move_boxes` and `move_masks`; who mirrors also swaps left and right in facts and text (`medlip.data.mirror`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from medlip.errors import MedLIPError


class Augmented(NamedTuple):
    """An augmented batch.

    Attributes:
        images: float32 (B, size, size) in [0, 1].
        transforms: float32 (B, 2, 3): from output to input, both in [-1, 1] from the first to the last edge, as
            `torch.nn.functional.affine_grid` takes them. A mirror is part of it.
        mirrored: bool (B,).
    """

    images: Tensor
    transforms: Tensor
    mirrored: Tensor


class AugmentPlan(NamedTuple):
    """What is to be done to B images.

    Attributes:
        transforms: as of `Augmented`.
        mirrored: likewise.
        intensities: float32 (B, 3): changes of contrast, brightness and tone.
    """

    transforms: Tensor
    mirrored: Tensor
    intensities: Tensor


@dataclass(frozen=True, slots=True)
class Augment:
    """Random mirror, crop, rotation, shift, contrast, brightness and tone, seeded for each sample.

    Attributes:
        size: side of the square output in pixels.
        scale: smallest and largest share of the image's area that a crop keeps; (1, 1) keeps all.
        rotate: largest angle in degrees, either way.
        translate: how far a crop may reach beyond the image, as a share of its side; beyond it is black.
        contrast: largest relative change about mid grey.
        brightness: largest shift, as a share of the range.
        tone: largest bend of the tone curve x + t x (1 - x), as a gamma bends it; below 1.
        mirror: probability of swapping left and right. A mirrored chest has its heart on the right: off by default.
        swap_sides: a mirrored image's facts and text have their sides swapped as well. False leaves them wrong, to measure
            what that costs.

    Raises:
        MedLIPError: a setting outside its range.
    """

    size: int
    scale: tuple[float, float] = (0.6, 1.0)
    rotate: float = 10.0
    translate: float = 0.05
    contrast: float = 0.2
    brightness: float = 0.1
    tone: float = 0.3
    mirror: float = 0.0
    swap_sides: bool = True

    def __post_init__(self) -> None:
        low, high = self.scale
        for fine, what in (
            (self.size >= 1, f"size={self.size} is no image size"),
            (0 < low <= high <= 1, f"scale={self.scale} must be two shares, 0 < smallest <= largest <= 1"),
            (0 <= self.rotate <= 180, f"rotate={self.rotate} must be from 0 to 180 degrees"),
            (0 <= self.translate <= 0.5, f"translate={self.translate} must be from 0 to 0.5"),
            (0 <= self.contrast < 1, f"contrast={self.contrast} must be at least 0 and below 1"),
            (0 <= self.brightness < 1, f"brightness={self.brightness} must be at least 0 and below 1"),
            (0 <= self.tone < 1, f"tone={self.tone} must be at least 0 and below 1"),
            (0 <= self.mirror <= 1, f"mirror={self.mirror} must be a probability"),
        ):
            if not fine:
                raise MedLIPError(f"augmentation: {what}. Correct the setting.")

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Augmented:
        """Augment uint8 images (B, H, W), sample i by `seeds[i]` alone.

        Raises:
            MedLIPError: the images are not uint8 (B, H, W), or there are fewer or more seeds than images.
        """
        if images.dtype != torch.uint8 or images.ndim != 3 or len(seeds) != len(images):
            raise MedLIPError(
                f"augmentation: got {images.dtype} images of shape {tuple(images.shape)} and {len(seeds)} seeds; "
                "give uint8 (B, H, W) and one seed for each image."
            )
        plan = self.plan(seeds)
        return Augmented(self.carry_out(plan, images), plan.transforms, plan.mirrored)

    def plan(self, seeds: Sequence[int], mirrored_by: Sequence[int] | None = None) -> AugmentPlan:
        """Draw what is to be done to images, one of each seed.

        Args:
            seeds: of the images.
            mirrored_by: for each, the image whose draw says whether it is mirrored; -1 of one that never is. None: itself.
        """
        draws = torch.from_numpy(np.stack([np.random.default_rng(seed).random(8) for seed in seeds])).float()
        if mirrored_by is not None:
            by = torch.tensor(mirrored_by)
            draws[:, 0] = torch.where(by < 0, 1.0, draws[by.clamp(min=0), 0])  # a draw of 1 is below no probability
        strongest = draws.new_tensor([self.contrast, self.brightness, self.tone])
        return AugmentPlan(*self._transforms(draws[:, :5]), (2 * draws[:, 5:] - 1) * strongest)

    def carry_out(self, plan: AugmentPlan, images: Tensor) -> Tensor:
        """Return uint8 images (B, H, W), on whatever device, as planned: float32 (B, size, size) in [0, 1]."""
        transforms, intensities = (part.to(images.device, non_blocking=True) for part in (plan.transforms, plan.intensities))
        output = resample(images, transforms, self.size).div_(255)
        contrast, brightness, tone = intensities.T
        output.sub_(0.5).mul_(1 + contrast[:, None, None]).add_(0.5 + brightness[:, None, None]).clamp_(0, 1)
        bend = (1 - output).mul_(tone[:, None, None]).add_(1)
        return output.mul_(bend).clamp_(0, 1)

    def _transforms(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Turn draws (B, 5) in [0, 1) into output-to-input transforms (B, 2, 3) and mirror flags (B,)."""
        mirror, scale, rotate, *shift = draws.unbind(1)
        mirrored = mirror < self.mirror
        side = (self.scale[0] + scale * (self.scale[1] - self.scale[0])).sqrt()
        angle = (2 * rotate - 1) * self.rotate * pi / 180
        cos, sin = side * angle.cos(), side * angle.sin()
        flip = 1 - 2 * mirrored.float()
        reach = 1 - side + 2 * self.translate
        x, y = ((2 * draw - 1) * reach for draw in shift)
        rows = (flip * cos, -sin, x), (flip * sin, cos, y)
        return torch.stack([torch.stack(row, 1) for row in rows], 1), mirrored


def resample(images: Tensor, transforms: Tensor, size: int) -> Tensor:
    """Return images (B, H, W) seen through output-to-input transforms (B, 2, 3): float32 (B, size, size), antialiased.

    Intensities keep their scale; outside of an image it is black.
    """
    height, width = images.shape[1:]
    if max(height, width) > 2 * size:  # below, each output pixel is the mean of at most 2 x 2 samples
        images = interpolate(
            images[:, None], (min(height, 2 * size), min(width, 2 * size)), mode="bilinear", antialias=True
        )[:, 0]
    pixels = images.float()[:, None]
    steps = (torch.arange(size, dtype=torch.float32, device=images.device) * 2 + 1) / size - 1
    # Not affine_grid: its matrix product may round differently with the number of samples, and it is slower.
    # x and y apart, (B, 2, H, W): sums along a last dimension of two take as long again.
    columns = transforms[:, :, 0, None, None] * steps
    rows = transforms[:, :, 1, None, None] * steps[:, None]
    grid = columns + rows + transforms[:, :, 2, None, None]

    def sampled(grid: Tensor) -> Tensor:
        return grid_sample(pixels, grid.permute(0, 2, 3, 1), align_corners=False)[:, 0]

    if max(height, width) <= 1.25 * size:
        return sampled(grid)
    quarter = transforms[..., :2, None, None] / (2 * size)
    output = torch.zeros(len(images), size, size, device=images.device)
    for x in (-1, 1):
        for y in (-1, 1):
            output += sampled(grid + (x * quarter[:, :, 0] + y * quarter[:, :, 1]))
    return output.div_(4)


def move_masks(masks: Tensor, transform: Tensor, size: int) -> Tensor:
    """Move the masks (N, H, W) of one image along with it: bool (N, size, size) under its transform (2, 3)."""
    return resample(masks.to(torch.uint8), transform.expand(len(masks), 2, 3), size) > 0.5


def move_boxes(boxes: Tensor, transform: Tensor) -> Tensor:
    """Move the boxes of one image along with it.

    Args:
        boxes: float (N, 4): x, y, width, height as shares of the image's width and height.
        transform: output to input, (2, 3).

    Returns:
        float (N, 4): the rectangle around each moved box, cut at the image's edges; width and height are 0 when it has left.
    """
    x, y, width, height = boxes.unbind(1)
    corners = torch.stack([torch.stack([x + i * width, y + j * height], 1) for i in (0, 1) for j in (0, 1)], 1)
    moved = (2 * corners - 1 - transform[:, 2]) @ torch.linalg.inv(transform[:, :2]).T
    low, high = ((bound + 1) / 2 for bound in (moved.amin(1), moved.amax(1)))
    low, high = low.clamp(0, 1), high.clamp(0, 1)
    return torch.cat([low, high - low], 1)
