from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.focus_shares import focus_shares
from retinafocus.training.targets import FocusLabelConfig

LABELS = FocusLabelConfig(smallest=3, small=16, large=24)


def photo(boxes: list[list[float]], ignore: list[list[float]], size: tuple[int, int] = (64, 128)) -> LabelledPhoto:
    return LabelledPhoto(
        path=Path("a.jpg"),
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
        ignore=np.array(ignore, np.float32).reshape(-1, 4),
        source="own",
        kinds=("human",) * len(boxes),
    )


def test_faces_and_cells_are_counted_as_the_labels_paint_them() -> None:
    # At half scale 32 x 64 px, 4 x 8 cells of 8 px.
    boxes = [[0, 0, 16, 16], [32, 0, 36, 4], [64, 0, 96, 32], [0, 0, 128, 64]]  # 8, 2, 16 and 45 px there
    shares = focus_shares([photo(boxes, ignore=[[112, 48, 128, 64]])], LABELS, scale=0.5)
    assert (shares.faces, shares.cells) == (4, 32)
    assert (shares.worth_a_look, shares.too_small, shares.unsure) == (0.25, 0.25, 0.25)
    assert shares.focus_cells == 1 / 32  # the face of 8 px fills one cell
    assert shares.ignored_cells == (1 + 4 + 1) / 32  # too small, unsure, ignore region


def test_a_size_on_a_limit_is_no_focus() -> None:
    at_limits = [[0, 0, 3, 3], [16, 0, 32, 16], [64, 0, 88, 24]]
    shares = focus_shares([photo(at_limits, [])], LABELS, scale=1)
    assert (shares.worth_a_look, shares.focus_cells) == (0, 0)
    assert (shares.too_small, shares.unsure) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_photos_of_odd_sizes_have_their_last_cells() -> None:
    shares = focus_shares([photo([], [], size=(65, 33)), photo([], [], size=(1, 1))], LABELS, scale=1)
    assert (shares.cells, shares.focus_cells) == (9 * 5 + 1, 0)
    assert math.isnan(shares.worth_a_look)


def test_no_photos_have_no_shares() -> None:
    shares = focus_shares([], LABELS, scale=0.5)
    assert (shares.faces, shares.cells) == (0, 0)
    assert math.isnan(shares.focus_cells)
