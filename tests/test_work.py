from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from inspect import isfunction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medlip.errors import MedLIPError
from medlip.parallel import CRASHED, Outcome, process, using


def crash_at_35(item: int) -> int:
    if item == 35:
        os.abort()
    return 2 * item


def test_an_item_that_takes_its_process_down_is_skipped_alone() -> None:
    outcomes = list(process(crash_at_35, range(70), "doubling", workers=2))
    assert [outcome.item for outcome in outcomes] == list(range(70))
    assert [outcome.item for outcome in outcomes if outcome.skipped] == [35] and "crashed" in outcomes[35].skipped
    assert all(outcome.value == 2 * outcome.item for outcome in outcomes if not outcome.skipped)


SCRIPT = """
from pathlib import Path
from medlip.parallel import process

def double(item):
    return 2 * item

print([outcome.value for outcome in process({function}, range(40), "doubling", workers=2)][-1])
"""


def run_script(tmp_path: Path, function: str) -> subprocess.CompletedProcess[str]:
    """Run a script without `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(function=function))
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    done = run_script(tmp_path, "Path")  # raises in the workers, whose reason comes back
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_a_script_that_defines_the_work_is_told_of_the_guard(tmp_path: Path) -> None:
    failed = run_script(tmp_path, "double")
    assert failed.returncode == 1 and not failed.stdout
    assert 'if __name__ == "__main__"' in failed.stderr.splitlines()[-1]
    assert "bootstrapping" not in failed.stderr


def halve(number: int) -> float:
    if number == 7:
        raise MedLIPError("seven is odd")
    return number / 2


class Ray(ModuleType):
    """The part of Ray that the engine asks, on this machine alone: a task that has 11 in it takes its process down."""

    class exceptions:  # noqa: N801
        WorkerCrashedError = type("WorkerCrashedError", (Exception,), {})
        OutOfMemoryError = type("OutOfMemoryError", (Exception,), {})
        NodeDiedError = type("NodeDiedError", (Exception,), {})
        ObjectLostError = type("ObjectLostError", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("ray")
        self.running = False
        self.addresses: list[str] = []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, address: str, **settings: object) -> None:
        self.running = True
        self.addresses.append(address)

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: object) -> object:
        return value

    def remote(self, function: object) -> Any:
        assert isfunction(function)
        task: Any = SimpleNamespace(remote=lambda *arguments: (function, arguments))
        task.options = lambda **settings: task
        return task

    def get(self, future: Any) -> object:
        function, (work, chunk) = future
        if 11 in chunk:
            raise self.exceptions.WorkerCrashedError
        return function(work, pickle.loads(pickle.dumps(chunk)))


def test_a_cluster_gives_the_outcomes_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # a head is looked for before Ray, which waits long for one
        head = f"127.0.0.1:{listener.getsockname()[1]}"
        with using("ray", head):
            found = list(process(halve, range(30), "halving", chunk=4))
    with using("ray"):
        assert list(process(halve, range(30), "halving", chunk=7)) == found
    assert (ray.addresses, ray.running) == ([head, "local"], False)
    expected = list(process(halve, range(30), "halving", workers=0))
    expected[11] = Outcome(11, None, CRASHED)
    assert found == expected
    with using("ray", "nowhere:1"), pytest.raises(MedLIPError, match=r"no Ray cluster answers at 'nowhere:1'"):
        list(process(halve, range(3), "halving"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with using("ray"), pytest.raises(MedLIPError, match=r"pip install 'medlip\[ray\]'"):
        list(process(halve, range(3), "halving"))
    with pytest.raises(MedLIPError, match="add --engine ray"), using("local", "auto"):
        pass
