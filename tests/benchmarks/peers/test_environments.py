"""Environments are made from exact pins, once. Nothing is installed here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import REQUIREMENTS, environment_python, exact_pins, installation
from retinafocus.errors import RunError, SettingsError


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "some.txt").write_text("# why\nnothing==1.0  # because\n\n")
    return folder


def _write_instead(folder: Path, made: list[Path], code: str = "") -> list[list[str]]:
    made.append(folder)
    return [[sys.executable, "-S", "-c", f"import os, sys; os.makedirs({str(folder)!r}); {code}"]]


def test_environment_is_made_once_for_the_same_pins(
    tmp_path: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(environments, "installation", lambda folder, *_: _write_instead(folder, made))
    first = environment_python("some", tmp_path / "made", pins)
    assert environment_python("some", tmp_path / "made", pins) == first
    (pins / "some.txt").write_text("nothing==1.0\n")  # other comments, same pins
    assert environment_python("some", tmp_path / "made", pins) == first
    (pins / "some.txt").write_text("nothing==1.1\n")
    assert environment_python("some", tmp_path / "made", pins) != first
    assert len(made) == 2
    assert (tmp_path / "made" / ".gitignore").read_text() == "*\n"


def test_environment_that_was_not_finished_is_made_again(
    tmp_path: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    fails = "print('no such package'); sys.exit(4)"
    monkeypatch.setattr(environments, "installation", lambda folder, *_: _write_instead(folder, made, fails))
    with pytest.raises(RunError, match=r"environment some cannot be made, .* ended with 4:\nno such package"):
        environment_python("some", tmp_path / "made", pins)
    monkeypatch.setattr(environments, "installation", lambda folder, *_: _write_instead(folder, made))
    environment_python("some", tmp_path / "made", pins)
    assert len(made) == 2


def test_uv_makes_it_where_there_is_one() -> None:
    folder, python, file = Path("x"), Path("x/bin/python"), Path("r.txt")
    with_uv = installation(folder, python, file, "/bin/uv")
    without = installation(folder, python, file, None)
    assert [command[0] for command in with_uv] == ["/bin/uv", "/bin/uv"]
    assert with_uv[0][-2:] == [sys.executable, "x"]
    assert [command[:3] for command in without] == [[sys.executable, "-m", "venv"], ["x/bin/python", "-m", "pip"]]
    assert with_uv[1][-2:] == without[1][-2:] == ["-r", "r.txt"]


@pytest.mark.parametrize("line", ["dlib", "dlib>=19", "git+https://example.org/dlib"])
def test_pins_that_are_not_exact_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "loose.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(SettingsError, match=f"{re.escape(repr(line))} is no exact pin; write name==version"):
        exact_pins(path)


def test_all_lists_in_the_repository_pin_exactly() -> None:
    lists = sorted(REQUIREMENTS.glob("*.txt"))
    assert lists
    assert all(exact_pins(path) for path in lists)
