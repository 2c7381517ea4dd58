"""The paper's ablations: branches trained at once, what maps point at, the oracle, the command; on handmade photos."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.experiments import __main__ as command
from benchmarks.experiments import branches, chipping, looking, perfect
from benchmarks.experiments.canvases import marked_by_people, without_machine_made
from benchmarks.experiments.heads import (
    LEVEL_HEADS,
    OURS,
    SIZE_HEADS,
    fit,
    marking,
    unique,
    write_networks,
)
from benchmarks.experiments.maps import (
    LevelMaps,
    best_probabilities,
    inside_one,
    needing_a_finer_look,
    recall_row,
)
from benchmarks.experiments.oracle import OracleEngine, WatchedSource, label_map, look_with_labels
from benchmarks.experiments.study import Study
from benchmarks.experiments.tables import made_once, markdown
from benchmarks.ways import Settings
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_parquet_folder
from retinafocus.errors import LabelError, SettingsError
from retinafocus.focus.chips import ChipConfig
from retinafocus.levels import LevelPlan, plan_levels
from retinafocus.models import FocusConfig, RetinaFocus
from retinafocus.training.augment import CropConfig, LabelledCrop
from retinafocus.training.focus_heads import Head, HeadTraining, features, network_with
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.samples import CropSamples, SampleConfig
from retinafocus.training.targets import FocusLabelConfig
from retinafocus.weights import find_weights, load_model, save_model


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)


@pytest.fixture(scope="module")
def detector() -> RetinaFocus:
    return load_model(find_weights(None))


def labelled(path: Path, size: tuple[int, int], boxes: list[list[float]], **fields: Any) -> LabelledPhoto:
    count = len(boxes)
    known: dict[str, Any] = {
        "ignore": np.zeros((0, 4), np.float32),
        "source": "handmade",
        "kinds": ("human",) * count,
    }
    array = np.array(boxes, np.float32).reshape(-1, 4)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    return LabelledPhoto(path=path, size=size, boxes=array, landmarks=landmarks, **{**known, **fields})


def plan_of(size: tuple[int, int]) -> LevelPlan:
    return plan_levels(size, min_face=20, face_range=(20, 160), focus_from=3, zoom=2)


def written(path: Path, size: tuple[int, int], boxes: list[list[float]]) -> LabelledPhoto:
    """A photo of noise with flat rectangles at the boxes."""
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for left, top, right, bottom in np.array(boxes, int).reshape(-1, 4).tolist():
        cv2.rectangle(picture, (left, top), (right, bottom), (150, 180, 230), -1)
    assert cv2.imwrite(str(path), picture)
    return labelled(path, size, boxes)


# Branches


def crop(number: int) -> LabelledCrop:
    """64 px of noise with one face of 16 px."""
    return LabelledCrop(
        pixels=np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        boxes=np.array([[8, 8, 24, 24]], np.float32),
        sides=np.array([16], np.float32),
        landmarks=np.full((1, 5, 2), np.nan, np.float32),
        ignore=np.zeros((0, 4), np.float32),
        in_range=np.ones(1, bool),
    )


def after(detector: RetinaFocus, heads: tuple[Head, ...], steps: int) -> HeadTraining:
    training = HeadTraining(detector, heads, LoopConfig(steps=3, warmup_steps=1), LossConfig())
    for step in range(steps):
        training.step([crop(2 * step), crop(2 * step + 1)])
    return training


def test_a_training_that_was_killed_ends_with_the_same_weights(
    detector: RetinaFocus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [written(tmp_path / "0.png", (96, 96), [[20, 20, 60, 70]])]
    config = SampleConfig(crop=CropConfig(side=64))
    pixels = np.asarray(cv2.imread(str(photos[0].path)), np.uint8)
    samples = CropSamples(photos, lambda _: pixels, preset=detector.preset, config=config)
    told: list[int] = []

    def trained(folder: Path, steps: int) -> HeadTraining:
        training = HeadTraining(detector, LEVEL_HEADS[4:], LoopConfig(steps=2, warmup_steps=1), LossConfig())
        monkeypatch.setattr(training, "config", LoopConfig(steps=steps, warmup_steps=1))
        fit(training, samples, 2, folder / "checkpoint.pt", lambda step, _: told.append(step), report_every=2)
        return training

    (tmp_path / "whole").mkdir()
    whole = trained(tmp_path / "whole", 2)
    trained(tmp_path, 1)
    resumed = trained(tmp_path, 2)
    assert (resumed.steps_done, told) == (2, [2, 2])
    for name, branch in whole.branches.items():
        other = resumed.branches[name].state_dict()
        # The schedule of the first half ended one step sooner, but its first step has the same rate.
        assert all(torch.equal(value, other[key]) for key, value in branch.state_dict().items())


@pytest.mark.parametrize("head", LEVEL_HEADS, ids=lambda head: head.feature)
def test_the_network_of_a_branch_says_what_the_branch_does_and_finds_what_the_detector_does(
    detector: RetinaFocus, head: Head, tmp_path: Path
) -> None:
    training = after(detector, (head,), 1)
    network = load_model(write_networks(training, tmp_path, licence="none")[head.name])
    pixels = torch.from_numpy(crop(5).pixels)[None].permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours, theirs = network(pixels), detector(pixels)
        said = training.branches[head.name].eval()(*features(detector, pixels))
    assert torch.equal(ours.class_logits, theirs.class_logits)
    assert torch.equal(ours.focus_logits, said)
    assert said.shape == (1, 1, 64 // head.stride, 64 // head.stride)


def test_the_smallest_face_of_the_labels_goes_into_the_preset(detector: RetinaFocus) -> None:
    head = Head("C4", FocusLabelConfig(smallest=5, small=64, large=90))
    network = network_with(detector, marking(detector, head), after(detector, (head,), 0).branches[head.name])
    assert network.preset.focus is not None
    assert (network.preset.focus.feature, network.preset.focus.smallest) == ("C4", 5.0)
    assert (head.name, head.stride) == ("C4-5-64-90", 16)


def test_heads_that_two_parts_share_are_trained_once() -> None:
    assert [head.name for head in unique([Head("P3", OURS), Head("C2", OURS), Head("P3", OURS)])] == [
        "P3-3-40-64",
        "C2-3-40-64",
    ]


# Maps


def test_recalls_and_their_prices_by_hand() -> None:
    # 40 x 40 cells of 8 px. The first face lies on a focus cell and in its chip; the second on a dark cell, yet in the
    # same chip of 8 x 8 cells; the third far off; the fourth touches the focus cell but sticks out of the chip.
    one = np.zeros((40, 40), np.float32)
    one[10, 10] = 0.5
    faces = np.array([[80, 80, 88, 88], [96, 96, 104, 104], [240, 240, 250, 250], [40, 70, 88, 90]], np.float32)
    row = recall_row(LevelMaps(0.25, 8, [one], [faces]), 0.5, min_chip=64)
    assert row["faces"] == 4
    assert row["pixel_recall"] == 0.5
    assert row["share_of_cells"] == 1 / 1600
    assert row["share_in_chips"] == 64 / 1600
    # The chip: cells 9 to 11 grown to 8 about their centre, 7 to 14, that is 56 to 120 px.
    assert row["chip_recall"] == 0.5


def test_no_faces_have_no_recall() -> None:
    row = recall_row(LevelMaps(0.25, 8, [np.ones((4, 4), np.float32)], [np.zeros((0, 4), np.float32)]), 0.5)
    assert math.isnan(row["pixel_recall"])
    assert math.isnan(row["chip_recall"])
    assert row["share_in_chips"] == 1


def test_a_face_has_the_best_of_its_cells() -> None:
    one = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    boxes = np.array([[0, 0, 8, 8], [7, 0, 9, 8], [0, 0, 16, 16], [20, 0, 24, 8]], np.float32)
    np.testing.assert_array_equal(best_probabilities(one, boxes, 8), np.array([0.1, 0.2, 0.4, 0], np.float32))


def test_inside_one_chip_and_not_in_two_together() -> None:
    chips = np.array([[0, 0, 4, 4], [4, 0, 8, 4]], np.int32)
    boxes = np.array([[0, 0, 4, 4], [3, 1, 5, 2], [5, 1, 8, 4]], np.float32)
    assert inside_one(boxes, chips).tolist() == [True, False, True]
    assert inside_one(boxes, chips[:0]).tolist() == [False] * 3


def test_faces_that_this_level_finds_need_no_finer_look() -> None:
    # At half the size, faces of 20 to 40 photo pixels are under 20 network pixels.
    photo = labelled(Path(), (1000, 1000), [[0, 0, 19, 19], [0, 0, 20, 20], [100, 100, 139, 139], [0, 0, 40, 40]])
    level = next(each for each in plan_of((1000, 1000)).levels if each.scale == 0.5)
    np.testing.assert_allclose(needing_a_finer_look(photo, level, 20, 20), [[0.0, 0, 10, 10], [50.0, 50, 69.5, 69.5]])


# The oracle


def test_the_label_map_of_a_rectangle_marks_the_cells_of_small_faces_only() -> None:
    # At half the size: 12 px (marked), 45 px (in doubt), 2 px (too small), and an ignore region.
    boxes = [[40.0, 40, 64, 64], [200.0, 200, 290, 290], [120.0, 40, 124, 44]]
    photo = labelled(Path(), (1000, 1000), boxes, ignore=np.array([[300, 20, 340, 60]], np.float32))
    level = next(each for each in plan_of((1000, 1000)).levels if each.scale == 0.5)
    marked = label_map(photo, level, (16, 16, 80, 48), OURS, 8)
    # The face's 20..32 px are 4..16 px of the rectangle: the first two rows and columns.
    expected = np.zeros((4, 8), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(marked, expected)
    assert not label_map(photo, level, (240, 240, 304, 304), OURS, 8).any()


def test_the_oracle_looks_where_the_labels_say_and_nowhere_else(detector: RetinaFocus, tmp_path: Path) -> None:
    photo = written(tmp_path / "one.png", (800, 1200), [[600, 300, 624, 324]])
    finder = Detector(detector, DetectorConfig(device="cpu", engine="torch", threads=1))
    config = CascadeConfig(mode="focus")
    result = look_with_labels(finder, photo, config, OURS, finder.config.post)
    finest = [look.box for look in result.trace.looks if look.level.scale == 1]
    # 3 cells of a quarter of the size are the face; a chip of 64 px of half the size is 128 px of the whole.
    (chip,) = finest
    assert chip[0] <= 600
    assert chip[1] <= 300
    assert chip[2] >= 624
    assert chip[3] >= 324
    assert (chip[2] - chip[0]) * (chip[3] - chip[1]) <= 192**2
    empty = look_with_labels(finder, labelled(photo.path, photo.size, []), config, OURS, finder.config.post)
    assert empty.chips == 0


def test_the_oracle_refuses_an_engine_for_batches(detector: RetinaFocus) -> None:
    finder = Detector(detector, DetectorConfig(device="cpu", engine="torch", threads=1))
    finder.engine.batch = 4
    with pytest.raises(SettingsError, match="one picture at a time"):
        OracleEngine(finder.engine, WatchedSource(None), labelled(Path(), (8, 8), []), OURS)  # type: ignore[arg-type]


# Pictures and tables


def test_sources_that_machines_marked_are_left_out() -> None:
    photos = [
        labelled(Path("a"), (9, 9), [[0, 0, 5, 5]]),
        labelled(Path("b"), (9, 9), [[0, 0, 5, 5]], source="crowd", kinds=("pseudo",)),
        labelled(Path("c"), (9, 9), [], source="crowd"),
        labelled(Path("d"), (9, 9), [], source="empty"),
        labelled(Path("e"), (9, 9), []),
    ]
    assert [photo.path.name for photo in marked_by_people(photos)] == ["a", "d", "e"]


def test_single_faces_that_machines_marked_become_ignore_regions() -> None:
    photo = labelled(Path(), (9, 9), [[0, 0, 5, 5], [1, 1, 8, 8]], kinds=("pseudo", "human"))
    sure = without_machine_made(photo)
    assert (sure.boxes.tolist(), sure.ignore.tolist(), sure.kinds) == ([[1, 1, 8, 8]], [[0, 0, 5, 5]], ("human",))


def test_a_table_is_made_once_and_never_taken_for_one_of_other_settings(tmp_path: Path) -> None:
    settings = {"steps": 3, "sets": {"medium": [1, 2]}}
    made = made_once(tmp_path, ["a", "b"], settings, lambda: {"a": [{"x": 1}], "b": [{"y": "z"}]})
    read = made_once(tmp_path, ["a", "b"], settings, lambda: pytest.fail("made again"))
    assert made == read == {"a": [{"x": 1}], "b": [{"y": "z"}]}
    with pytest.raises(SettingsError, match=r"a\.parquet: made with steps 3, now it is 4"):
        made_once(tmp_path, ["a", "b"], settings | {"steps": 4}, lambda: pytest.fail("made again"))
    (tmp_path / "b.parquet").unlink()
    assert made_once(tmp_path, ["a", "b"], settings, lambda: {"a": [{"x": 2}], "b": [{"y": 0}]})["a"] == [{"x": 2}]


def test_markdown_by_hand() -> None:
    assert markdown([{"n": "a", "x": 1}], {"name": lambda row: str(row["n"]), "x": lambda row: str(row["x"])}) == (
        "| name | x |\n|---|---:|\n| a | 1 |\n"
    )


# The command


def test_the_command_leaves_every_table_and_plot_and_reads_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = written(tmp_path / "0.png", (340, 400), [[100, 100, 130, 130], [200, 200, 280, 280]])
    folder, out = tmp_path / "labelled", tmp_path / "out"
    write_parquet_folder({"0.png": photo}, folder, pictures="link")
    monkeypatch.setattr(command, "made_sets", lambda options: {"one": [photo]})
    monkeypatch.setattr(looking, "peak_memory", lambda *_: (2**20, None))
    for module in (chipping, perfect):
        monkeypatch.setattr(module, "THRESHOLDS", ((0.07, 0.2), (0.4, 0.7)))
    monkeypatch.setattr(chipping, "DILATIONS", (1,))
    monkeypatch.setattr(chipping, "MIN_CHIPS", (32.0,))
    monkeypatch.setattr(branches, "LEVEL_HEADS", LEVEL_HEADS[2:4])
    monkeypatch.setattr(branches, "SIZE_HEADS", SIZE_HEADS[:1])
    parts = {"level": branches.part_of("level", LEVEL_HEADS[2:4]), "sizes": branches.part_of("sizes", SIZE_HEADS[:1])}
    monkeypatch.setattr(command, "PARTS", {**command.PARTS, **parts})
    arguments = [str(folder), "--train", str(folder), "-o", str(out), "--steps", "1", "--batch", "1"]
    arguments += ["--repeats", "1", "--engine", "torch"]
    command.main(arguments)
    for name, part in command.PARTS.items():
        assert (out / f"{name}.md").stat().st_size > 200
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert all((out / f"{table}.parquet").is_file() for table in part.tables)
    told = (out / "chips.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in told.splitlines() if line.startswith("| ")][1:]
    assert rows[:4] == ["default", "t 0.4, 0.7", "d 1", "k 32"]
    assert rows[-1] == "exhaustive"
    assert "| P2-3-40-64 | as many cells |" in (out / "level.md").read_text()
    capsys.readouterr()
    monkeypatch.setattr(looking, "answers", lambda *_: pytest.fail("looked again"))
    command.main(arguments)
    assert (out / "chips.md").read_text() == told
    assert told in capsys.readouterr().out
    with pytest.raises(SettingsError, match="made with min_face"):
        command.main([*arguments, "--min-face", "30"])


def test_what_is_made_of_some_weights_is_not_taken_for_that_of_others(tmp_path: Path) -> None:
    shipped, other = find_weights(None), tmp_path / "other.safetensors"
    model = load_model(shipped)
    assert model.preset.focus is not None
    # The same tensors, another preset: the hash that `weights show` tells is the same.
    model.preset = dataclasses.replace(model.preset, focus=dataclasses.replace(model.preset.focus, thresholds=(0.5,)))
    save_model(model, other, licence="none", source="a test")
    paths = []
    for weights in (shipped, other):
        settings = Settings(weights=str(weights), min_face=20.0)
        study = Study(sets={}, settings=settings, output=tmp_path / "out", train=tmp_path / "absent")
        paths.append(chipping._from_half(study))
        with pytest.raises(LabelError, match="absent"):
            branches.trained(study)
    thresholds = [focus.thresholds for path in paths if (focus := load_model(path).preset.focus)]
    assert thresholds == [FocusConfig().thresholds, (0.5,)]
    assert len(list((tmp_path / "out").glob("heads-*"))) == 2


def test_the_default_has_the_settings_of_the_library() -> None:
    first, second = looking.chips()
    assert first == second == ChipConfig()
