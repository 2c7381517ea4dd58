"""What the overhead is computed from: processor seconds of all processes of a command, the start-up apart."""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from benchmarks.overhead import Cost, print_table
from benchmarks.process_tree import ProcessTree, processor_seconds


def test_tree_keeps_processes_whose_parent_is_gone() -> None:
    tree = ProcessTree(["sh", "-c", "sleep 60 & sleep 1"])
    until = time.monotonic() + 30
    while len(tree.living()) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    tree.command.wait()
    (left,) = tree.living()
    assert tree.end() == 1
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_processor_seconds_of_a_child_count() -> None:
    busy = "import time\nwhile time.process_time() < 1.0: pass"
    tree = ProcessTree(["sh", "-c", f"{sys.executable} -c '{busy}'; true"])
    with processor_seconds(tree) as spent:
        tree.command.wait()
    assert 0.5 < sum(spent.values()) < 3.0


def test_start_up_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    # 10 s of start-up and 0.2 s a photo; 10 % more with the ledger.
    loop = Cost(12.0, 12.0, 0.0, None), Cost(32.0, 32.0, 0.0, None)
    local = Cost(12.2, 12.2, 0.5, 2.0), Cost(34.2, 34.2, 1.5, 22.0)
    print_table({"loop": loop, "local": local}, first=10, photos=100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| loop | 20.0 | 1.000 | 0.0 | 20.0 | 1.000 | - | 10.0 | 10.0 |"
    assert lines[3] == "| local | 22.0 | 1.100 | 1.0 | 22.0 | 1.100 | 20.0 | 10.0 | 10.0 |"
