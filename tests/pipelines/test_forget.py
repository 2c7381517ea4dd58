"""Photos taken out of a run: nothing of theirs stays, nothing of the others changes, also after a stop half way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.synthetic_run import ROOT, photo_path, write_run
from pipelines import forget as forgetting
from pipelines.cli import main
from pipelines.forget import Forgotten, forget
from pipelines.ledger import committed_tables
from pipelines.manifest import image_id, read_listing
from pipelines.validate import validate
from retinafocus import open_run
from retinafocus.errors import RunError, SettingsError
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import (
    FORGOTTEN_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    TABLES,
    Run,
    new_mark,
    read_ledger,
    read_manifest,
)

PHOTO, OTHER = photo_path(1, 2), photo_path(2, 0)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "run")
    write_run(storage, 3, 4, failed_every=4)
    return storage


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(PHOTO, id="path below the root"),
        pytest.param(f"{ROOT}/{PHOTO}", id="absolute path"),
        pytest.param(image_id(PHOTO), id="image_id"),
    ],
)
def test_nothing_of_the_photo_stays_and_the_others_are_as_before(storage: LocalStorage, name: str) -> None:
    before = {table: open_run(storage.location).table(table) for table in TABLES}
    assert main(["forget", storage.location, name]) == 0
    run, gone = open_run(storage.location), image_id(PHOTO)
    for table, rows in before.items():
        kept = [row for row in rows.to_pylist() if row["image_id"] != gone]
        assert len(kept) == rows.num_rows - 1
        assert run.table(table).to_pylist() == kept
    texts = [path.read_bytes() for path in storage.root.rglob("*") if path.is_file() and path.name != "forgotten.json"]
    assert not any(gone.encode() in text or PHOTO.encode() in text for text in texts)
    assert validate(storage.location).problems == {}
    assert run.info["totals"]["photos"] == run.info["archive"]["photos"] == 11
    assert [(record["shard"], record["generation"]) for record in run.records] == [(0, 0), (1, 1), (2, 0)]
    listing = read_listing(storage)
    assert listing is not None
    assert listing.root == ROOT


def test_forgetting_twice_changes_nothing(storage: LocalStorage) -> None:
    assert forget(storage.location, [PHOTO, OTHER]) == Forgotten(photos=2, shards=2, files=8)
    assert forget(storage.location, [PHOTO]) == Forgotten(photos=0, shards=0, files=0)
    assert json.loads(storage.read(FORGOTTEN_FILE)) == sorted([image_id(PHOTO), image_id(OTHER)])


STEPS = ["_commit_without", "drop_forgotten", "delete_leftovers", "_sum_up"]


def _cut_short(storage: LocalStorage, photo: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget a photo, but die before that step."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, stop)
        with pytest.raises(KeyboardInterrupt):
            forget(storage.location, [photo])


@pytest.mark.parametrize("step", STEPS)
def test_what_was_cut_short_is_finished_by_the_same_command(
    storage: LocalStorage, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cut_short(storage, PHOTO, step, monkeypatch)
    assert image_id(PHOTO) not in read_manifest(storage).column("image_id").to_pylist()
    assert validate(storage.location).problems != {}
    # Plain globs, which may see the photo's rows still, are promised of complete runs only.
    assert not open_run(storage.location).complete
    forget(storage.location, [f"{ROOT}/{PHOTO}"])
    assert validate(storage.location).problems == {}
    assert open_run(storage.location).complete


@pytest.fixture(scope="module")
def looked_at(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(archive, tmp_path_factory.mktemp("looked-at") / "run", tiny_weights, limit=3)


@pytest.mark.parametrize("step", STEPS)
def test_what_was_cut_short_is_finished_by_the_next_detect(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, looked_at: Run, tmp_path: Path, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(looked_at.location, tmp_path / "run")
    gone, *others = looked_at.manifest().column("path").to_pylist()
    _cut_short(LocalStorage(tmp_path / "run"), gone, step, monkeypatch)
    run = run_job(archive, tmp_path / "run", tiny_weights, limit=3)
    assert run.complete
    assert validate(run.location).problems == {}
    assert pq.read_table(tmp_path / "run" / MANIFEST_FILE).column("path").to_pylist() == others
    kept = [row for row in looked_at.images().to_pylist() if row["image_id"] != image_id(gone)]
    assert run.images().to_pylist() == kept


def test_command_that_another_one_overtook_takes_no_rows_out(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*arguments: Any) -> Any:
        storage.put(RUN_FILE, json.dumps(open_run(storage.location).info | new_mark()).encode())
        return committed_tables(*arguments)

    before = read_ledger(storage)
    monkeypatch.setattr(forgetting, "committed_tables", overtaken)
    with pytest.raises(RunError, match=r"run: another command .* shard 1 was written; run the same command again"):
        forget(storage.location, [PHOTO])
    assert read_ledger(storage) == before


def test_archive_whose_photos_were_all_forgotten_is_listed_again(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", str(tmp_path / "run")
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"x")
    assert main(["index", str(photos), "-o", out]) == 0
    assert forget(out, ["a.jpg", "b.jpg"]).photos == 2
    (photos / "c.jpg").write_bytes(b"x")
    assert main(["index", "--update", "-o", out]) == 0
    assert read_manifest(LocalStorage(out)).column("path").to_pylist() == ["c.jpg"]


def test_photo_that_is_not_in_the_run_is_refused_before_anything_is_written(storage: LocalStorage) -> None:
    with pytest.raises(SettingsError, match=r"nobody\.jpg: is not in the run; give its image_id"):
        forget(storage.location, [PHOTO, "nobody.jpg"])
    assert not storage.exists(FORGOTTEN_FILE)
    assert [record["generation"] for record in read_ledger(storage)] == [0, 0, 0]


def test_name_that_is_not_utf8_is_found_by_its_bytes_and_as_the_manifest_has_it(
    storage: LocalStorage,
) -> None:
    manifest = read_manifest(storage)
    listing = read_listing(storage)
    assert listing is not None
    name = os.fsdecode(b"caf\xe9.jpg")
    row = {**manifest.slice(0, 1).to_pylist()[0], "image_id": image_id(name), "path": "caf%E9.jpg"}
    manifest = pa.concat_tables([manifest, pa.Table.from_pylist([row], schema=manifest.schema)])
    for photo in (name, "caf%E9.jpg"):
        assert forgetting._identities(manifest, listing, set(), [photo]) == {image_id(name)}
    with pytest.raises(SettingsError, match="is not in the run"):
        forgetting._identities(manifest, listing, set(), [os.fsdecode(b"\xe9.jpg")])


def test_folder_that_cannot_be_locked_is_an_error_in_words(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    (storage.root / ".lock").mkdir()
    assert main(["forget", storage.location, PHOTO]) == 1
    assert "cannot be locked (Is a directory); is it writable" in capsys.readouterr().err


def test_run_at_work_is_left_alone(storage: LocalStorage, tmp_path: Path) -> None:
    with storage.locked(), pytest.raises(RunError, match="another command is at work"):
        forget(storage.location, [PHOTO])
    with pytest.raises(RunError, match="no run here"):
        forget(str(tmp_path / "nothing"), [PHOTO])


def test_shard_that_was_not_looked_at_yet_stays_to_be_done(storage: LocalStorage) -> None:
    storage.delete("_ledger/00000001.json")
    storage.put(RUN_FILE, storage.read(RUN_FILE).replace(b"complete", b"running"))
    assert forget(storage.location, [PHOTO]).shards == 0
    assert validate(storage.location).problems["ledger"] == ["shard 1: 3 of its photos are still to be done"]
