"""Anchor and focus targets against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from retinafocus.anchors import anchor_boxes
from retinafocus.errors import SettingsError
from retinafocus.models import get_preset
from retinafocus.training.targets import (
    BETWEEN,
    MATCH_PRESETS,
    UNMATCHED,
    AnchorTargets,
    FocusLabelConfig,
    MatchConfig,
    anchor_targets,
    focus_labels,
    match_anchors,
    overlapping_pairs,
)

VARIANCES = (0.1, 0.2)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def targets(anchors: Tensor, faces: Tensor, ignore: Tensor, config: MatchConfig) -> AnchorTargets:
    centred = torch.cat([(anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]], dim=1)
    landmarks = torch.full((len(faces), 5, 2), math.nan)
    return anchor_targets(centred, faces, landmarks, ignore, variances=VARIANCES, config=config)


def match(anchors: Tensor, faces: Tensor, config: MatchConfig) -> list[int]:
    matched: list[int] = match_anchors(overlapping_pairs(anchors, faces), len(anchors), config).tolist()
    return matched


# Anchors of 10 x 10 px, moved to the right of a face at (0, 0, 10, 10): IoU (10 - d) / (10 + d).
SHIFTED = boxes(*((shift, 0, shift + 10, 10) for shift in (0.0, 3.0, 4.5, 5.0, 9.0)))  # 1, .538, .379, .333, .053


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        pytest.param("biubug6", [0, 0, 0, UNMATCHED, UNMATCHED], id="biubug6: no band"),
        pytest.param("paper", [0, 0, BETWEEN, BETWEEN, UNMATCHED], id="paper: ignored from 0.3 to 0.5"),
        pytest.param("retinafocus", [0, 0, 0, BETWEEN, UNMATCHED], id="retinafocus: ignored from 0.3 to 0.35"),
    ],
)
def test_presets_match_by_overlap(preset: str, expected: list[int]) -> None:
    assert match(SHIFTED, boxes((0, 0, 10, 10)), MATCH_PRESETS[preset]) == expected


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        pytest.param(6.0, [0, UNMATCHED], id="0.25 is forced"),
        pytest.param(7.0, [UNMATCHED, UNMATCHED], id="0.18 is not"),
    ],
)
def test_the_best_anchor_of_a_face_is_forced(shift: float, expected: list[int]) -> None:
    anchors = boxes((shift, 0, shift + 10, 10), (50, 50, 60, 60))
    assert match(anchors, boxes((0, 0, 10, 10)), MATCH_PRESETS["biubug6"]) == expected


def test_a_forced_anchor_goes_to_the_face_it_overlaps_more() -> None:
    anchors = boxes((0, 0, 10, 10))
    nearer_last = boxes((6, 0, 16, 10), (5.5, 0, 15.5, 10))  # 0.25, 0.29
    assert match(anchors, nearer_last, MATCH_PRESETS["biubug6"]) == [1]
    assert match(anchors, nearer_last.flip(0), MATCH_PRESETS["biubug6"]) == [0]
    twice = boxes((6, 0, 16, 10), (6, 0, 16, 10))
    assert match(anchors, twice, MATCH_PRESETS["biubug6"]) == [0]


def test_a_face_takes_its_only_anchor_from_a_face_that_has_others() -> None:
    # Both anchors suit face 0 (IoU 1 and 0.54); the second is all that face 1 has (9 of 100 + 30 - 9 ... = 0.25).
    anchors = boxes((0, 0, 10, 10), (3, 0, 13, 10))
    faces = boxes((0, 0, 10, 10), (9, 0, 19, 10))
    assert match(anchors, faces, MATCH_PRESETS["biubug6"]) == [0, 1]


def test_further_forced_anchors_do_not_take_what_suits_another_face() -> None:
    config = MatchConfig(forced_anchors=2)
    anchors = boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 0, 30, 10))
    faces = boxes((0, 0, 10, 10), (4.9, 0, 14.9, 10))  # face 0 overlaps anchor 1 by 0.33, its second best
    assert match(anchors, faces, config) == [0, 1, UNMATCHED]
    assert match(anchors, faces[:1], config) == [0, 0, UNMATCHED]


def test_a_face_without_anchor_is_spared_or_background() -> None:
    anchors, tiny = boxes((0, 0, 10, 10), (20, 20, 30, 30)), boxes((3, 3, 6, 6))  # IoU 0.09
    assert match(anchors, tiny, MATCH_PRESETS["biubug6"]) == [UNMATCHED, UNMATCHED]
    assert match(anchors, tiny, MATCH_PRESETS["retinafocus"]) == [BETWEEN, UNMATCHED]
    nowhere = boxes((100, 100, 103, 103))
    assert match(anchors, nowhere, MATCH_PRESETS["retinafocus"]) == [UNMATCHED, UNMATCHED]


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        pytest.param((0, 0, 5, 10), -1, id="half the anchor inside"),
        pytest.param((0, 0, 4.9, 10), -1, id="less inside but matched (0.49)"),
        pytest.param((2, 2, 7, 6), -1, id="small region whose best anchor this is (0.2)"),
        pytest.param((2, 2, 6, 6), 0, id="small region with no anchor (0.16)"),
        pytest.param((-100, -100, 200, 200), -1, id="crowd region around the anchor"),
        pytest.param((30, 30, 40, 40), 0, id="elsewhere"),
    ],
)
def test_ignore_regions_give_no_negatives(region: tuple[float, ...], expected: int) -> None:
    result = targets(boxes((0, 0, 10, 10)), boxes(), boxes(region), MATCH_PRESETS["biubug6"])  # type: ignore[arg-type]
    assert result.labels.tolist() == [expected]
    assert len(result.positives) == 0, "an ignore region gives no positives either"


def test_a_face_wins_over_an_ignore_region_around_it() -> None:
    anchors = boxes((0, 0, 10, 10), (20, 20, 30, 30), (60, 60, 70, 70))
    result = targets(anchors, boxes((0, 0, 10, 10)), boxes((0, 0, 40, 40)), MATCH_PRESETS["biubug6"])
    assert result.labels.tolist() == [1, -1, 0]
    assert (result.positives.tolist(), result.faces.tolist()) == ([0], [0])


def test_offsets_and_missing_landmarks() -> None:
    anchors = torch.tensor([[50.0, 50, 20, 20]])
    face = boxes((42, 44, 62, 64))  # centre (52, 54), 20 x 20
    landmarks = torch.tensor([[[46.0, 50], [58, 50], [math.nan, math.nan], [50, 50], [50, 60]]])
    result = anchor_targets(anchors, face, landmarks, boxes(), variances=VARIANCES, config=MatchConfig())
    assert torch.allclose(result.box_deltas, torch.tensor([[1.0, 2.0, 0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(result.landmark_deltas, torch.tensor([[-2.0, 0, 4, 0, 0, 0, 0, 0, 0, 5]]), atol=1e-6)
    assert result.landmark_mask.tolist() == [[True] * 4 + [False] * 2 + [True] * 4]


def test_no_faces_and_no_anchors_give_empty_targets() -> None:
    for anchors in (boxes((0, 0, 10, 10)), boxes()):
        result = targets(anchors, boxes(), boxes(), MATCH_PRESETS["retinafocus"])
        assert result.labels.tolist() == [0] * len(anchors)
        assert result.box_deltas.shape == (0, 4)
        assert result.landmark_deltas.shape == result.landmark_mask.shape == (0, 10)
    assert targets(boxes(), boxes((0, 0, 9, 9)), boxes((0, 0, 9, 9)), MatchConfig()).labels.shape == (0,)


def test_bands_find_the_pairs_of_the_full_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 64, 65, 300):
        faces = torch.rand((count, 4), generator=generator) * 200
        faces[:, 2:] = faces[:, :2] + 1 + torch.rand((count, 2), generator=generator) * 60
        preset = get_preset("mobile025")
        anchors = box_convert(anchor_boxes(preset.anchors, (200, 230)), "cxcywh", "xyxy")
        pairs = overlapping_pairs(anchors, faces)
        dense = torch.zeros((len(anchors), count))
        dense[pairs.anchors, pairs.boxes] = torch.from_numpy(pairs.overlaps)
        assert torch.allclose(dense, box_iou(anchors, faces), atol=1e-6)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"forced <= negative <= positive .* negative 0\.6, positive 0\.5"):
        MatchConfig(positive=0.5, negative=0.6)
    with pytest.raises(SettingsError, match="forced_anchors is -1"):
        MatchConfig(forced_anchors=-1)
    with pytest.raises(SettingsError, match="smallest < small <= large, got 5"):
        FocusLabelConfig(smallest=5, small=5, large=10)


def painted(face: tuple[float, ...], side: float | None = None, ignore: Tensor | None = None) -> list[list[int]]:
    box = torch.tensor([face])
    sides = (box[:, 2:] - box[:, :2]).prod(dim=1).sqrt() if side is None else torch.tensor([side])
    config = FocusLabelConfig(smallest=5, small=12, large=20)
    regions = torch.zeros((0, 4)) if ignore is None else ignore
    return focus_labels(box, sides, regions, size=(24, 30), stride=8, config=config).tolist()


NONE = [[0, 0, 0, 0]] * 3


@pytest.mark.parametrize(
    ("face", "side", "expected"),
    [
        pytest.param((2, 2, 8, 8), None, [[1, 0, 0, 0], *NONE[:2]], id="6 px, ends at the cell's edge"),
        pytest.param((2, 2, 8.1, 8), None, [[1, 1, 0, 0], *NONE[:2]], id="a hair into the next cell"),
        pytest.param((2, 2, 7, 7), None, [[-1, 0, 0, 0], *NONE[:2]], id="a itself is too small"),
        pytest.param((8, 8, 20, 20), None, [NONE[0], *[[0, -1, -1, 0]] * 2], id="b itself is unsure"),
        pytest.param((0, 0, 20, 20), None, NONE, id="c itself is large"),
        pytest.param((-8, 16, 4, 24), None, [*NONE[:2], [1, 0, 0, 0]], id="over the left edge"),
        pytest.param((24, 0, 30, 6), 100, NONE, id="the cut rest of a large face"),
        pytest.param((25, 17, 40, 30), 8, [*NONE[:2], [0, 0, 0, 1]], id="over the corner"),
    ],
)
def test_focus_cells(face: tuple[float, ...], side: float | None, expected: list[list[int]]) -> None:
    assert painted(face, side) == expected


def test_focus_positives_win_over_ignore_and_large_faces_erase_nothing() -> None:
    ignore = torch.tensor([[0.0, 0, 30, 8]])
    assert painted((2, 2, 8, 8), None, ignore) == [[1, -1, -1, -1], *NONE[:2]]
    both = torch.tensor([[2.0, 2, 8, 8], [0, 0, 30, 24]])
    config = FocusLabelConfig(smallest=5, small=12, large=20)
    labels = focus_labels(both, torch.tensor([6.0, 27]), torch.zeros((0, 4)), size=(24, 30), stride=8, config=config)
    assert labels.tolist() == [[1, 0, 0, 0], *NONE[:2]]


def test_focus_without_faces_is_all_negative() -> None:
    labels = focus_labels(
        torch.zeros((0, 4)), torch.zeros(0), torch.zeros((0, 4)), size=(1, 1), stride=8, config=FocusLabelConfig()
    )
    assert labels.tolist() == [[0]]
    assert labels.dtype == torch.int8
