"""The log of events: one JSON object in a line, of the kinds and with the fields that the documents say."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from pipelines.events import COMMON, EVENTS, EventLog
from pipelines.ledger import ATTEMPTS_FOLDER
from pipelines.metrics_on_ray import METRICS, exported_name
from retinafocus import open_run
from retinafocus.errors import SettingsError
from retinafocus.runs import Run

from .conftest import add_fault

DOCUMENT = Path(__file__).parents[2] / "docs" / "jobs.md"


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, each held against what its kind has."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert line.keys() == COMMON.keys() | EVENTS[line["event"]].keys()
    return lines


def kinds(lines: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(line["event"] for line in lines))


@pytest.fixture
def detect(archive: Path, tiny_weights: Path, tmp_path: Path) -> Callable[..., int]:
    """`retinafocus detect` of two photos with its events in `events.jsonl`, beside the tables."""

    def run(*more: str, photos: Path = archive) -> int:
        out = tmp_path / "out"
        words = ["detect", str(photos), "-o", str(out), "--weights", str(tiny_weights), "--device", "cpu"]
        return cli.main([*words, "--workers", "1", "--events", str(out / "events.jsonl"), *more])

    return run


def test_run_that_ends_well_tells_so_and_its_log_beside_the_tables_is_no_leftover(
    detect: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("--limit", "3", "--endpoint", "https://store.example") == 0
    run = open_run(tmp_path / "out")
    lines = read(tmp_path / "out" / "events.jsonl")
    assert kinds(lines) == {"job_started": 1, "worker_started": 1, "shard_committed": 3, "job_finished": 1}
    assert {(line["run"], line["command"]) for line in lines} == {(run.location, run.info["mark"])}
    assert (lines[0]["photos"], lines[0]["shards"], lines[0]["runner"]) == (3, 3, "local")
    assert (lines[-1]["photos"], lines[-1]["statuses"]) == (3, {"ok": 3})
    assert {line["worker"] for line in lines if "worker" in line} == {run.records[0]["worker"]}
    assert cli.main(["validate", str(tmp_path / "out")]) == 0
    capsys.readouterr()


def test_next_command_goes_on_in_the_same_file(detect: Callable[..., int], tmp_path: Path) -> None:
    assert detect("--limit", "2") == 0
    out = tmp_path / "out"
    for name in ("_ledger/00000001.json", "_ledger/00000000.json"):
        (out / name).unlink()
    # The mark of a worker that died at a shard.
    (out / ATTEMPTS_FOLDER / "00000001-dead").parent.mkdir(exist_ok=True)
    (out / ATTEMPTS_FOLDER / "00000001-dead").write_text("node:17:18")
    assert detect("--limit", "2") == 0
    lines = read(out / "events.jsonl")[5:]
    assert kinds(lines) == {
        "job_resumed": 1, "worker_started": 1, "worker_died": 1, "shard_retried": 1, "shard_committed": 2,
        "job_finished": 1,
    }  # fmt: skip
    (died,) = (line for line in lines if line["event"] == "worker_died")
    assert (died["worker"], died["shard"]) == ("node:17:18", 1)
    assert len({line["command"] for line in read(out / "events.jsonl")}) == 2


def test_photo_that_failed_is_named_with_its_reason(
    detect: Callable[..., int], archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"no photo")
    (photos / "b.jpg").write_bytes((archive / "day2" / "photo-00.jpg").read_bytes())
    assert detect(photos=photos) == 0
    (failed,) = (line for line in read(tmp_path / "out" / "events.jsonl") if line["event"] == "photo_failed")
    image = next(row for row in open_run(tmp_path / "out").images().to_pylist() if row["status"] != "ok")
    assert (failed["uri"], failed["status"], failed["reason"]) == (image["uri"], image["status"], image["error"])
    capsys.readouterr()


def test_run_that_fails_says_why_without_secrets(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"))
    with pytest.raises(OSError, match="refused"), log.of_run("s3://key:secret@bucket/out"):
        raise OSError("https://key:secret@store.example/out?signature=abc refused it")
    with pytest.raises(KeyboardInterrupt), log.of_run("out"):
        raise KeyboardInterrupt
    text = (tmp_path / "log").read_text()
    assert kinds(read(tmp_path / "log")) == {"job_failed": 1, "job_stopped": 1}
    assert "secret" not in text
    assert "signature" not in text


def test_disk_that_is_full_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    log = EventLog("/dev/full", said.append)
    log.lost([3])
    log.lost([4])
    assert said == ["/dev/full: no more events can be written (No space left on device); the run goes on"]


@pytest.mark.parametrize(
    ("before", "lines"), [("", 1), ('{"whole": 1}\n', 2), ('{"whole": 1}\n{"half', 3)], ids=["new", "whole", "half"]
)
def test_half_a_line_of_a_command_that_was_killed_does_not_spoil_the_next(
    tmp_path: Path, before: str, lines: int
) -> None:
    (tmp_path / "log").write_text(before)
    EventLog(str(tmp_path / "log")).lost([3])
    text = (tmp_path / "log").read_text()
    assert text.startswith(before)
    assert len(text.splitlines()) == lines
    assert json.loads(text.splitlines()[-1])["event"] == "shards_lost"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://bucket/events.jsonl", "a line is added for each event, which object stores cannot do; give a path"),
        ("/proc/events.jsonl", "cannot be written"),
    ],
)
def test_place_that_takes_no_lines_is_refused(path: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"events is {path}: {words}"):
        EventLog(path)


def test_every_event_and_field_is_documented_as_the_code_says() -> None:
    text = DOCUMENT.read_text()
    for name, meaning in COMMON.items():
        assert f"| `{name}` | {meaning} |" in text
    for event, fields in EVENTS.items():
        row = re.search(rf"^\| `{event}` \| (.*) \|$", text, re.M)
        assert row is not None, event
        assert row[1] == ("; ".join(f"`{name}` {meaning}" for name, meaning in fields.items()) or "nothing more")


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_actor_that_a_photo_killed_is_an_event_and_all_are_counted_for_prometheus(
    run_job: Callable[..., Run], ray_cluster: str, archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    import ray

    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(archive.rglob("photo-0[0-5].jpg")):
        (photos / path.name).write_bytes(path.read_bytes())
    add_fault(photos / "photo-03.jpg", "segfault")
    out, log = tmp_path / "events-and-metrics", tmp_path / "log"
    events = {"runner": "ray", "workers": "cpu=1", "address": ray_cluster}
    run = run_job(photos, out, tiny_weights, log=str(log), **events)
    lines = read(log)
    (died,) = (line for line in lines if line["event"] == "worker_died")
    (failed,) = (line for line in lines if line["event"] == "photo_failed")
    assert died["worker"] not in {record["worker"] for record in run.records if record["shard"] == died["shard"]}
    assert (Path(failed["uri"]).name, failed["status"], failed["shard"]) == ("photo-03.jpg", "crashed", died["shard"])
    assert kinds(lines)["shard_committed"] == 6

    port = ray.nodes()[0]["MetricsExportPort"]
    wanted, seen, until = {exported_name(name) for name in METRICS}, set(), time.monotonic() + 60
    while seen != wanted and time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
            found = [line for line in page.read().decode().splitlines() if 'run="events-and-metrics"' in line]
        seen = {line.partition("{")[0] for line in found}
        time.sleep(0.5)
    assert seen == wanted
    photos_counted = [float(line.split()[-1]) for line in found if line.startswith("ray_retinafocus_photos_total{")]
    # Each process counts for itself, and what the one that died had not told yet is gone with it.
    assert 1 <= sum(photos_counted) <= 6
