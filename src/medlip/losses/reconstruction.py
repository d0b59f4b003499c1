"""Masked image prediction: the error at the pixels of hidden patches (MAE, arXiv 2111.06377; L_MIP of MLIP).

    e_i = mean over hidden patches k of mean over pixels (x_k - y_k)^2

y are the patch's grey values, or with `normalize` the same at mean 0 and variance 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.nn.patches import patch_pixels, visible_map


def prediction_errors(predicted: Tensor, images: Tensor, visible: Tensor, patch: int, normalize: bool = False) -> Tensor:
    """Return the mean squared error of each image's hidden patches, (B,); 0 where none is hidden.

    >>> images, predicted = torch.ones(1, 3, 2, 2), torch.zeros(1, 4, 1)
    >>> prediction_errors(predicted, images, visible=torch.tensor([[0, 3]]), patch=1)
    tensor([1.])

    Args:
        predicted: (B, N, patch * patch).
        images: (B, 3, S, S).
        visible: (B, n) indices of the patches that are not predicted.
        patch: side in pixels.
        normalize: compare with each patch at mean 0 and variance 1.

    Raises:
        MedLIPError: the shapes don't fit.
    """
    target = patch_pixels(images, patch)
    if predicted.shape != target.shape:
        raise MedLIPError(
            f"predicted is {tuple(predicted.shape)}, but the images have {tuple(target.shape)} (B, patches, pixels) at a "
            f"patch of {patch} px. Pass a prediction of every patch."
        )
    if normalize:
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    hidden = ~visible_map(visible, target.shape[1])
    errors = (predicted - target).square().mean(2)
    return (errors * hidden).sum(1) / hidden.sum(1).clamp(min=1)


def reference_prediction_errors(
    predicted: Tensor, images: Tensor, visible: Tensor, patch: int, normalize: bool = False
) -> Tensor:
    """Plain form of `prediction_errors`: one patch at a time; every image has a hidden one."""
    side = images.shape[3] // patch
    results = []
    for image, guessed, seen in zip(images, predicted, visible, strict=True):
        errors = []
        for k in set(range(side * side)) - set(seen.tolist()):
            row, column = divmod(k, side)
            pixels = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch].mean(0).flatten()
            if normalize:
                pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((guessed[k] - pixels).square().mean())
        results.append(torch.stack(errors).mean())
    return torch.stack(results)
