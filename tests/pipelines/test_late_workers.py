"""Workers that wake up after their command is over: what they bring counts for nothing, and lies nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import detect, ledger, planning
from pipelines.forget import forget
from pipelines.ledger import our_files
from pipelines.report import Progress
from pipelines.stages import DetectShard, StageConfig
from pipelines.validate import validate
from retinafocus import DetectorConfig, open_run
from retinafocus.errors import RunError
from retinafocus.runs import RUN_FILE, Run, new_mark


@pytest.fixture
def photos(archive: Path, tmp_path: Path) -> Path:
    """Two photos, one of them cut off."""
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = (archive / "day2" / "photo-00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.jpg").write_bytes(whole)
    return folder


def _killed(
    job: planning.DetectJob, monkeypatch: pytest.MonkeyPatch
) -> tuple[StageConfig, list[dict[str, Any]], Callable[[], None]]:
    """Begin a command and let it die before its first shard: what its workers were told, and what they do when they
    wake up."""
    told: list[Any] = []

    def die(config: StageConfig, shards: list[dict[str, Any]], **options: object) -> None:
        told.extend((config, shards))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, open(os.devnull, "w") as quiet:
        patched.setattr(detect, "run_on_threads", die)
        with pytest.raises(KeyboardInterrupt):
            detect.run(planning.plan(job), Progress(quiet))
    config, shards = told
    late = DetectShard(config)

    def wake_up() -> None:
        with pytest.raises(RunError, match="another command has worked on this run since"):
            late.detect_shard(shards[0])

    return config, shards, wake_up


def _job(photos: Path, output: Path, weights: Path, **settings: Any) -> planning.DetectJob:
    settings = {"detector": DetectorConfig(device="cpu"), "runner": "local", "workers": "1", **settings}
    return planning.DetectJob(inputs=[str(photos)], output=str(output), weights=str(weights), **settings)


def test_worker_of_a_run_that_was_overwritten_mixes_no_other_settings_in(
    photos: Path, tiny_weights: Path, tmp_path: Path, run_job: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DetectorConfig(device="cpu", score_threshold=0.9)
    job = _job(photos, tmp_path / "out", tiny_weights, detector=other)
    _, _, wake_up = _killed(job, monkeypatch)
    start = Progress.start

    def start_while_it_wakes_up(progress: Progress, total: int, *, done: int) -> None:
        wake_up()  # the new run is laid out, and none of its shards is done
        start(progress, total, done=done)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "start", start_while_it_wakes_up)
        run = run_job(photos, tmp_path / "out", tiny_weights, existing="overwrite")
    undisturbed = run_job(photos, tmp_path / "other", tiny_weights)
    assert run.faces().equals(undisturbed.faces())
    assert validate(run.location).problems == {}


def test_worker_of_a_retry_that_was_given_up_leaves_a_complete_run_as_it_is(
    photos: Path, tiny_weights: Path, tmp_path: Path, run_job: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(photos, tmp_path / "out", tiny_weights)
    _, shards, wake_up = _killed(_job(photos, tmp_path / "out", tiny_weights, retry=("truncated",)), monkeypatch)
    assert [row["generation"] for row in shards] == [1]
    run = run_job(photos, tmp_path / "out", tiny_weights)
    before = sorted(our_files(run.storage))
    wake_up()
    assert open_run(run.location).complete
    assert sorted(our_files(run.storage)) == before
    assert validate(run.location).problems == {}


def test_worker_that_wakes_up_after_a_photo_was_forgotten_leaves_no_row_of_it(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, wake_up = _killed(_job(photos, tmp_path / "out", tiny_weights), monkeypatch)
    forget(config.output, ["whole.jpg"])
    before = sorted(our_files(open_run(config.output).storage))
    wake_up()
    assert sorted(our_files(open_run(config.output).storage)) == before


def test_worker_that_another_command_overtakes_while_it_writes_its_parts_commits_nothing(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, wake_up = _killed(_job(photos, tmp_path / "out", tiny_weights), monkeypatch)
    storage, put_parts = open_run(config.output).storage, ledger._put_parts

    def overtaken(*arguments: Any) -> Any:
        files = put_parts(*arguments)
        assert all(storage.exists(file["name"]) for file in files.values())
        storage.put(RUN_FILE, json.dumps(open_run(config.output).info | new_mark()).encode())
        return files

    before = sorted(our_files(storage))
    monkeypatch.setattr(ledger, "_put_parts", overtaken)
    wake_up()
    assert sorted(our_files(storage)) == before
