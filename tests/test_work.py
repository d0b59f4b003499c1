from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from medlip.parallel import process


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
