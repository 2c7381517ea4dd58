"""Processes of ours: started fresh, and gone when the process that started them is gone."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

# The child looks for modules where its parent does: neither the current folder nor the parent's script counts.
_START = """\
import importlib, json, sys
path, parent, entry, *sys.argv = sys.argv[1:]
sys.path[:] = json.loads(path)
importlib.import_module("pipelines.processes").end_with(int(parent))
module, _, function = entry.partition(":")
sys.exit(getattr(importlib.import_module(module), function)())
"""


def start_python(
    entry: str, arguments: Sequence[str] = (), *, connection: int, output: int | None = None
) -> subprocess.Popen[bytes]:
    """Run a function of ours in a new Python process that ends, at the latest, with the calling thread.

    Not by forking: a copy of a process with threads and open libraries (an engine, CUDA, Ray) cannot be used.

    Args:
        entry: `MODULE:FUNCTION`, called without arguments; what it returns is the exit code.
        arguments: the function's `sys.argv`.
        connection: a file descriptor the child inherits, under the same number.
        output: where its standard output goes; None leaves it where the parent's goes.
    """
    command = [sys.executable, "-c", _START, json.dumps(sys.path), str(os.getpid()), entry, *arguments]
    return subprocess.Popen(command, pass_fds=[connection], stdout=output)


def end_with(parent: int) -> None:
    """Let the system kill this process when the thread that started it ends, however that ends.

    Args:
        parent: process number of the parent. If it is gone already, this process ends here.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_first() -> None:
    """Where memory runs out, let the system kill this process before any other."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # no such file outside Linux
        file.write("1000")


def signal_name(number: int) -> str:
    """`SIGSEGV` of 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
