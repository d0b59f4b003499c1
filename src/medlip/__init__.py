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


def load(run: str | Path, device: str = "auto") -> Reader:
    """Open a trained run to read X-rays with it.

    Args:
        run: folder that `medlip pretrain` or `medlip demo` wrote, or its model.safetensors alone.
        device: "cpu", "cuda", "mps", or "auto" for the best that there is.

    Raises:
        MedLIPError: the folder holds no trained run, its vocabulary is not the one that it names, or the device can't be
            used.
    """
    from medlip.app.reader import Reader  # torch is imported when a run is opened, not with the package

    return Reader.open(run, device)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("medlip")
    raise AttributeError(f"module 'medlip' has no attribute {name!r}")
