"""A virtual environment for each list of exact pins, made when it is needed and kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from retinafocus.errors import RunError, SettingsError

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
ENVIRONMENTS = HERE / ".environments"
"""Not in the repository."""

_READY = "ready"
"""Written last: an environment without it was not finished."""

LINES_OF_AN_ERROR = 5


def environment_python(name: str, root: Path = ENVIRONMENTS, requirements: Path = REQUIREMENTS) -> Path:
    """The interpreter of the environment with the pins of a file; the environment is made if it is not there.

    Args:
        name: of the file in `requirements`, without suffix.
        root: folder of the environments.
        requirements: folder of the files, each line of which pins one package exactly.

    Raises:
        SettingsError: the file does not pin exactly.
        RunError: the environment cannot be made; the message has the installer's last lines.
    """
    path = requirements / f"{name}.txt"
    pins = exact_pins(path)
    key = hashlib.sha256("\n".join([*pins, sys.version]).encode()).hexdigest()[:12]
    folder = root / f"{name}-{key}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if (folder / _READY).exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    (root / ".gitignore").write_text("*\n")
    for command in installation(folder, python, path, shutil.which("uv")):
        _run(command, name)
    (folder / _READY).write_text("\n".join(pins) + "\n")
    return python


def exact_pins(path: Path) -> list[str]:
    """The pins of a file, without comments.

    Raises:
        SettingsError: there is no such file, or a line is no exact pin.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file of pins")
    pins = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pins = [pin for pin in pins if pin]
    for pin in pins:
        if "==" not in pin:
            raise SettingsError(f"{path}: {pin!r} is no exact pin; write name==version")
    return pins


def installation(folder: Path, python: Path, requirements: Path, uv: str | None) -> list[list[str]]:
    """The commands that make an environment: with uv, which takes seconds, or with what Python brings."""
    if uv is not None:
        return [
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        ]
    return [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ]


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-LINES_OF_AN_ERROR:])
        raise RunError(f"the environment {name} cannot be made, {command[0]} ended with {done.returncode}:\n{last}")
