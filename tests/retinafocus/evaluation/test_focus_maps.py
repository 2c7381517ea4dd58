"""Thresholds by the share of cells that they mark, and room around focus cells; worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retinafocus.evaluation.focus_maps import dilation_of, share_above, threshold_for


def test_threshold_for_a_share_marks_that_share() -> None:
    hundredths = np.float32(0.01) * np.arange(1, 101, dtype=np.float32)
    maps = [hundredths[:50].reshape(5, 10), hundredths[None, 50:]]
    threshold = threshold_for(maps, 0.1)
    assert threshold == pytest.approx(0.91)
    assert share_above(maps, threshold) == pytest.approx(0.1)
    assert threshold_for([np.zeros((2, 2), np.float32)], 0.5) > 0, "the cascade takes no threshold of 0"


def test_room_around_focus_cells_is_the_same_in_pixels_at_every_stride() -> None:
    assert {stride: dilation_of(stride) // 2 * stride for stride in (4, 8, 16)} == {4: 8, 8: 8, 16: 16}
