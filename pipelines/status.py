"""`retinafocus status`: how far a run is, read off its ledger from any machine. Nothing is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipelines.budget import count_failures
from pipelines.ledger import pending_shards
from pipelines.report import duration
from retinafocus.errors import RunError
from retinafocus.runs import MANIFEST_FILE, RUN_FILE, read_ledger, read_manifest, read_run_file
from retinafocus.storage import StorageConfig, open_storage


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    location: str
    state: str
    """`listed` (nothing was looked at yet), `running`, `stopped` (some photos remain, no command is at work), or
    `complete`."""
    photos: int
    """Listed."""
    done: int
    """With their row."""
    failed: int
    remaining: int
    """Without a row, or changed since."""
    faces: int
    statuses: dict[str, int]
    """Photos of each status."""
    photos_per_second: float | None
    """Of the last command, from its start to its last commit; None before the first."""
    seconds_left: float | None
    """At that rate; None where nobody works on it."""
    started: str | None
    """The last command."""
    last_commit: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def report(self) -> str:
        """For people."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.statuses.items())
        share = f" ({100 * self.done / self.photos:.0f} %)" if self.photos else ""
        lines = [
            f"run      {self.location}: {self.state}",
            f"photos   {self.done:,} of {self.photos:,} done{share}, {self.remaining:,} remain",
        ]
        if counts:
            lines.append(f"statuses {counts}")
            lines.append(f"faces    {self.faces:,}")
        if self.photos_per_second is not None:
            left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
            lines.append(f"rate     {self.photos_per_second:.1f} photos/s{left}; last commit {self.last_commit}")
        return "\n".join(lines)


def run_status(location: str, config: StorageConfig | None = None) -> RunStatus:
    """Read how far a run is.

    Args:
        location: the `-o` of `retinafocus detect`.
        config: how an object store is reached.

    Raises:
        RunError: there is no run, or it is damaged.
    """
    storage = open_storage(location, config)
    info = read_run_file(storage)
    if info is None and not storage.exists(MANIFEST_FILE):
        raise RunError(f"{storage.location}: no run here ({RUN_FILE} is missing); give the -o folder of a run")
    records = read_ledger(storage)
    manifest = read_manifest(storage, columns=["shard", "bytes", "version"])
    remaining = sum(row["photos"] for row in pending_shards(records, manifest))
    statuses: Counter[str] = Counter()
    for record in records:
        statuses.update(record["statuses"])
    state = _state(info, remaining, storage.is_locked())
    started = None if info is None else info["started"]
    rate = _rate(records, started)
    return RunStatus(
        location=storage.location,
        state=state,
        photos=manifest.num_rows,
        done=manifest.num_rows - remaining,
        failed=count_failures(statuses),
        remaining=remaining,
        faces=sum(record["faces"] for record in records),
        statuses=dict(statuses.most_common()),
        photos_per_second=rate,
        seconds_left=remaining / rate if rate and state == "running" else None,
        started=started,
        last_commit=max((record["finished"] for record in records), default=None),
    )


def _state(info: dict[str, Any] | None, remaining: int, locked: bool) -> str:
    if locked:
        return "running"
    if info is None:
        return "listed"
    return "complete" if info["status"] == "complete" and not remaining else "stopped"


def _rate(records: list[dict[str, Any]], started: str | None) -> float | None:
    """Photos looked at in a second by the last command."""
    if started is None:
        return None
    since = datetime.fromisoformat(started)
    ends = [(datetime.fromisoformat(record["finished"]), record["looked_at"]) for record in records]
    recent = [(end, count) for end, count in ends if end >= since and count]
    if not recent:
        return None
    seconds = max((max(recent)[0] - since).total_seconds(), 1e-3)
    return float(sum(count for _, count in recent) / seconds)
