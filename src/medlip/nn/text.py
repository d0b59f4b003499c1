"""Texts to fixed embeddings: of any transformers encoder, or of one that needs no download; and the bank that keeps them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medlip.errors import MedLIPWarning
from medlip.nn.report_encoder import ReportEncoder

# Written here, not taken from a library: another list would give a saved model's open questions other embeddings.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been being by can could for from has have in into is it its may more most no not of on or "
        "over so such than that the their them then there these they this those to up was were when where which while with "
        "within",
    )
)


class TextEncoder(Protocol):
    """What a text bank and open questions need."""

    width: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (n, width), float32."""


@lru_cache(maxsize=2)
def text_encoder(name: str, max_tokens: int = 128) -> TextEncoder:
    """Return the encoder of that name: "lexical", or a transformers model by hub name or folder.

    Args:
        name: which encoder.
        max_tokens: where a text is cut, the same in training and in use; the lexical encoder cuts nothing.

    Raises:
        MedLIPError: the model can't be had.
    """
    return LexicalEncoder() if name == "lexical" else TransformersEncoder(name, max_tokens)


class TransformersEncoder:
    """The last layer's [CLS] state of a `transformers` model, frozen.

    Args:
        name: hub name (for example "emilyalsentzer/Bio_ClinicalBERT") or a local folder.
        max_tokens: longer texts are cut there.

    Raises:
        MedLIPError: the model can't be had.
    """

    def __init__(self, name: str, max_tokens: int = 128) -> None:
        encoder = ReportEncoder.from_pretrained(name, max_tokens, "text_encoder=lexical, which needs no download")
        self._encoder = encoder.eval().requires_grad_(False)
        self.width = encoder.width

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (n, width), float32; a warning says what is lost of texts that are too long."""
        if lost := self._encoder.cut([text] for text in texts).describe("texts"):
            warn(lost, MedLIPWarning, stacklevel=2)
        parts = [texts[start : start + 32] for start in range(0, len(texts), 32)]
        states = [self._encoder([[text] for text in part]).reports.float() for part in parts]
        return torch.cat(states).clone() if states else torch.empty(0, self.width)


class LexicalEncoder:
    """Words, word pairs and pieces of words, hashed to random directions: the offline default.

    Every feature of a text has a direction of its own, drawn from a hash of its letters, and a text is the weighted sum:
    the cosine of two texts is, up to noise of order 1 / sqrt(width), the overlap of their features. Texts that share words
    or stems are near each other, others orthogonal, on any machine and in any version.
    """

    width = 768

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (n, width), float32, of unit length (zero for a text without words)."""
        return torch.from_numpy(
            np.stack([self._encode(text) for text in texts]) if texts else np.empty((0, self.width), "f4")
        )

    def _encode(self, text: str) -> NDArray[np.float32]:
        total = np.zeros(self.width, np.float32)
        for feature, count in _features(text).items():
            total += np.float32(np.log1p(count)) * _weight(feature) * _direction(feature, self.width)
        norm = float(np.linalg.norm(total))
        return total / np.float32(norm) if norm else total


def _features(text: str) -> Counter[str]:
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _STOP_WORDS]
    features = Counter(f"w:{word}" for word in words)
    features.update(f"b:{first} {second}" for first, second in pairwise(words))
    features.update(f"s:{word[:length]}" for word in words for length in (4, 6) if len(word) > length)
    return features


def _weight(feature: str) -> np.float32:
    return np.float32({"w": 1.0, "s": 0.7, "b": 0.5}[feature[0]])


@lru_cache(maxsize=50_000)
def _direction(feature: str, width: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(width, np.float32)


class TextBank(nn.Module):
    """Embeddings of a vocabulary's texts, kept with the weights as buffers.

    A standardized bank is centred and scaled to unit variance per dimension, and texts asked later are moved by the same
    amounts: short, nearly parallel vectors would teach a loss without temperature nothing.

    Args:
        embeddings: (n, width).
        standardize: False keeps the embeddings as they are, as a released model needs them.
    """

    embeddings: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, embeddings: Tensor, standardize: bool = True) -> None:
        super().__init__()
        embeddings = torch.as_tensor(embeddings).detach().clone()
        width = embeddings.shape[1]
        shift, scale = torch.zeros(width), torch.ones(width)
        if standardize and len(embeddings) > 1:
            shift = embeddings.mean(0)
            scale = embeddings.std(0, correction=0).clamp(min=1e-6)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("embeddings", self.place(embeddings))

    def place(self, embeddings: Tensor) -> Tensor:
        """Move raw embeddings (n, width) to where the bank's own are."""
        return (embeddings - self.shift) / self.scale
