"""The ledger of a search and its front; the trials themselves are run in tests/pipelines/test_search_on_ray.py."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest

from retinafocus.errors import RunError, SettingsError
from tune import sweep_report
from tune.proposals import SobolProposals
from tune.space import parse_space
from tune.sweep import LEDGER_FILE, SweepJob, SweepPlan, Trial, drop_torn_line, front_of, read_ledger, trials_table
from tune.sweep_report import LiveTable

SPACE = parse_space("x = { from = 0.0, to = 1.0 }", "test")
OBJECTIVES = {"score": "max", "cost": "min"}


def job(output: Path, **changes: Any) -> SweepJob:
    settings = {"trials": 6, "search": "sobol", "batch": 2, **changes}
    return SweepJob(output=output, space=SPACE, objectives=OBJECTIVES, record={"photos": 3}, **settings)


def trial(number: int, score: float, cost: float, error: str = "") -> Trial:
    results = {} if error else {"score": score, "cost": cost}
    return Trial(number=number, settings={"x": score}, results=results, seconds=1.0, error=error)


def plan(made: SweepJob, earlier: list[Trial], told: list[Trial]) -> SweepPlan:
    return SweepPlan(made, SobolProposals(SPACE, made.seed, made.start), earlier, told.append)


def test_front_is_what_no_other_beats() -> None:
    trials = [
        trial(0, 0.5, 1.0),
        trial(1, 0.6, 2.0),
        trial(2, 0.6, 3.0),  # dearer than 1
        trial(3, 0.4, 1.0),  # worse than 0
        trial(4, 0.9, 9.0),
        trial(5, 0.5, 1.0),  # as good as 0, which came before
        trial(6, 0, 0, error="lost"),
    ]
    assert [each.number for each in front_of(trials, OBJECTIVES)] == [4, 1, 0]
    assert front_of([], OBJECTIVES) == []


def test_trials_that_were_lost_come_first_when_a_search_goes_on(tmp_path: Path) -> None:
    told: list[Trial] = []
    first = plan(job(tmp_path), [], told)
    one, two = first.next_batch(), first.next_batch()
    assert [number for number, _ in [*one, *two]] == [0, 1, 2, 3]
    for number, settings in two:  # 0 and 1 are running when the driver is killed
        first.finish(number, {"score": settings["x"], "cost": 1.0}, 0.5)
    with (tmp_path / LEDGER_FILE).open("a") as ledger:
        ledger.write('{"number": 0, "settin')  # torn
    earlier = read_ledger(tmp_path / LEDGER_FILE)
    assert earlier == told
    again: list[Trial] = []
    second = plan(job(tmp_path), earlier, again)
    assert again == told
    assert second.left == 4
    asked = [second.next_batch() for _ in range(3)]
    assert [[number for number, _ in batch] for batch in asked] == [[0, 1], [4, 5], []]
    assert asked[0] == one  # the same settings


def test_trials_after_a_torn_line_are_kept(tmp_path: Path) -> None:
    first = plan(job(tmp_path), [], [])
    number = first.next_batch()[0][0]
    first.finish(number, {"score": 1.0, "cost": 1.0}, 0.5)
    ledger = tmp_path / LEDGER_FILE
    whole = ledger.read_bytes()
    ledger.write_bytes(whole + '{"number": 1, "settings": {"name": "\u00e4'.encode()[:-1])
    drop_torn_line(ledger)
    assert ledger.read_bytes() == whole
    second = plan(job(tmp_path), read_ledger(ledger), [])
    for number, _ in second.next_batch():
        second.finish(number, {"score": 1.0, "cost": 1.0}, 0.5)
    assert [each.number for each in read_ledger(ledger)] == [0, 1, 2]
    drop_torn_line(tmp_path / "none.jsonl")
    ledger.write_text("{")
    drop_torn_line(ledger)
    assert ledger.read_bytes() == b""


def test_trial_left_early_is_remembered_and_ledgers_of_before_are_read(tmp_path: Path) -> None:
    first = plan(job(tmp_path), [], [])
    (number, _), (other, _) = first.next_batch()
    first.finish(number, {"score": 1.0, "cost": 1.0}, 0.5, left_early=True)
    with (tmp_path / LEDGER_FILE).open("a") as ledger:
        ledger.write('{"number": 1, "settings": {"x": 0.5}, "results": {}, "seconds": 1.0, "error": "lost"}\n')
    assert [each.left_early for each in read_ledger(tmp_path / LEDGER_FILE)] == [True, False]
    assert trials_table(read_ledger(tmp_path / LEDGER_FILE)).column("left_early").to_pylist() == [True, False]
    assert (number, other) == (0, 1)


def test_result_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    told: list[Trial] = []
    first = plan(job(tmp_path), [], told)
    (number, _), (other, _) = first.next_batch()
    first.finish(number, {"score": math.nan, "cost": 1.0}, 0.5)
    first.finish(other, {"score": 1.0}, 0.5)
    assert [(each.results, each.error) for each in told] == [({}, "score is nan"), ({}, "cost is missing")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to try")
def test_full_disk_is_named_with_the_way_on(tmp_path: Path) -> None:
    first = plan(job(tmp_path), [], [])
    (number, _), _ = first.next_batch()
    (tmp_path / LEDGER_FILE).symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"trials\.jsonl: cannot be written \(No space left on device\); .* --resume"):
        first.finish(number, {"score": 1.0, "cost": 1.0}, 0.5)


def test_no_trial_begins_after_the_time(tmp_path: Path) -> None:
    assert plan(job(tmp_path, seconds=1e-9), [], []).next_batch() == []


def test_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).write_text("{}\n")
    with pytest.raises(RunError, match=r"trials\.jsonl: line 1 is broken"):
        read_ledger(tmp_path / LEDGER_FILE)
    assert read_ledger(tmp_path / "none.jsonl") == []


def test_table_has_a_column_for_each_setting_and_result() -> None:
    trials = [trial(0, 0.5, 1.0), trial(1, 0, 0, error="lost"), dataclasses.replace(trial(2, 1, 2), settings={"k": 7})]
    table = trials_table(trials)
    assert table.column_names == ["trial", "x", "k", "score", "cost", "seconds", "error", "left_early"]
    assert table.to_pylist()[1] == {
        "trial": 1, "x": 0.0, "k": None, "score": None, "cost": None, "seconds": 1.0, "error": "lost",
        "left_early": False,
    }  # fmt: skip
    mixed = [dataclasses.replace(trial(0, 1, 1), settings={"a": value}) for value in ("all", 3)]
    assert trials_table(mixed).column("a").to_pylist() == ['"all"', "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"trials": 0}, "trials is 0", id="trials"),
        pytest.param({"batch": 0}, "batch is 0", id="batch"),
        pytest.param({"workers": 0}, "workers is 0", id="workers"),
        pytest.param({"seconds": 0.0}, "time is 0 s", id="time"),
        pytest.param({"seed": -1}, "seed is -1", id="seed"),
        pytest.param({"search": "grid"}, "search is 'grid'; choose one of auto", id="search"),
        pytest.param({"gpus": -1.0}, "gpus is -1", id="GPUs"),
        pytest.param({"cpus": 0.0}, "cpus is 0; a trial needs a part of a CPU", id="CPUs"),
        pytest.param({"steps": 3}, "batch must be 1 where trials can be left early", id="steps"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        job(tmp_path, **changes)


def test_log_file_gets_the_front_in_words() -> None:
    log = io.StringIO()
    with LiveTable(3, OBJECTIVES, log) as table:
        for each in (trial(0, 0.5, 1.0), trial(1, 0, 0, error="lost"), trial(2, 0.4, 0.5)):
            table.tell(each)
    assert log.getvalue() == "trials 3 of 3 after 0.0 min, 1 failed, 2 on the front, best score 0.5, cost 1\n"
    log.truncate(0)
    with LiveTable(3, OBJECTIVES, log) as table:
        table.tell(dataclasses.replace(trial(0, 0.5, 1.0), left_early=True))
    assert "after 0.0 min, 0 failed, 1 left early, 1 on the front" in log.getvalue()


def test_terminal_shows_the_front_and_need_not_be_drawn_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    drawn = []

    def noted(*those: Any) -> list[Trial]:
        drawn.append(1)
        return front_of(*those)

    monkeypatch.setattr(sweep_report, "front_of", noted)
    terminal = io.StringIO()
    with LiveTable(2000, OBJECTIVES, terminal) as table:
        for number in range(2000):
            table.tell(trial(number, number / 2000, 1.0))
    assert len(drawn) < 200
    assert "trials 2,000 of 2,000" in terminal.getvalue()
    assert "1999" in terminal.getvalue()


@pytest.mark.parametrize("many", [1, 12, 13, 23, 24, 100])
def test_terminal_shows_both_ends_of_a_long_front(many: int) -> None:
    table = LiveTable(many, OBJECTIVES, io.StringIO())
    for number in range(many):
        table.tell(trial(number, number, number))
    rows = [int(str(cell)) for cell in table._table().columns[0].cells]
    assert len(rows) <= sweep_report.ROWS
    assert rows[0] == many - 1  # the best, which costs most
    assert rows[-1] < max(1, many / 6)
