"""One command at a time holds a run in an object store, also when commands and machines die, and answers get lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from benchmarks.faults import FaultyProxy
from retinafocus import leases
from retinafocus.errors import RunError
from retinafocus.storage import StorageConfig, open_storage

HOLD = """
import sys
from retinafocus.storage import open_storage
with open_storage(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def _leave_lock(s3_server: Any, **holder: object) -> None:
    lock = {"host": "elsewhere", "machine": "another boot", "pid": 1, "started": 0.0, "token": "x", **holder}
    s3_server.client.put_object(Bucket=s3_server.bucket, Key=".lock", Body=json.dumps(lock).encode())


def test_killed_command_of_this_machine_is_replaced_at_once(s3_server: Any) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, s3_server.location], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    storage = open_storage(s3_server.location)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=rf"another command is at work on this run \(.*, process {holder.pid}, seen"):
        storage.locked().__enter__()
    assert storage.is_locked()
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert not storage.is_locked()
    with storage.locked() as hold:
        hold.check()
    assert list(storage.entries()) == []


def test_lock_of_another_machine_ends_when_it_is_not_renewed(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(s3_server.location)
    _leave_lock(s3_server)
    with pytest.raises(RunError, match=r"elsewhere, process 1, seen \d+ s ago.*its lock ends after 60 s"):
        storage.locked().__enter__()
    monkeypatch.setattr(leases, "STALE_SECONDS", 1.0)
    time.sleep(2.1)  # the store tells times in whole seconds
    assert not storage.is_locked()
    with storage.locked():
        assert storage.is_locked()


def test_holder_renews_its_lock(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    storage = open_storage(s3_server.location)
    with storage.locked() as hold:
        before = storage.read(".lock")
        for _ in range(100):
            time.sleep(0.05)
            if storage.read(".lock") != before:
                break
        assert json.loads(storage.read(".lock"))["token"] == json.loads(before)["token"]
        assert storage.read(".lock") != before
        hold.check()


def test_holder_that_was_replaced_notices_and_leaves_the_lock_alone(
    s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    storage = open_storage(s3_server.location)
    with storage.locked() as hold:
        _leave_lock(s3_server)
        time.sleep(1)
        with pytest.raises(RunError, match="another command may be at work"):
            hold.check()
    assert json.loads(storage.read(".lock"))["host"] == "elsewhere"


def test_holder_that_cannot_renew_notices(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(leases, "STALE_SECONDS", 1.0)
    refuse = False
    with FaultyProxy(s3_server.endpoint, lambda method, path: "error" if refuse else None) as proxy:
        storage = open_storage(s3_server.location, StorageConfig(endpoint=proxy.endpoint, attempts=1))
        with storage.locked() as hold:
            refuse = True
            time.sleep(1.1)
            with pytest.raises(RunError, match="could not be renewed"):
                hold.check()
            refuse = False


@pytest.mark.parametrize("fault", ["lost", "late_error", "error", "reset"])
def test_lock_is_taken_though_the_first_answer_is_lost(s3_server: Any, fault: str) -> None:
    puts: list[str] = []

    def first_put(method: str, path: str) -> str | None:
        puts.extend([path] * (method == "PUT"))
        return fault if method == "PUT" and len(puts) == 1 else None

    with FaultyProxy(s3_server.endpoint, first_put) as proxy:
        storage = open_storage(s3_server.location, StorageConfig(endpoint=proxy.endpoint))
        with storage.locked() as hold:
            hold.check()
        assert proxy.injected[fault] == 1
    assert list(open_storage(s3_server.location).entries()) == []
