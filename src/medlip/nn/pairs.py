"""Every image against every report, a few images at a time, so that memory grows with the batch and not with its square."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medlip.errors import MedLIPError

ENTRIES = 1 << 19  # of sentence-patch pairs at a time: 4 MB in float64, which a processor's cache holds


def checked_pairs(
    sentences: Tensor, patches: Tensor, rows: Tensor, columns: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the arguments ready to be compared: at least float32, and zero where padded, whatever stood there.

    Args:
        sentences: (R, M, d), of R reports.
        patches: (I, N, d), of I images.
        rows: (R, M) boolean, True for real sentences.
        columns: (I, N) boolean, True for real patches; None: all.

    Raises:
        MedLIPError: the shapes don't fit together, or a mask isn't boolean.
    """
    if sentences.ndim != 3 or patches.ndim != 3 or sentences.shape[2] != patches.shape[2]:
        raise MedLIPError(
            f"sentences {tuple(sentences.shape)} and patches {tuple(patches.shape)} can't be compared. "
            "Pass (reports, sentences, width) and (images, patches, width) of one width."
        )
    rows = real(rows, sentences.shape[:2], sentences.device)
    columns = real(columns, patches.shape[:2], patches.device)
    dtype = at_least_float32(torch.promote_types(sentences.dtype, patches.dtype))
    sentences = sentences.to(dtype).masked_fill(~rows[..., None], 0)
    return sentences, patches.to(dtype).masked_fill(~columns[..., None], 0), rows, columns


def real(mask: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    """Return a mask of what is real, all True for None.

    Raises:
        MedLIPError: it is not boolean or has another shape.
    """
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if mask.dtype != torch.bool or mask.shape != shape:
        raise MedLIPError(
            f"the mask is {mask.dtype} of shape {tuple(mask.shape)}. Pass a boolean {tuple(shape)}, True where real."
        )
    return mask


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, all else becomes float32."""
    return torch.promote_types(dtype, torch.float32)


def images_at_once(sentences: Tensor, patches: Tensor, chunk: int | None) -> int:
    """Return how many images to compare at a time; `chunk` if it is given.

    Raises:
        MedLIPError: `chunk` is below 1.
    """
    if chunk is None:
        return max(1, ENTRIES // max(1, sentences.shape[0] * sentences.shape[1] * patches.shape[1]))
    if chunk < 1:
        raise MedLIPError(f"chunk is {chunk}. Give the number of images at a time: 1 or more, or None.")
    return chunk


def by_images(compare: Callable[[Tensor, Tensor, Tensor], Tensor], images: int, *tensors: Tensor) -> Tensor:
    """Compare a few images at a time; autograd keeps only the inputs and does the comparison again in the backward pass.

    Args:
        compare: takes sentences (R, M, d), patches (i, N, d) and columns (i, N), and returns (i, R).
        images: how many at a time (i).
        tensors: sentences (R, M, d), patches (I, N, d), columns (I, N).

    Returns:
        (I, R).
    """
    sentences, patches, columns = tensors
    parts = [
        checkpoint(compare, sentences, some, mask, use_reentrant=False)
        for some, mask in zip(torch.split(patches, images), torch.split(columns, images), strict=True)
    ]
    return torch.cat(parts)
