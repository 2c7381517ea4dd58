from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from retinafocus.evaluation.focus_limits import (
    Limit,
    Recommendation,
    large_limit,
    plateau,
    recommend,
    small_limit,
    smallest_limit,
)
from retinafocus.evaluation.focus_study import FACES_SCHEMA, SIZE_EDGES, SizeBin

# Recall of each bin: nothing below 8 px, a slope, and 0.9 from 32 px on.
RISING = {0: 0.0, 4: 0.02, 6: 0.09, 8: 0.3, 10: 0.4, 12: 0.5, 16: 0.6, 20: 0.7, 25: 0.8, 32: 0.88, 40: 0.9, 50: 0.9,
          64: 0.9, 80: 0.9, 100: 0.9, 128: 0.9, 256: 0.5}  # fmt: skip
FALLING_GAIN = {0: 0.0, 4: 0.4, 6: 0.6, 8: 0.6, 10: 0.5, 12: 0.4, 16: 0.3, 20: 0.2, 25: 0.1, 32: 0.02, 40: 0.006,
                50: 0.004, 64: 0.0, 80: -0.1, 100: -0.2, 128: -0.3, 256: -0.4}  # fmt: skip


def bins(
    recalls: dict[int, float] | None = None,
    gains: dict[int, float] | None = None,
    faces: dict[int, int] | None = None,
    pairs: dict[int, int] | None = None,
) -> list[SizeBin]:
    """A thousand faces and pairs in each bin, but for those named."""
    made = []
    for low, high in itertools.pairwise(SIZE_EDGES):
        number, recall = (faces or {}).get(int(low), 1000), (RISING | (recalls or {}))[int(low)]
        made.append(
            SizeBin(
                low=low, high=high, faces=number, recalls=(recall,) * 4 if number else (math.nan,) * 4,
                recall_low=0, recall_high=1, mean_score=0.5, mean_iou=0.7,
                pairs=(pairs or {}).get(int(low), 1000), gain=(FALLING_GAIN | (gains or {}))[int(low)],
            )
        )  # fmt: skip
    return made


EVERYWHERE = {int(low): 0 for low in SIZE_EDGES[:-1]}


def test_plateau_counts_each_face_of_64_to_256_px_once() -> None:
    # 0.9 * 3000 + 0.5 * 1000 of 4000; what lies outside does not count
    assert plateau(bins({64: 0.5, 50: 0.0, 256: 0.0})) == pytest.approx(0.8)
    assert plateau(bins({64: 0.5}, faces={80: 0, 100: 0, 128: 0})) == pytest.approx(0.5)


@pytest.mark.parametrize(("faces", "known"), [(99, False), (100, True)])
def test_plateau_needs_a_hundred_faces(faces: int, known: bool) -> None:
    top = plateau(bins(faces=EVERYWHERE | {80: faces}))
    assert top == (pytest.approx(0.9) if known else None)


@pytest.mark.parametrize(
    ("recalls", "faces", "answer"),
    [
        pytest.param({}, {}, 32, id="0.88 is more than 0.855"),
        pytest.param({32: 0.85}, {}, 40, id="0.85 is less"),
        pytest.param({32: 0.855}, {}, 32, id="0.855 itself is enough"),
        pytest.param({20: 0.9}, {}, 32, id="a good bin below a bad one does not count"),
        pytest.param({25: 0.0, 32: 0.0}, {25: 99, 32: 99}, 40, id="few faces say nothing"),
        pytest.param({32: 0.0, 25: 0.9}, {32: 99}, 25, id="few faces are passed over"),
        pytest.param({256: 0.0}, {}, 32, id="beyond the plateau nothing is asked"),
        pytest.param({int(low): 1.0 for low in SIZE_EDGES[:-1]}, {}, 0, id="all found"),
    ],
)
def test_b_is_where_recall_has_reached_95_percent_of_the_plateau(
    recalls: dict[int, float], faces: dict[int, int], answer: float
) -> None:
    assert small_limit(bins(recalls, faces=faces)).pixels == answer


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        pytest.param(
            bins(faces={64: 0, 80: 50, 100: 0, 128: 49}), "fewer than 100 faces are of 64 to 256 px", id="few"
        ),
        pytest.param(bins(dict.fromkeys((64, 80, 100, 128), 0.0)), "no face is found at 64 to 256 px", id="none found"),
        pytest.param(bins({128: 0.5}), "recall is below 0.760", id="the plateau is none"),
        pytest.param(
            bins(faces=EVERYWHERE | dict.fromkeys((64, 80, 100, 128), 50)), "no size up to 256 px has 100", id="thin"
        ),
    ],
)
def test_b_has_no_answer_and_says_why(made: list[SizeBin], reason: str) -> None:
    limit = small_limit(made)
    assert limit.pixels is None
    assert reason in limit.reason


@pytest.mark.parametrize(
    ("gains", "pairs", "answer"),
    [
        pytest.param({}, {}, 50, id="0.4 points is less than half a point"),
        pytest.param({50: 0.005}, {}, 64, id="half a point is not less"),
        pytest.param({80: 0.01}, {}, 100, id="a later gain counts"),
        pytest.param({80: 0.01}, {80: 99}, 50, id="few pairs are passed over"),
        pytest.param({0: 0.0}, EVERYWHERE | {0: 100}, 0, id="nothing ever gains"),
    ],
)
def test_c_is_where_a_zoom_adds_nothing_any_more(gains: dict[int, float], pairs: dict[int, int], answer: float) -> None:
    assert large_limit(bins(gains=gains, pairs=pairs)).pixels == answer


def test_c_has_no_answer_without_pairs_or_while_the_largest_gain() -> None:
    assert large_limit(bins(pairs=EVERYWHERE)) == Limit(
        None, "no size has 100 faces that were also looked at one zoom larger"
    )
    limit = large_limit(bins(gains={40: 0.1}, pairs=dict.fromkeys((50, 64, 80, 100, 128, 256), 0)))
    assert limit == Limit(None, "even from 40 px on a zoom adds 10.0 points of recall")


@pytest.mark.parametrize(
    ("recalls", "faces", "answer"),
    [
        pytest.param({}, {}, 2.0, id="under 8 px less than a tenth is found"),
        pytest.param({6: 0.1}, {}, 1.5, id="a tenth is found"),
        pytest.param({6: 0.5, 8: 0.0}, {}, 1.5, id="what comes after a found size does not count"),
        pytest.param({4: 0.9}, {4: 99}, 2.0, id="few faces are passed over"),
        pytest.param({}, {0: 0, 4: 0}, 2.0, id="the smallest bins may be empty"),
        pytest.param({0: 0.1}, {}, 0.0, id="even the smallest are found"),
    ],
)
def test_a_is_a_zoom_below_the_sizes_that_are_hardly_found(
    recalls: dict[int, float], faces: dict[int, int], answer: float
) -> None:
    assert smallest_limit(bins(recalls, faces=faces), 4).pixels == answer


def test_a_has_no_answer_and_says_why() -> None:
    def reason(made: list[SizeBin]) -> str:
        limit = smallest_limit(made, 4)
        assert limit.pixels is None
        return limit.reason

    assert reason(bins(faces=EVERYWHERE)) == "no size has 100 faces"
    assert reason(bins({int(low): 0.0 for low in SIZE_EDGES[:-1]})) == "recall is below 0.1 at every size"
    assert reason(bins(faces={0: 0, 4: 0, 6: 0})) == "the smallest size with 100 faces, 8 px, is found already"


def test_no_faces_no_answer() -> None:
    answer = recommend(FACES_SCHEMA.empty_table(), 4)
    assert (answer.plateau, answer.smallest.pixels, answer.small.pixels, answer.large.pixels) == (None,) * 4
    assert answer.labels is None


@pytest.mark.parametrize(
    ("a", "b", "c", "labels"),
    [
        pytest.param(2.0, 32.0, 50.0, (2.0, 32.0, 50.0), id="in order"),
        pytest.param(2.0, 32.0, 25.0, (2.0, 32.0, 32.0), id="c below b is raised"),
        pytest.param(32.0, 32.0, 50.0, None, id="a reaches b"),
        pytest.param(0.0, 0.0, 0.0, None, id="every face is found at every size"),
        pytest.param(2.0, None, 50.0, None, id="no b"),
        pytest.param(None, 32.0, 50.0, None, id="no a"),
        pytest.param(2.0, 32.0, None, None, id="no c"),
    ],
)
def test_labels_are_what_focus_labels_accept(
    a: float | None, b: float | None, c: float | None, labels: tuple[float, float, float] | None
) -> None:
    from retinafocus.training.targets import FocusLabelConfig

    answer = Recommendation(zoom=4, plateau=0.9, smallest=Limit(a, ""), small=Limit(b, ""), large=Limit(c, ""))
    assert answer.labels == labels
    if labels is not None:
        FocusLabelConfig(smallest=labels[0], small=labels[1], large=labels[2])
    assert dataclasses.replace(answer, small=Limit(None, "")).labels is None
