"""The job in-process: every photo one row, any interruption survived, nothing mixed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import detect, ledger, planning
from pipelines.budget import ErrorBudget
from pipelines.report import Progress, summary
from retinafocus import Detector, DetectorConfig, open_run
from retinafocus.engines import engine_versions, resolve_engine
from retinafocus.errors import RunError, SettingsError, WeightsError
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import MANIFEST_FILE, RUN_FILE, TABLES, Run


@pytest.fixture(scope="module")
def finished(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(archive, tmp_path_factory.mktemp("out") / "run", tiny_weights)


def test_every_photo_has_one_row_and_the_books_add_up(finished: Run) -> None:
    assert finished.complete
    images = finished.images()
    assert sorted(images.column("image_id").to_pylist()) == sorted(finished.manifest().column("image_id").to_pylist())
    assert set(images.column("status").to_pylist()) == {"ok"}
    totals = finished.info["totals"]
    assert totals["photos"] == 24
    assert totals["faces"] == finished.faces().num_rows == sum(images.column("faces").to_pylist()) > 0
    assert finished.timing().num_rows == 24


def test_tables_have_their_declared_schemas_and_plain_globs_read_them(finished: Run) -> None:
    for table, schema in TABLES.items():
        paths = sorted(Path(finished.location, table).glob("*.parquet"))
        assert [str(path) for path in paths] == sorted(finished.files(table))
        assert all(pq.read_schema(path).equals(schema) for path in paths)
        assert all(b"retinafocus.weights_sha256" in pq.read_schema(path).metadata for path in paths)


def test_run_record_is_enough_to_repeat_the_run(finished: Run) -> None:
    info = finished.info
    assert info["status"] == "complete"
    assert info["settings"]["detector"]["min_face"] == 20.0
    assert info["weights"]["sha256"] == info["settings"]["weights_sha256"]
    engine = info["settings"]["detector"]["engine"]
    assert engine == resolve_engine("auto", "cpu")
    assert {"python", "torch", "retinafocus", *engine_versions(engine)} <= set(info["versions"])
    assert info["archive"]["skipped"] == {"other (.txt)": 1, "hidden": 1, "thumbnail or system folder": 1}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_number_of_workers_changes_nothing(
    run_job: Callable[..., Run], archive: Path, finished: Run, tiny_weights: Path, tmp_path: Path, workers: str
) -> None:
    other = run_job(archive, tmp_path, tiny_weights, workers=workers)
    assert other.faces().equals(finished.faces())
    assert other.images().equals(finished.images())


def test_finished_run_is_left_alone(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    run_job(archive, tmp_path, tiny_weights, limit=3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_lost_shards_are_redone_and_leftovers_deleted(
    run_job: Callable[..., Run], archive: Path, finished: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    run = run_job(archive, tmp_path, tiny_weights)
    for record in run.records[:3]:  # as if killed just before the commit: parts without a record
        (tmp_path / "_ledger" / f"{record['shard']:08d}.json").unlink()
    (tmp_path / "faces" / "part-00000000-dead.parquet").write_bytes(b"half a file")
    again = run_job(archive, tmp_path, tiny_weights)
    assert len(list((tmp_path / "faces").iterdir())) == len(again.records)
    assert again.faces().equals(finished.faces())
    assert again.images().equals(finished.images())


def test_other_settings_are_refused_and_named(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=2)
    with pytest.raises(RunError, match=r"detector.min_face was 20.0, is 40.*--existing overwrite"):
        run_job(archive, tmp_path, tiny_weights, limit=2, detector=DetectorConfig(min_face=40, device="cpu"))
    with pytest.raises(RunError, match="holds a run already"):
        run_job(archive, tmp_path, tiny_weights, limit=2, existing="error")
    again = run_job(
        archive,
        tmp_path,
        tiny_weights,
        limit=2,
        existing="overwrite",
        detector=DetectorConfig(min_face=40, device="cpu"),
    )
    assert again.info["settings"]["detector"]["min_face"] == 40.0


def test_run_keeps_to_its_engine(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run_job(archive, tmp_path, tiny_weights, limit=2, detector=DetectorConfig(device="cpu", engine="onnx"))
    with pytest.raises(RunError, match=r"detector.engine was onnx, is torch\); use the same ones"):
        run_job(archive, tmp_path, tiny_weights, limit=2, detector=DetectorConfig(device="cpu", engine="torch"))


def test_somebody_elses_run_file_is_refused_and_nothing_is_touched(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"keep me")
    (tmp_path / RUN_FILE).write_text('{"wandb": 1}')
    for existing in ("resume", "overwrite"):
        with pytest.raises(RunError, match="was not written by RetinaFocus; choose another folder"):
            run_job(archive, tmp_path, tiny_weights, existing=existing)
    assert (tmp_path / "images" / "mine.jpg").exists()


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_own_files_beside_the_parts_of_a_run_are_kept(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, existing: str
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=3)
    (tmp_path / "images" / "mine.jpg").write_bytes(b"keep me")
    next((tmp_path / "_ledger").iterdir()).unlink()
    run = run_job(archive, tmp_path, tiny_weights, limit=3, existing=existing)
    assert (tmp_path / "images" / "mine.jpg").read_bytes() == b"keep me"
    assert len(list((tmp_path / "images").glob("*.parquet"))) == len(run.records) == 3


def test_run_that_another_command_finished_meanwhile_is_left_alone(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    job = planning.DetectJob(
        inputs=[str(archive)], output=str(tmp_path), weights=str(tiny_weights), runner="local", limit=2,
        detector=DetectorConfig(device="cpu"),
    )  # fmt: skip
    planned = planning.plan(job)
    before = run_job(archive, tmp_path, tiny_weights, limit=2).files("faces")
    with pytest.raises(RunError, match="another command worked on this run meanwhile"), open(os.devnull, "w") as quiet:
        detect.run(planned, Progress(quiet))
    assert open_run(tmp_path).files("faces") == before


@pytest.mark.parametrize("survivor", [RUN_FILE, "run.json and manifest"])
def test_start_that_was_cut_short_is_simply_started_again(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, survivor: str
) -> None:
    run = run_job(archive, tmp_path, tiny_weights, limit=2)
    faces = run.faces()
    for name in ("_ledger", "faces", "images", "timing", *(["manifest"] if survivor == RUN_FILE else [])):
        shutil.rmtree(tmp_path / name)
    (tmp_path / RUN_FILE).write_text(json.dumps({**run.info, "status": "running"}))
    assert run_job(archive, tmp_path, tiny_weights, limit=2).faces().equals(faces)


def test_folder_with_somebody_elses_files_is_never_cleared(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"keep me")
    with pytest.raises(RunError, match="no run of ours; choose another -o folder"):
        run_job(archive, tmp_path, tiny_weights, existing="overwrite")
    assert (tmp_path / "images" / "mine.jpg").exists()


@pytest.mark.parametrize("lost", [RUN_FILE, MANIFEST_FILE])
def test_run_that_lost_a_file_is_not_cleared_unless_somebody_says_so(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, lost: str
) -> None:
    faces = run_job(archive, tmp_path, tiny_weights, limit=2).faces()
    (tmp_path / lost).unlink()
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=f"has finished shards but no {lost}; restore .* --existing overwrite"):
        run_job(archive, tmp_path, tiny_weights, limit=2)
    assert sorted(tmp_path.rglob("*")) == files
    assert run_job(archive, tmp_path, tiny_weights, limit=2, existing="overwrite").faces().equals(faces)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        pytest.param({"weights": "none.safetensors"}, WeightsError, "retinafocus weights import", id="weights"),
        pytest.param({"workers": "cpu=0"}, SettingsError, "workers is 'cpu=0'; write a number", id="workers"),
        pytest.param({"runner": "slurm"}, SettingsError, "choose auto, local, ray", id="runner"),
        pytest.param({"limit": 0}, SettingsError, "limit is 0", id="limit"),
        pytest.param({"address": "host:1"}, SettingsError, "leave one of them out", id="address"),
        pytest.param(
            {"output": "ftp://host/out"}, SettingsError, "no storage for ftp://; give a path, s3://", id="store"
        ),
        pytest.param(
            {"retry": ("vanished",)}, SettingsError, "retry is 'vanished'; choose failed or some of", id="retry"
        ),
        pytest.param({"max_error_rate": 5.0}, SettingsError, "max-error-rate is 5; choose a share", id="error rate"),
        pytest.param({"output": ""}, SettingsError, "output is ''; give a folder", id="no output"),
    ],
)
def test_wrong_settings_stop_the_job_before_anything_is_written(
    run_job: Callable[..., Run],
    archive: Path,
    tiny_weights: Path,
    tmp_path: Path,
    settings: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    settings = {"weights": tiny_weights, "output": tmp_path / "out", **settings}
    with pytest.raises(error, match=message):
        run_job(archive, **settings)
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_refused(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(RunError, match="is a file; choose a folder"):
        run_job(archive, tmp_path / "out", tiny_weights)


def test_folder_of_the_photos_is_no_output(run_job: Callable[..., Run], archive: Path, tiny_weights: Path) -> None:
    with pytest.raises(SettingsError, match="the folder of the photos; give a folder of its own"):
        run_job(archive, archive, tiny_weights)


def test_full_disk_ends_the_run_with_its_reason_and_the_next_goes_on(
    run_job: Callable[..., Run],
    archive: Path,
    finished: Run,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = LocalStorage.put

    def full(self: LocalStorage, name: str, data: bytes) -> None:
        if name.startswith("images/part-0000000"):
            raise OSError(28, "No space left on device")
        whole(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "put", full)
        patched.setattr(ledger, "COMMIT_DELAYS", (0.01,))
        with pytest.raises(RunError, match=r"shard .*No space left on device.*run the same command again"):
            run_job(archive, tmp_path, tiny_weights)
    assert not open_run(tmp_path).complete
    assert run_job(archive, tmp_path, tiny_weights).images().equals(finished.images())


def test_shards_that_fail_for_one_reason_are_named_together() -> None:
    counts = {"photos": 0, "failed": 0, "looked_at": 0, "faces": 0}
    rows = [{"shard": number, **counts, "error": f"OSError: {why}"} for number, why in enumerate("aba")]
    results = (pa.Table.from_pylist([row]) for row in rows)
    progress, budget = Progress(io.StringIO()), ErrorBudget(None, [], 3)
    with pytest.raises(RunError, match=r"^shards 0, 2: OSError: a; shard 1: OSError: b; mend the cause"):
        detect._consume(results, 4, progress, budget)


def _broken_photos(folder: Path) -> dict[str, str]:
    """One photo of each kind of trouble; the status each must end with."""
    # Noise, so that the picture's data is the larger part of each file.
    picture = np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    bomb = cv2.imencode(".png", picture)[1].tobytes()
    # Interlaced, so that it cannot be read in strips.
    header = bomb[12:16] + (30_000).to_bytes(4, "big") * 2 + bomb[24:28] + b"\x01"
    bomb = bomb[:12] + header + zlib.crc32(header).to_bytes(4, "big") + bomb[33:]
    contents = {
        "whole.jpg": (jpeg, "ok"),
        "empty.jpg": (b"", "truncated"),
        "text.jpg": (b"this is not a photograph at all\n", "unsupported_format"),
        "truncated.jpg": (jpeg[: len(jpeg) * 2 // 3], "truncated"),
        "sixteen.png": (cv2.imencode(".png", picture.astype(np.uint16) * 257)[1].tobytes(), "ok"),
        "bomb.png": (bomb, "too_large"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    return {name: status for name, (_, status) in contents.items()}


def test_every_kind_of_trouble_is_one_row_and_the_job_goes_on(
    run_job: Callable[..., Run], tiny_weights: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    expected = _broken_photos(photos)
    (photos / "list.txt").write_text("\n".join([*expected, "missing.jpg"]))
    run = run_job(photos / "list.txt", tmp_path / "out", tiny_weights)
    rows = {Path(row["uri"]).name: row for row in run.images().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == expected | {"missing.jpg": "not_found"}
    assert all((row["faces"] is None) == (row["status"] != "ok") == bool(row["error"]) for row in rows.values())
    assert (rows["bomb.png"]["width"], rows["bomb.png"]["height"]) == (30_000, 30_000)
    assert (rows["truncated.jpg"]["width"], rows["truncated.jpg"]["height"]) == (96, 64)
    words = summary("OUT", run.info)
    assert "7: 2 looked at, 5 failed (2 truncated, 1 not_found, 1 too_large, 1 unsupported_format)" in words


@pytest.mark.parametrize(
    ("step", "error", "status", "reason"),
    [
        pytest.param("prepare", cv2.error("at 0x7f"), "corrupt", "an unforeseen error; please report", id="decoding"),
        pytest.param(
            "look_many", ZeroDivisionError("at 0x7f"), "model_error", "an unforeseen ZeroDivisionError", id="network"
        ),
        pytest.param("prepare", MemoryError(), "out_of_memory", "there was not enough memory for it", id="memory"),
    ],
)
def test_unforeseen_error_is_one_row_and_the_job_goes_on(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    step: str, error: Exception, status: str, reason: str,
) -> None:  # fmt: skip
    whole, calls = getattr(Detector, step), []

    def broken(self: Detector, photo: object) -> object:
        calls.append(photo)
        if len(calls) == 2 or (len(calls) > 2 and isinstance(photo, bytes) and photo == calls[1]):
            raise error  # each time: photos that memory was too short for are tried once more
        return whole(self, photo)

    monkeypatch.setattr(Detector, step, broken)
    run = run_job(archive, tmp_path, tiny_weights, limit=4, workers="1")
    rows = [row for row in run.images().to_pylist() if row["status"] != "ok"]
    assert run.complete
    assert [(row["status"], row["faces"]) for row in rows] == [(status, None)]
    assert rows[0]["error"].startswith(reason)


def test_engine_that_takes_several_photos_at_once_gives_the_same_rows(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run_job(archive, tmp_path / "alone", tiny_weights, workers="1")
    sizes: list[int] = []
    look_many = Detector.look_many

    def counted(self: Detector, photos: Any) -> Any:
        sizes.append(len(photos))
        if len(sizes) == 1:
            raise ZeroDivisionError  # the whole group is then looked at one by one
        return look_many(self, photos)

    monkeypatch.setattr(Detector, "look_many", counted)
    begin = Detector.__init__

    def in_threes(self: Detector, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self.engine.batch = 3

    monkeypatch.setattr(Detector, "__init__", in_threes)
    together = run_job(archive, tmp_path / "together", tiny_weights, workers="1")
    first = sizes[0]
    assert first > 1
    assert sizes[1 : 1 + first] == [1] * first
    assert max(sizes[1 + first :]) > 1
    assert together.images().to_pylist() == alone.images().to_pylist()


def test_photo_that_changed_since_the_listing_is_not_looked_at(
    tiny_weights: Path, tmp_path: Path, archive: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes((archive / "day2" / "photo-00.jpg").read_bytes())
    job = planning.DetectJob(
        inputs=[str(path)], output=str(tmp_path / "out"), weights=str(tiny_weights), runner="local"
    )
    planned = planning.plan(job)
    path.write_bytes(path.read_bytes() + b"more")
    with open(os.devnull, "w") as quiet:
        detect.run(planned, Progress(quiet))
    (row,) = open_run(tmp_path / "out").images().to_pylist()
    assert row["status"] == "changed"
    assert row["faces"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_stopped_command_says_how_to_go_on_and_goes_on(
    run_job: Callable[..., Run],
    archive: Path,
    finished: Run,
    tiny_weights: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "detect", str(archive), "-o", str(tmp_path / "out"),
               "--weights", str(tiny_weights), "--runner", "local", "--workers", "1", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(60, process.kill)
    timer.start()
    ledger = tmp_path / "out" / "_ledger"
    while process.poll() is None and not (ledger.is_dir() and any(ledger.iterdir())):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    timer.cancel()
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 4
    assert "stopped; finished shards are kept, the same command goes on from there" in errors
    assert json.loads((tmp_path / "out" / RUN_FILE).read_text())["status"] == "running"
    assert run_job(archive, tmp_path / "out", tiny_weights).faces().equals(finished.faces())
