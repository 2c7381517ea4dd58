"""The Slurm script from its first line to its last, with stand-ins for Slurm, Ray and RetinaFocus."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "detect.sbatch"

STAND_INS = {
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; if [[ $1 == show ]]; then echo node1; echo node2; fi',
    # Starts one task, as the node of the script would. If it fails, Slurm ends those of the other nodes, by
    # --kill-on-bad-exit, and srun tells of their signal: 128 + SIGTERM.
    "srun": 'echo "srun $*" >> "$CALLS"; while [[ $1 == --* ]]; do shift; done; "$@" || exit 143',
    "ray": (
        'echo "ray $*; $RAY_AUTH_MODE $RAY_ADDRESS $RAY_TMPDIR $OMP_NUM_THREADS" >> "$CALLS"\n'
        'if [[ $1 == get-auth-token ]]; then echo the-token; exit; fi\n'
        'if [[ -n ${NO_RAY:-} ]]; then exit 0; fi\n'
        'while [[ $1 != -- ]]; do shift; done; shift; "$@"'
    ),
    "retinafocus": (
        'printf "%s|" "$@" > "$CALLS.words"\n'
        'trap "exit 4" TERM\n'
        'if [[ -n ${ENDS_WITH:-} ]]; then exit "$ENDS_WITH"; fi\n'
        'touch "$CALLS.at-work"; for _ in {1..200}; do sleep 0.05; done; exit 1'
    ),
}  # fmt: skip


@dataclass
class Slurm:
    """A job of the script, and what it called."""

    environment: dict[str, str]
    calls: Path

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @property
    def requeued(self) -> bool:
        return f"scontrol requeue {self.environment['SLURM_JOB_ID']}\n" in self.calls.read_text()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    # Slurm's numbers are below 2 ** 26; this one is nobody's.
    job = str(90_000_000 + os.getpid())
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "CALLS": str(tmp_path / "calls")}
    environment |= {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    yield Slurm(environment, tmp_path / "calls")
    shutil.rmtree(f"/tmp/rf-{job}", ignore_errors=True)


def _stop_at_work(slurm: Slurm, process: subprocess.Popen[str]) -> str:
    until = time.monotonic() + 30
    while not Path(f"{slurm.calls}.at-work").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=30)[0]


def test_a_run_that_is_done_ends_with_zero_and_is_not_put_back(slurm: Slurm) -> None:
    process = slurm.start("/photos of 2024", "-o", "out", ENDS_WITH="0")
    said = process.communicate(timeout=30)[0]
    assert (process.returncode, said) == (0, "")
    assert Path(f"{slurm.calls}.words").read_text() == "detect|/photos of 2024|-o|out|--address|auto|"
    assert not slurm.requeued


def test_ray_starts_on_the_first_node_with_a_token_a_port_and_a_folder_of_the_job(slurm: Slurm) -> None:
    job = slurm.environment["SLURM_JOB_ID"]
    environment = {"OMP_NUM_THREADS": "16", "SLURM_CPUS_PER_TASK": "16"}
    slurm.start("photos", "-o", "out", ENDS_WITH="0", **environment).communicate(timeout=30)
    token, start = [line for line in slurm.calls.read_text().splitlines() if line.startswith("ray")]
    address = f"node1:{20000 + int(job) % 10000}"
    assert token.startswith("ray get-auth-token --generate; token")
    assert start.startswith(f"ray symmetric-run --address {address} --min-nodes 2 --num-cpus 16 --num-gpus 0 ")
    assert start.endswith(f"; token {address} /tmp/rf-{job} 1")
    assert not Path(f"/tmp/rf-{job}").exists()
    # srun gives a step as many processors as Ray is told of only where it is asked to.
    assert "srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=16 " in slurm.calls.read_text()


def test_a_run_that_is_stopped_before_its_time_is_up_goes_back_into_the_queue(slurm: Slurm) -> None:
    process = slurm.start("photos", "-o", "out", SLURM_RESTART_COUNT="3")
    said = _stop_at_work(slurm, process)
    assert process.returncode == 0
    assert slurm.requeued
    assert said == "stopped before the time was up; back into the queue (3 restarts so far)\n"


def test_a_run_that_was_put_back_too_often_is_not_put_back_again(slurm: Slurm) -> None:
    process = slurm.start("photos", "-o", "out", SLURM_RESTART_COUNT="50")
    _stop_at_work(slurm, process)
    assert process.returncode == 4
    assert not slurm.requeued


@pytest.mark.parametrize("code", ["1", "3", "4"])
def test_a_run_that_ends_by_itself_keeps_its_exit_code(slurm: Slurm, code: str) -> None:
    process = slurm.start("photos", "-o", "out", ENDS_WITH=code)
    process.communicate(timeout=30)
    assert process.returncode == int(code)
    assert not slurm.requeued


def test_ray_that_does_not_start_is_no_success(slurm: Slurm) -> None:
    process = slurm.start("photos", "-o", "out", NO_RAY="yes")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert "Ray did not start on all nodes" in said


def test_without_words_it_says_how_it_is_called(slurm: Slurm) -> None:
    process = slurm.start()
    assert "usage: sbatch" in process.communicate(timeout=30)[0]
    assert process.returncode == 2
