"""Uploads to pixels, in processes of their own: a file that ends its decoder costs one answer, not the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from medlip.app.server.limits import Limits
from medlip.errors import MedLIPError
from medlip.images import DeepXRay, XRay, read_deep, read_xray
from medlip.images.preprocessing import squash
from medlip.parallel import Worker

R = TypeVar("R")
_IMPORTS = (__name__, "pydicom", "pydicom.pixels")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An X-ray at a model's own size.

    Attributes:
        xray: uint8 (S, S).
        height: of the image as it is seen.
        width: of the image as it is seen.
    """

    xray: XRay
    height: int
    width: int


def decode(content: bytes, size: int) -> Decoded:
    """Read a file's bytes, and squash the image to `size`, as a model sees it.

    Raises:
        MedLIPError: as `read_xray` does.
    """
    torch.set_num_threads(1)  # there are several of these processes
    xray = read_xray(content)
    height, width = xray.pixels.shape
    squashed = squash(torch.tensor(xray.pixels)[None], size)[0].numpy()
    return Decoded(xray.smaller(squashed), height, width)


def display(content: bytes) -> DeepXRay:
    """Read a file's bytes at the depth at which it is stored.

    Raises:
        MedLIPError: as `read_deep` does.
    """
    return read_deep(content)


class Decoders:
    """Processes that decode.

    Args:
        count: how many.
        limits: seconds and memory of a file.
    """

    def __init__(self, count: int, limits: Limits) -> None:
        self._seconds = limits.decode_seconds
        self._every = [Worker(_IMPORTS, limits.decode_bytes) for _ in range(count)]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._every:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(count, "decoder")

    @property
    def restarts(self) -> int:
        """How many processes ended with a file."""
        return sum(worker.restarts for worker in self._every)

    async def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call one of this module's functions in the next process that is free.

        Raises:
            MedLIPError: the file can't be read; a process that reads it crashes, or takes too long.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, function, arguments)

    def _call(self, function: Callable[..., R], arguments: tuple[Any, ...]) -> R:
        worker = self._free.get()  # there is one, for there are as many threads
        try:
            return worker.call(function, *arguments, timeout=self._seconds)
        except MedLIPError as error:
            text = str(error)
            raise MedLIPError(text if text.startswith("the image") else f"the image: {text}") from None
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._every:
            worker.close()
