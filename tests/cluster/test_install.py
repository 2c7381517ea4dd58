"""What `install.sh` asks of a node, with stand-ins for pip, sudo and the driver of a GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "ray_up" / "install.sh"

RECORDING = 'echo "$(basename "$0") $*" >> "$CALLS"'
STAND_INS = {
    # A virtual environment whose programs only note that they were called.
    "python3.12": (
        'if [[ $1 == -m ]]; then mkdir -p "$3/bin"; for name in pip retinafocus; do cp "$PIP" "$3/bin/$name"; done; fi'
    ),
    "ldconfig": 'echo "${LIBRARIES:-libGL.so.1}"',
    "nvidia-smi": '[[ -n ${GPU:-} ]]',
    "apt-get": "",
    "sleep": RECORDING,
    # Somebody else installs while the file is there: two tries find it so.
    "sudo": RECORDING + '\nif [[ $2 == update && ! -e $CALLS.3 ]]; then\n'
    '  if [[ -e $CALLS.2 ]]; then touch "$CALLS.3"; else touch "$CALLS.2"; fi; exit 100\nfi',
}  # fmt: skip


def _installed(folder: Path, *words: str, wheels: int = 1, **environment: str) -> tuple[int, list[str]]:
    """The exit code, and what was called, in an empty home folder."""
    programs, setup = folder / "bin", folder / "setup"
    for path in (programs, setup):
        path.mkdir()
    for name, script in {**STAND_INS, "pip": RECORDING}.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    for number in range(wheels):
        (setup / f"retinafocus-0.{number}-py3-none-any.whl").touch()
    (setup / "install.sh").write_text(SCRIPT.read_text())
    calls = folder / "calls"
    calls.touch()
    given = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "CALLS": str(calls)}
    given |= {"PIP": str(programs / "pip"), **environment}
    ended = subprocess.run(["bash", str(setup / "install.sh"), *words], env=given, capture_output=True)
    said = calls.read_text().replace(f"{setup}/", "").replace("install --quiet --disable-pip-version-check ", "")
    return ended.returncode, said.splitlines()


OURS = [
    "pip --constraint constraints.txt retinafocus-0.0-py3-none-any.whl[cluster,openvino]",
    "pip --constraint constraints.txt --force-reinstall --no-deps retinafocus-0.0-py3-none-any.whl",
    "retinafocus --version",
]
TORCH = "pip --constraint constraints.txt --no-deps --index-url https://download.pytorch.org/whl/cpu torch torchvision"


def test_without_a_gpu_the_cpu_build_of_torch_comes_first(tmp_path: Path) -> None:
    assert _installed(tmp_path) == (0, [TORCH, *OURS])
    assert "RAY_AUTH_MODE=token" in (tmp_path / ".retinafocus" / "env.sh").read_text()


@pytest.mark.parametrize(("words", "gpu"), [((), "yes"), (("cuda",), "")])
def test_with_a_gpu_torch_comes_with_our_wheel(tmp_path: Path, words: tuple[str, ...], gpu: str) -> None:
    assert _installed(tmp_path, *words, GPU=gpu) == (0, OURS)


def test_a_machine_that_installs_updates_is_waited_for(tmp_path: Path) -> None:
    code, calls = _installed(tmp_path, LIBRARIES="none")
    update = "sudo apt-get update -qq"
    assert calls[:6] == ["sudo true", update, "sleep 5", update, "sleep 5", update]
    assert "DPkg::Lock::Timeout" in calls[6]
    assert calls[6].endswith(" libgl1 libglib2.0-0 python3.12-venv")
    assert (code, calls[7:]) == (0, [TORCH, *OURS])


@pytest.mark.parametrize(("words", "wheels"), [((), 0), ((), 2), (("rocm",), 1)])
def test_what_cannot_be_installed_is_refused(tmp_path: Path, words: tuple[str, ...], wheels: int) -> None:
    assert _installed(tmp_path, *words, wheels=wheels) == (2, [])
