"""The lock of a run in an object store: an object that its holder renews, and that may be taken when it is stale.

An object store has no locks that end with their process. So the holder creates `.lock` (a conditional put: one wins)
and writes it anew every few seconds; when that stops, because the process was killed or its machine is gone, the next
command may replace it (a conditional put again, on the version it saw). Whether it stopped is told by the store's own
clock. On the machine of the holder nobody waits: there the system knows whether the process is alive.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import obstore
import psutil
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

from retinafocus.buckets import is_transient, translated
from retinafocus.errors import RunError
from retinafocus.storage import LOCK_FILE, STALE_SECONDS, Patience, StorageConfig

RENEW_SECONDS = 10.0

# Objects that tell the store's time; each lives for a moment.
CLOCK_PREFIX = f"{LOCK_FILE}-clock-"


class Lease:
    """One command's hold on a prefix.

    Args:
        store: the bucket, as obstore opened it.
        key: of the lock's object.
        location: what is locked, for messages.
        config: how often to try.
    """

    def __init__(self, store: Any, key: str, location: str, config: StorageConfig) -> None:
        self._store, self._key, self._location, self._config = store, key, location, config
        self._token = uuid.uuid4().hex
        self._version: dict[str, str] = {}
        self._renewed = 0.0
        self._lost = False
        self._ended = threading.Event()

    @contextmanager
    def hold(self) -> Iterator[Lease]:
        """Take it, renew it in a thread, and give it back at the end.

        Raises:
            RunError: another command has it.
        """
        self._take()
        renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._ended.set()
            renewing.join()
            self._give_back()

    def is_held(self) -> bool:
        """Whether a command has it now, by this machine's clock. Writes nothing."""
        try:
            found = obstore.get(self._store, self._key)
        except FileNotFoundError:
            return False
        age = datetime.now(timezone.utc) - found.meta["last_modified"]
        return age.total_seconds() < STALE_SECONDS and not _is_dead(json.loads(bytes(found.bytes())))

    def check(self) -> None:
        """Make sure that nobody else can have it.

        Raises:
            RunError: it was not renewed for so long that another command may have taken it.
        """
        if self._lost or _now() - self._renewed > STALE_SECONDS:
            raise RunError(
                f"{self._location}: the lock could not be renewed for a minute, and another command may be at work on "
                "this run; run the same command again: finished shards are kept"
            )

    def _take(self) -> None:
        try:
            if not self._write("create") and not self._write(self._stale_version()):
                raise RunError(f"{self._location}: another command just began on this run; wait for it")
        except FileNotFoundError as error:
            raise RunError(f"{self._location}: another command just ended on this run; try again") from error
        except NotSupportedError as error:
            raise RunError(
                f"{self._location}: a dead command left {self._location}/.lock, which this store lets nobody replace; "
                "delete it and run the same command again"
            ) from error
        except (BaseError, OSError) as error:
            raise RunError(f"{self._location}: cannot be locked ({translated(error, self._location)})") from error

    def _write(self, mode: Any, config: StorageConfig | None = None) -> bool:
        """Write the lock's object if nobody else did; whether it is ours now."""
        patience = Patience(config or self._config)
        while True:
            asked = _now()
            # New content each time: the version of an object is the hash of its content in most stores.
            data = json.dumps(_myself() | {"token": self._token, "write": uuid.uuid4().hex}).encode()
            try:
                written = obstore.put(self._store, self._key, data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return self._is_ours()  # an earlier try may have arrived whose answer did not
            except BaseError as error:
                if not (is_transient(error) and patience.wait()):
                    raise
            else:
                self._version, self._renewed = _version(written), asked
                return True

    def _stale_version(self) -> dict[str, str]:
        """The version of a lock whose holder is gone.

        Raises:
            RunError: the holder is alive, or may be.
        """
        found = obstore.get(self._store, self._key)
        holder = json.loads(bytes(found.bytes()))
        age = (self._store_time() - found.meta["last_modified"]).total_seconds()
        if age < STALE_SECONDS and not _is_dead(holder):
            raise RunError(
                f"{self._location}: another command is at work on this run ({holder['host']}, process {holder['pid']}, "
                f"seen {max(age, 0):.0f} s ago); wait for it or stop it. If it is dead, its lock ends after "
                f"{STALE_SECONDS:.0f} s"
            )
        return _version(found.meta)

    def _store_time(self) -> datetime:
        """What the store's clock says: those of two machines may differ by more than a lease lasts."""
        probe = f"{self._key.removesuffix(LOCK_FILE)}{CLOCK_PREFIX}{uuid.uuid4().hex}"
        obstore.put(self._store, probe, b"")
        try:
            return obstore.head(self._store, probe)["last_modified"]
        finally:
            obstore.delete(self._store, probe)

    def _renew(self) -> None:
        brief = replace(self._config, attempts=2)
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(BaseError, OSError):  # `check` sees it, if it goes on for too long
                if not self._write(dict(self._version), brief):
                    self._lost = True
                    return

    def _is_ours(self) -> bool:
        asked = _now()
        found = obstore.get(self._store, self._key)
        if json.loads(bytes(found.bytes())).get("token") != self._token:
            return False
        self._version, self._renewed = _version(found.meta), asked
        return True

    def _give_back(self) -> None:
        with suppress(BaseError, OSError):  # it becomes stale by itself
            if not self._lost and self._is_ours():
                obstore.delete(self._store, self._key)


def _now() -> float:
    """Seconds on a clock that also runs while the machine sleeps: others may take over meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _version(described: Mapping[str, Any]) -> dict[str, str]:
    """What a conditional put names the version of an object by: stores differ in which of the two they have."""
    return {name: described[name] for name in ("e_tag", "version") if described.get(name)}


def _myself() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def _machine() -> str:
    """Which numbers of processes mean the same: those of one boot of one system, in one container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone. False where it cannot be told."""
    if holder.get("machine") != _machine():
        return False
    try:
        process = psutil.Process(holder["pid"])
        return bool(process.create_time() != holder["started"] or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
