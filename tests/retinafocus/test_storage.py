"""Files appear whole or not at all, and a name is taken once: on a file system and in an object store, good or bad."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.faults import FAULTS, FaultyProxy, RandomFaults
from retinafocus import local_storage
from retinafocus.errors import RunError, SettingsError
from retinafocus.local_storage import TEMPORARY_PREFIX
from retinafocus.storage import LOCK_FILE, Entry, Storage, StorageConfig, StorageError, open_storage, redacted

S3_PAGE = 50  # what the server of the tests lists at a time


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "a run")
    return open_storage(f"{request.getfixturevalue('s3_server').location}/a%20run")


def test_put_replaces_and_leaves_nothing_else(storage: Storage) -> None:
    storage.put("faces/a.parquet", b"one")
    storage.put("faces/a.parquet", b"two")
    assert storage.read("faces/a.parquet") == b"two"
    assert list(storage.names("faces")) == ["faces/a.parquet"]


def test_of_many_writers_exactly_one_gets_the_name(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: storage.create_once("_ledger/1.json", b"%d" % number), range(32)))
    assert sum(won) == 1
    assert int(storage.read("_ledger/1.json")) == won.index(True)
    assert list(storage.names("_ledger")) == ["_ledger/1.json"]


def test_what_is_not_there(storage: Storage) -> None:
    assert list(storage.names("faces")) == list(storage.entries(lambda folder, error: None)) == []
    storage.delete("faces/none.parquet")
    storage.remove_folder("faces")
    assert not storage.exists(f"{TEMPORARY_PREFIX}x")
    with pytest.raises(FileNotFoundError):
        storage.read("faces/none.parquet")
    with pytest.raises(FileNotFoundError):
        storage.open("faces/none.parquet")


def test_entries_come_in_the_order_of_whole_names(storage: Storage) -> None:
    names = ["a/z.jpg", "a.jpg", "a/b/c.jpg", "a-b.jpg", "ü/1.jpg", "Z.jpg", "a/\U0001f600.jpg", "a/\uffee.jpg"]
    for name in names:
        storage.put(name, name.encode())
    found = list(storage.entries())
    assert [entry.name for entry in found] == sorted(names, key=str.encode)
    assert all(entry.bytes == len(entry.name.encode()) and entry.modified is not None for entry in found)
    assert sorted(storage.names("a")) == ["a/z.jpg", "a/\uffee.jpg", "a/\U0001f600.jpg"]


def test_many_are_read_in_the_order_asked_for(storage: Storage) -> None:
    names = [f"_ledger/{number}.json" for number in range(70)]
    for name in names:
        storage.put(name, name.encode())
    assert list(storage.read_many(reversed(names))) == [(name, name.encode()) for name in reversed(names)]
    with pytest.raises(FileNotFoundError):
        list(storage.read_many([*names, "_ledger/70.json"]))


def test_parts_of_a_parquet_file_can_be_read(storage: Storage) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"shard": [0, 0, 1, 2], "name": list("abcd")}), sink, row_group_size=2)
    storage.put("manifest.parquet", sink.getvalue().to_pybytes())
    with storage.open("manifest.parquet") as file:
        assert pq.read_table(file, filters=[("shard", "=", 1)]).to_pydict() == {"shard": [1], "name": ["c"]}


def test_a_storage_travels_by_pickling(storage: Storage) -> None:
    storage.put("a b.json", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again.read("a b.json") == b"1"
    assert (again.location, again.uri("a b.json")) == (storage.location, storage.uri("a b.json"))


def test_what_a_uri_leads_to_is_the_file(storage: Storage) -> None:
    storage.put("day 1/a#1 100%.jpg", b"photo")
    uri = storage.uri("day 1/a#1 100%.jpg")
    folder, name = uri.rsplit("/", 1)
    assert open_storage(folder).uri("x") == f"{folder}/x"
    assert (name == "a#1 100%.jpg") == uri.startswith("/")


def test_writable_folder_is_left_as_it_was(storage: Storage) -> None:
    storage.check_writable()
    assert list(storage.entries()) == []


def test_folder_is_held_by_one_command_at_a_time(storage: Storage) -> None:
    storage.check_writable()
    again = pickle.loads(pickle.dumps(storage))
    assert not storage.is_locked()
    with storage.locked() as hold:
        hold.check()
        assert again.is_locked()
        with pytest.raises(RunError, match="another command is at work on this run"), again.locked():
            pass
    with again.locked():
        pass
    assert not storage.is_locked()


def test_question_whether_a_folder_is_held_turns_no_command_away(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with storage.locked():
        pass
    asking = os.open(tmp_path / LOCK_FILE, os.O_RDONLY)  # as `is_locked` does, for a moment
    fcntl.flock(asking, fcntl.LOCK_SH)
    asked = threading.Timer(0.02, os.close, [asking])
    asked.start()
    with storage.locked():
        assert storage.is_locked()
    asked.join()


def test_what_killed_commands_left_is_swept_and_nothing_else(
    storage: Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = request.node.callspec.params["storage"] == "local"
    number = "0123456789abcdef" * 2
    kinds = (".unfinished-", ".unfinished-probe-") if local else (".probe-", ".lock-clock-")
    ours = [f"{kind}{number}" for kind in kinds] + ([f".unfinished-probe-{number}-link"] if local else [])
    others = ["run.json", f"{kinds[0]}notes", f"{kinds[0]}{number}.txt", f"notes{kinds[0]}{number}", f"mine/{ours[0]}"]
    for name in [*ours, *others]:
        storage.put(name, b"")
    with storage.locked() as hold:
        assert storage.sweep(hold) == 0  # some command may just be about to ask for the lock
        monkeypatch.setattr(f"retinafocus.{'local' if local else 'object'}_storage.STALE_SECONDS", -1.0)
        assert storage.sweep(hold) == len(ours)
    assert {entry.name for entry in storage.entries()} - {LOCK_FILE} == set(others)


def test_nothing_is_swept_once_the_lock_is_lost(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def check(self) -> None:
            raise RunError("lost")

    names = [f"{kind}{'0' * 32}" for kind in (".unfinished-", ".probe-")]
    for name in [*names, LOCK_FILE]:
        storage.put(name, b"")
    for module in ("local", "object"):
        monkeypatch.setattr(f"retinafocus.{module}_storage.STALE_SECONDS", -1.0)
    with pytest.raises(RunError, match="lost"):
        storage.sweep(Lost())
    assert {entry.name for entry in storage.entries()} == {*names, LOCK_FILE}


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        open_storage(tmp_path).put("faces/a.parquet", b"data")
    assert list((tmp_path / "faces").iterdir()) == []


def test_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot be written .*choose another -o folder"):
        open_storage(tmp_path / "file" / "out").check_writable()


def test_local_odd_names_links_and_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "new\nline.jpg")
    for name in (b"new\nline.jpg", b"\xff.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"1")
    scan = os.scandir

    def closed(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(local_storage.os, "scandir", closed)
    refused: list[str] = []
    entries = list(open_storage(tmp_path).entries(lambda folder, error: refused.append(folder)))
    assert [entry.name for entry in entries] == ["new\nline.jpg", "\udcff.jpg"]
    assert refused == ["closed"]
    with pytest.raises(PermissionError):
        list(open_storage(tmp_path).entries())


def test_file_uris_are_local_folders(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}/a%20b").put("c", b"1")
    assert (tmp_path / "a b" / "c").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("location", "said"),
    [
        pytest.param("s3://key:secret@bucket/x", r"s3://\.\.\.@bucket/x: has a user name or a key", id="keys"),
        pytest.param("s3://bucket/x?access_key=secret", r"s3://bucket/x\?\.\.\.: has a query", id="query"),
        pytest.param("gs://bucket/x#1", r"gs://bucket/x\?\.\.\.: has a query or fragment", id="fragment"),
        pytest.param("s3:///x", "names no bucket", id="no bucket"),
        pytest.param("hdfs://host/x", r"no storage for hdfs://; give a path, s3:// or gs://", id="scheme"),
        pytest.param("s3://bucket/a//b", "empty or dot parts", id="empty part"),
        pytest.param("s3://bucket/%FF", "not UTF-8", id="no text"),
    ],
)
def test_location_that_cannot_be_is_refused_without_its_secrets(location: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        open_storage(location)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"attempts": 0}, "attempts is 0; choose 1 or more", id="attempts"),
        pytest.param({"timeout_seconds": 0.0}, "timeout_seconds is 0; choose more than 0", id="timeout"),
        pytest.param({"endpoint": "minio:9000"}, "give http://HOST:PORT", id="endpoint without scheme"),
        pytest.param({"endpoint": "http://me:secret@minio"}, r"http://\.\.\.@minio", id="endpoint with keys"),
        pytest.param({"anonymous": True, "profile": "me"}, "leave one of them out", id="contradiction"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        StorageConfig(**settings)
    assert "secret" not in str(caught.value)


def test_redacted_keeps_all_but_the_secrets() -> None:
    text = "detect s3://me:pw@bucket/in -o 'gs://b/out?token=abc' list.csv x@y.org https://h/p?sig=1#2 s3://plain/key"
    assert redacted(text) == (
        "detect s3://...@bucket/in -o 'gs://b/out?...' list.csv x@y.org https://h/p?... s3://plain/key"
    )


def test_profile_that_is_not_there_is_a_setting_to_mend(s3_server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "credentials").write_text("[archive]\naws_access_key_id = k\naws_secret_access_key = s\n")
    with pytest.raises(SettingsError, match=r"profile nobody: .*could not be found"):
        open_storage(s3_server.location, StorageConfig(profile="nobody"))
    named = open_storage(f"{s3_server.location}/x", StorageConfig(profile="archive"))
    named.put("a", b"1")
    assert named.read("a") == b"1"


def test_absent_bucket_and_absent_server_are_clear_errors(s3_server: Any) -> None:
    with pytest.raises(RunError, match=r"s3://no-such-bucket/x: cannot be written \(there is no such bucket\)"):
        open_storage("s3://no-such-bucket/x").check_writable()
    nobody = StorageConfig(endpoint="http://127.0.0.1:9", attempts=2)
    with pytest.raises(RunError, match=r"cannot be written \(.*no connection\); choose another -o"):
        open_storage("s3://bucket/x", nobody).check_writable()


def test_keys_that_obstore_cannot_name_are_listed_and_read_by_amazons_library(s3_server: Any) -> None:
    storage = open_storage(f"{s3_server.location}/in")
    names = ["../up.jpg", "/empty part.jpg", "a.jpg", "b.jpg", "tab\t.jpg"]
    for name in names:
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=f"in/{name}", Body=name.encode())
    assert [(entry.name, entry.bytes) for entry in storage.entries()] == [(name, len(name)) for name in names]
    assert [storage.read(name) for name in names] == [name.encode() for name in names]
    assert all(entry.etag and entry.modified for entry in storage.entries())


def test_without_amazons_library_such_keys_are_an_error_that_names_one(
    s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(f"{s3_server.location}/in", StorageConfig(attempts=2))
    s3_server.client.put_object(Bucket=s3_server.bucket, Key="in/a//b.jpg", Body=b"1")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SettingsError, match=r"holds a key that cannot be listed \('in/a//b.jpg'"):
        list(storage.entries())
    with pytest.raises(StorageError, match=r"rename it, or install retinafocus\[s3\]"):
        storage.read("a//b.jpg")


class Faulty:
    """The first so many requests of each kind of call get the fault."""

    def __init__(self, fault: str, times: int) -> None:
        self.fault, self.times, self.seen = fault, times, Counter[str]()

    def __call__(self, method: str, path: str) -> str | None:
        self.seen[method] += 1
        return self.fault if self.seen[method] <= self.times else None


QUICK = {"timeout_seconds": 0.3, "attempts": 5}


@pytest.mark.parametrize("fault", list(FAULTS), ids="fault-{}".format)  # "slow" alone is a marker of ours
def test_every_call_survives_a_fault(s3_server: Any, fault: str) -> None:
    data = os.urandom(100_000)
    calls: list[Callable[[Storage], object]] = [
        lambda storage: storage.read("a") == data,
        lambda storage: [entry.name for entry in storage.entries()] == ["a"],
        lambda storage: storage.exists("a"),
        lambda storage: storage.open("a").read() == data,
        lambda storage: storage.create_once("b", data) and not storage.create_once("b", b"other"),
        lambda storage: storage.put("b", data) is None and storage.read("b") == data,
        lambda storage: storage.delete("b") is None and not storage.exists("b"),
    ]
    open_storage(s3_server.location).put("a", data)
    for number, call in enumerate(calls):
        with FaultyProxy(s3_server.endpoint, Faulty(fault, 1), stall_seconds=2) as proxy:
            config = StorageConfig(endpoint=proxy.endpoint, **QUICK)  # type: ignore[arg-type]
            assert call(open_storage(s3_server.location, config)), number
            assert proxy.injected[fault], number


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error", "500 Internal Server Error, InternalError"),
        ("slow_down", "503 Service Unavailable, SlowDown"),
        ("reset", "no connection"),
        ("cut", "the answer ended too early"),
    ],
)
def test_a_fault_that_stays_is_an_error_of_its_kind(s3_server: Any, fault: str, kind: str) -> None:
    open_storage(s3_server.location).put("a", b"12345678")
    with FaultyProxy(s3_server.endpoint, lambda method, path: fault) as proxy:
        config = StorageConfig(endpoint=proxy.endpoint, attempts=2, timeout_seconds=1)
        with pytest.raises(StorageError) as caught:
            open_storage(s3_server.location, config).read("a")
    assert caught.value.kind == kind
    assert pickle.loads(pickle.dumps(caught.value)).kind == kind


def test_a_listing_that_breaks_goes_on_where_it_was(s3_server: Any) -> None:
    names = [f"{number:04d}" for number in range(S3_PAGE + 2)]
    for name in names:
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=name, Body=b"")
    pages = Counter[str]()

    def second_page(method: str, path: str) -> str | None:
        pages["continued" if "continuation" in path or "start-after" in path else "first"] += 1
        return "cut" if pages["continued"] == 1 else None

    with FaultyProxy(s3_server.endpoint, second_page) as proxy:
        storage = open_storage(s3_server.location, StorageConfig(endpoint=proxy.endpoint))
        assert [entry.name for entry in storage.entries()] == names
    assert (pages["first"], proxy.injected["cut"]) == (1, 1)


def test_a_store_that_ignores_conditions_is_refused(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from retinafocus.object_storage import ObjectStorage

    monkeypatch.setattr(ObjectStorage, "create_once", lambda self, name, data: self.put(name, data) is None)
    with pytest.raises(RunError, match="this store ignores conditional writes"):
        open_storage(s3_server.location).check_writable()


def test_random_faults_let_a_patient_client_through() -> None:
    faults = RandomFaults({"error": 0.5, "cut": 0.5}, seed=1, in_a_row=2)
    answers = [faults("GET", "/a") for _ in range(30)]
    assert answers[2::3] == [None] * 10
    assert set(answers[0::3] + answers[1::3]) == {"error", "cut"}
    with pytest.raises(ValueError, match="unknown faults"):
        RandomFaults({"fire": 1.0}, seed=0)


def test_entries_are_values() -> None:
    assert Entry("a", 1, None, None) == Entry("a", 1, None, None)


def test_local_storage_does_without_the_object_store_library() -> None:
    import subprocess

    assert importlib.util.find_spec("obstore") is not None
    program = "import sys, retinafocus.reading, retinafocus.runs; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
