"""A run done again in part: retried failures, later listings, a budget of errors; the books and `validate` agree."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import detect
from pipelines.cli import main
from pipelines.validate import validate
from retinafocus import open_run
from retinafocus.errors import FAILURES, BudgetError, RunError
from retinafocus.runs import RUN_FILE, Run

RunJob = Callable[..., Run]


@pytest.fixture
def photos(archive: Path, tmp_path: Path) -> Path:
    """A folder of six photos, two of them cut short. All of one size: an engine prepares itself for each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(0, 12, 2):
        shutil.copy(archive / "day2" / "photo-00.jpg", folder / f"photo-{number:02d}.jpg")
    for name in ("photo-02.jpg", "photo-06.jpg"):
        _damage(folder / name)
    return folder


def _damage(path: Path) -> None:
    """Cut it short, but keep its size, so that it is as it was listed."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _rows(run: Run) -> dict[str, dict[str, object]]:
    return {Path(row["uri"]).name: row for row in run.images().to_pylist()}


def test_retry_looks_again_at_the_failed_photos_alone(
    run_job: RunJob, archive: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    before = run_job(photos, tmp_path / "out", tiny_weights)
    earlier, attempts = _rows(before), {row["image_id"]: row["attempt"] for row in before.timing().to_pylist()}
    findings = validate(before.location)
    assert (findings.problems, findings.photos, findings.faces) == ({}, 6, before.faces().num_rows)
    assert {name for name, row in earlier.items() if row["status"] != "ok"} == {"photo-02.jpg", "photo-06.jpg"}
    shutil.copy(archive / "day2" / "photo-00.jpg", photos / "photo-02.jpg")
    after = run_job(photos, tmp_path / "out", tiny_weights, retry=FAILURES)
    rows = _rows(after)
    assert after.info["totals"]["photos_this_time"] == 2
    again = {row["image_id"] for row in after.timing().to_pylist() if attempts[row["image_id"]] != row["attempt"]}
    assert again == {rows[name]["image_id"] for name in ("photo-02.jpg", "photo-06.jpg")}
    assert {record["generation"] for record in after.records} == {0, 1}
    assert validate(after.location).problems == {}
    assert len(after.info["history"]) == 1
    assert "retry" not in after.info


def test_photos_that_came_changed_went_or_are_forgotten(
    run_job: RunJob, archive: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    earlier = _rows(run_job(photos, out, tiny_weights))
    assert main(["forget", str(out), "photo-04.jpg"]) == 0
    shutil.copy(archive / "day2" / "photo-00.jpg", photos / "new.jpg")
    shutil.copy(archive / "day2" / "photo-00.jpg", photos / "photo-02.jpg")
    (photos / "photo-08.jpg").unlink()
    assert main(["index", "--update", "-o", str(out)]) == 0
    assert "ledger" in validate(str(out)).problems
    rows = _rows(run_job(photos, out, tiny_weights))
    assert (rows["new.jpg"]["status"], rows["photo-02.jpg"]["status"]) == ("ok", "ok")
    assert (rows["photo-08.jpg"]["status"], rows["photo-08.jpg"]["faces"]) == ("vanished", None)
    assert earlier.keys() - rows.keys() == {"photo-04.jpg"}
    same = earlier.keys() - {"photo-02.jpg", "photo-04.jpg", "photo-08.jpg"}
    assert {name: rows[name] for name in same} == {name: earlier[name] for name in same}
    assert validate(str(out)).problems == {}


def test_too_many_failures_stop_the_run(
    run_job: RunJob, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.budget.MINIMUM_PHOTOS", 2)
    for path in photos.iterdir():
        _damage(path)
    with pytest.raises(
        BudgetError, match=r"of \d photos failed \(100.0 %\), more than --max-error-rate 0.5 admits; fin"
    ):
        run_job(photos, tmp_path / "out", tiny_weights, workers="1", max_error_rate=0.5)
    stopped = open_run(tmp_path / "out")
    assert not stopped.complete
    assert 2 <= sum(record["photos"] for record in stopped.records) < 6


def test_command_ends_with_the_exit_code_of_its_budget(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    command = ["detect", str(photos), "-o", str(tmp_path / "out"), "--weights", str(tiny_weights), "--device", "cpu",
               "--runner", "local", "--workers", "1"]  # fmt: skip
    assert main([*command, "--max-error-rate", "0.3"]) == 3
    assert open_run(tmp_path / "out").complete  # it shows with the last photo only
    assert main([*command, "--max-error-rate", "0.4"]) == 0
    assert main([*command, "--retry", "lost"]) == 2


def test_folder_that_fails_is_named_and_secrets_are_not(
    run_job: RunJob, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    words = r"out: the run cannot be written or read any more \(Input/output error\); mend the cause"
    with monkeypatch.context() as patched:
        patched.setattr(detect, "delete_leftovers", fail)
        patched.setattr(sys, "argv", ["retinafocus", "s3://key:hush@bucket/a", "https://host/x?token=hush"])
        with pytest.raises(RunError, match=words):
            run_job(photos, tmp_path / "out", tiny_weights, limit=1)
    text = (tmp_path / "out" / RUN_FILE).read_text()
    assert "hush" not in text
    assert json.loads(text)["command"][1] == "s3://...@bucket/a"
    assert run_job(photos, tmp_path / "out", tiny_weights, limit=1).complete
