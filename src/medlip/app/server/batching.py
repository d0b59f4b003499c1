"""Requests that wait together are answered together: each image goes through the model once, in a batch with others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medlip.app.reader import Reader
from medlip.app.reading import Reading
from medlip.images import XRay


@dataclass(frozen=True, slots=True)
class Looked:
    """What was read from an image, and maps (n, h, w) of what they were wanted of."""

    reading: Reading
    maps: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of an image.

    Attributes:
        xray: the image.
        ask: questions.
        maps: findings and questions whose maps are wanted.
    """

    xray: XRay
    ask: tuple[str, ...]
    maps: tuple[str, ...]


class Batcher:
    """A model that reads for many at once.

    A batch is whatever has come while the one before it was read, so that none waits for others to come.

    Args:
        reader: of the images.
        executor: where it computes: one thread, which several models may share.
        size: images of a batch at most.
        observe: told the size of each batch.
    """

    def __init__(self, reader: Reader, executor: Executor, size: int, observe: Callable[[int], object]) -> None:
        self._reader, self._executor, self._size, self._observe = reader, executor, size, observe
        self._waiting: deque[tuple[Wanted, asyncio.Future[Looked]]] = deque()
        self._reading: asyncio.Task[None] | None = None

    async def read(self, wanted: Wanted) -> Looked:
        """Read an image with the others that wait.

        Raises:
            MedLIPError: a question can't be answered by this model.
        """
        future: asyncio.Future[Looked] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_waiting())
        return await future

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                self._observe(len(batch))
                results: Sequence[Looked | Exception]
                try:
                    run = asyncio.get_running_loop().run_in_executor
                    results = await run(self._executor, self._read, [one for one, _ in batch])
                except Exception as error:
                    results = [error] * len(batch)
                for (_, future), result in zip(batch, results, strict=True):
                    if future.cancelled():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._reading = None

    def _read(self, batch: Sequence[Wanted]) -> list[Looked | Exception]:
        try:
            readings = self._reader.read_together([one.xray for one in batch], [one.ask for one in batch])
        except Exception as error:  # one question that can't be answered: the others of its batch are
            return [error] if len(batch) == 1 else [result for one in batch for result in self._read([one])]
        return [_look(reading, one.maps) for reading, one in zip(readings, batch, strict=True)]


def _look(reading: Reading, maps: tuple[str, ...]) -> Looked | Exception:
    try:
        return Looked(reading, reading.maps(maps) if maps else np.empty((0, 0, 0), np.float32))
    except Exception as error:
        return error
