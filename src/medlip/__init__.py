"""MedLIP: fine-grained medical language-image pre-training.

    import medlip

    reading = medlip.load("run").read("x.png", ask=["pneumonia", "fluid at the left base"])

Not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from medlip.app.reader import Reader

    __version__: str

__all__ = ["__version__", "load"]


def load(
    source: str | Path,
    device: str = "auto",
    *,
    at: str | None = None,
    text_bank: str | Path | None = None,
    text_encoder: str | None = None,
) -> Reader:
    """Open a trained model to read X-rays with it.

    Args:
        source: folder that `medlip pretrain` or `medlip demo` wrote, or its model.safetensors alone; a model of the Hugging
            Face hub ("org/name", "hf://org/name@revision"); or a file of weights that the authors of MeDSLIP or MedKLIP
            released.
        device: "cpu", "cuda", "mps", or "auto" for the best that there is.
        at: which thresholds a calibrated model is read with, such as "sensitivity=0.9"; None: as it was calibrated.
        text_bank: of released weights alone, which lack the embeddings of their texts: an .npz file with `pathologies` and
            `anatomies` (names), `pathology_embeddings` and `anatomy_embeddings`; None: they are computed.
        text_encoder: of released weights alone: what computes these embeddings, by hub name or folder; None for
            Bio_ClinicalBERT, with which the weights were trained.

    Raises:
        MedLIPError: there is no such model, it can't be read, or the device can't be used; thresholds are asked for and it
            isn't calibrated, or it was calibrated with other weights.
    """
    from medlip.app.reader import Reader  # torch is imported when a model is opened, not with the package

    return Reader.open(source, device, at=at, text_bank=text_bank, text_encoder=text_encoder)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("medlip")
    raise AttributeError(f"module 'medlip' has no attribute {name!r}")
