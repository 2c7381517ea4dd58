"""Files appear whole or not at all, and a name is taken once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.store import TEMPORARY_PREFIX, LocalStore
from retinafocus.errors import RunError


def test_put_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("faces/a.parquet", b"one")
    store.put("faces/a.parquet", b"two")
    assert store.read("faces/a.parquet") == b"two"
    assert list(store.names("faces")) == ["faces/a.parquet"]


def test_of_many_writers_exactly_one_gets_the_name(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create_once("_ledger/1.json", b"%d" % number), range(32)))
    assert sum(won) == 1
    assert int(store.read("_ledger/1.json")) == won.index(True)
    assert list(store.names("_ledger")) == ["_ledger/1.json"]


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        LocalStore(tmp_path).put("faces/a.parquet", b"data")
    assert list((tmp_path / "faces").iterdir()) == []


def test_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot be written .*choose another -o folder"):
        LocalStore(tmp_path / "file" / "out").check_writable()


def test_missing_folder_has_no_names_and_deleting_twice_is_fine(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert list(store.names("faces")) == []
    store.delete("faces/none.parquet")
    assert not store.exists(f"{TEMPORARY_PREFIX}x")


def test_folder_is_held_by_one_command_at_a_time(tmp_path: Path) -> None:
    first, second = LocalStore(tmp_path), LocalStore(tmp_path)
    with first.locked(), pytest.raises(RunError, match="another command is at work on this run"), second.locked():
        pass
    with second.locked():
        pass
