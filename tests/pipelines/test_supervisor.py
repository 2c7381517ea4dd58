"""The supervisor: a death costs a restart, and every other ending is the command's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines import detect, planning, supervisor
from pipelines.report import Progress
from retinafocus import DetectorConfig
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import MANIFEST_FILE, RUN_FILE, Run

WORK = """
import os, signal, sys, time
from pipelines.supervisor import Supervisor, stoppable

descriptor, restarts, folder = sys.argv
supervisor = Supervisor(int(descriptor))

def begin():
    with open(os.path.join(folder, "starts"), "a") as file:
        print(restarts, file=file)
    return len(open(os.path.join(folder, "starts")).readlines())

def die(number=signal.SIGSEGV):
    os.kill(os.getpid(), number)
    time.sleep(60)

def end(code):
    supervisor.ended(code)
    return code
"""


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, list[str]]]:
    """Run that body of `work` under a supervisor: the exit code, and how each of its processes was started."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(body: str) -> tuple[int, list[str]]:
        lines = "\n    ".join(body.strip().splitlines())
        (tmp_path / "supervised_work.py").write_text(f"{WORK}\ndef work():\n    attempt = begin()\n    {lines}\n")
        code = supervisor.supervise("supervised_work:work", [str(tmp_path)])
        return code, (tmp_path / "starts").read_text().splitlines()

    return run


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_exit_code_is_the_commands(supervise: Callable[[str], tuple[int, list[str]]], code: int) -> None:
    assert supervise(f"return end({code})") == (code, [""])


def test_crash_after_the_end_changes_nothing(supervise: Callable[[str], tuple[int, list[str]]]) -> None:
    assert supervise("end(0); die()") == (0, [""])


def test_death_is_named_and_the_command_goes_on(
    supervise: Callable[[str], tuple[int, list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervise("supervisor.begun()\nif attempt == 1: die()\nreturn end(0)") == (0, ["", "begun"])
    assert "the process at work died (SIGSEGV); starting it again, the shards it was at go one photo" in (
        capfd.readouterr().err
    )


def test_death_before_the_work_makes_the_restart_careful(supervise: Callable[[str], tuple[int, list[str]]]) -> None:
    assert supervise("if attempt == 1: die(signal.SIGKILL)\nreturn end(0)") == (0, ["", "careful"])


def test_many_deaths_make_everything_careful(supervise: Callable[[str], tuple[int, list[str]]]) -> None:
    code, starts = supervise("supervisor.begun(); supervisor.finished_shard()\nif attempt <= 7: die()\nreturn end(0)")
    assert code == 0
    assert starts == ["", "begun", "begun", *["begun,careful"] * 5]


def test_deaths_without_progress_end_the_command(
    supervise: Callable[[str], tuple[int, list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    code, starts = supervise("supervisor.begun(); os._exit(75)")
    assert code == 1
    assert len(starts) == supervisor.MAX_FRUITLESS_DEATHS
    assert "died 5 times (last: exit code 75) and nothing gets finished any more" in capfd.readouterr().err


def test_deaths_that_have_nothing_to_do_with_photos_end_it_at_once(
    supervise: Callable[[str], tuple[int, list[str]]],
) -> None:
    assert supervise("die()") == (1, ["", "careful"])


def _start(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """A process of its own that supervises that body."""
    (tmp_path / "supervised_work.py").write_text(f"{WORK}\ndef work():\n    attempt = begin()\n    {body}\n")
    # A shell starts what it puts into the background deaf to Ctrl-C, the test suite for one.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from pipelines import supervisor; sys.exit(supervisor.supervise('supervised_work:work', sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, text=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


WAIT = "open(os.path.join(folder, 'ready'), 'w').write(str(os.getpid())); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_stop_reaches_the_process_at_work_and_it_is_not_started_again(tmp_path: Path, number: signal.Signals) -> None:
    body = f"with stoppable():\n        try:\n            {WAIT}\n        except KeyboardInterrupt: return end(4)"
    process = _start(tmp_path, body)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


def test_stop_of_a_process_that_dies_of_it_is_a_stop(tmp_path: Path) -> None:
    process = _start(tmp_path, WAIT)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "stopped; finished shards are kept" in errors


def test_process_at_work_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    process = _start(tmp_path, WAIT)
    process.kill()
    process.communicate(timeout=30)  # ends when nobody has the other end of its stderr any more: the worker, 60 s


def test_a_stop_that_arrives_twice_is_one_stop() -> None:
    stops = 0
    with supervisor.stoppable():
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            except KeyboardInterrupt:
                stops += 1
    assert stops == 1


@dataclass(frozen=True)
class Heard(supervisor.Supervisor):
    """A supervisor that keeps what it is told."""

    messages: list[bytes] = field(default_factory=list)

    def _tell(self, message: bytes) -> None:
        self.messages.append(message)


def _die_after(name: str, do: Callable[..., None]) -> Callable[..., None]:
    def do_and_die(storage: LocalStorage, file: str, *data: bytes) -> None:
        do(storage, file, *data)
        if file == name:
            raise SystemExit

    return do_and_die


@pytest.mark.parametrize("last", [RUN_FILE, MANIFEST_FILE])
def test_command_that_dies_while_it_lays_out_a_run_goes_on_with_it_though_it_asked_for_a_new_one(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:  # fmt: skip
    heard = Heard()
    job = planning.DetectJob(
        inputs=[str(archive)], output=str(tmp_path), weights=str(tiny_weights), runner="local", limit=1,
        existing="error", detector=DetectorConfig(device="cpu"),
    )  # fmt: skip
    with monkeypatch.context() as patched, open(os.devnull, "w") as quiet:
        patched.setattr(LocalStorage, "put", _die_after(last, LocalStorage.put))
        with pytest.raises(SystemExit):
            detect.run(planning.plan(job), Progress(quiet, heard))
    assert supervisor._BEGUN in heard.messages  # so the next process is told to resume
    assert run_job(archive, tmp_path, tiny_weights, limit=1, existing="resume").complete


def test_command_that_dies_before_it_has_overwritten_a_run_overwrites_it_again(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(archive, tmp_path, tiny_weights, limit=1)
    heard = Heard()
    job = planning.DetectJob(
        inputs=[str(archive)], output=str(tmp_path), weights=str(tiny_weights), runner="local", limit=1,
        existing="overwrite", detector=DetectorConfig(device="cpu"),
    )  # fmt: skip
    monkeypatch.setattr(LocalStorage, "delete", _die_after(RUN_FILE, LocalStorage.delete))
    with open(os.devnull, "w") as quiet, pytest.raises(SystemExit):
        detect.run(planning.plan(job), Progress(quiet, heard))
    assert heard.messages == []
