"""Long work over many items: one helper for progress, workers, order and skips."""

from __future__ import annotations

import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import current_process, get_all_start_methods, get_context
from types import ModuleType
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from medlip.errors import MedLIPError

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 32


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of one item: a value, or the reason why it was skipped."""

    item: T
    value: R | None
    skipped: str = ""


def cpu_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar on stderr (none when stderr is no terminal: logs stay readable).

    Args:
        items: read lazily.
        description: shown beside the bar.
        total: number of items, where known.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, disable=not shown, redirect_stdout=False) as progress:
        yield from progress.track(items, total=total, description=description)


def process(
    function: Callable[[T], R],
    items: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    workers: int | None = None,
    chunk: int = CHUNK,
) -> Iterator[Outcome[T, R]]:
    """Apply `function` to every item, in several processes, and yield the outcomes in the order of the items.

    An item whose function raises is skipped with its reason, and the rest goes on. Memory stays flat: items are read only
    a few chunks ahead of what was yielded.

    Args:
        function: picklable; raises `MedLIPError` for bad input.
        items: read lazily.
        description: shown beside the progress bar.
        total: number of items, where known.
        workers: processes; None for one a core, 0 for this process alone.
        chunk: items that a process takes at a time; 1 where each is long work.

    Raises:
        MedLIPError: the processes can't be started.
    """
    if getattr(current_process(), "_inheriting", False):
        sys.exit(1)  # a script without a guard, run again by a process that starts: the first one tells, see `_Pool`
    workers = cpu_count() if workers is None else workers
    yield from track(outcomes(function, items, workers, chunk), description, total)


def outcomes(function: Callable[[T], R], items: Iterable[T], workers: int, size: int) -> Iterator[Outcome[T, R]]:
    """Yield what `process` yields, without a progress bar; `size` is its `chunk`."""
    if workers == 0:
        yield from map(partial(_attempt, function), items)
        return
    chunks = iter(items)
    waiting: deque[tuple[list[T], Future[list[Outcome[T, R]]]]] = deque()
    pool: _Pool | None = None
    try:
        while True:
            while len(waiting) < 2 * workers and (chunk := list(islice(chunks, size))):
                pool = pool or _Pool(workers, _needs_main(function, chunk))
                waiting.append((chunk, pool.submit(_attempt_all, function, chunk)))
            if not waiting or pool is None:
                return
            chunk, future = waiting.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:  # some item, of this chunk or a later one, took its process down
                pool.shutdown()
                yield from _one_by_one(function, chunk, pool.needs_main)
                pool = _Pool(workers, pool.needs_main)
                waiting = deque((later, pool.submit(_attempt_all, function, later)) for later, _ in waiting)
    finally:
        if pool is not None:
            pool.shutdown()


class _Pool:
    """Processes that start clean, and without running the user's script again unless they need what it defines."""

    def __init__(self, workers: int, needs_main: bool) -> None:
        # A clean server process forks the workers: forking this one could copy locks that torch's threads hold.
        context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
        self.needs_main = needs_main
        self._executor = ProcessPoolExecutor(workers, mp_context=context)

    def submit(self, function: Callable[..., R], *arguments: Any) -> Future[R]:
        if self.needs_main:
            return self._executor.submit(function, *arguments)
        with _without_main():
            return self._executor.submit(function, *arguments)

    def require(self) -> None:
        """Raise unless processes can be started at all."""
        try:
            self.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise MedLIPError(
                "the worker processes don't start. In a script that defines what they run, put the work under "
                '`if __name__ == "__main__":`; or give workers=0.'
            ) from error

    def shutdown(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _needs_main(function: Callable[[T], R], chunk: list[T]) -> bool:
    """Whether the work refers to what the user's script defines."""
    try:
        return b"__main__" in pickle.dumps((function, chunk))
    except Exception:  # what can't be pickled is told where it is sent
        return True


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the user's script, which a process that starts would run again: it may lack `if __name__ == "__main__"`."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _one_by_one(function: Callable[[T], R], chunk: list[T], needs_main: bool) -> Iterator[Outcome[T, R]]:
    """Find and skip the items that end their process: decoders in C crash at some broken files, and memory runs out."""
    pool = _Pool(1, needs_main)
    try:
        pool.require()
        for item in chunk:
            try:
                yield pool.submit(_attempt, function, item).result()
            except BrokenProcessPool:
                yield Outcome(item, None, "the process that read it crashed, or ran out of memory. Get the file again.")
                pool.shutdown()
                pool = _Pool(1, needs_main)
    finally:
        pool.shutdown()


def _attempt_all(function: Callable[[T], R], chunk: list[T]) -> list[Outcome[T, R]]:
    return [_attempt(function, item) for item in chunk]


def _attempt(function: Callable[[T], R], item: T) -> Outcome[T, R]:
    try:
        return Outcome(item, function(item))
    except MedLIPError as error:
        return Outcome(item, None, str(error))
    except Exception as error:  # one bad item never loses the rest; the type tells a bug from bad input
        return Outcome(item, None, f"unexpected {type(error).__name__}: {error}")
