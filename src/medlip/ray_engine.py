"""Long work on a cluster of machines, by Ray: what `medlip.parallel` hands out where a machine is not enough."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

from medlip.errors import MedLIPError

T = TypeVar("T")
R = TypeVar("R")
PLUGINS = "MEDLIP_PLUGINS"
TRIES = 3  # more, where a machine or a process is lost


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to which work can be given.

    Attributes:
        ray: the package.
        tasks: that are handed out at a time.
    """

    ray: Any
    tasks: int

    def map(self, work: Callable[[list[T]], R], items: Iterable[T], size: int) -> Iterator[tuple[list[T], R | None]]:
        """Yield chunks of items, in order, with what the work makes of them; None where it took its process down each time.

        Args:
            work: picklable, or defined where the workers can import it.
            items: read lazily.
            size: of a chunk.
        """
        errors = self.ray.exceptions
        task = self.ray.remote(_do).options(max_retries=TRIES, num_cpus=1)
        shared = self.ray.put(work)  # sent to each machine once
        chunks = iter(items)
        waiting: deque[tuple[list[T], Any]] = deque()
        while True:
            while len(waiting) < self.tasks and (chunk := list(islice(chunks, size))):
                waiting.append((chunk, task.remote(shared, chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            try:
                yield chunk, self.ray.get(future)
            except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError):
                yield chunk, None


def _do(work: Callable[[list[T]], R], chunk: list[T]) -> R:
    return work(chunk)


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine for as long as the context lasts.

    Args:
        address: "auto", or host and port of the head; None: a cluster of this machine alone.
        workers: processes; None: one for each core of the cluster.

    Raises:
        MedLIPError: Ray isn't installed, or there is no such cluster.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise MedLIPError("the engine ray needs the package of that name: pip install 'medlip[ray]'.") from error
    mine = not ray.is_initialized()
    try:
        if mine:
            plugins = {name: os.environ[name] for name in (PLUGINS,) if name in os.environ}
            settings: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            if address is not None:
                _require_listener(address)
            else:
                settings = {**settings, "num_cpus": workers, "include_dashboard": False}
            ray.init(address=address or "local", runtime_env={"env_vars": plugins}, **settings)
        yield Cluster(ray, 2 * (workers or max(1, int(ray.cluster_resources().get("CPU", 1)))))
    except ConnectionError as error:
        raise MedLIPError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}). Start one with `ray start --head`, or "
            "leave --address out."
        ) from error
    finally:
        if mine:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise a `ConnectionError` unless someone listens at host and port: Ray itself would try for minutes without a word."""
    if address == "auto" or "//" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConnectionError("it should be auto, or a host and a port as in head-node:6379")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(str(error)) from error
