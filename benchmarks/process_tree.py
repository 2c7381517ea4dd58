"""Every process that a command started, also those whose parent is gone: for measuring them and for killing them."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil

# How often a tree is looked at while its processor time is added up. What a process spends after the last look before
# its end is missed.
LOOK_SECONDS = 0.5

_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


class ProcessTree:
    """A command and all its descendants that were ever seen.

    Args:
        command: to start.
        environment: of the command.
        output: where its standard output and errors go: a file, or None for nowhere.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, output: int | None = None
    ) -> None:
        sink = subprocess.DEVNULL if output is None else output
        self.command = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        self._known = [psutil.Process(self.command.pid)]
        self._lock = threading.Lock()

    def living(self) -> list[psutil.Process]:
        """Those that live now, the command first. A process is told from a later one of its number by its start."""
        with self._lock:
            # One walk over all processes: `Process.children` would make one for each process of the tree.
            by_parent: dict[int, list[psutil.Process]] = {}
            for process in psutil.process_iter():
                with contextlib.suppress(*_GONE):
                    by_parent.setdefault(process.ppid(), []).append(process)
            for process in self._known:  # which grows meanwhile
                with contextlib.suppress(*_GONE):
                    # A child that began before its parent is one of an earlier process of that number.
                    self._known += [
                        child
                        for child in by_parent.get(process.pid, [])
                        if child not in self._known and child.create_time() >= process.create_time()
                    ]
            self._known = [process for process in self._known if _lives(process)]
            return list(self._known)

    def end(self) -> int:
        """Kill what is left of it; how many there were."""
        left = self.living()
        for process in left:
            with contextlib.suppress(*_GONE):
                process.kill()
        psutil.wait_procs(left, timeout=30)
        self.command.wait()
        return len(left)


@contextmanager
def processor_seconds(tree: ProcessTree) -> Iterator[dict[int, float]]:
    """Add up the processor seconds of a tree's processes, by process number, while the block runs."""
    spent: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        while True:
            for process in tree.living():
                with contextlib.suppress(*_GONE):
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
            if over.wait(LOOK_SECONDS):
                break

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        over.set()
        thread.join()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except _GONE:
        return False
