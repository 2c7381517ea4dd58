"""Disposable processes for `benchmarks.fuzz`: one looks at case after case until a case ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

# What may become of bytes; the other statuses speak of storage, of time and of the network.
STATUSES = ("truncated", "corrupt", "unsupported_format", "too_large", "out_of_memory")


@dataclass
class Outcome:
    """What became of a case, or of the step of it that went wrong."""

    result: str = "ok"
    """ok, a status of a photo, or what is wrong: exception, memory, shape, text, crash, hang."""
    detail: str = ""
    seconds: float = 0.0
    """Of the processor."""
    mebibytes: float = 0.0
    """At the peak, beyond what was there before."""


Look = Callable[[bytes], Outcome]

# Children are copies of a process that has loaded the libraries and done nothing else: a new one takes milliseconds.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.fuzz_reader"])


@dataclass
class Child:
    """A disposable process that looks at one case after another."""

    make_look: Callable[[], Look]
    time_limit: float
    _running: tuple[BaseProcess, Connection] | None = None

    def look(self, data: bytes) -> Outcome:
        """What becomes of a case: its own outcome, or the child's end."""
        process, pipe = self._running or self._start()
        try:
            pipe.send_bytes(data)
            if pipe.poll(self.time_limit):
                outcome: Outcome = pipe.recv()
                return outcome
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return Outcome("crash", f"the process ended with {self.end()}")
        process.kill()
        self.end()
        return Outcome("hang", f"no answer within {self.time_limit:g} s", self.time_limit)

    def end(self) -> str:
        """End the process; how it ended, in words."""
        if self._running is None:
            return "nothing"
        process, pipe = self._running
        pipe.close()
        process.join(2)  # it ends by itself when there are no more cases, and after a crash
        process.kill()
        process.join()
        code = process.exitcode or 0
        self._running = None
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _start(self) -> tuple[BaseProcess, Connection]:
        pipe, theirs = _PROCESSES.Pipe()
        process = _PROCESSES.Process(target=_serve, args=(theirs, self.make_look), daemon=True)
        process.start()
        theirs.close()
        self._running = process, pipe
        try:
            pipe.recv()  # it is ready
        except EOFError:
            raise SystemExit(f"no case can be looked at: the process ended with {self.end()}") from None
        return self._running


def _serve(pipe: Connection, make_look: Callable[[], Look]) -> None:
    """The child's life: say that it is ready, then answer cases until there are no more."""
    code = 1
    try:
        look = make_look()
        silence()
        pipe.send(None)
        while True:
            pipe.send(look(pipe.recv_bytes()))
    except EOFError:
        code = 0
    except Exception:  # of the program itself; those of the readers are outcomes
        traceback.print_exc()
    finally:
        os._exit(code)  # exit handlers of libraries may wait for threads that a copy of a process does not have


def silence() -> None:
    """What C libraries print about broken photos would bury the table."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.close(quiet)
