"""The command line: help, exit codes, and messages that name the mend."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import util
from pathlib import Path

import pytest

from pipelines import cli
from retinafocus import open_run


def test_help_answers_without_loading_torch_or_ray() -> None:
    code = (
        "import sys, pipelines.cli as cli\n"
        "try: cli.main(['detect', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(int(bool({'torch', 'ray', 'cv2', 'pyarrow'} & set(sys.modules))))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "retinafocus detect ~/photos -o out" in result.stdout


def test_local_run_never_loads_ray(archive: Path, tiny_weights: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pipelines.cli as cli\n"
        f"code = cli.main(['detect', {str(archive)!r}, '-o', {str(tmp_path)!r}, '--weights', {str(tiny_weights)!r},"
        " '--device', 'cpu', '--limit', '2'])\n"
        "sys.exit(code or int('ray' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_defaults_in_the_help_are_those_of_the_settings() -> None:
    from retinafocus import DetectorConfig

    defaults = {field.name: field.default for field in fields(DetectorConfig)}
    (detect,) = (parser for name, parser in _verbs().items() if name == "detect")
    helps = {action.dest: action.help or "" for action in detect._actions}
    for name in ("min_face", "score_threshold", "device", "max_pixels"):
        default = defaults[name]
        text = f"{default:g}" if isinstance(default, float) else str(default)
        assert f"(default: {text})" in helps[name]


def test_limits_of_a_photo_are_told_alike_in_the_help_and_in_the_documentation() -> None:
    from pipelines.limits import Limits

    table = (Path(cli.__file__).parents[1] / "docs" / "jobs.md").read_text()
    helps = {action.dest: action.help or "" for action in _verbs()["detect"]._actions}
    for name, default in (("photo_timeout", Limits().photo_seconds), ("read_ahead_bytes", Limits().read_ahead_bytes)):
        assert f"(default: {default:.0f})" in helps[name]
        assert f"| `--{name.replace('_', '-')} {default:.0f}` |" in table


def test_every_verb_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in _verbs():
        with pytest.raises(SystemExit) as stop:
            cli.main([verb, "--help"])
        assert stop.value.code == 0
    assert "usage: retinafocus detect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(
            ["detect", "nowhere", "-o", "OUT", "--weights", "WEIGHTS"], 2, "no such file or folder", id="input"
        ),
        pytest.param(["detect", "ARCHIVE", "-o", "OUT", "--weights", "no.pt"], 2, "weights import FILE", id="weights"),
        pytest.param(["draw", "OUT", "-o", "PICTURES"], 1, "no run here", id="no run"),
        pytest.param(["weights", "show", "no.pt"], 2, "WeightsError: no.pt", id="show"),
        pytest.param(
            ["detect", "ARCHIVE", "-o", "OUT", "--weights", "WEIGHTS", "--min-face", "0"],
            2,
            "min_face is 0.0",
            id="value",
        ),
        pytest.param(
            ["detect", "ARCHIVE", "-o", "OUT", "--weights", "WEIGHTS", "--focus-threshold", "0.2"],
            2,
            "focus-threshold has no effect",
            id="no effect",
        ),
    ],
)
def test_wrong_use_ends_with_its_code_and_one_line(
    archive: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    places = {
        "ARCHIVE": str(archive),
        "WEIGHTS": str(tiny_weights),
        "OUT": str(tmp_path / "o"),
        "PICTURES": str(tmp_path),
    }
    assert cli.main([places.get(word, word) for word in arguments]) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    archive: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["detect", str(archive), "-o", str(out), "--weights", str(tiny_weights), "--dry-run"]) == 0
    words = capsys.readouterr().out
    assert "photos   24, " in words
    assert "skipped  3: " in words
    assert "expected about" in words
    assert not out.exists()


def test_run_then_draw(archive: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    assert cli.main(["detect", str(archive), "-o", str(out), "--weights", str(tiny_weights), "--limit", "5"]) == 0
    assert "photos   5: 5 looked at, 0 failed" in capsys.readouterr().out
    assert open_run(out).complete
    assert cli.main(["draw", str(out), "-o", str(pictures), "--limit", "3", "--score-threshold", "0.99"]) == 0
    assert len(list(pictures.glob("*.jpg"))) == 3
    assert cli.main(["draw", str(out), "-o", str(pictures), "--sheet"]) == 0
    assert (pictures / "sheet.jpg").stat().st_size > 0


def test_weights_show_names_network_licence_and_hash(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "show", str(tiny_weights)]) == 0
    words = capsys.readouterr().out
    assert "mobilenet025-1mb: mobilenet025, 64 channels" in words
    assert "licence  none: random numbers" in words


def test_doctor_reports_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    words = capsys.readouterr().out
    assert "JPEG decoder works, reduced decoding too" in words
    assert "engine    torch on cpu: usable" in words
    assert "engine    openvino on cpu: " in words


def test_doctor_says_what_would_make_it_faster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "openvino" else real(name))
    assert cli.main(["doctor"]) == 0
    words = capsys.readouterr().out
    assert "engine    openvino on cpu: not usable; it needs openvino: pip install 'retinafocus[openvino]'" in words
    assert "missing   the fastest engine for CPUs" in words


def test_export_writes_the_network(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    out = tmp_path / "network.onnx"
    assert cli.main(["export", "--format", "onnx", "--weights", str(tiny_weights), "-o", str(out)]) == 0
    words = capsys.readouterr().out
    assert f"wrote {out}" in words
    assert "licence  none: random numbers" in words
    assert out.stat().st_size > 100_000
    assert cli.main(["export", "--format", "openvino", "-o", str(out)]) == 2
    assert "end it with .xml for format openvino" in capsys.readouterr().err


def test_every_example_in_a_help_text_can_be_typed() -> None:
    parsers = [parser for verb in _verbs().values() for parser in (verb, *_choices(verb).values())]
    lines = [line.strip() for parser in parsers for line in (parser.epilog or "").splitlines()]
    commands = [line.split("  ")[0] for line in lines if line.startswith("retinafocus ")]
    assert len(commands) >= 15
    for command in commands:
        cli._parser().parse_args(shlex.split(command)[1:])


def _verbs() -> dict[str, argparse.ArgumentParser]:
    return _choices(cli._parser())


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs, or the actions of a verb; empty where there are none."""
    return {
        name: choice
        for action in parser._actions
        if isinstance(action.choices, dict)
        for name, choice in action.choices.items()
    }
