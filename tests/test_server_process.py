"""A server as a process: stopped, killed in part, fed with broken files, and under load."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydicom.data import get_testdata_files

import broken
import dicoms
from fakes import shrunk
from medlip.app.server.decoding import Decoders, decode
from medlip.app.server.limits import Limits
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method, save_method
from medlip.parallel import Worker

pytestmark = pytest.mark.processes
CASES = Path(__file__).parents[2] / "shared" / "cases" / "images"
START = 'Content-Disposition: form-data; name="file"; filename="Mustermann.png"'


def form(content: bytes) -> tuple[bytes, dict[str, str]]:
    body = f"--x\r\n{START}\r\n\r\n".encode() + content + b"\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


@dataclass
class Serving:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def ask(self, path: str, content: bytes | None = None) -> tuple[int, str, bytes]:
        """Return status, media type and body of what is answered to an upload, or to a question without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        if content is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, *form(content))
        with connection.getresponse() as response:
            return response.status, str(response.headers["content-type"]), response.read()

    def require_clean(self, path: str, content: bytes, *also: int) -> int:
        """Upload what may be broken: it is read, or refused with a problem."""
        status, kind, body = self.ask(path, content)
        assert status in (200, 413, 422, *also), body
        if status != 200:
            assert kind == "application/problem+json" and json.loads(body)["detail"]
        return status


@contextmanager
def served(folder: Path) -> Iterator[Serving]:
    """Run `medlip serve` in a folder that is its home and its place for temporary files."""
    method = build_method(shrunk({"name": "medslip"}), default_vocabulary(), Preprocessing(size=64))
    save_method(method, folder / "run" / "model.safetensors")
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "medlip", "serve", str(folder / "run"), "--port", "0", "--json", "--workers", "2"]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment)
        try:
            assert process.stdout is not None
            document = json.loads(process.stdout.readline())
            assert "Not a medical device" in document["disclaimer"] and document["models"] == ["run"]
            yield Serving(process, int(document["address"].rpartition(":")[2]), folder)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("server")) as serving:
        yield serving


@pytest.mark.parametrize(
    ("signal_", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_server_that_is_stopped_finishes_what_is_under_way(tmp_path: Path, signal_: signal.Signals, code: int) -> None:
    body, headers = form(broken.encoded("PNG"))
    lines = [f"{name}: {value}" for name, value in {**headers, "Content-Length": len(body), "Host": "localhost"}.items()]
    request = "\r\n".join(["POST /v1/read HTTP/1.1", *lines, "", ""]).encode() + body
    with served(tmp_path) as serving:
        under_way = [socket.create_connection(("127.0.0.1", serving.port)) for _ in range(5)]
        for connection in under_way:
            connection.sendall(request[:-10])
        while b"medlip_waiting 5.0" not in serving.ask("/metrics")[2]:
            time.sleep(0.05)
        serving.process.send_signal(signal_)
        time.sleep(0.5)
        for connection in under_way:
            connection.sendall(request[-10:])
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 200 and json.loads(response.read())["findings"]
        assert serving.process.wait(60) == code
        assert "What was under way is finished" in (tmp_path / "log").read_text().splitlines()[-1]


def test_a_decoder_that_is_killed_is_replaced(serving: Serving) -> None:
    png = broken.encoded("PNG")
    process = psutil.Process(serving.process.pid)
    decoders = [grandchild for child in process.children() for grandchild in child.children()]
    assert len(decoders) == 2
    for decoder in decoders:
        decoder.kill()
    assert psutil.wait_procs(decoders, 60)[1] == []
    assert [serving.ask("/v1/read", png)[0] for _ in range(4)] == [200] * 4
    assert b"medlip_decoder_restarts 0.0" not in serving.ask("/metrics")[2]


def leave(*_: object) -> None:
    os.abort()  # as a decoder in C does


def sleep(*_: object) -> None:
    time.sleep(60)


def eat(*_: object) -> int:
    return len(bytearray(1 << 34))


def test_a_decoder_that_crashes_hangs_or_eats_memory_costs_one_call() -> None:
    worker = Worker(memory=1 << 30)
    try:
        for harm in (leave, sleep, eat):
            with pytest.raises(MedLIPError, match=r"crashed|seconds"):
                worker.call(harm, timeout=1)
            assert worker.call(len, "four", timeout=60) == 4
        assert worker.restarts == 3
    finally:
        worker.close()


def test_what_crashes_a_decoder_is_named_and_the_next_file_is_read() -> None:
    import asyncio

    async def read() -> None:
        decoders = Decoders(1, Limits())
        try:
            with pytest.raises(MedLIPError, match="the image: the process that read it crashed"):
                await decoders.run(leave)
            assert (await decoders.run(decode, broken.encoded("PNG"), 64)).xray.pixels.shape == (64, 64)
        finally:
            decoders.close()

    asyncio.run(read())


def test_every_odd_file_is_read_or_refused(serving: Serving) -> None:
    files = [path for path in map(Path, map(str, get_testdata_files("*"))) if path.is_file()]
    files += sorted(CASES.glob("*.dcm")) if CASES.is_dir() else []
    statuses = [serving.require_clean(path, file.read_bytes()) for file in files for path in ("/v1/read", "/v1/pixels")]
    assert statuses.count(200) > 50 and statuses.count(422) > 10
    assert serving.ask("/v1/read", broken.encoded("PNG"))[0] == 200


def test_the_server_is_as_it_describes_itself(serving: Serving) -> None:
    address = f"http://127.0.0.1:{serving.port}/openapi.json"
    options = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "15", "--seed", "1", "--no-color"]
    # No schema says what an X-ray is: made up by it, files are refused.
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", address, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_of_the_documentation_reads_an_xray(serving: Serving, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "server.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "x.png").write_bytes(broken.encoded("PNG"))
    client = code.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{serving.port}")
    done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "effusion: strongest at row" in done.stdout and "Not a medical device" in done.stdout


@pytest.mark.slow
def test_a_thousand_damaged_files_leave_nothing_behind(serving: Serving) -> None:
    before = set(serving.folder.rglob("*"))
    draw = random.Random(0)
    statuses = []
    for number in range(1000):
        content = broken.damaged(draw) if number % 4 else draw.randbytes(draw.randrange(2000))
        statuses.append(serving.require_clean(("/v1/read", "/v1/pixels")[number % 2], content))
    assert statuses.count(422) > 500 and serving.process.poll() is None
    assert serving.ask("/v1/read", broken.encoded("PNG"))[0] == 200
    assert set(serving.folder.rglob("*")) == before
    assert "Mustermann" not in (serving.folder / "log").read_text()
    every = [psutil.Process(serving.process.pid), *psutil.Process(serving.process.pid).children(recursive=True)]
    assert not [file.path for process in every for file in process.open_files() if str(serving.folder / "tmp") in file.path]


@pytest.mark.slow
def test_a_server_reads_nearly_as_fast_as_the_bare_model() -> None:
    from medlip.app.server.bench import bench_serve

    assert bench_serve(requests=2000)["ratio"] >= 0.7


@pytest.mark.slow
def test_ten_thousand_requests_take_no_more_memory(tmp_path: Path) -> None:
    broken_files = [content for _, content in broken.corpus()]
    png, dicom = broken.encoded("PNG"), dicoms.encoded(dicoms.dataset(dicoms.chest()))
    with served(tmp_path) as serving:

        def ask(number: int) -> None:
            if number % 10 == 0:
                serving.require_clean("/v1/read", broken_files[number // 10 % len(broken_files)])
            else:
                path, content = (("/v1/read", png), ("/v1/pixels", dicom), ("/v1/read", dicom))[number % 3]
                assert serving.ask(path, content)[0] == 200

        memory = [0.0]
        with ThreadPoolExecutor(16) as threads:
            for part in range(4):
                list(threads.map(ask, range(2500 * part, 2500 * (part + 1))))
                every = [psutil.Process(serving.process.pid), *psutil.Process(serving.process.pid).children(recursive=True)]
                memory.append(sum(process.memory_full_info().uss for process in every) / (1 << 20))
        print(f"MiB after each 2,500 requests: {memory[1:]}")
    assert memory[4] < 1.05 * memory[1]
