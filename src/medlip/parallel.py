"""Work in other processes: over many items, with progress, order and skips; and one call at a time that may crash."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import current_process, get_all_start_methods, get_context
from multiprocessing.connection import Connection
from threading import Lock
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from medlip.errors import MedLIPError

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 32
CRASHED = "the process that read it crashed, or ran out of memory. Get the file again."
# A clean server process forks the workers: forking this one could copy locks that torch's threads hold.
_METHOD: Literal["forkserver", "spawn"] = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
_MAIN_HIDDEN = Lock()
Engine = Literal["local", "ray"]
_ENGINE: ContextVar[tuple[Engine, str | None]] = ContextVar("_ENGINE", default=("local", None))


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of one item: a value, or the reason why it was skipped."""

    item: T
    value: R | None
    skipped: str = ""


@contextmanager
def using(engine: Engine, address: str | None = None) -> Iterator[None]:
    """Let `process` hand its work to an engine inside.

    Args:
        engine: `local`, processes of this machine; or `ray`, those of a cluster, whose machines read the same paths.
        address: of a Ray cluster, "auto" or host and port; None: one that is started on this machine.

    Raises:
        MedLIPError: an address, but not of Ray.
    """
    if address is not None and engine != "ray":
        raise MedLIPError(f"--address {address} is that of a cluster: add --engine ray.")
    token = _ENGINE.set((engine, address))
    try:
        yield
    finally:
        _ENGINE.reset(token)


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
    a few chunks ahead of what was yielded. Inside `using("ray")` the processes are those of a cluster; the outcomes are the
    same.

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
    engine, address = _ENGINE.get()
    if engine == "ray" and workers != 0:
        found = _on_cluster(function, items, workers, chunk, address)
    else:
        found = outcomes(function, items, cpu_count() if workers is None else workers, chunk)
    yield from track(found, description, total)


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


class Worker:
    """A process that is called, one call at a time, and may end with it; the next call then gets a new one.

    For what can crash, hang, or eat up the memory of whoever does it, such as decoding files from strangers. What it writes
    to stdout and stderr is dropped.

    Args:
        imports: modules that are imported once, before any worker starts; then each is there at once.
        memory: bytes of data that it may hold at most, None for any number; where the system can't limit them, it doesn't.
    """

    def __init__(self, imports: Sequence[str] = (), memory: int | None = None) -> None:
        self._context: Any = get_context(_METHOD)
        if _METHOD == "forkserver":
            self._context.set_forkserver_preload(list(imports))
        self._memory = memory
        self.restarts = 0
        self._start()

    def call(self, function: Callable[..., R], *arguments: Any, timeout: float) -> R:
        """Return what a function returns in the other process.

        Args:
            function: importable; raises `MedLIPError` for bad input.
            arguments: picklable.
            timeout: seconds until the call fails.

        Raises:
            MedLIPError: that of the function; or the process crashed, ran out of memory, or took too long.
        """
        if self._connection.poll(0):  # nothing was asked: it was ended by someone else
            self._restart()
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(timeout):
                self._restart()
                raise MedLIPError(f"it took over {timeout:g} seconds to read. Get the file again, or convert it to PNG.")
            value, error = self._connection.recv()
        except (EOFError, OSError):
            self._restart()
            raise MedLIPError(CRASHED) from None
        if error:
            raise MedLIPError(error)
        returned: R = value
        return returned

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        self._connection, far = self._context.Pipe()
        self._process = self._context.Process(target=_answer_calls, args=(far, self._memory), daemon=True)
        with _without_main():
            self._process.start()
        far.close()

    def _restart(self) -> None:
        self.close()
        self.restarts += 1
        self._start()


def _answer_calls(connection: Connection, memory: int | None) -> None:
    """Answer calls until whoever calls closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may go to all processes: whoever calls ends this one
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):  # decoders in C may print what they read
        os.dup2(silence, output)
    if memory is not None:
        _limit_memory(memory)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments), ""
        except MedLIPError as error:
            answer = None, str(error)
        connection.send(answer)


def _limit_memory(size: int) -> None:
    try:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size, most))
    except (ImportError, OSError, ValueError):  # not every system has or enforces it
        return


def _on_cluster(
    function: Callable[[T], R], items: Iterable[T], workers: int | None, size: int, address: str | None
) -> Iterator[Outcome[T, R]]:
    """Yield what `outcomes` yields, from the machines of a Ray cluster."""
    from medlip.ray_engine import cluster

    work = partial(_attempt_all, function)
    with cluster(address, workers) as machines:
        for chunk, found in machines.map(work, items, size):
            if found is not None:
                yield from found
                continue
            for (item,), alone in machines.map(work, chunk, 1):
                yield from alone if alone is not None else [Outcome(item, None, CRASHED)]


class _Pool:
    """Processes that start clean, and without running the user's script again unless they need what it defines."""

    def __init__(self, workers: int, needs_main: bool) -> None:
        self.needs_main = needs_main
        self._executor = ProcessPoolExecutor(workers, mp_context=get_context(_METHOD))

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
    with _MAIN_HIDDEN:
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
                yield Outcome(item, None, CRASHED)
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
