"""Images and single sentences: which sentences are said of an image, and of which image a sentence is said.

    l_s = a (-s_is + log(exp s_is + sum_t n_it exp s_it)) + (1 - a) (-s_is + log(exp s_is + sum_j n_js exp s_js))

for a sentence s of image i, t over the sentences of other images, j over the other images; n says what counts as a negative
(a sentence that is true of an image, too, is none). The mean is over an image's sentences, and over images.

    similarity(image, text) = sum_k softmax_k(<p_k, t> / temperature) <p_k, t>

is that of the patches which are like the text: the grounding is inside what is compared, so that a small finding is not
averaged away, and the map of a text is what its similarity is made of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlip.losses.infonce import LEAST


def pooled_similarity(texts: Tensor, patches: Tensor, temperature: float) -> Tensor:
    """Return the similarity (I, T) of every image and text, pooled over the patches that are like the text.

    >>> pooled_similarity(torch.tensor([[1.0, 0.0]]), torch.eye(2)[None], temperature=0.1)
    tensor([[1.0000]])

    Args:
        texts: (T, d) of length 1.
        patches: (I, N, d) of length 1.
        temperature: of the softmax over patches; the smaller, the fewer of them count.
    """
    cosines = patches @ texts.T
    return ((cosines / temperature).softmax(1) * cosines).sum(1)


def sentence_contrast(
    logits: Tensor,
    owners: Tensor,
    weights: Tensor | None = None,
    *,
    to_reports: float = 0.5,
    negatives: Tensor | None = None,
    further: Tensor | None = None,
) -> Tensor:
    """Return the loss; 0 where there is no sentence.

    >>> sentence_contrast(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    tensor(0.1269)

    Args:
        logits: s (B, S), similarity of each image and sentence over a temperature.
        owners: (S,) the image that a sentence is said of, -1 for a sentence that takes no part.
        weights: (B,) of the images, None for 1.
        to_reports: a, the share of finding an image's sentence; the rest is finding a sentence's image.
        negatives: n (B, S) in [0, 1]; None for 1.
        further: (B, N) logits of each image and N more sentences that are wrong of it; -inf where there are fewer.
    """
    lowest = torch.finfo(logits.dtype).min
    own = owners == torch.arange(len(logits), device=logits.device)[:, None]  # (B, S)
    counted = logits if negatives is None else logits + negatives.clamp(min=LEAST).log()
    others = counted.masked_fill(own | (owners < 0), lowest)
    said = logits.masked_fill(~own, 0).sum(0)  # (S,), of each sentence and its own image
    among_sentences = others if further is None else torch.cat([others, further.clamp(min=lowest)], 1)
    against = among_sentences.logsumexp(1)[owners.clamp(min=0)]
    losses = to_reports * torch.logaddexp(said, against) + (1 - to_reports) * torch.logaddexp(said, others.logsumexp(0))
    losses = (losses - said).masked_fill(owners < 0, 0)
    shares = own / own.sum(1, keepdim=True).clamp(min=1)
    per_image, has = shares @ losses, own.any(1)
    factors = has.to(logits.dtype) if weights is None else has * weights
    return (factors * per_image).sum() / factors.sum().clamp(min=torch.finfo(logits.dtype).tiny)
