"""What `retinafocus eval` knows of a set before it looks at a photo."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli
from pipelines.evaluation_sets import SetOptions, open_set
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_parquet_folder
from retinafocus.errors import LabelError

FACE = (5.0, 5.0, 45.0, 65.0)


def photo(path: Path, side: int, boxes: list[tuple[float, ...]]) -> LabelledPhoto:
    assert cv2.imwrite(str(path), np.full((side, side, 3), 99, np.uint8))
    return LabelledPhoto(
        path=path,
        size=(side, side),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
        ignore=np.zeros((0, 4), np.float32),
        source="made",
        kinds=("human",) * len(boxes),
    )


@pytest.fixture
def canvases(tmp_path: Path) -> Path:
    """Of three photos one has no face, and one is larger than the canvas."""
    photos = {
        "made/a.png": photo(tmp_path / "a.png", 100, [FACE]),
        "made/b.png": photo(tmp_path / "b.png", 90, []),
        "made/c.png": photo(tmp_path / "c.png", 300, [FACE, FACE]),
    }
    write_parquet_folder(photos, tmp_path / "labelled", pictures="copy")
    out = tmp_path / "canvases"
    assert cli.main(["make-4k", str(tmp_path / "labelled"), "-o", str(out), "--size", "256x256"]) == 0
    return out


def test_the_notes_of_canvases_count_photos_without_a_box_and_photos_left_out(canvases: Path) -> None:
    empty, left_out = open_set(SetOptions(dataset="4k", path=str(canvases))).notes
    assert empty.startswith("1 of 2 photos have no box at all")
    assert left_out == "1 photos are on no canvas; their faces (2 easy, 2 medium, 2 hard) count nowhere here."


def test_canvases_without_the_list_of_photos_left_out_are_refused(canvases: Path) -> None:
    (canvases / "excluded.parquet").unlink()
    with pytest.raises(LabelError, match=r"excluded\.parquet: cannot be read .* copy the set of canvases again"):
        open_set(SetOptions(dataset="4k", path=str(canvases)))
