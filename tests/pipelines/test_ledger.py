"""The commit of a shard, what is still to do, and the books at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import ledger
from pipelines.ledger import (
    commit_shard,
    delete_leftovers,
    find_record,
    kept_rows,
    pending_shards,
    reconcile,
    unrecorded_shards,
)
from pipelines.shard_tables import CASCADE_COUNTS, read_part, together
from retinafocus.errors import RunError
from retinafocus.faces import IMAGES_SCHEMA, TIMING_SCHEMA, Faces
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import current_records, ledger_name, read_ledger


def make_tables(shard: int, statuses: dict[str, str], attempt: str = "a") -> dict[str, pa.Table]:
    """A shard's tables: photos by name with their status; each that is ok has one face."""
    face = Faces([[1, 2, 30, 40]], [0.5], [[[5, 6]] * 5], [0])  # type: ignore[arg-type]
    images, timing, faces = [], [], [Faces.empty().to_arrow()]
    for name, status in sorted(statuses.items()):
        looked = status == "ok"
        images.append(
            {"image_id": name, "uri": f"/p/{name}", "status": status, "error": None if looked else "broken",
             "width": 64 if looked else None, "height": 48 if looked else None, "faces": 1 if looked else None,
             "pixels_processed": 5 * looked, "shard": shard}
        )  # fmt: skip
        timing.append(
            {"image_id": name, "shard": shard, "attempt": attempt, "worker": "w", "ms_read": 250.0, "ms_decode": 0.0,
             "ms_network": 0.0, "ms_other": 0.0, "pixels_planned": 9 * looked, "chips": 2 * looked,
             "chip_pixels": 4 * looked, "chip_pixels_asked": 3 * looked}
        )  # fmt: skip
        faces += [face.to_arrow(image_id=name, uri=f"/p/{name}", shard=shard)] if looked else []
    return {
        "faces": pa.concat_tables(faces),
        "images": pa.Table.from_pylist(images, schema=IMAGES_SCHEMA),
        "timing": pa.Table.from_pylist(timing, schema=TIMING_SCHEMA),
    }


def commit(
    storage: LocalStorage, shard: int, attempt: str, statuses: dict[str, str] | None = None, **options: int
) -> dict[str, Any]:
    statuses = statuses or {f"{shard}-a": "ok", f"{shard}-b": "corrupt"}
    tables = make_tables(shard, statuses, attempt)
    numbers: dict[str, Any] = {"generation": 0, "manifest_version": 0, **options}
    return commit_shard(storage, shard, attempt, tables, {"worker": "w"}, **numbers)


def manifest(*rows: tuple[int, str, int]) -> pa.Table:
    """A manifest of (shard, image_id, version) rows."""
    shards, names, versions = zip(*rows, strict=True)
    return pa.table(
        {
            "image_id": list(names),
            "bytes": pa.array([10] * len(rows), pa.int64()),
            "shard": pa.array(shards, pa.int32()),
            "version": pa.array(versions, pa.int32()),
        }
    )


TWO = ((0, "0-a", 0), (0, "0-b", 0))


def test_highest_generation_of_a_shard_counts() -> None:
    names = ["_ledger/00000002.json", "_ledger/00000001.0002.json", "_ledger/00000001.json"]
    assert current_records([*names, "_ledger/00000001.0010.json", "_ledger/mine.json", "_ledger/.unfinished-1"]) == {
        1: 10,
        2: 0,
    }
    assert [ledger_name(2), ledger_name(1, 2)] == names[:2]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"shard": 1}, id="another shard"),
        pytest.param({"generation": 1}, id="another generation"),
        pytest.param({"files": None}, id="lacks what it is for"),
    ],
)
def test_record_that_is_not_the_one_its_name_says_is_an_error_in_words(tmp_path: Path, change: dict[str, Any]) -> None:
    storage = LocalStorage(tmp_path)
    record = {key: value for key, value in {**commit(storage, 0, "a"), **change}.items() if value is not None}
    storage.put(ledger_name(0), json.dumps(record).encode())
    with pytest.raises(RunError, match=r"00000000\.json: is not the record of that shard; delete it"):
        read_ledger(storage)


def test_second_attempt_gets_the_record_of_the_first_and_leaves_no_parts(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first, second = commit(storage, 3, "first"), commit(storage, 3, "second")
    assert second == first == find_record(storage, 3, 0)
    assert find_record(storage, 3, 1) is None
    assert list(storage.names("images")) == ["images/part-00000003-first.parquet"]


def test_attempt_that_wakes_up_after_the_shard_was_done_again_cannot_win(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 3, "first")
    again = commit(storage, 3, "again", generation=1)
    with storage.locked() as hold:
        delete_leftovers(storage, read_ledger(storage), hold)
    assert list(storage.names("_ledger")) == ["_ledger/00000003.0001.json"]
    commit(storage, 3, "zombie")  # its name is free once more
    assert read_ledger(storage) == [again]
    with storage.locked() as hold:
        assert delete_leftovers(storage, read_ledger(storage), hold) == 4
    assert read_ledger(storage) == [again]


def test_record_counts_what_the_tables_hold(tmp_path: Path) -> None:
    record = commit(LocalStorage(tmp_path), 3, "first")
    assert {key: record[key] for key in ("photos", "faces", "photos_with_faces", "looked_at")} == {
        "photos": 2, "faces": 1, "photos_with_faces": 1, "looked_at": 2,
    }  # fmt: skip
    assert [record[key] for key in CASCADE_COUNTS] == [9, 1, 2, 4, 3]
    assert record["statuses"] == {"corrupt": 1, "ok": 1}
    assert record["seconds"] == {"read": 0.5, "decode": 0.0, "network": 0.0, "other": 0.0}


class Failing(LocalStorage):
    """Refuses the first so many writes; with `late`, after having carried them out."""

    def __init__(self, root: Path, failures: int, *, late: bool = False) -> None:
        super().__init__(root)
        self.failures, self.late = failures, late

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")

    def put(self, name: str, data: bytes) -> None:
        self._fail()
        super().put(name, data)

    def create_once(self, name: str, data: bytes) -> bool:
        if self.late:
            super().create_once(name, data)
        self._fail()
        return super().create_once(name, data)


def test_store_that_fails_for_a_while_costs_waiting_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "COMMIT_DELAYS", (0.001,) * 3)
    record = commit(Failing(tmp_path, 3), 0, "patient")
    assert read_ledger(LocalStorage(tmp_path)) == [record]
    with pytest.raises(RunError, match=r"shard 1 could not be written, also when tried again \(No space left"):
        commit(Failing(tmp_path, 4), 1, "beaten")


def test_record_that_the_store_took_without_saying_so_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "COMMIT_DELAYS", (0.001,))
    storage = Failing(tmp_path, 0, late=True)
    put = storage.put

    def fail_after_the_parts(name: str, data: bytes) -> None:
        put(name, data)
        storage.failures = int(name.startswith("timing"))

    monkeypatch.setattr(storage, "put", fail_after_the_parts)
    record = commit(storage, 0, "mine")
    assert all(storage.exists(file["name"]) for file in record["files"].values())


def test_parts_without_a_record_are_not_done_and_are_deleted(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 0, "whole")
    storage.put("images/part-00000001-killed.parquet", b"half")
    storage.put("faces/.unfinished-abc", b"less")
    storage.put("_ledger/attempts/00000001-killed", b"")
    storage.put("images/mine.jpg", b"somebody's own")
    records = read_ledger(storage)
    pending = pending_shards(records, manifest(*TWO, (1, "c", 0)))
    assert pending == [{"shard": 1, "photos": 1, "bytes": 10, "generation": 0, "retry": ""}]
    assert unrecorded_shards(storage.names("_ledger"), manifest(*TWO, (1, "c", 0))) == pending
    with storage.locked() as hold:
        assert delete_leftovers(storage, records, hold) == 3
    assert sorted(storage.names("images")) == ["images/mine.jpg", "images/part-00000000-whole.parquet"]


@pytest.mark.parametrize(
    ("rows", "retry", "expected"),
    [
        pytest.param(TWO, (), None, id="nothing"),
        pytest.param(((0, "0-a", 0), (0, "0-b", 2)), (), (1, 1, ""), id="one changed"),
        pytest.param(((0, "0-a", 0), (0, "0-b", 0), (0, "new", 1)), (), (1, 1, ""), id="one new"),
        pytest.param(((0, "0-a", 0),), (), (0, 1, ""), id="one forgotten"),
        pytest.param(TWO, ("corrupt",), (1, 1, "corrupt"), id="one failed"),
        pytest.param(TWO, ("timeout", "crashed"), None, id="none of that status"),
        pytest.param(((0, "0-a", 1), (0, "0-b", 1)), ("corrupt",), (2, 1, "corrupt"), id="no more than there are"),
    ],
)
def test_shard_is_done_again_for_a_reason(
    tmp_path: Path,
    rows: tuple[tuple[int, str, int], ...],
    retry: tuple[str, ...],
    expected: tuple[int, int, str] | None,
) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 0, "whole")
    pending = pending_shards(read_ledger(storage), manifest(*rows), retry)
    assert [(row["photos"], row["generation"], row["retry"]) for row in pending] == ([expected] if expected else [])


def test_shard_whose_photos_were_all_forgotten_is_done_again(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 5, "whole")
    (row,) = pending_shards(read_ledger(storage), manifest(*TWO).slice(0, 0))
    assert row == {"shard": 5, "photos": 0, "bytes": 0, "generation": 1, "retry": ""}


def test_rows_of_photos_that_are_not_asked_for_are_kept_bit_for_bit(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 0, "first", {"a": "ok", "b": "corrupt", "c": "ok", "d": "ok", "e": "timeout"})
    rows = [{"image_id": name, "version": version} for name, version in zip("abcef", (0, 0, 1, 0, 1), strict=True)]
    looking, kept = kept_rows(storage, 0, rows, "corrupt", generation=1)
    assert [row["image_id"] for row in looking] == ["b", "c", "f"]
    assert {name: table.column("image_id").to_pylist() for name, table in kept.items()} == {
        "faces": ["a"], "images": ["a", "e"], "timing": ["a", "e"],
    }  # fmt: skip
    made = make_tables(0, {"b": "ok", "c": "vanished", "f": "ok"}, "second")
    record = commit_shard(storage, 0, "second", together(made, kept), {}, generation=1, manifest_version=1)
    assert (record["photos"], record["looked_at"], record["faces"]) == (5, 3, 3)
    whole = make_tables(0, {"a": "ok", "b": "ok", "c": "vanished", "e": "timeout", "f": "ok"})
    for table in ("faces", "images"):
        assert read_part(storage.read(record["files"][table]["name"])).equals(whole[table])


def test_first_generation_looks_at_everything(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "version": 3}]
    looking, kept = kept_rows(LocalStorage(tmp_path), 0, rows, "", generation=0)
    assert looking == rows
    assert ledger.manifest_version(rows) == 3
    made = make_tables(0, {"a": "ok"})
    assert together(made, kept) is made


def test_books_add_up(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    commit(storage, 0, "a")
    commit(storage, 1, "b")
    listed = manifest(*TWO, (1, "1-a", 0), (1, "1-b", 0), (2, "c", 0))
    assert reconcile(read_ledger(storage), listed) == {
        "photos": 4, "faces": 2, "photos_with_faces": 2, "pixels_processed": 10,
        **dict(zip(CASCADE_COUNTS, (18, 2, 4, 8, 6), strict=True)), "statuses": {"corrupt": 2, "ok": 2},
        "engines": {"not recorded": 4},
        "seconds": {"decode": 0.0, "network": 0.0, "other": 0.0, "read": 1.0}, "missing_shards": [2],
    }  # fmt: skip


def test_books_that_do_not_add_up_are_an_error(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    record = commit(storage, 0, "a")
    storage.put(ledger_name(0), json.dumps(record | {"statuses": {"ok": 3}}).encode())
    with pytest.raises(RunError, match=r"shard 0: .* delete _ledger/00000000.json and run the same command again"):
        reconcile(read_ledger(storage), manifest(*TWO))


def test_lock_that_is_lost_while_leftovers_are_listed_saves_them(tmp_path: Path) -> None:
    class Slow(LocalStorage):
        """The next command takes over while this one lists files, and begins to write its own."""

        taken_over = False

        def names(self, folder: str) -> Iterator[str]:
            if folder == "faces" and not self.taken_over:
                self.taken_over = True
                self.put("faces/part-00000000-next.parquet", b"of the next command")
            return super().names(folder)

        def check(self) -> None:
            if self.taken_over:
                raise RunError("the lock could not be renewed")

    storage = Slow(tmp_path)
    with pytest.raises(RunError, match="could not be renewed"):
        delete_leftovers(storage, [], hold=storage)
    assert storage.read("faces/part-00000000-next.parquet") == b"of the next command"
