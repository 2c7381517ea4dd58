"""Broken photos against the readers, in processes of their own: a few hundred cases of `benchmarks.fuzz`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")

# A reader that goes wrong in every way there is, by the size of a case.
FAULTY = """
import os, signal, sys, time
from benchmarks import fuzz

def make_faulty():
    from benchmarks.fuzz_reader import Reader

    class Faulty(Reader):
        def _read(self, data):
            fault = len(data) % 10
            if fault == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            if fault == 2:
                time.sleep(60)
            with self._step("header", 0):
                if fault == 6:
                    raise KeyError("x")
            with self._step("decode", 2**20):
                if fault == 8:
                    bytearray(b"x") * 2**26
            return "ok"

    return Faulty()

if __name__ == "__main__":
    sys.exit(fuzz.main(sys.argv[1:], make_faulty))
"""


def fuzz(*arguments: str, program: str = "benchmarks.fuzz", path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_broken_photos_give_pixels_or_a_status() -> None:
    done = fuzz("--cases", "300", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 cases, seed 1" in done.stdout


def test_every_way_to_go_wrong_is_seen_and_named(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    done = fuzz("--cases", "18", "--time-limit", "1", program="faulty", path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for text in ("crash: .*SIGSEGV", "hang: .*within 1 s", "exception: .*header: KeyError", "memory: .*decode: 6. MiB"):
        assert re.search(rf"--seed 0 --case \d+: {text}", done.stdout), (text, done.stdout)
    assert "18 cases, seed 0" in done.stdout
