"""What a resume has to read of a large ledger."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import resume


def test_every_step_of_a_resume_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["resume", "--shards", "6", "--photos", "3", "--only", "disk"])
    resume.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "18 photos in 6 shards, 3 of them undone"
    assert lines[2:4] == ["| seconds (CPU of this process) | disk |", "|---|---:|"]
    assert len(lines[4:]) == 8
    assert all(re.fullmatch(r"\| .* \| \**[\d.e+-]+ \([\d.e+-]+\)\** \|", line) for line in lines[4:])
