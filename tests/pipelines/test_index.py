"""`retinafocus index`, and what `detect` makes of a manifest that is there."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli, detect, planning
from pipelines.index import IndexJob, ListingProgress, index
from pipelines.report import Progress, describe_plan
from retinafocus import DetectorConfig, open_run
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import Run


@pytest.fixture
def photos(archive: Path, tmp_path: Path) -> Path:
    """Four photos of the archive, which a test may change."""
    for number in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.copy2(archive / "day2" / f"photo-{2 * number:02d}.jpg", tmp_path / "photos" / f"{number}.jpg")
    return tmp_path / "photos"


def _index(*inputs: Path, out: Path, update: bool = False) -> None:
    with open(os.devnull, "w") as quiet:
        index(IndexJob(inputs=[str(text) for text in inputs], output=str(out), update=update), ListingProgress(quiet))


def _plan(*inputs: Path, out: Path, weights: Path, **settings: Any) -> planning.Plan:
    job = planning.DetectJob(
        inputs=[str(text) for text in inputs],
        output=str(out),
        weights=str(weights),
        runner="local",
        workers="1",
        detector=DetectorConfig(device="cpu"),
        **settings,
    )
    return planning.plan(job)


def _detect(*inputs: Path, out: Path, weights: Path, **settings: Any) -> Run:
    with open(os.devnull, "w") as quiet:
        detect.run(_plan(*inputs, out=out, weights=weights, **settings), Progress(quiet))
    return open_run(out)


def test_detect_looks_at_what_was_listed_and_then_only_at_what_changed(
    photos: Path, archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    first = _detect(out=out, weights=tiny_weights)
    assert first.complete
    assert first.images().column("status").to_pylist() == ["ok"] * 4
    shutil.copy2(archive / "day one" / "photo-01.jpg", photos / "0.jpg")
    (photos / "1.jpg").unlink()
    shutil.copy2(archive / "day one" / "photo-03.jpg", photos / "new.jpg")
    _index(out=out, update=True)
    assert not open_run(out).complete
    second = _detect(out=out, weights=tiny_weights)
    assert second.complete
    assert second.info["totals"]["photos_this_time"] == 3
    assert second.info["archive"]["version"] == 1
    rows = {Path(row["uri"]).name: row for row in second.images().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "0.jpg": "ok", "1.jpg": "vanished", "2.jpg": "ok", "3.jpg": "ok", "new.jpg": "ok"
    }  # fmt: skip
    assert rows["1.jpg"]["faces"] is None
    # As if the archive had always been as it is now, but for the shards.
    fresh = _detect(photos, out=tmp_path / "fresh", weights=tiny_weights)
    columns = [name for name in fresh.faces().column_names if name != "shard"]
    assert second.faces().select(columns).equals(fresh.faces().select(columns))
    assert _detect(photos, out=out, weights=tiny_weights).info == second.info


def test_other_photos_than_those_listed_are_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    with pytest.raises(RunError, match=r"other settings \(inputs was .*photos'\], is .*0\.jpg"):
        _plan(photos / "0.jpg", out=out, weights=tiny_weights)
    with pytest.raises(RunError, match=r"other settings \(limit was None, is 2\)"):
        _plan(photos, out=out, weights=tiny_weights, limit=2)
    planned = _plan(photos / "0.jpg", out=out, weights=tiny_weights, existing="overwrite")
    assert planned.manifest.num_rows == 1
    assert "photos   4," in describe_plan(_plan(photos, out=out, weights=tiny_weights))


def test_beginning_anew_without_input_keeps_the_manifest(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = _detect(photos, out=out, weights=tiny_weights)
    manifest, faces = before.manifest(), before.faces()
    (photos / "new.jpg").write_bytes(b"x")
    after = _detect(out=out, weights=tiny_weights, existing="overwrite")
    assert after.manifest().equals(manifest)
    assert after.faces().equals(faces)


def test_nothing_to_look_at_is_a_clear_error(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no INPUT, and .* holds no manifest"):
        _plan(out=tmp_path / "out", weights=tiny_weights)
    with pytest.raises(SettingsError, match="root, limit and allow-outside say how to list INPUT"):
        _plan(out=tmp_path / "out", weights=tiny_weights, limit=3)


def test_list_that_changes_while_a_command_waits_is_noticed(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _index(photos, out=out)
    planned = _plan(out=out, weights=tiny_weights)
    (photos / "new.jpg").write_bytes(b"x")
    _index(out=out, update=True)
    with pytest.raises(RunError, match="another command worked on this run meanwhile"), open(os.devnull, "w") as quiet:
        detect.run(planned, Progress(quiet))


def test_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["index", str(photos), "-o", out]) == 0
    assert capsys.readouterr().out.startswith("photos   4, ")
    assert cli.main(["index", str(photos), "-o", out]) == 1
    assert "list its inputs again with --update" in capsys.readouterr().err
    assert cli.main(["index", "--update", "-o", out, "--dry-run"]) == 0
    assert "changes  4 unchanged" in capsys.readouterr().out
    assert cli.main(["index", "-o", out]) == 2


def test_progress_is_told_in_a_log_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with ListingProgress(log) as progress:
        progress.add(5)
        assert log.getvalue() == ""  # not for every batch
        monkeypatch.setattr("pipelines.index.LOG_SECONDS", 0.0)
        progress.add(4000)
    assert log.getvalue().startswith("listed 4,005 photos, ")
