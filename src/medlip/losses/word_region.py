"""Word-region attention: similarity of reports and images by their parts (GLoRIA, Huang et al., ICCV 2021).

Each sentence (or word) attends to patches, and what it read is compared with it:

    context_m = sum_k softmax_k(<s_m, p_k> / temperature) p_k
    similarity = sharpness log sum_m exp(cos(context_m, s_m) / sharpness)

GLoRIA's factors 4 and 5 are temperature 1 / 4 and sharpness 1 / 5; the log-sum is scaled back by 1 / 5, which GLoRIA doesn't
do, to keep the similarity in units of a cosine. This is the paper's attention, over regions alone. The authors' code takes a
softmax over the report's words before that, as AttnGAN does (`words_first`), of words and regions as long as they are: for
unit vectors it would come close to uniform. What a word attends to then depends on what else its report says.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medlip.errors import MedLIPError
from medlip.nn.pairs import by_images, checked_pairs, images_at_once


def attention_similarity(
    sentences: Tensor,
    patches: Tensor,
    rows: Tensor,
    columns: Tensor | None = None,
    *,
    temperature: float = 0.25,
    sharpness: float = 0.2,
    words_first: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Similarity of every image and report by attention of sentences to patches.

    Images are compared a few at a time, and again in the backward pass, so that memory is linear in the batch.

    >>> words, patches = torch.eye(2)[None], torch.eye(2)[None]
    >>> attention_similarity(words, patches, torch.tensor([[True, False]]))
    tensor([[0.9998]])

    Args:
        sentences: (R, M, d) sentences or words of R reports, L2-normalised.
        patches: (I, N, d) of I images, L2-normalised.
        rows: (R, M) boolean, True for real sentences.
        columns: (I, N) boolean, True for real patches; None: all.
        temperature: of the attention; the smaller, the fewer patches are read.
        sharpness: of the sum over sentences; near 0 the best sentence counts alone.
        words_first: take a softmax over a report's sentences or words before the one over patches; lengths then matter.
        chunk: images at a time; None: by size.

    Returns:
        (I, R), at least float32, at most 1 + sharpness log M, as more sentences say more; 0 without gradient where a report
        has no sentence or an image no patch.

    Raises:
        MedLIPError: a setting is out of range, or shapes don't fit.
    """
    for name, value in (("temperature", temperature), ("sharpness", sharpness)):
        if not 0 < value < math.inf:
            raise MedLIPError(f"{name} is {value}. Give a number above 0.")
    sentences, patches, rows, columns = checked_pairs(sentences, patches, rows, columns)
    images = images_at_once(sentences, patches, chunk)
    with torch.autocast(patches.device.type, enabled=False):
        return by_images(partial(_attend, rows, temperature, sharpness, words_first), images, sentences, patches, columns)


def reference_attention_similarity(
    sentences: Tensor, patches: Tensor, rows: Tensor, *, temperature: float = 0.25, sharpness: float = 0.2
) -> Tensor:
    """Plain form of `attention_similarity`: one image, report and sentence at a time; every report has a sentence."""
    result = patches.new_zeros(len(patches), len(sentences))
    for i, regions in enumerate(patches):
        for j, words in enumerate(sentences):
            terms = []
            for word in words[rows[j]]:
                context = (regions @ word / temperature).softmax(0) @ regions
                terms.append((F.cosine_similarity(context, word, dim=0) / sharpness).exp())
            result[i, j] = sharpness * torch.stack(terms).sum().log()
    return result


def local_logits(
    words: Tensor,
    regions: Tensor,
    real: Tensor,
    attention: float = 4.0,
    sharpness: float = 5.0,
    scale: float = 1.0,
    *,
    words_first: bool = False,
) -> Tensor:
    """Return scale log sum_m exp(sharpness cos(context_m, word_m)) of every image and report, as GLoRIA's code has it.

    >>> words, regions = torch.eye(2)[None], torch.eye(2)[None]
    >>> local_logits(words, regions, torch.tensor([[True, False]]))
    tensor([[4.9992]])

    Args:
        words: (R, M, d) of R reports, of length 1.
        regions: (I, N, d) of I images, of length 1.
        real: bool (R, M), words that are there.
        attention: factor before the softmax over regions that makes a word's context.
        sharpness: factor of the cosines.
        scale: factor of the result.
        words_first: as of `attention_similarity`.

    Returns:
        (I, R); 0 for a report without words.

    Raises:
        MedLIPError: as for `attention_similarity`.
    """
    similarity = attention_similarity(
        words, regions, real, temperature=1 / attention, sharpness=1 / sharpness, words_first=words_first
    )
    return scale * sharpness * similarity


def reference_local_loss(
    words: Tensor,
    regions: Tensor,
    real: Tensor,
    attention: float,
    sharpness: float,
    scale: float,
    words_first: bool = False,
) -> Tensor:
    """Return GLoRIA's local loss word by word: the mean of both directions' cross-entropies; every report has a word."""
    logits = regions.new_zeros(len(regions), len(words))
    for i, image in enumerate(regions):
        for j, report in enumerate(words):
            total = regions.new_zeros(())
            attended = image @ report[real[j]].T  # (N, words)
            if words_first:
                attended = attended.softmax(1)
            for index, word in enumerate(report[real[j]]):
                context = (attention * attended[:, index]).softmax(0) @ image
                total = total + (sharpness * F.cosine_similarity(context, word, dim=0)).exp()
            logits[i, j] = scale * total.log()
    pairs = torch.arange(len(words))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def _attend(
    rows: Tensor,
    temperature: float,
    sharpness: float,
    words_first: bool,
    sentences: Tensor,
    patches: Tensor,
    columns: Tensor,
) -> Tensor:
    """Similarity (i, R) of a few images (i, N, d)."""
    lowest = torch.finfo(patches.dtype).min  # not -inf, of which a report without sentences would make NaN
    queries = sentences.flatten(0, 1)
    dots = queries @ patches.mT
    attended = dots
    if words_first:
        by_report = dots.view(len(patches), *rows.shape, -1).masked_fill(~rows[..., None], lowest)
        attended = by_report.softmax(2).view_as(dots)
    weights = (attended / temperature).masked_fill(~columns[:, None], lowest).softmax(-1)
    # <context, s> and |context|^2 from dot products alone: no context is built, as patches are fewer than its dimensions.
    squares = ((weights @ (patches @ patches.mT)) * weights).sum(-1)
    lengths = squares.clamp(min=1e-16).sqrt() * queries.norm(dim=-1).clamp(min=1e-8)
    cosines = ((weights * dots).sum(-1) / lengths).view(len(patches), *rows.shape)
    sums: Tensor = sharpness * (cosines / sharpness).masked_fill(~rows, lowest).logsumexp(-1)
    return sums.masked_fill(~(rows.any(-1) & columns.any(-1)[:, None]), 0)
