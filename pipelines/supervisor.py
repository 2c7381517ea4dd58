"""A light process that watches over the one at work, and starts it again when it dies.

With the local runner photos are decoded in the command's own process. A photo that crashes it then costs a restart, not
the run: the shards it was at go photo by photo the next time (`pipelines.careful`). Nothing heavy is imported here.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import FrameType

from pipelines.commands.command import EXIT_ERROR, EXIT_INTERRUPTED, fail, say
from pipelines.processes import signal_name, start_python

# Deaths before all photos, of whatever shard, go through a process of their own: each death costs every shard at work.
MAX_DEATHS = 3

# Deaths with no shard finished between them before the command gives up.
MAX_FRUITLESS_DEATHS = 5

# One stop reaches the process at work twice: from the terminal, which tells all, and from its supervisor.
SAME_STOP_SECONDS = 1.0
_last_stop = float("-inf")

_STOPS = (signal.SIGINT, signal.SIGTERM)
RESTARTS = ("begun", "careful")
"""How a command is started again: it goes on with the run it had begun; every photo in a process of its own."""

_BEGUN, _FINISHED, _ENDED = b"b", b"f", b"e"


@dataclass(frozen=True)
class Supervisor:
    """What the process at work tells of itself.

    Args:
        descriptor: where to; None where nobody listens.
    """

    descriptor: int | None = None

    def begun(self) -> None:
        """The run in the output folder is the command's own: started again, it goes on with it, whatever it was asked
        to do with a run that it finds."""
        self._tell(_BEGUN)

    def finished_shard(self) -> None:
        """A shard is committed."""
        self._tell(_FINISHED)

    def ended(self, code: int) -> None:
        """The command is over and ends with that exit code."""
        self._tell(_ENDED + bytes([code]))

    def _tell(self, message: bytes) -> None:
        if self.descriptor is not None:
            os.write(self.descriptor, message)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM (what a scheduler sends) end a job as Ctrl-C does: cleanly, by KeyboardInterrupt, to go on later."""

    def stop(number: int, frame: FrameType | None) -> None:
        global _last_stop
        before, _last_stop = _last_stop, monotonic()
        if _last_stop - before > SAME_STOP_SECONDS:
            raise KeyboardInterrupt

    earlier = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def supervise(entry: str, arguments: Sequence[str]) -> int:
    """Run a command in a process of its own, again if it dies, and return its exit code.

    Args:
        entry: `MODULE:FUNCTION` that does the work; see `processes.start_python`. Its `sys.argv` is the descriptor to
            tell its `Supervisor` by, a word for each of `RESTARTS` that holds, joined by commas, and the arguments.
        arguments: the command's `sys.argv`.
    """
    watch = _Watch()
    deaths = fruitless = 0
    begun = careful = False
    with watch.stops_passed_on():
        while True:
            code, messages = watch.attempt(entry, [_restart(begun=begun, careful=careful), *arguments])
            if messages[-2:-1] == _ENDED:
                return messages[-1]
            if watch.stopped:
                return fail(EXIT_INTERRUPTED, "stopped; finished shards are kept, the same command goes on from there")
            how = signal_name(-code) if code < 0 else f"exit code {code}"
            begun |= _BEGUN in messages
            deaths, fruitless = deaths + 1, 0 if _FINISHED in messages else fruitless + 1
            if fruitless == MAX_FRUITLESS_DEATHS or (careful and not begun):
                return fail(
                    EXIT_ERROR,
                    f"the process at work died {deaths} times (last: {how}) and nothing gets finished any more; see "
                    "the system's log for why (memory?), try fewer workers; the same command goes on",
                )
            careful = deaths >= MAX_DEATHS or not begun
            where = "all photos go" if careful else "the shards it was at go"
            say(f"the process at work died ({how}); starting it again, {where} one photo at a time")


def _restart(**restarts: bool) -> str:
    return ",".join(word for word, holds in restarts.items() if holds)


@dataclass
class _Watch:
    """The process at work, as its supervisor sees it."""

    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    """Whether the user asked to stop."""

    def attempt(self, entry: str, arguments: Sequence[str]) -> tuple[int, bytes]:
        """Run the process to its end: what it ended with, and what it told."""
        if self.stopped:
            return 0, b""
        ours, theirs = os.pipe()
        messages = b""
        with open(ours, "rb", buffering=0) as pipe:
            try:
                self.process = start_python(entry, [str(theirs), *arguments], connection=theirs)
            finally:
                os.close(theirs)
            while received := pipe.read(1 << 16):
                messages += received
        return self.process.wait(), messages

    @contextmanager
    def stops_passed_on(self) -> Iterator[None]:
        """Tell the process at work of every stop that reaches this one."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            self.stopped = True
            if self.process is not None and self.process.poll() is None:
                self.process.send_signal(number)

        # What is ignored (in the background of a script) stays so.
        heeded = [number for number in _STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        earlier = {number: signal.signal(number, pass_on) for number in heeded}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
