"""Three kills of a real command, and whether the suite that kills would see it if a commit were none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.chaos import Report, run
from benchmarks.chaos_checks import compare
from benchmarks.chaos_faults import WRITERS
from benchmarks.chaos_kills import AT_WORK, COMMAND, PHASES
from benchmarks.chaos_round import Chaos, Place
from pipelines import stages
from pipelines.ledger import commit_shard, committed_tables
from retinafocus import open_run
from retinafocus.runs import Run
from retinafocus.storage import open_storage

pytestmark = pytest.mark.timeout(600)  # a killed command starts again, which on a busy machine takes its time


def test_command_that_is_killed_three_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chaos = Chaos(kills=3, stores=("local",), runners=("local",), photos=32, steps=("detect",), deadly=False)
    report = run(chaos, tmp_path)
    assert report.kills.total() >= 3
    assert {target for target, _ in report.kills} <= {COMMAND, AT_WORK, "careful child"}
    assert {phase for _, phase in report.kills} <= set(PHASES)
    assert report.steps["detect", "doubled attempts"]
    assert (report.lost, report.doubled, report.problems) == (0, 0, [])


class Killed(BaseException):
    """Stands for the end of a process."""


class Dying:
    """A storage in which a commit's process dies before its third write, once."""

    def __init__(self) -> None:
        self.storage: Any = None
        self.left = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def put(self, name: str, data: bytes) -> None:
        self._live()
        self.storage.put(name, data)

    def create_once(self, name: str, data: bytes) -> bool:
        self._live()
        return bool(self.storage.create_once(name, data))

    def _live(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Killed


@pytest.fixture(scope="module")
def undisturbed(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(archive, tmp_path_factory.mktemp("undisturbed"), tiny_weights)


@pytest.mark.parametrize(("writer", "lost"), [("ours", False), ("record-first", True)])
def test_commit_that_takes_the_record_first_is_caught_by_a_kill_in_it(
    run_job: Callable[..., Run],
    archive: Path,
    tiny_weights: Path,
    undisturbed: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    lost: bool,
) -> None:
    dying = Dying()

    def commit(storage: Any, *values: Any, **named: Any) -> Any:
        dying.storage = storage
        return commit_shard(WRITERS[writer](dying), *values, **named)

    monkeypatch.setattr(stages, "commit_shard", commit)
    with pytest.raises(Killed):
        run_job(archive, tmp_path, tiny_weights, workers="1")
    run_job(archive, tmp_path, tiny_weights)
    verdict = compare(undisturbed, str(tmp_path))
    assert bool(verdict.lost) == bool(verdict.problems) == lost


@pytest.mark.parametrize(("writer", "doubled"), [("ours", False), ("replacing", True)])
def test_commit_without_create_once_is_caught_by_a_second_attempt(
    run_job: Callable[..., Run],
    archive: Path,
    tiny_weights: Path,
    undisturbed: Run,
    tmp_path: Path,
    writer: str,
    doubled: bool,
) -> None:
    run_job(archive, tmp_path, tiny_weights)
    storage, record = open_storage(tmp_path), undisturbed.records[5]
    tables = committed_tables(undisturbed.storage, record)
    tables["timing"] = tables["timing"].set_column(2, "attempt", pa.array(["late"] * record["photos"]))
    tables["timing"] = tables["timing"].cast(undisturbed.timing().schema)
    commit_shard(
        WRITERS[writer](storage), record["shard"], "late", tables, {"worker": "x"}, generation=0, manifest_version=0
    )
    verdict = compare(undisturbed, str(tmp_path))
    assert bool(verdict.doubled) == bool(verdict.problems) == doubled


def test_what_differs_is_told_row_by_row(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, undisturbed: Run, tmp_path: Path
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=20)
    verdict = compare(undisturbed, str(tmp_path))
    assert verdict.lost == 4 + sum(row["faces"] for row in _without(undisturbed, open_run(tmp_path)))
    assert "images: 4 rows lost in its files" in "\n".join(verdict.problems)


def _without(whole: Run, part: Run) -> list[dict[str, Any]]:
    there = set(part.images().column("image_id").to_pylist())
    return [row for row in whole.images().to_pylist() if row["image_id"] not in there]


def test_report_is_two_tables_and_what_was_found() -> None:
    report = Report(lost=1, problems=["round 0 (local), detect: faces: 1 rows lost"])
    report.kills.update({(COMMAND, "commit"): 2, (AT_WORK, "end"): 1})
    report.steps.update({("detect", "done"): 1, ("detect", "commands"): 4})
    lines = report.words().splitlines()
    assert "| command | 0 | 0 | 2 | 0 | 2 |" in lines
    assert "| all | 0 | 0 | 2 | 1 | 3 |" in lines
    assert "| detect | 1 | 4 | 0 | 0 | 0 | 0 | 0 |" in lines
    assert lines[-2:] == [
        "rows lost: 1, rows doubled: 0, other differences: 1",
        "- round 0 (local), detect: faces: 1 rows lost",
    ]


def test_rounds_have_places_of_their_own(tmp_path: Path) -> None:
    place = Place(store="local", folder=tmp_path)
    assert place.of_round(3).location("out") == str(tmp_path / "round-3" / "out")
    assert not place.injected()
