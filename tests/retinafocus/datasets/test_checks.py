"""What is suspicious among boxes, landmarks and photos; numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retinafocus.datasets.checks import Likenesses, count_marked, face_shapes, label_findings, leaks, repeats
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.likeness import HASH_BITS

GOOD_POINTS = [[12, 14], [18, 14], [15, 18], [12, 22], [18, 22]]


def photo(boxes: list[list[float]], points: dict[int, list[list[float]]] | None = None) -> LabelledPhoto:
    landmarks = np.full((len(boxes), 5, 2), np.nan, np.float32)
    for face, marks in (points or {}).items():
        landmarks[face] = marks
    table = np.array(boxes, np.float32).reshape(-1, 4)
    nothing = np.zeros((0, 4), np.float32)
    return LabelledPhoto(Path("a.jpg"), (900, 900), table, landmarks, nothing, "s", ("human",) * len(boxes))


@pytest.mark.parametrize(
    ("boxes", "points", "found"),
    [
        pytest.param([], None, [], id="no faces"),
        pytest.param([[10, 10, 20, 24], [40, 10, 70, 40]], {0: GOOD_POINTS}, [], id="nothing odd"),
        pytest.param(
            [[0, 0, 100, 100], [0, 0, 100, 91]], None, ["box twice: face 1 at 0.0, 0.0, 100.0, 91.0"], id="IoU .91"
        ),
        pytest.param([[0, 0, 100, 100], [0, 0, 100, 89]], None, [], id="IoU .89"),
        pytest.param([[0, 0, 10, 31]], None, ["odd shape: face 0 at 0.0, 0.0, 10.0, 31.0"], id="three times as high"),
        pytest.param([[0, 0, 31, 10]], None, ["odd shape: face 0 at 0.0, 0.0, 31.0, 10.0"], id="three times as wide"),
        pytest.param([[0, 0, 30, 10]], None, [], id="just three times"),
        pytest.param([[0, 0, 3, 5]], None, ["under 4 px: face 0 at 0.0, 0.0, 3.0, 5.0"], id="sqrt of 15"),
        pytest.param([[0, 0, 4, 4]], None, [], id="4 px"),
        pytest.param(
            [[10, 10, 20, 24]], {0: [*GOOD_POINTS[:4], [28, 22]]},
            ["landmark outside: face 0 at 10.0, 10.0, 20.0, 24.0"], id="8 px outside, half the longer side is 7",
        ),
        pytest.param([[10, 10, 20, 24]], {0: [*GOOD_POINTS[:4], [26, 22]]}, [], id="6 px outside"),
        pytest.param(
            [[10, 10, 20, 24]], {0: [GOOD_POINTS[1], GOOD_POINTS[0], *GOOD_POINTS[2:]]},
            ["eyes exchanged: face 0 at 10.0, 10.0, 20.0, 24.0"], id="eyes",
        ),
    ],
)  # fmt: skip
def test_odd_faces_are_named(
    boxes: list[list[float]], points: dict[int, list[list[float]]] | None, found: list[str]
) -> None:
    findings = label_findings("a.jpg", photo(boxes, points))
    assert [f"{finding.kind}: {finding.detail}" for finding in findings] == found
    assert all(finding.image == "a.jpg" for finding in findings)


def test_thousands_of_faces_are_checked() -> None:
    boxes = [[10 * column, 10 * row, 10 * column + 8, 10 * row + 9] for row in range(40) for column in range(50)]
    assert label_findings("a.jpg", photo([*boxes, boxes[7]]))[0].detail.startswith("face 2000 at 70.0, 0.0")


def test_shapes_and_marks_are_counted_over_photos() -> None:
    photos = [photo([]), photo([[0, 0, 9, 16], [0, 0, 4, 4]], {1: [[1, 2], *[[np.nan] * 2] * 4]})]
    sizes, ratios = face_shapes(photos)
    assert (sizes.tolist(), ratios.tolist(), count_marked(photos)) == ([12, 4], [pytest.approx(16 / 9), 1], 1)
    assert len(face_shapes([])[0]) == count_marked([]) == 0


def likenesses(**photos: tuple[str, int, int]) -> Likenesses:
    """Each photo's content hash and where its hash, and that of its mirror image, has a run of ones."""
    made = Likenesses()
    for name, (file, shown, turned) in photos.items():
        made.images.append(name)
        made.files.append(file)
        for hashes, start in ((made.shown, shown), (made.mirrored, turned)):
            hashes.append((np.arange(HASH_BITS) // 32) == start)
    return made


def test_repeats_name_the_earlier_photo() -> None:
    photos = likenesses(a=("f1", 0, 1), b=("f2", 2, 3), c=("f1", 0, 1), d=("f3", 2, 3), e=("f4", 1, 0))
    assert [(finding.kind, finding.image, finding.detail) for finding in repeats(photos)] == [
        ("same file", "c", "a"),
        ("alike", "d", "b"),
        ("alike", "e", "a mirrored"),
    ]
    assert repeats(Likenesses()) == []


def test_leaks_name_the_photo_of_the_other_folder() -> None:
    train = likenesses(x=("f1", 0, 1), y=("f2", 2, 3))
    val = likenesses(a=("f1", 0, 1), b=("f9", 3, 2), c=("f8", 2, 3))
    assert [(finding.kind, finding.image, finding.detail) for finding in leaks(val, train)] == [
        ("same file in both", "a", "x"),
        ("alike in both", "b", "y mirrored"),
        ("alike in both", "c", "y"),
    ]
    assert leaks(Likenesses(), train) == leaks(val, Likenesses()) == []
