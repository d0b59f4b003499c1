"""Work on a Ray cluster of two workers gives what this machine alone gives, and outlives one of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from medlip.data.prepare import prepare
from medlip.data.store import Store
from medlip.errors import MedLIPError
from medlip.parallel import CRASHED, process, using
from medlip.reports.generate import generated_reports
from medlip.reports.stream import extract_file

pytestmark = pytest.mark.slow
WORKER = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False, "include_log_monitor": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # read on import; others may use the machine too
    ray = pytest.importorskip("ray", reason="needs the package ray (pip install 'medlip[ray]')")
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = paths.rstrip(os.pathsep)  # so that workers can import what is defined here
    started = Cluster(initialize_head=True, head_node_args={**WORKER, "num_cpus": 0})
    started.workers = [started.add_node(**WORKER) for _ in range(2)]
    yield started
    ray.shutdown()
    started.shutdown()


def halve(number: int) -> float:
    if number == 7:
        raise MedLIPError("seven is odd")
    if number == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number / 2


@contextmanager
def losing_a_machine(cluster: Any) -> Iterator[None]:
    """Kill one of the two machines while it works, and start another one in its place in the end."""
    lost, found, over = cluster.workers.pop(), Event(), Event()
    (raylet,) = (info.process.pid for info in lost.all_processes["raylet"])

    def kill() -> None:
        while not over.wait(0.005):
            if any(child.cmdline()[:1] == ["ray::_do"] for child in psutil.Process(raylet).children()):
                found.set()
                cluster.remove_node(lost, allow_graceful=False)
                return

    killer = Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
        cluster.workers.append(cluster.add_node(**WORKER))
    assert found.is_set(), "the machine was to be lost in the middle of work"


def test_a_store_is_byte_identical_though_a_machine_is_lost(cluster: Any, tmp_path: Path) -> None:
    prepare(["phantom:200@3"], tmp_path / "local", size=48, workers=0, shard_size=40)
    with using("ray", cluster.address), losing_a_machine(cluster):
        prepare(["phantom:200@3"], tmp_path / "ray", size=48, shard_size=40)
    stores = [Store.open(tmp_path / name) for name in ("local", "ray")]
    assert stores[0].hash == stores[1].hash
    files = [sorted(path.relative_to(store.root) for path in Path(store.root).glob("data/*")) for store in stores]
    assert files[0] == files[1] and len(files[0]) > 1
    for file in files[0]:
        assert (tmp_path / "local" / file).read_bytes() == (tmp_path / "ray" / file).read_bytes()


def test_facts_are_byte_identical_though_a_machine_is_lost(cluster: Any, tmp_path: Path) -> None:
    reports = tmp_path / "reports.csv"
    texts = generated_reports(4000, seed=1)
    reports.write_text("study,report\n" + "".join(f's{number},"{text}"\n' for number, text in enumerate(texts)))
    extract_file(reports, tmp_path / "local.csv", workers=0)
    with using("ray", cluster.address), losing_a_machine(cluster):
        extract_file(reports, tmp_path / "ray.csv")
    assert (tmp_path / "local.csv").read_bytes() == (tmp_path / "ray.csv").read_bytes()


def test_a_crashing_item_is_skipped_and_a_lost_machine_costs_nothing(cluster: Any) -> None:
    with using("ray", cluster.address):
        found = process(halve, range(60), "halving", chunk=4)
        outcomes = [next(found)]
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        outcomes += found
    assert [outcome.item for outcome in outcomes] == list(range(60))
    skipped = {outcome.item: outcome.skipped for outcome in outcomes if outcome.skipped}
    assert skipped == {7: "seven is odd", 11: CRASHED}
    assert all(outcome.value == outcome.item / 2 for outcome in outcomes if not outcome.skipped)


def test_an_address_without_a_cluster_is_an_error(cluster: Any) -> None:
    with (
        using("ray", "127.0.0.1:1"),
        pytest.raises(MedLIPError, match=r"no Ray cluster answers at '127\.0\.0\.1:1' .*refused"),
    ):
        list(process(halve, [2], "halving"))
