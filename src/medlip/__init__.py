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


def load(run: str | Path) -> Reader:
    """Open a trained run to read X-rays with it.

    Args:
        run: folder that `medlip pretrain` or `medlip demo` wrote.

    Raises:
        MedLIPError: the folder is no run, or it was made with another vocabulary than it says.
    """
    from medlip.app.reader import Reader  # torch is imported when a run is opened, not with the package

    return Reader.open(run)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("medlip")
    raise AttributeError(f"module 'medlip' has no attribute {name!r}")
