"""What happened in a run, one JSON object in a line: `--events FILE`, for programs that collect logs.

The file is the command's own and is only ever appended to, so that all commands at a run may share one. What the tables
and the ledger hold is the truth; this tells when, and of workers that died.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from retinafocus.errors import SettingsError
from retinafocus.storage import redacted, uri_scheme

COMMON = {
    "time": "when it was written, UTC",
    "event": "what happened",
    "run": "folder of the run",
    "command": "the command at the run: `mark` of `run.json`; null before it has begun",
}
"""In every line."""

_BEGUN = {
    "runner": "local or ray",
    "version": "of RetinaFocus",
    "words": "of the command",
    "shards": "to be done",
    "photos": "to be looked at",
}
EVENTS: dict[str, dict[str, str]] = {
    "job_started": _BEGUN,
    "job_resumed": _BEGUN,
    "worker_started": {
        "worker": "host:process:thread",
        "since": "when it was ready; the line comes with its first shard",
    },
    "worker_died": {"worker": "host:process:thread", "shard": "at which; the line comes when another one has done it"},
    "shard_retried": {"shard": "number", "deaths": "of workers at it before", "worker": "that did it at last"},
    "shard_committed": {
        "shard": "number",
        "worker": "that did it",
        "photos": "of the shard",
        "looked_at": "photos of it that were looked at now",
        "faces": "in it",
        "failed": "photos of it without an answer",
    },
    "shard_failed": {"shard": "number", "reason": "why it could not be done or written"},
    "shards_lost": {"shards": "numbers of those without an answer at the end, the first hundred", "count": "of all"},
    "photo_failed": {"shard": "of the photo", "uri": "of the photo", "status": "as in `images`", "reason": "as there"},
    "job_finished": {
        "photos": "of the run",
        "faces": "of the run",
        "statuses": "photos of each status",
        "seconds": "of this command",
    },
    "job_stopped": {},
    "job_failed": {"reason": "why"},
}
"""Kinds of events, and what each tells beside `COMMON`."""

SHARDS_NAMED = 100


class EventLog:
    """Where the events of one command go.

    Args:
        path: a file on this machine, made if missing; None writes nothing.
        note: told if the file cannot be written any more: the run goes on without it.

    Raises:
        SettingsError: the file cannot be opened.
    """

    def __init__(self, path: str | None = None, note: Callable[[str], None] = lambda words: None) -> None:
        self._note = note
        self._run: str | None = None
        self._command: str | None = None
        self._workers: set[str] = set()
        self._path = None if path is None else _checked(path)

    @property
    def wanted(self) -> bool:
        """Whether anybody reads them."""
        return self._path is not None

    @contextmanager
    def of_run(self, location: str) -> Iterator[None]:
        """While a command works on a run: how it ends, if not well, is an event."""
        self._run = redacted(location)
        try:
            yield
        except KeyboardInterrupt:
            self._write("job_stopped")
            raise
        except Exception as error:
            self._write("job_failed", reason=f"{type(error).__name__}: {redacted(str(error))}")
            raise

    def begun(self, record: dict[str, Any], shards: list[dict[str, Any]], *, resumed: bool) -> None:
        """The run is the command's own, and it knows what to do.

        Args:
            record: `run.json`.
            shards: to be done, as workers are given them.
            resumed: whether an earlier command began it.
        """
        self._command = record["mark"]
        self._write(
            "job_resumed" if resumed else "job_started",
            runner=record["runner"],
            version=record["versions"]["retinafocus"],
            words=record["command"],
            shards=len(shards),
            photos=sum(row["photos"] for row in shards),
        )

    def shard(self, row: dict[str, Any]) -> None:
        """A worker's answer came: a row of `stages.SHARD_SCHEMA`."""
        if not self.wanted:
            return
        shard, worker = row["shard"], row["worker"]
        if worker not in self._workers:
            self._workers.add(worker)
            self._write("worker_started", worker=worker, since=row["worker_since"])
        for dead in row["lost"]:
            self._write("worker_died", worker=dead, shard=shard)
        if row["lost"]:
            self._write("shard_retried", shard=shard, deaths=len(row["lost"]), worker=worker)
        for failure in row["failures"]:
            self._write("photo_failed", shard=shard, **failure)
        if row["error"] is not None:
            self._write("shard_failed", shard=shard, reason=redacted(row["error"]))
        else:
            counts = {name: row[name] for name in ("photos", "looked_at", "faces", "failed")}
            self._write("shard_committed", shard=shard, worker=worker, **counts)

    def lost(self, shards: list[int]) -> None:
        """No answer came for these."""
        self._write("shards_lost", shards=shards[:SHARDS_NAMED], count=len(shards))

    def finished(self, record: dict[str, Any]) -> None:
        """Every photo has its row; `run.json` says so."""
        totals = record["totals"]
        counts = {name: totals[name] for name in ("photos", "faces", "statuses")}
        self._write("job_finished", **counts, seconds=totals["wall_seconds"])

    def _write(self, event: str, **told: Any) -> None:
        if self._path is None:
            return
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "event": event, "run": self._run, "command": self._command, **told}
        try:
            # Opened anew for each line, so that the file may be moved away meanwhile, as collectors of logs do.
            with open(self._path, "a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._note(f"{self._path}: no more events can be written ({error.strerror or error}); the run goes on")
            self._path = None


def _checked(path: str) -> str:
    if uri_scheme(path) is not None:
        raise SettingsError(
            f"events is {redacted(path)}: a line is added for each event, which object stores cannot do; give a path"
        )
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        open(path, "a").close()
        if os.path.isfile(path):
            _end_last_line(path)
    except OSError as error:
        raise SettingsError(f"events is {path}: cannot be written ({error.strerror or error})") from error
    return path


def _end_last_line(path: str) -> None:
    """A command that was killed, or a full disk, may have left half a line, which must not spoil the next one."""
    with open(path, "ab+") as file:
        if file.tell() == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
