"""A worker that stands still ends itself, so that another can take its place."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_STUCK = 75
"""What a process ends with when its watchdog ends it: not one of the command's own exit codes."""

# Python's own alarm goes off that much later than twice the time: this thread may be kept waiting on a busy machine.
ALARM_SECONDS = 5.0


def leave(message: str) -> None:
    """End this process now, whatever its threads are at: one that hangs in a library cannot be asked to stop."""
    os.write(2, f"retinafocus: {message}\n".encode())
    os._exit(EXIT_STUCK)


class Watchdog:
    """Ends the process if nothing is reported for too long.

    A library that hangs while it holds Python's lock stops every Python thread, this one too. Behind it therefore
    stands Python's own alarm, which needs no lock; it also prints where each thread was.

    Args:
        seconds: may pass from one report to the next.
        expired: called once with what happened; ends the process.
    """

    def __init__(self, seconds: float, *, expired: Callable[[str], None] = leave) -> None:
        self._usual = self._seconds = seconds
        self._expired = expired
        self._tick = min(1.0, seconds / 10)
        self._ticks = 0

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Watch while the block runs.

        Args:
            what: is being done, for the message.
        """
        self._seconds = self._usual
        self.report()
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(what, over), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def report(self) -> None:
        """Something was finished: the time begins anew."""
        self._ticks = 0

    def allow(self, seconds: float) -> None:
        """Until the block ends, at least that much may pass."""
        self._seconds = max(self._seconds, seconds)

    def _watch(self, what: str, over: threading.Event) -> None:
        while not over.wait(self._tick):
            # Ticks are counted, not the clock read: a process that was suspended has not stood still.
            self._ticks += 1
            if self._ticks * self._tick > self._seconds:
                self._expired(f"{what}: nothing was finished for {self._seconds:g} s; this process ends itself")
                break
            if sys.__stderr__ is not None:
                faulthandler.dump_traceback_later(2 * self._seconds + ALARM_SECONDS, exit=True, file=sys.__stderr__)
        faulthandler.cancel_dump_traceback_later()
