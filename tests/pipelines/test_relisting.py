"""The next version of a manifest: what changed, and that nothing moves or is lost."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.index import IndexJob, ListingProgress, index
from pipelines.manifest import image_id, read_listing
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import FORGOTTEN_FILE, MANIFEST_FILE, RUN_FILE
from retinafocus.storage import open_storage


def _write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _index(*inputs: object, out: object, **settings: Any) -> str:
    with open(os.devnull, "w") as quiet:
        job = IndexJob(inputs=[str(text) for text in inputs], output=str(out), **settings)
        return index(job, ListingProgress(quiet))


def _update(out: object, **settings: Any) -> dict[str, int]:
    """The counts of an update."""
    (line,) = (line for line in _index(out=out, update=True, **settings).splitlines() if line.startswith("changes"))
    words = line.removeprefix("changes").split("(")[0].split(",")
    return {kind: int(count) for count, kind in (word.split() for word in words)}


def _rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(out / MANIFEST_FILE).to_pylist()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "4.jpg"):
        _write(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_new_changed_vanished_and_returned_photos_are_told_apart(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    first = _rows(out)
    assert _update(out) == {"unchanged": 4}
    _write(photos / "a" / "1.jpg", b"longer")
    os.utime(photos / "b" / "3.jpg", (0, 0))
    (photos / "4.jpg").unlink()
    _write(photos / "a" / "0.jpg")
    assert _update(out, dry_run=True) == {"new": 1, "changed": 2, "vanished": 1, "unchanged": 1}
    assert _rows(out) == first
    assert _update(out) == {"new": 1, "changed": 2, "vanished": 1, "unchanged": 1}
    second = _rows(out)
    assert {path: row["version"] for path, row in second.items()} == {
        "4.jpg": 1, "a/1.jpg": 1, "a/2.jpg": 0, "b/3.jpg": 1, "a/0.jpg": 1
    }  # fmt: skip
    assert [path for path, row in second.items() if row["vanished"]] == ["4.jpg"]
    assert second["4.jpg"] == {**first["4.jpg"], "vanished": True, "version": 1}
    assert second["a/1.jpg"]["bytes"] == 6
    assert second["b/3.jpg"]["modified"].timestamp() == 0
    assert second["a/0.jpg"]["shard"] == 1 + max(row["shard"] for row in first.values())
    assert all(second[path]["shard"] == row["shard"] for path, row in first.items())
    assert _update(out) == {"unchanged": 5}
    assert _rows(out) == second
    _write(photos / "4.jpg", b"again")
    assert _update(out) == {"back": 1, "unchanged": 4}
    assert (_rows(out)["4.jpg"]["vanished"], _rows(out)["4.jpg"]["bytes"]) == (False, 5)
    listing = read_listing(open_storage(out))
    assert listing is not None
    assert (listing.version, listing.inputs, listing.root) == (2, [str(photos)], str(photos))


def test_many_random_updates_agree_with_a_plain_comparison(tmp_path: Path) -> None:
    photos, out, chance = tmp_path / "photos", tmp_path / "out", random.Random(5)
    there: dict[str, int] = {}

    def write(name: str) -> None:
        there[name] = there.get(name, 0) + 1
        _write(photos / name, b"x" * there[name])
        os.utime(photos / name, (0, 0))  # of two versions only the size differs

    for number in range(60):
        write(f"{number % 7}/{number}.jpg")
    _index(photos, out=out)
    known = {name: (size, 0, False) for name, size in there.items()}
    for version in range(1, 7):
        for number in chance.sample(range(90), 12):
            name = f"{number % 7}/{number}.jpg"
            if name in there and chance.random() < 0.5:
                del there[name]
                (photos / name).unlink()
            else:
                write(name)
        for name, (size, _, vanished) in list(known.items()):
            if name not in there and not vanished:
                known[name] = (size, version, True)
        for name, size in there.items():
            if name not in known or known[name][::2] != (size, False):
                known[name] = (size, version, False)
        _update(out)
        assert {path: (row["bytes"], row["version"], row["vanished"]) for path, row in _rows(out).items()} == known


def test_photos_in_a_folder_that_cannot_be_read_have_not_vanished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.fsencode(photos) + b"/a/caf\xe9.jpg", "wb"):
        pass
    out = tmp_path / "out"
    _index(photos, out=out)
    before, scan = _rows(out), os.scandir
    (photos / "b" / "3.jpg").unlink()

    def refuse(path: Any) -> Any:
        if path == os.fsencode(photos / "a"):
            raise PermissionError
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    words = _index(out=out, update=True, dry_run=True)
    assert f"1 folders could not be read; nobody knows what is in '{photos / 'a'}'" in words
    assert _update(out) == {"vanished": 1, "unchanged": 1, "unknown": 3}
    monkeypatch.undo()
    assert {path: row for path, row in _rows(out).items() if path != "b/3.jpg"} == {
        path: row for path, row in before.items() if path != "b/3.jpg"
    }
    assert _update(out) == {"unchanged": 5}


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        pytest.param(
            "empty", RunError, r"b: lists no photo now, and 1 before, so nothing was changed", id="lists none"
        ),
        pytest.param("gone", SettingsError, r"b: no such file or folder", id="is gone"),
    ],
)
def test_input_that_is_gone_or_lists_nothing_refuses_the_update(
    photos: Path, tmp_path: Path, break_it: str, error: type[Exception], message: str
) -> None:
    out = tmp_path / "out"
    _index(photos / "a", photos / "b", out=out)
    before = (out / MANIFEST_FILE).read_bytes()
    (photos / "b" / "3.jpg").unlink()
    if break_it == "gone":
        (photos / "b").rmdir()
    with pytest.raises(error, match=message):
        _update(out)
    assert (out / MANIFEST_FILE).read_bytes() == before


def test_list_loses_photos_by_its_lines_and_by_their_files(photos: Path, tmp_path: Path) -> None:
    out, entries = tmp_path / "out", ["a/1.jpg", "a/2.jpg", "b/3.jpg", "missing.jpg"]
    (photos / "list.csv").write_text("\n".join(["path,md5", *(f"{entry},{'0' * 32}" for entry in entries)]))
    _index(photos / "list.csv", out=out, root=str(photos))
    (photos / "a" / "1.jpg").unlink()
    _write(photos / "new.jpg")
    lines = ["path,md5", f"a/1.jpg,{'0' * 32}", f"b/3.jpg,{'1' * 32}", f"missing.jpg,{'0' * 32}", "new.jpg,"]
    (photos / "list.csv").write_text("\n".join(lines))
    # One file is gone, one line is gone, one checksum is another; what never was there has not vanished.
    assert _update(out) == {"new": 1, "changed": 1, "vanished": 2, "unchanged": 1}
    assert sorted(path for path, row in _rows(out).items() if row["vanished"]) == ["a/1.jpg", "a/2.jpg"]
    _write(photos / "missing.jpg")
    assert _update(out) == {"changed": 1, "unchanged": 4}


def test_object_that_was_replaced_has_changed(s3_server: Any, tmp_path: Path) -> None:
    def put(name: str, body: bytes) -> None:
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=name, Body=body)

    for name in ("in/1.jpg", "in/2.jpg", "in/3.jpg"):
        put(name, b"one")
    out = f"{s3_server.location}/out"
    _index(f"{s3_server.location}/in", out=out)
    put("in/1.jpg", b"two")
    s3_server.client.delete_object(Bucket=s3_server.bucket, Key="in/2.jpg")
    put("in/4.jpg", b"new")
    assert _update(out) == {"new": 1, "changed": 1, "vanished": 1, "unchanged": 1}
    assert _update(out) == {"unchanged": 4}


def test_forgotten_photo_is_never_listed_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    storage = open_storage(out)
    storage.put(FORGOTTEN_FILE, f'["{image_id("a/1.jpg")}", "{image_id("new.jpg")}"]'.encode())
    rows = pq.read_table(out / MANIFEST_FILE)
    kept = [path != "a/1.jpg" for path in rows.column("path").to_pylist()]
    pq.write_table(rows.filter(kept), out / MANIFEST_FILE)  # as `retinafocus forget` does
    _write(photos / "new.jpg")
    _write(photos / "other.jpg")
    assert _update(out) == {"new": 1, "unchanged": 3}
    assert "other.jpg" in _rows(out)
    assert not {"a/1.jpg", "new.jpg"} & _rows(out).keys()


@pytest.mark.parametrize("others", [{}, {"new.jpg": b"x"}], ids=["nothing else", "a new photo"])
def test_forgotten_photo_that_the_manifest_still_names_is_taken_out(
    photos: Path, tmp_path: Path, others: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    last = max(row["shard"] for row in _rows(out).values())
    (forgotten,) = (path for path, row in _rows(out).items() if row["shard"] == last)
    open_storage(out).put(FORGOTTEN_FILE, f'["{image_id(forgotten)}"]'.encode())  # `retinafocus forget` was cut short
    for name, content in others.items():
        _write(photos / name, content)
    assert _update(out) == {**({"new": 1} if others else {}), "unchanged": 3}
    assert _rows(out).keys() == {"4.jpg", "a/1.jpg", "a/2.jpg", "b/3.jpg", *others} - {forgotten}
    assert all(_rows(out)[name]["shard"] == last + 1 for name in others)  # no shard gets a number that was another's


def test_photo_outside_a_root_that_nobody_stated_has_its_whole_name(tmp_path: Path) -> None:
    _write(tmp_path / "x" / "1" / "a" / "1.jpg")
    out = tmp_path / "out"
    _index(tmp_path / "x" / "*" / "a" / "*.jpg", out=out)
    _write(tmp_path / "x" / "2" / "a" / "1.jpg")
    assert _update(out) == {"new": 1, "unchanged": 1}
    assert list(_rows(out)) == ["1.jpg", str(tmp_path / "x" / "2" / "a" / "1.jpg")]


def test_run_is_no_longer_complete_once_its_photos_were_listed_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    storage = open_storage(out)
    storage.put(RUN_FILE, b'{"status": "complete", "settings": {}, "archive": {}}')
    _update(out)
    assert b'"complete"' in storage.read(RUN_FILE)
    _write(photos / "new.jpg")
    _update(out)
    assert b'"status": "relisted"' in storage.read(RUN_FILE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({}, "there is no INPUT", id="neither inputs nor update"),
        pytest.param({"update": True, "root": "/x"}, "leave --root and --allow-outside out", id="other root"),
        pytest.param({"inputs": ["PHOTOS"], "out": "PHOTOS"}, "the folder of the photos", id="output among the photos"),
        pytest.param({"update": True}, "holds no manifest to update", id="nothing to update"),
        pytest.param({"inputs": ["PHOTOS"], "out": "LISTED"}, "holds a manifest already", id="listed before"),
        pytest.param(
            {"inputs": ["PHOTOS/a"], "out": "LISTED", "update": True}, "as before; leave INPUT out", id="other inputs"
        ),
        pytest.param({"inputs": ["PHOTOS"], "out": "FOREIGN"}, "so it is no run of ours", id="somebody else's folder"),
    ],
)
def test_what_makes_no_sense_is_refused(photos: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    _index(photos, out=tmp_path / "listed")
    (tmp_path / "foreign" / "images").mkdir(parents=True)
    places = {"PHOTOS": str(photos), "LISTED": str(tmp_path / "listed"), "FOREIGN": str(tmp_path / "foreign")}
    settings = {"inputs": [], "out": str(tmp_path / "out"), **settings}
    inputs = [text.replace("PHOTOS", places["PHOTOS"]) for text in settings.pop("inputs")]
    out = places.get(settings["out"], settings.pop("out"))
    settings.pop("out", None)
    with pytest.raises((SettingsError, RunError), match=message):
        _index(*inputs, out=out, **settings)


def test_words_count_every_kind(photos: Path, tmp_path: Path) -> None:
    _write(photos / "notes.txt")
    words = _index(photos, out=tmp_path / "out").splitlines()
    assert words == ["photos   4, 0.0 MB", f"root     {photos}", "skipped  1: 1 other (.txt)"]
    assert Counter(_update(tmp_path / "out")) == {"unchanged": 4}
