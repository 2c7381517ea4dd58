"""`retinafocus explain`: the page, its pictures and words, and that it explains what a run finds."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import cli
from pipelines.explain import ExplainJob, explain
from retinafocus import Detector, DetectorConfig
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.weights import save_model


@pytest.fixture(scope="module")
def focus_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers with a focus branch that is sure of nothing."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("weights") / "focus.safetensors"
    save_model(RetinaFocus(get_preset("mobile025")), path, licence="none: random numbers", source="a test")
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 x 400 px: two levels, of scale 1/4 and 1. Its name would be markup in a page that does not escape it."""
    small = np.random.default_rng(2).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "<b>&.jpg"
    assert cv2.imwrite(str(path), cv2.resize(small, (640, 400), interpolation=cv2.INTER_CUBIC))
    return path


def test_page_has_every_picture_beside_it_and_escapes_names(
    photo: Path, focus_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why"
    command = ["explain", str(photo), "-o", str(out), "--weights", str(focus_weights), "--device", "cpu", "--engine"]
    assert cli.main([*command, "torch", "--at", "100,50"]) == 0
    words = capsys.readouterr().out
    assert "at 100,50: " in words
    assert re.search(r"^level 2, scale 1 +", words, re.M)
    page = (out / "explain.html").read_text()
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert links == {"at.png", "overview.png", "level-0.png", "level-1.png", "level-2.png"}
    for link in links:
        assert cv2.imread(str(out / link)) is not None
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;.jpg" in page
    assert "at 100,50: " in page


def test_faces_found_are_those_of_a_run(photo: Path, tiny_weights: Path, tmp_path: Path) -> None:
    # Random weights say 0.5 of everything, more or less.
    config = DetectorConfig(device="cpu", engine="torch", threads=1, score_threshold=0.5)
    faces = Detector.from_pretrained(tiny_weights, config).detect(photo)
    assert len(faces) > 0
    words = explain(
        ExplainJob(photo=str(photo), output=str(tmp_path), weights=str(tiny_weights), detector=config)
    ).splitlines()
    assert f"found    {len(faces)} faces" in words
    assert any("score 0.5; every level whole" in line for line in words)
    (total,) = (line for line in words if line.startswith("in all"))
    assert total.split()[2] == f"{(640 * 400 + 160 * 100) / 1e6:.2f}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["nowhere.jpg"], 1, "nowhere.jpg: there is no file", id="no photo"),
        pytest.param(["PHOTO", "--at", "9999,0"], 2, "lies outside the photo of 640 x 400 px", id="outside"),
        pytest.param(["PHOTO", "--mode", "focus"], 2, "no focus branch", id="mode"),
    ],
)
def test_wrong_use_says_what_is_wrong(
    photo: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    words = [str(photo) if word == "PHOTO" else word for word in arguments]
    assert cli.main(["explain", *words, "-o", str(tmp_path / "o"), "--weights", str(tiny_weights)]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_point_that_is_none_is_refused_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["explain", "photo.jpg", "-o", "out", "--at", "12"])
    assert "write X,Y, such as 1204,460" in capsys.readouterr().err
