"""How a server does under load, beside the bare model in the same run."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from medlip.app.bench import untrained
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.memory import MIB
from medlip.methods import Method, save_method
from medlip.nn.device import resolve_device, synchronize
from medlip.phantom import phantom

WARM_UP = 0.25  # the share of the requests after which memory is taken to be what the server needs
BOUNDARY = "medlip-bench"
Latencies = list[float]


def bench_serve(
    recipe: str = "medslip-phantom",
    image_size: int = 256,
    batch: int = 16,
    *,
    clients: int = 32,
    requests: int = 2000,
    rounds: int = 5,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, object]:
    """Serve an untrained model to many clients of this machine, beside the model alone, in turn.

    Each client sends a PNG, waits for the whole answer of /v1/read, and sends the next. The model alone answers batches of
    images that are tensors already, places among the answers.

    Args:
        recipe: which model.
        image_size: side of the image in pixels.
        batch: images that the model reads at a time.
        clients: that ask at once.
        requests: in all.
        rounds: of them, with the bare model timed before each.
        device: to compute on, see `medlip.nn.device.resolve_device`.
        seed: of weights and images.

    Returns:
        p50_seconds and p99_seconds of a request, images_per_second served and bare, ratio (median of the rounds' ratios);
        cpu_seconds_per_image of all processors, likewise, which other jobs of the machine hardly change, and cpu_ratio;
        memory of the server with all its processes, in MiB, after a quarter of the requests and at the end, and its growth.

    Raises:
        MedLIPError: there is no such recipe or device, or the server fails.
    """
    method = untrained(recipe, seed).to(resolve_device(device)).eval()
    request = _request(image_size, seed)
    per_round, latencies, memory = max(requests // rounds, clients), Latencies(), list[float]()
    served, bare = list[_Cost](), list[_Cost]()
    with TemporaryDirectory(prefix="medlip-") as folder:
        save_method(method, Path(folder) / "model.safetensors")
        with _server(folder, device, batch) as (process, port):
            asyncio.run(_load(port, request, clients, 4 * clients))
            for _ in range(rounds):
                bare.append(_bare_cost(method, batch, per_round, seed))
                began, used = time.perf_counter(), _cpu_seconds(process)
                latencies += asyncio.run(_load(port, request, clients, per_round, process, memory))
                cpu = _cpu_seconds(process) - used
                served.append(_Cost((time.perf_counter() - began) / per_round, cpu / per_round))
    settled, last = memory[int(len(memory) * WARM_UP)], memory[-1]
    return {
        "recipe": recipe,
        "image_size": image_size,
        "input_size": method.preprocessing.size,
        "batch": batch,
        "clients": clients,
        "requests": per_round * rounds,
        "device": str(method.device),
        "threads": torch.get_num_threads(),
        "p50_seconds": statistics.median(latencies),
        "p99_seconds": statistics.quantiles(latencies, n=100)[98],
        "images_per_second": 1 / statistics.median(cost.seconds for cost in served),
        "bare_images_per_second": 1 / statistics.median(cost.seconds for cost in bare),
        "ratio": statistics.median(alone.seconds / one.seconds for one, alone in zip(served, bare, strict=True)),
        "cpu_seconds_per_image": statistics.median(cost.cpu for cost in served),
        "bare_cpu_seconds_per_image": statistics.median(cost.cpu for cost in bare),
        "cpu_ratio": statistics.median(alone.cpu / one.cpu for one, alone in zip(served, bare, strict=True)),
        "memory_settled_mib": settled,
        "memory_end_mib": last,
        "memory_growth": last / settled - 1,
    }


class _Cost(NamedTuple):
    """What an image costs: seconds by the clock, and seconds of all processors."""

    seconds: float
    cpu: float


@torch.inference_mode()
def _bare_cost(method: Method, batch: int, images: int, seed: int) -> _Cost:
    """Return what it costs the model to answer for an image, given as a tensor, in a batch."""
    prompts = [pathology.name for pathology in method.vocabulary.pathologies]
    preprocessing: Preprocessing = method.preprocessing
    side = preprocessing.size
    pixels = np.random.default_rng(seed).integers(0, 255, (batch, side, side), np.uint8)
    inputs = preprocessing(torch.from_numpy(pixels)).to(method.device)
    method.answer(inputs, prompts, anatomies=True)
    began, used = time.perf_counter(), time.process_time()
    steps = max(images // batch, 1)
    for _ in range(steps):
        method.answer(inputs, prompts, anatomies=True)
    synchronize(method.device)
    answered = steps * batch
    return _Cost((time.perf_counter() - began) / answered, (time.process_time() - used) / answered)


@contextmanager
def _server(run: str, device: str, batch: int) -> Iterator[tuple[psutil.Process, int]]:
    """Run a server of its own process, and yield that and its port."""
    command = [
        sys.executable,
        "-m",
        "medlip",
        "serve",
        run,
        "--port",
        "0",
        "--device",
        device,
        "--batch",
        str(batch),
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            if not line:
                raise MedLIPError("the server did not start; `medlip serve RUN` says why.")
            yield psutil.Process(started.pid), int(json.loads(line)["address"].rpartition(":")[2])
        finally:
            started.terminate()


def _request(size: int, seed: int) -> bytes:
    """Return a request as it is sent: a synthetic X-ray, to be read."""
    buffer = BytesIO()
    Image.fromarray(np.asarray(phantom(0, seed, size).views[0].image)).save(buffer, "PNG")
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
    body = part.encode() + buffer.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        "POST /v1/read HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(
    port: int,
    request: bytes,
    clients: int,
    requests: int,
    process: psutil.Process | None = None,
    memory: list[float] | None = None,
) -> Latencies:
    """Send requests from many clients, and return the seconds of each; note the server's memory on the way."""
    left, latencies = iter(range(requests)), Latencies()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            began = time.perf_counter()
            writer.write(request)
            await writer.drain()
            status = await _answer(reader)
            if status != 200:
                raise MedLIPError(f"the server answered {status} under load. Its log says more.")
            latencies.append(time.perf_counter() - began)
            if process is not None and memory is not None and number % 100 == 0:
                memory.append(_mebibytes(process))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read an answer to its end, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(int(length.partition(":")[2]))
    return int(head.split()[1])


def _mebibytes(process: psutil.Process) -> float:
    """Return the memory that a process and those that it started have to themselves."""
    return float(sum(one.memory_full_info().uss for one in _family(process))) / MIB


def _cpu_seconds(process: psutil.Process) -> float:
    """Return how long processors have worked for a process and those that it started."""
    return float(sum(sum(one.cpu_times()[:2]) for one in _family(process)))


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
