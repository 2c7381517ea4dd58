"""Careful mode: photos one by one through a process that may die of them, so that its death is the photo's row.

A decoder that crashes, hangs or takes all memory does so in a child, which is started anew for the next photo. The
child looks at the whole photo with a detector of its own, as the worker would: the rows of the others are the same.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from time import monotonic
from typing import Any

from pipelines.limits import Limits
from pipelines.looking import Looked, Looker, Row
from pipelines.processes import die_first, signal_name, start_python
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import RunError
from retinafocus.storage import StorageConfig

# Statuses that only this mode can give: a worker that looked at such a photo again would die again.
DEADLY = frozenset({"crashed", "timeout", "out_of_memory"})

# Importing the libraries and loading the network takes seconds; on a machine that does much else, a minute.
START_SECONDS = 600.0

# How often a wait looks whether the run was stopped.
_POLL_SECONDS = 0.1

# Between a process's last file and the process itself.
_DEATH_SECONDS = 30.0


class Stopped(Exception):
    """The run was asked to stop; the shard in work is left undone."""


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """All that the child needs to know."""

    weights: str
    """Path of the weights file."""

    detector: DetectorConfig
    storage: StorageConfig | None
    limits: Limits


class CarefulLook:
    """Looks at photos one by one in a child process. For one thread; the child ends with it.

    Args:
        config: what the child needs to know.
        stop: when set, a wait ends with `Stopped`.
    """

    def __init__(self, config: LookConfig, stop: threading.Event) -> None:
        self.config = config
        self._stop = stop
        self._child: _Child | None = None

    def __enter__(self) -> CarefulLook:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def look(self, row: Row) -> Looked:
        """All that became of one photo; of one that ended the child: how.

        Raises:
            Stopped: the run was asked to stop.
            RunError: the child cannot be started.
            SettingsError: of the job, not of this photo.
        """
        child = self._child or self._start()
        most = self.config.detector.max_pixels
        began, seconds = monotonic(), self.config.limits.photo_seconds
        child.send(row)
        try:
            while True:
                message = self._receive(child, began + seconds)
                if not isinstance(message, int):
                    break
                seconds = self.config.limits.seconds_for(message, most)
        except TimeoutError:
            self._end()
            return _failed(row, "timeout", f"not done after {seconds:g} s; raise the limit with --photo-timeout")
        except EOFError:
            self._child = None
            return _failed(row, *_death(child.death()))
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, Looked)
        return message

    def _start(self) -> _Child:
        child = self._child = _Child(self.config)
        try:
            ready = self._receive(child, monotonic() + START_SECONDS)
        except TimeoutError as error:
            self._end()
            raise RunError(f"the process for single photos was not ready after {START_SECONDS:g} s") from error
        except EOFError as error:
            self._child = None
            raise RunError(f"the process for single photos did not start: {_ending(child.death())}") from error
        if isinstance(ready, Exception):
            raise ready
        return child

    def _receive(self, child: _Child, deadline: float) -> Any:
        """The child's next message.

        Raises:
            EOFError: the child is dead.
            TimeoutError: it did not come in time.
        """
        while not child.connection.poll(_POLL_SECONDS):
            if self._stop.is_set():
                self._end()
                raise Stopped
            if monotonic() > deadline:
                raise TimeoutError
        try:
            return child.connection.recv()
        except OSError as error:  # it died in the middle of a message
            raise EOFError from error

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """The process at the other end of a connection."""

    def __init__(self, config: LookConfig) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = start_python(
                "pipelines.careful:serve", [str(number)], connection=number, output=subprocess.DEVNULL
            )
        self.send(config)

    def send(self, message: object) -> None:
        # A child that is dead already shows when its answer is awaited.
        try:
            self.connection.send(message)
        except OSError:
            return

    def end(self) -> int:
        """Let go of it; what it ended with: minus a signal's number, or an exit code."""
        self.connection.close()
        self._process.kill()
        return self._process.wait()

    def death(self) -> int:
        """What it ended with by itself, after its end of the connection is gone."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEATH_SECONDS)
        return self.end()


def serve() -> int:
    """The child: looks at each photo it is told of until its parent lets go."""
    die_first()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # gigabytes for nothing, at each crash
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    parent = Connection(int(sys.argv[0]))
    config = parent.recv()
    assert isinstance(config, LookConfig)
    try:
        detector = Detector.from_pretrained(config.weights, config.detector)
        looker = Looker(detector, config.storage, on_header=parent.send)
        parent.send("ready")
        memory = config.limits.bytes_for(config.detector.max_pixels)
        while True:
            parent.send(_look(looker, parent.recv(), memory))
    except EOFError:
        return 0
    except Exception as error:
        parent.send(error)
        return 1


def _look(looker: Looker, row: Row, memory: int) -> Looked:
    with _limited_memory(memory):
        looked = looker.prepare(row)
        looker.look([looked])
    return looked


@contextmanager
def _limited_memory(memory: int) -> Iterator[None]:
    """Refuse this process more than that on top of what it holds now: allocations fail, and the photo with them.

    What counts is memory of its own that it may write. All addresses it reserves (RLIMIT_AS) would be the wrong
    measure: CUDA reserves those of all memory there is.
    """
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _failed(row: Row, status: str, reason: str) -> Looked:
    looked = Looked(row=row)
    looked.fail(status, reason)
    return looked


def _death(code: int) -> tuple[str, str]:
    """Status and reason of the photo that a child ended with."""
    if code == -signal.SIGKILL:  # not sent by us: so does the system where memory runs out
        return "out_of_memory", "the system ended the process that looked at it, for want of memory"
    return "crashed", f"the process that looked at it ended with {_ending(code)}; please report it with the photo"


def _ending(code: int) -> str:
    return signal_name(-code) if code < 0 else f"exit code {code}"
