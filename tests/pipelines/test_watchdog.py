"""The watchdog: it bites what stands still, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time

from pipelines.watchdog import EXIT_STUCK, Watchdog


def test_standing_still_is_noticed_once_and_named() -> None:
    said: list[str] = []
    with Watchdog(0.1, expired=said.append).watching("shard 7"):
        time.sleep(1)
    assert said == ["shard 7: nothing was finished for 0.1 s; this process ends itself"]


def test_reports_and_an_end_in_time_keep_it_quiet() -> None:
    said: list[str] = []
    watchdog = Watchdog(2, expired=said.append)
    with watchdog.watching("shard 7"):
        for _ in range(25):
            time.sleep(0.1)
            watchdog.report()
    assert said == []


def test_large_photo_gets_more_time_until_the_shard_ends() -> None:
    said: list[str] = []
    watchdog = Watchdog(0.2, expired=said.append)
    with watchdog.watching("shard 7"):
        watchdog.allow(60)
        time.sleep(1)
    assert said == []
    with watchdog.watching("shard 8"):
        time.sleep(1)
    assert len(said) == 1


def _ended(hang: str) -> subprocess.CompletedProcess[str]:
    """A process that hangs under a watchdog."""
    code = f"""
import ctypes, time
from pipelines.watchdog import Watchdog
with Watchdog(0.5).watching("shard 7"):
    time.sleep(0.3)
    {hang}
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_hanging_thread_ends_the_process() -> None:
    done = _ended("time.sleep(100)")
    assert done.returncode == EXIT_STUCK
    assert "retinafocus: shard 7: nothing was finished for 0.5 s" in done.stderr


def test_library_that_hangs_with_pythons_lock_ends_the_process_too() -> None:
    done = _ended("ctypes.PyDLL(None).sleep(100)")  # PyDLL does not let go of the lock
    assert done.returncode == 1
    assert "Timeout" in done.stderr
