"""The ready settings in `configs/`, run as they say, by a user who has WIDER FACE on disk."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli
from pipelines.train_config import read_train_config
from pipelines.train_log import read_metrics
from retinafocus.datasets.labelled import read_parquet_folder
from retinafocus.weights import read_info

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))

# Smaller in every way, but the same folders, network, losses and schedule.
SMALLER = (
    "batch=2", "workers=1", "loaders=0", "threads=1", "device=cpu", "precision=float32", "model.backbone=",
    "sample.crop.side=64", "loop.steps=3", "loop.warmup_steps=1", "loop.batch_norm=train", "evaluation.photos=1",
    "evaluation.min_face=20",
)  # fmt: skip

# Eyes, nose and corners of the mouth, as shares of a face's box.
POINTS = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))

WIDER_TRAIN = {
    "0--Parade/0_Parade_marchingband_1_849.jpg": [(30, 20, 40, 50)],
    "12--Group/12_Group_Group_12_Group_Group_12_10.jpg": [(10, 10, 30, 36), (90, 40, 28, 36)],
    "61--Street_Battle/61_Street_Battle_streetfight_61_558.jpg": [],
}
WIDER_VAL = {
    "0--Parade/0_Parade_marchingband_1_20.jpg": [(50, 30, 44, 56)],
    "7--Cheering/7_Cheering_Cheering_7_426.jpg": [],
}
Faces = dict[str, list[tuple[int, int, int, int]]]


def commands_of(path: Path) -> list[list[str]]:
    """The arguments of each command in the comments of a settings file."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("retinafocus ")]


def draw_photos(folder: Path, faces: Faces) -> None:
    """JPEGs of 160 x 120 px with ovals for faces."""
    random = np.random.default_rng(1)
    for name, boxes in faces.items():
        small = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = np.ascontiguousarray(cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC) // 2)
        for x, y, width, height in boxes:
            cv2.ellipse(
                picture, (x + width // 2, y + height // 2), (width // 2, height // 2), 0, 0, 360, (150, 180, 230), -1
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), picture)


def retinaface_text(faces: Faces) -> str:
    """`label.txt`: box, five points with a flag, blur."""
    lines = []
    for name, boxes in faces.items():
        lines.append(f"# {name}")
        for x, y, width, height in boxes:
            points = " ".join(f"{x + width * across:.3f} {y + height * down:.3f} 0.0" for across, down in POINTS)
            lines.append(f"{x} {y} {width} {height} {points} 0.82")
    return "\n".join(lines) + "\n"


def official_text(faces: Faces) -> str:
    """`wider_face_*_bbx_gt.txt`, in which a photo without faces has a row of zeros."""
    blocks = []
    for name, boxes in faces.items():
        rows = [f"{x} {y} {width} {height} 0 0 0 0 0 0 " for x, y, width, height in boxes]
        blocks.append("\n".join([name, str(len(boxes)), *(rows or ["0 0 0 0 0 0 0 0 0 0 "])]))
    return "\n".join(blocks) + "\n"


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with WIDER FACE as its archives unpack, and what the settings' own import commands made of it."""
    root = tmp_path_factory.mktemp("wider")
    draw_photos(root / "WIDER_train" / "images", WIDER_TRAIN)
    draw_photos(root / "WIDER_val" / "images", WIDER_VAL)
    (root / "wider_face_split").mkdir()
    (root / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text(official_text(WIDER_TRAIN))
    (root / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_text(official_text(WIDER_VAL))
    (root / "label.txt").write_text(retinaface_text(WIDER_TRAIN))
    (root / "configs").symlink_to(CONFIGS[0].parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in commands_of(CONFIGS[0]):
            if command[:2] == ["data", "import"]:
                assert cli.main(command) == 0
        yield root


def test_the_import_commands_find_every_photo_face_and_landmark(wider: Path) -> None:
    imports = [[words for words in commands_of(path) if words[0] == "data"] for path in CONFIGS]
    assert all(commands == imports[0] for commands in imports), "one import serves all settings"
    train, val = (read_parquet_folder(wider / "data" / "wider" / split) for split in ("train", "val"))
    assert [len(photo.boxes) for photo in train] == [1, 2, 0]
    assert [len(photo.boxes) for photo in val] == [1, 0]
    np.testing.assert_allclose(train[0].boxes, [[30, 20, 70, 70]])
    np.testing.assert_allclose(train[0].landmarks[0, 0], [42, 40])
    assert np.isnan(val[0].landmarks).all(), "the official text has no landmarks"


@pytest.mark.timeout(400)  # writes a gigabyte for the largest network, on a machine that may be busy
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_settings_train_three_steps(wider: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = (words for words in commands_of(path) if words[0] == "train")
    smaller = [word for setting in SMALLER for word in ("--set", setting)]
    assert cli.main([*command, *smaller]) == 0
    assert "trained 3 steps" in capsys.readouterr().out
    output = wider / command[command.index("-o") + 1]
    (row,) = read_metrics(output)
    assert row["unreadable"] == 0
    assert row["ap"] is not None
    assert row["landmarks"] > 0, "the marks of label.txt are learned"
    assert read_info(output / "last.safetensors").preset.name == read_train_config(path).model.preset
    shutil.rmtree(output)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_settings_say_their_commands_schedule_and_expectation(path: Path) -> None:
    comments = [line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#")]
    for heading in ("Schedule", "Expected", "GPU memory", "Start"):
        assert any(line.strip().startswith(heading) for line in comments), heading
    assert "estimated" in "".join(comments)
    commands = commands_of(path)
    assert [words[0] for words in commands] == ["data", "data", "train"]
    assert f"configs/{path.name}" in commands[-1]
    for words in commands:
        cli._parser().parse_args(words)
