"""The local runner and photos that kill it: they have their rows, and all others those of an undisturbed run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.ledger import ATTEMPTS_FOLDER
from pipelines.looking import Looker
from retinafocus import open_run
from retinafocus.runs import Run

from .conftest import add_fault, rows_without

pytestmark = pytest.mark.timeout(600)  # seconds of a free processor each time a process starts, and several start

DEADLY = "03.jpg"


@pytest.fixture(scope="module")
def deadly_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 photos, one of which is deadly, but to the faulty decoder alone."""
    root = tmp_path_factory.mktemp("deadly")
    random = np.random.default_rng(17)
    for number in range(16):
        small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        assert cv2.imwrite(
            str(root / f"{number:02d}.jpg"), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)
        )
    add_fault(root / DEADLY, "segfault")
    return root


@pytest.fixture(scope="module")
def undisturbed(
    run_job: Callable[..., Run], deadly_archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(deadly_archive, tmp_path_factory.mktemp("undisturbed"), tiny_weights)


@pytest.fixture(scope="module")
def survived(
    deadly_archive: Path,
    tiny_weights: Path,
    faulty_decoder: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """The run of a command that a photo killed, and what it said."""
    out = tmp_path_factory.mktemp("survived")
    done = _detect(deadly_archive, out, tiny_weights, faulty_decoder)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def test_command_outlives_a_photo_that_crashes(survived: tuple[Path, str], undisturbed: Run) -> None:
    out, said = survived
    run = open_run(out)
    assert "the process at work died (SIGSEGV); starting it again" in said
    assert run.complete
    failures = {row["uri"]: row["status"] for row in run.images().to_pylist() if row["status"] != "ok"}
    assert [(Path(uri).name, status) for uri, status in failures.items()] == [(DEADLY, "crashed")]
    assert rows_without(run, [DEADLY]) == rows_without(undisturbed, [DEADLY])
    assert not list((out / ATTEMPTS_FOLDER).iterdir())


def test_deadly_photo_that_is_tried_again_kills_nothing(
    survived: tuple[Path, str],
    undisturbed: Run,
    deadly_archive: Path,
    tiny_weights: Path,
    faulty_decoder: dict[str, str],
) -> None:
    out, _ = survived
    done = _detect(deadly_archive, out, tiny_weights, faulty_decoder, "--retry", "crashed")
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stderr
    assert [record["generation"] for record in open_run(out).records].count(1) == 1
    assert rows_without(open_run(out), [DEADLY]) == rows_without(undisturbed, [DEADLY])


def _detect(
    archive: Path, out: Path, weights: Path, environment: dict[str, str], *more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())", "detect"]
    command += [str(archive), "-o", str(out), "--weights", str(weights), "--device", "cpu", "--runner", "local"]
    command += ["--workers", "2", *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_photo_that_was_short_of_memory_beside_others_is_looked_at_alone(
    run_job: Callable[..., Run],
    archive: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run_job(archive, tmp_path / "expected", tiny_weights)
    failed: set[str] = set()
    read = Looker._read

    def short_of_memory(self: Looker, looked: object) -> bytes:
        row = looked.row  # type: ignore[attr-defined]
        if row["image_id"] not in failed:
            failed.add(row["image_id"])
            raise MemoryError
        return read(self, looked)  # type: ignore[arg-type]

    monkeypatch.setattr(Looker, "_read", short_of_memory)
    run = run_job(archive, tmp_path / "short", tiny_weights)
    assert len(failed) == run.images().num_rows == 24
    assert run.images().equals(expected.images())
    assert run.faces().equals(expected.faces())


def test_what_never_fits_into_memory_is_a_row(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(self: Looker, looked: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Looker, "_read", short_of_memory)
    run = run_job(archive, tmp_path, tiny_weights, limit=2)
    assert run.images().column("status").to_pylist() == ["out_of_memory"] * 2
