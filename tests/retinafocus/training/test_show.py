"""A drawn sample shows each thing in its colour and place."""

from __future__ import annotations

import numpy as np
import torch

from retinafocus.training.augment import LabelledCrop
from retinafocus.training.samples import Sample
from retinafocus.training.show import draw_sample
from retinafocus.training.targets import AnchorTargets


def test_outlines_points_and_cells_are_where_they_belong() -> None:
    landmarks = np.full((2, 5, 2), np.nan, dtype=np.float32)
    landmarks[0, 0] = (10, 10)
    crop = LabelledCrop(
        pixels=np.zeros((30, 30, 3), dtype=np.uint8),
        boxes=np.array([[4, 4, 16, 16], [1, 20, 6, 25]], dtype=np.float32),
        sides=np.array([12, 5], dtype=np.float32),
        landmarks=landmarks,
        ignore=np.array([[20, 20, 26, 26]], dtype=np.float32),
        in_range=np.array([True, False]),
    )
    anchors = torch.tensor([[100.0, 100, 10, 10], [10, 20, 4, 4]])
    empty = torch.zeros((0, 4))
    targets = AnchorTargets(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([0]), empty, empty, empty)
    focus = torch.tensor([[1, 0, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, -1]], dtype=torch.int8)
    picture = draw_sample(Sample(crop, targets, focus), anchors, enlargement=2)
    assert picture.shape == (60, 60, 3)
    assert picture[8, 20].tolist() == [255, 255, 255], "top side of the face"
    assert picture[20, 20].tolist() == [255, 0, 0], "left eye"
    assert picture[40, 46].tolist() == [255, 0, 0], "ignore region"
    assert picture[40, 6].tolist() == [255, 140, 0], "face for another scale"
    assert picture[36, 20].tolist() == [0, 255, 0], "positive anchor"
    assert picture[2, 2].tolist() == [102, 88, 0], "focus cell"
    assert picture[58, 58].tolist() == [24, 24, 102], "ignored cell, cut by the border"
    assert not crop.pixels.any(), "the sample itself is not drawn on"
    plain = draw_sample(Sample(crop, targets, None), anchors, enlargement=1)
    assert plain[1, 1].tolist() == [0, 0, 0]
