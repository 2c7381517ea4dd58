"""Training in this process: it learns, goes on after a kill with the same weights, and leaves what it promises."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import cli
from pipelines.settings import settings_toml
from pipelines.train import train
from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_log import TrainLog, describe_row, read_metrics
from pipelines.train_worker import RankBatches
from retinafocus.errors import RetinaFocusError, RunError, SettingsError
from retinafocus.weights import load_model, read_info

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))

# A short training on crops that are the photos themselves.
SMALL = {
    "batch": 4, "epoch_steps": 2, "loaders": 0, "threads": 1, "device": '"cpu"', "sample.crop.side": 64,
    "loop.steps": 6, "loop.warmup_steps": 2,
}  # fmt: skip

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def make_config(labelled_folder: Path, tmp_path: Path) -> MakeConfig:
    def make(output: str = "run", **changes: object) -> TrainConfig:
        """The small training with other values; double underscores for dots."""
        values = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
        empty = tmp_path / "empty.toml"
        empty.write_text("")
        overrides = [f"{name}={value}" for name, value in values.items()]
        return read_train_config(
            empty, [f"data.folders=['{labelled_folder}']", *overrides, f"output={tmp_path / output}"]
        )

    return make


def test_eight_photos_are_learned_by_heart(make_config: MakeConfig, labelled_folder: Path) -> None:
    config = make_config(
        batch=8, epoch_steps=75, sample__crop__side=128, sample__crop__aimed=0, sample__crop__short_sides=[1, 1],
        sample__photometry="{light=0, colour=0, grey=0, low_light=0, blur=0, noise=0, compression=0}",
        loop="{steps=150, warmup_steps=10, learning_rate=0.02, average_decay=0.9}",
        evaluation__folder=labelled_folder, evaluation__min_face=20, evaluation__protocol='"widerface"',
    )  # fmt: skip
    summary = train(config)
    rows = read_metrics(Path(config.output))
    assert [row["step"] for row in rows] == [75, 150]
    assert rows[-1]["ap"] > 0.95
    assert min(rows[-1][f"ap {name}"] for name in ("easy", "medium", "hard")) > 0.9
    assert "best     AP " in summary
    info = read_info(Path(config.output) / "best.safetensors")
    assert json.loads(info.metadata["evaluation"])["ap"] > 0.95
    assert json.loads(info.metadata["evaluation"])["ap hard"] > 0.9
    assert str(labelled_folder.parent) not in info.metadata["recipe"]
    picture = cv2.imread(str(Path(config.output) / "curves.png"))
    assert picture is not None
    assert len(list((Path(config.output) / "tensorboard").iterdir())) == 1


def test_the_line_for_people_tells_the_protocols_ap_where_there_is_one() -> None:
    row = {"step": 10, "total": 1.5, "ap": 0.5, "ap easy": 0.75, "ap hard": 0.25, "crops_per_s": 3.0}
    assert describe_row(row, 20) == "step 10 of 20, loss 1.5, AP 50.0, easy 75.0, hard 25.0, 3 crops/s"


def test_names_the_protocol_cannot_tell_apart_stop_before_the_first_step(
    make_config: MakeConfig, labelled_folder: Path, tmp_path: Path
) -> None:
    twins = tmp_path / "twins"
    shutil.copytree(labelled_folder, twins)
    (twins / "images" / "1.png").rename(twins / "images" / "0.jpg")
    for name in ("images", "labels"):
        rows = pq.read_table(twins / f"{name}.parquet").to_pylist()
        renamed = [row | {"image": "0.jpg"} if row["image"] == "1.png" else row for row in rows]
        pq.write_table(pa.Table.from_pylist(renamed), twins / f"{name}.parquet")
    with pytest.raises(SettingsError, match=r"0\.jpg: 0\.png has the same name but for the ending; rename one"):
        train(make_config(evaluation__folder=twins, evaluation__protocol='"widerface"'))
    assert not (tmp_path / "run").exists()


def test_a_killed_training_goes_on_to_the_same_weights(make_config: MakeConfig, tmp_path: Path) -> None:
    whole = make_config("whole", epoch_steps=1, loop__steps=12, loaders=1)
    train(whole)
    killed = make_config("killed", epoch_steps=1, loop__steps=12, loaders=1)
    settings = tmp_path / "killed.toml"
    settings.write_text(settings_toml(killed))
    command = [sys.executable, "-m", "pipelines.cli", "train", "--config", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(read_metrics(Path(killed.output))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(read_metrics(Path(killed.output))) < 12
    train(killed, resume=True)
    assert [row["step"] for row in read_metrics(Path(killed.output))] == list(range(1, 13))
    weights = [load_model(Path(config.output) / "last.safetensors").state_dict() for config in (whole, killed)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    losses = [[row["total"] for row in read_metrics(Path(config.output))] for config in (whole, killed)]
    assert losses[0] == losses[1]


def test_a_network_is_trained_with_other_anchors_and_its_heads_start_anew(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    train(make_config("first", loop__steps=2))
    before = tmp_path / "first" / "last.safetensors"
    anchors = {"model__anchors": "{sizes=[[8, 16, 20], [32, 64, 70], [90, 128, 200]], ratio=1.25}"}
    with pytest.raises(SettingsError, match=r"model\.init has anchors 10, 20.*set model\.heads = new"):
        train(make_config("other", model__init=f"'{before}'", **anchors))
    assert not (tmp_path / "other").exists()
    train(make_config("other", loop__steps=2, model__init=f"'{before}'", model__heads="'new'", **anchors))
    after = load_model(tmp_path / "other" / "last.safetensors")
    assert after.preset.anchors.sizes == ((8, 16, 20), (32, 64, 70), (90, 128, 200))
    assert (after.preset.anchors.ratio, after.preset.face_range) == (1.25, (16, 125))
    assert after.class_heads[0].out_channels == 6


def test_detections_stay_the_same_while_the_focus_branch_learns(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("first"))
    first = tmp_path / "first" / "last.safetensors"
    train(make_config("second", model__init=first, loop__freeze='"all-but-focus"'))
    before, after = load_model(first), load_model(tmp_path / "second" / "last.safetensors")
    pixels = torch.randint(0, 256, (1, 3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        old, new = before(pixels), after(pixels)
    for name in ("class_logits", "box_deltas", "landmark_deltas"):
        assert torch.equal(getattr(old, name), getattr(new, name)), name
    assert not torch.equal(old.focus_logits, new.focus_logits)


def test_every_sample_is_drawn_once_whatever_the_number_of_workers() -> None:
    def drawn(workers: int, first_step: int = 0) -> list[list[int]]:
        config = TrainConfig(batch=6, workers=workers)
        ranks = [iter(RankBatches(config, rank, first_step)) for rank in range(workers)]
        return [[number for rank in ranks for number in next(rank)] for _ in range(3)]

    assert drawn(1) == drawn(2) == drawn(3) == [[*range(6)], [*range(6, 12)], [*range(12, 18)]]
    assert drawn(2, first_step=2)[0] == [*range(12, 18)]


def test_photos_that_cannot_be_read_are_passed_over_and_counted(
    make_config: MakeConfig, labelled_folder: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(labelled_folder, damaged)
    (damaged / "images" / "3.png").write_bytes(b"no picture")
    cv2.imwrite(str(damaged / "images" / "5.png"), cv2.imread(str(damaged / "images" / "4.png"))[:100])
    train(make_config(data__folders=[str(damaged)], loop__steps=4))
    assert read_metrics(tmp_path / "run")[-1]["unreadable"] == 2
    told = (tmp_path / "run" / "unreadable.jsonl").read_text()
    assert "5.png: the photo is 128 x 100 px, its labels are for 128 x 128 px" in told
    for path in (damaged / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="100 photos in a row cannot be decoded"):
        train(make_config("none", data__folders=[str(damaged)]))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        pytest.param({"data__folders": []}, SettingsError, r"data\.folders names no labelled photos", id="no photos"),
        pytest.param({"data__folders": ["none"]}, SettingsError, "none: there is no such folder", id="no folder"),
        pytest.param({"data__source_weights": "{moon = 1}"}, SettingsError, "source_weights names moon", id="source"),
        pytest.param({"evaluation__folder": "none"}, SettingsError, "none: there is no such folder", id="evaluation"),
        pytest.param({"model__init": "none.pt"}, RetinaFocusError, r"none\.pt: there is no such file", id="init"),
        pytest.param({"model__backbone": "imagenet"}, SettingsError, "no ImageNet weights of mobilenet025", id="start"),
        pytest.param({"workers": 2}, SettingsError, "the runner local has one worker", id="workers"),
    ],
)
def test_wrong_settings_stop_before_the_first_step(
    make_config: MakeConfig, tmp_path: Path, changes: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(make_config(**changes), runner="local")
    assert not (tmp_path / "run").exists()


def test_an_output_is_not_overwritten_and_not_continued_with_other_settings(make_config: MakeConfig) -> None:
    train(make_config(loop__steps=2))
    with pytest.raises(RunError, match=r"run: holds a training; add --resume"):
        train(make_config(loop__steps=2))
    with pytest.raises(SettingsError, match=r"run: batch was 4 and is now 2; go on with the old value"):
        train(make_config(loop__steps=2, batch=2), resume=True)
    with pytest.raises(SettingsError, match=r"run: was trained with --runner local"):
        train(make_config(loop__steps=2), resume=True, runner="ray")


def test_rows_after_the_checkpoint_are_taken_out(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0, 4)
    assert log.best() < 0
    for step in (1, 2, 3):
        log.add({"step": step, "total": 1.0 / step, "ap": 0.1 * step, "bad": float("nan")})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tot')
    again = TrainLog(tmp_path, 2, 4)
    again.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert again.best() == 0.2
    assert again.rows[0]["bad"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            TrainLog(tmp_path, 1, 4)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]  # cut short there, it has lost none


def test_samples_and_settings_can_be_looked_at(
    labelled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["train", "--config", str(CONFIGS[0]), "--set", f"data.folders=['{labelled_folder}']"]
    sheet = tmp_path / "sheet.png"
    for kind in ("crops", "chips"):
        smaller = ["--set", "sample.crop.side=64", "--set", f"sample.kind={kind}"]
        assert cli.main([*config, *smaller, "--show-samples", "5", "-o", str(sheet)]) == 0
        picture = cv2.imread(str(sheet))
        assert picture is not None
        assert picture.shape[0] > 2 * 480
        sheet.unlink()
    assert cli.main([*config, "--show-samples", "5"]) == 2
    assert "name it with -o sheet.png" in capsys.readouterr().err
    assert cli.main([*config, "--show-settings", "--init", "a b", "--set", "model.backbone="]) == 0
    settings = tmp_path / "shown.toml"
    settings.write_text(capsys.readouterr().out)
    assert read_train_config(settings).model.init == "a b"


def test_several_folders_are_one_set(make_config: MakeConfig, labelled_folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(labelled_folder / "images.parquet")
    assert table.num_rows == 8
    config = make_config(data__folders=[str(labelled_folder)] * 2, data__source_weights="{odd = 2}", loop__steps=2)
    assert "trained 2 steps" in train(config)
