"""`nms` gives the indices of `torchvision.ops.nms`, in the same order, for every input, and never N x N memory."""

from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retinafocus import nms as nms_module
from retinafocus.errors import SettingsError
from retinafocus.nms import nms

THRESHOLDS = [0.0, 0.05, 0.1, 0.3, 1 / 3, 0.4, 0.5, 2 / 3, 0.7, 0.9, 1.0]


def tensors(boxes: object, scores: object) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4)),
        torch.as_tensor(np.asarray(scores, dtype=np.float32)),
    )


def assert_same_as_torchvision(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> None:
    assert nms(boxes, scores, threshold).tolist() == torchvision.ops.nms(boxes, scores, threshold).tolist()


def squares(centres: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([centres - sides[:, None] / 2, centres + sides[:, None] / 2])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and chunks so small that a handful of boxes takes the way of tens of thousands."""
    monkeypatch.setattr(nms_module, "FEW_BOXES", 1)
    monkeypatch.setattr(nms_module, "BLOCK", 3)
    monkeypatch.setattr(nms_module, "PAIRS_AT_A_TIME", 5)


# Two boxes of 10 x 10 with IoU 1/3 (50 of 150), one beside them, all by hand.
HAND_CASES = [
    pytest.param(0.3, [1, 2], id="dropped_above_the_threshold"),
    pytest.param(0.34, [1, 0, 2], id="kept_below_the_threshold"),
]


@pytest.mark.parametrize(("threshold", "expected"), HAND_CASES)
def test_worse_box_of_an_overlapping_pair_is_dropped(threshold: float, expected: list[int]) -> None:
    boxes, scores = tensors([[0, 0, 10, 10], [0, 5, 10, 15], [40, 0, 50, 10]], [0.8, 0.9, 0.1])
    assert nms(boxes, scores, threshold).tolist() == expected


def test_result_is_int64_and_best_score_first() -> None:
    boxes, scores = tensors([[0, 0, 1, 1], [5, 0, 6, 1], [9, 0, 10, 1]], [0.2, 0.9, 0.5])
    kept = nms(boxes, scores, 0.4)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [1, 2, 0]


def test_no_boxes_keep_nothing() -> None:
    kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.4)
    assert kept.dtype == torch.int64
    assert kept.shape == (0,)


def test_equal_scores_keep_the_order_given(small_blocks: None) -> None:
    boxes, scores = tensors([[4 * i, 0, 4 * i + 3, 3] for i in range(20)], [0.5] * 20)
    assert nms(boxes, scores, 0.4).tolist() == list(range(20))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_identical_boxes_leave_the_first_of_the_best(small_blocks: None, threshold: float) -> None:
    # IoU is exactly 1, which is not above a threshold of 1.
    boxes, scores = tensors([[10, 10, 30, 40]] * 12, [0.5, 0.7, 0.7] + [0.1] * 9)
    expected = [1, 2, 0, *range(3, 12)] if threshold == 1 else [1]
    assert nms(boxes, scores, threshold).tolist() == expected


# IoU 4/10 is 0.4000000059604645 in float32. As a double, 0.4 lies below it (drop); the float32 itself does not (keep).
@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        pytest.param(0.4, [0], id="double_0.4"),
        pytest.param(float(np.float32(0.4)), [0, 1], id="float32_0.4"),
    ],
)
def test_threshold_is_compared_in_double_precision(
    monkeypatch: pytest.MonkeyPatch, threshold: float, expected: list[int]
) -> None:
    monkeypatch.setattr(nms_module, "FEW_BOXES", 1)
    monkeypatch.setattr(nms_module, "BLOCK", 1)
    boxes, scores = tensors([[0, 0, 10, 1], [0, 0, 4, 1]], [0.9, 0.8])
    assert torchvision.ops.nms(boxes, scores, threshold).tolist() == expected
    assert nms(boxes, scores, threshold).tolist() == expected


DEGENERATE = {
    "zero_width": [20, 20, 20, 40],
    "zero_area_point": [25, 25, 25, 25],
    "inverted_in_x": [40, 20, 20, 40],
    "inverted_in_both": [40, 40, 20, 20],
    "nan": [float("nan"), 20, 40, 40],
    "infinite": [20, 20, float("inf"), 40],
    "everywhere": [-float("inf"), -float("inf"), float("inf"), float("inf")],
    "area_overflows": [-3e38, -3e38, 3e38, 3e38],
    "area_underflows": [20, 20, 20 + 2e-6, 20 + 2e-6],
}


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("box", [pytest.param(box, id=name) for name, box in DEGENERATE.items()])
def test_degenerate_boxes_are_treated_as_by_torchvision(small_blocks: None, box: list[float], threshold: float) -> None:
    boxes, scores = tensors([box, box, [20, 20, 40, 40], [21, 20, 41, 40], [20, 20, 40, 40], box], [6, 5, 4, 3, 2, 1])
    assert_same_as_torchvision(boxes, scores, threshold)


@pytest.mark.parametrize("name", ["zero_width", "inverted_in_both", "nan", "infinite"])
def test_box_without_a_usable_area_is_kept_and_suppresses_nothing(small_blocks: None, name: str) -> None:
    boxes, scores = tensors([DEGENERATE[name], DEGENERATE[name], [20, 20, 40, 40], [20, 20, 40, 40]], [4, 3, 2, 1])
    assert nms(boxes, scores, 0.4).tolist() == [0, 1, 2]


def test_boxes_with_denormal_areas_are_treated_as_by_torchvision(small_blocks: None) -> None:
    sides = np.array([1e-22, 2e-22, 1e-22, 3e-22, 1.0, 1.1])
    boxes, scores = tensors(squares(np.zeros((6, 2)), sides), np.linspace(1, 0.5, 6))
    for threshold in THRESHOLDS:
        assert_same_as_torchvision(boxes, scores, threshold)


def test_nan_scores_come_first_as_torch_sorts_them(small_blocks: None) -> None:
    boxes, scores = tensors([[0, 0, 9, 9]] * 5 + [[20, 0, 29, 9]], [0.5, float("nan"), 0.9, float("nan"), 0.1, 0.2])
    assert nms(boxes, scores, 0.4).tolist() == [1, 5]
    assert_same_as_torchvision(boxes, scores, 0.4)


# Coordinates on a half-pixel grid with few values make ties, equal boxes and IoUs exactly at the threshold common.
coordinates = st.integers(-8, 24).map(lambda value: value / 2)
sides = st.sampled_from([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, 9, 20, 100, -2])
box_rows = st.tuples(coordinates, coordinates, sides, sides).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
rows = st.lists(st.tuples(box_rows, st.sampled_from([0.1, 0.2, 0.5, 0.9, 1.0])), max_size=40)


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from(THRESHOLDS), st.integers(1, 12), st.integers(1, 30), st.sampled_from([0, 12]))
def test_any_boxes_give_the_indices_of_torchvision(
    rows: list[tuple[list[float], float]], threshold: float, block: int, pairs: int, pair_cost: int
) -> None:
    boxes, scores = tensors([row[0] for row in rows], [row[1] for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms_module, "FEW_BOXES", 1)
        patch.setattr(nms_module, "BLOCK", block)
        patch.setattr(nms_module, "PAIRS_AT_A_TIME", pairs)
        patch.setattr(nms_module, "PAIR_COST", pair_cost)
        assert_same_as_torchvision(boxes, scores, threshold)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-5, 8), st.floats(0, 7), st.sampled_from(THRESHOLDS))
def test_boxes_of_any_scale_and_spread_give_the_indices_of_torchvision(
    seed: int, log_scale: float, octaves: float, threshold: float
) -> None:
    random = np.random.default_rng(seed)
    sides = np.exp2(random.uniform(0, octaves, 200))
    boxes = squares(random.uniform(0, 30, (200, 2)) * random.choice([1, 10]), sides) * 10**log_scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms_module, "FEW_BOXES", 1)
        patch.setattr(nms_module, "BLOCK", 10)
        assert_same_as_torchvision(*tensors(boxes, random.random(200).round(2)), threshold)


def spread(random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors(squares(random.uniform(0, 1500, (6000, 2)), random.uniform(6, 30, 6000)), random.random(6000))


def crowd(random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    faces = squares(random.uniform(0, 1500, (300, 2)), np.exp(random.uniform(2, 5, 300)))
    jitter = random.normal(0, 0.08, (300, 20, 4)) * (faces[:, 2] - faces[:, 0])[:, None, None]
    return tensors((faces[:, None] + jitter).reshape(-1, 4), random.random(6000))


def piled(random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors(squares(random.normal(500, 4, (6000, 2)), random.uniform(90, 110, 6000)), random.random(6000))


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("layout", [spread, crowd, piled])
def test_thousands_of_boxes_give_the_indices_of_torchvision(layout: object, threshold: float) -> None:
    boxes, scores = layout(np.random.default_rng(7))  # type: ignore[operator]
    assert_same_as_torchvision(boxes, scores, threshold)


def test_one_giant_among_thirty_thousand_tiny_boxes_changes_nothing_for_them() -> None:
    # Tiny boxes of 4 px on a grid of 8 px cannot overlap; the giant's IoU with each is 16 / 10,240,000.
    columns, rows = np.meshgrid(np.arange(200) * 8.0, np.arange(150) * 8.0)
    tiny = squares(np.stack([columns.ravel(), rows.ravel()], axis=1), np.full(30_000, 4.0))
    boxes, scores = tensors(np.vstack([[[0, 0, 3200, 3200]], tiny]), np.linspace(1, 0.1, 30_001))
    assert nms(boxes, scores, 0.4).tolist() == list(range(30_001))


def test_hundred_thousand_boxes_take_memory_far_below_their_square() -> None:
    random = np.random.default_rng(3)
    boxes, scores = tensors(squares(random.uniform(0, 8000, (100_000, 2)), np.full(100_000, 12.0)), np.ones(100_000))
    tracemalloc.start()
    nms(boxes, scores, 0.4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The square as bits alone would be 1,250 MB.
    assert peak < 100e6


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "message"),
    [
        pytest.param((3, 4), (3,), 1.5, "iou_threshold is 1.5; choose 0..1", id="threshold_above_one"),
        pytest.param((3, 4), (3,), float("nan"), "iou_threshold is nan; choose 0..1", id="threshold_nan"),
        pytest.param((3, 5), (3,), 0.4, r"boxes are \(3, 5\) and scores \(3,\)", id="five_columns"),
        pytest.param((3, 4), (2,), 0.4, r"boxes are \(3, 4\) and scores \(2,\)", id="lengths_differ"),
    ],
)
def test_wrong_settings_are_named(
    boxes: tuple[int, ...], scores: tuple[int, ...], threshold: float, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        nms(torch.zeros(boxes), torch.zeros(scores), threshold)


def test_half_precision_boxes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"boxes are torch\.float16 and scores torch\.float32"):
        nms(torch.zeros(2, 4, dtype=torch.float16), torch.zeros(2), 0.4)


@pytest.mark.gpu
def test_boxes_on_the_gpu_give_the_answer_of_the_cpu_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    boxes, scores = spread(np.random.default_rng(1))
    kept = nms(boxes.cuda(), scores.cuda(), 0.4)
    assert kept.is_cuda
    assert kept.cpu().tolist() == nms(boxes, scores, 0.4).tolist()


def test_benchmark_runs_and_prints_a_row_per_layout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["nms", "--sizes", "40"])
    runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "nms.py"), run_name="__main__")
    torch.set_num_threads(threads)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["layout", "spread", "crowd", "piled"]
