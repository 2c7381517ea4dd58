"""Marks of attempts: they stay only where the process died, and count for one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.attempts import MAX_ATTEMPTS, count_anew, marked
from pipelines.ledger import ATTEMPTS_FOLDER
from retinafocus.errors import RunError
from retinafocus.storage import Storage, open_storage


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(tmp_path)


def die(run: Storage, shard: int, attempt: str) -> None:
    """What an attempt leaves that does not come back."""
    run.put(f"{ATTEMPTS_FOLDER}/{shard:08d}-{attempt}", b"")


def test_first_attempt_goes_swiftly_and_leaves_nothing(run: Storage) -> None:
    with marked(run, 3, "a") as careful:
        assert not careful
        assert list(run.names(ATTEMPTS_FOLDER)) == [f"{ATTEMPTS_FOLDER}/00000003-a"]
    assert list(run.names(ATTEMPTS_FOLDER)) == []


def test_attempt_after_a_death_goes_carefully_and_clears_up_when_it_is_done(run: Storage) -> None:
    die(run, 3, "a")
    die(run, 4, "b")
    with marked(run, 3, "c") as careful:
        assert careful
    assert list(run.names(ATTEMPTS_FOLDER)) == [f"{ATTEMPTS_FOLDER}/00000004-b"]


def test_error_and_stop_leave_the_marks_of_the_dead_alone(run: Storage) -> None:
    die(run, 3, "a")
    with pytest.raises(KeyboardInterrupt), marked(run, 3, "c"):
        raise KeyboardInterrupt
    assert list(run.names(ATTEMPTS_FOLDER)) == [f"{ATTEMPTS_FOLDER}/00000003-a"]


def test_shard_that_killed_too_many_workers_is_refused_by_one_command_and_tried_by_the_next(run: Storage) -> None:
    for number in range(MAX_ATTEMPTS):
        die(run, 3, f"a{number}")
    die(run, 4, "b")
    with pytest.raises(RunError, match=f"its worker died {MAX_ATTEMPTS} times"), marked(run, 3, "c"):
        pass
    count_anew(run)
    assert sorted(run.names(ATTEMPTS_FOLDER)) == [f"{ATTEMPTS_FOLDER}/00000003-a0", f"{ATTEMPTS_FOLDER}/00000004-b"]
    with marked(run, 3, "d") as careful:
        assert careful


def test_mark_that_goes_meanwhile_or_is_torn_is_a_worker_nobody_knows(
    run: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.put(f"{ATTEMPTS_FOLDER}/00000003-torn", b"node:\xff")
    names = list(run.names(ATTEMPTS_FOLDER))
    monkeypatch.setattr(type(run), "names", lambda self, folder: [*names, f"{ATTEMPTS_FOLDER}/00000003-gone"])
    with marked(run, 3, "b", "node:1:1") as dead:
        assert dead == ["node:\N{REPLACEMENT CHARACTER}", ""]
