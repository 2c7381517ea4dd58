"""What a photo takes of a process of its own is measured, for each kind of file."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import limits


@pytest.mark.slow
def test_time_and_memory_of_each_kind_of_file_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["limits", "--sizes", "640x480"])
    limits.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "limits: 900 s, 6.00 GiB"
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| 640x480 {kind}" for kind in limits.KINDS]
    for line in lines[4:]:
        assert re.fullmatch(r"\| 640x480 \w+ \| 0\.3 \| [\d.]+ \| [\d,]+ \| [\d. |%]+ \|", line), line
