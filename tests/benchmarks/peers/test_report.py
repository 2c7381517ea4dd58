"""What the tables are computed from, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.peers.catalogue import OURS, Peer
from benchmarks.peers.conversation import Answer, Hello
from benchmarks.peers.report import PEERS_SCHEMA, Measured, recall_at, rows_of, to_markdown, to_table
from retinafocus.evaluation.average_precision import PhotoTruth

PEER = Peer(name="fake", script="fake.py", environment=OURS, low=("--low",), told="as it is")
HELLO = Hello("Fake", "1.0", "none", True)


def _boxes(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _answer(*found: tuple[float, ...], ms: float = 1000.0, mib: float = 100.0) -> Answer:
    boxes = _boxes(*(one[:4] for one in found))
    return Answer(boxes=boxes, scores=np.array([one[4] for one in found], np.float32), milliseconds=ms, peak_mib=mib)


TRUTHS = [PhotoTruth(_boxes((0, 0, 40, 40))), PhotoTruth(_boxes((0, 0, 40, 40)))]
TIGHT = (0.0, 20.0, 40.0, 40.0)
"""The lower half of the face: IoU 0.5 exactly."""
TIGHTER = (0.0, 24.0, 40.0, 40.0)
"""IoU 0.4."""


def _measured(low: list[Answer], default: list[Answer]) -> Measured:
    return Measured(set_name="val", peer=PEER, hello=HELLO, truths=TRUTHS, default=default, low=low)


def test_tight_boxes_are_found_at_the_looser_overlap() -> None:
    answers = [_answer((*TIGHT, 0.9)), _answer((*TIGHTER, 0.8))]
    everything = rows_of(_measured(answers, answers), bootstrap=0)[0]
    assert (everything["ap50"], everything["ap30"]) == (0.5, 1.0)
    assert (everything["recall50"], everything["recall30"]) == (0.5, 1.0)
    assert everything["false_per_photo"] == 0.5


def test_time_memory_and_recall_are_of_the_run_at_the_default_threshold() -> None:
    low = [_answer((*TIGHT, 0.9), ms=9000, mib=900), _answer((*TIGHT, 0.1), ms=9000)]
    default = [_answer((*TIGHT, 0.9), ms=500, mib=200), _answer(ms=1500, mib=300)]
    everything = rows_of(_measured(low, default), bootstrap=0)[0]
    assert everything["ap50"] == 1.0
    assert everything["recall50"] == 0.5
    assert everything["core_seconds"] == 1.0
    assert everything["peak_mib"] == 300


def test_photo_without_an_answer_is_one_where_nothing_was_found() -> None:
    answers = [_answer((*TIGHT, 0.9), ms=500), Answer(error="no answer within 1 s")]
    everything = rows_of(_measured(answers, answers), bootstrap=0)[0]
    assert everything["photos_without_answer"] == 1
    assert everything["ap50"] == 0.5
    assert everything["core_seconds"] == 0.5  # not the mean with a photo that has no time


def test_detector_without_any_answer_has_no_time() -> None:
    answers = [Answer(error="x"), Answer(error="x")]
    everything = rows_of(_measured(answers, answers), bootstrap=0)[0]
    assert math.isnan(everything["core_seconds"])
    assert everything["ap50"] == 0


@pytest.mark.parametrize(
    ("allowed", "recall"),
    [pytest.param(0.0, 0.5, id="none"), pytest.param(0.5, 1.0, id="one"), pytest.param(9.0, 1.0, id="all")],
)
def test_recall_at_so_many_false_boxes(allowed: float, recall: float) -> None:
    # By score: found 0.9, false 0.6, found 0.5, false 0.4.
    far = (60.0, 60.0, 90.0, 90.0)
    found = [_answer((*TIGHT, 0.9), (*far, 0.6)), _answer((*TIGHT, 0.5), (*far, 0.4))]
    assert recall_at(TRUTHS, found, allowed) == recall


def test_recall_at_is_nothing_where_the_surest_boxes_are_false() -> None:
    found = [_answer((60, 60, 90, 90, 0.9)), _answer((*TIGHT, 0.5))]
    assert recall_at(TRUTHS, found, 0.5) == 0.5
    assert recall_at(TRUTHS, found, 0.0) == 0
    assert recall_at(TRUTHS, [_answer(), _answer()], 0.5) == 0
    assert math.isnan(recall_at([PhotoTruth()], [_answer()], 1.0))


def test_few_photos_do_not_say_what_one_false_box_in_ten_costs() -> None:
    found = [_answer((*TIGHT, 0.9)), _answer((*TIGHT, 0.5))]
    assert math.isnan(recall_at(TRUTHS, found, 0.1))
    assert recall_at(TRUTHS * 5, found * 5, 0.1) == 1.0


def test_tables_name_everybody_and_who_is_missing() -> None:
    answers = [_answer((*TIGHT, 0.9)), _answer((*TIGHT, 0.8))]
    rows = rows_of(_measured(answers, answers), bootstrap=100)
    text = to_markdown(rows, {"other (val)": "the peer does not start:\nno | weights"})
    assert "### val: 2 photos, 2 faces" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| fake | 100.0"))
    assert line == (
        "| fake | 100.0 [100.0, 100.0] | - | - | 100.0 [100.0, 100.0] | - | 100.0 [100.0, 100.0] | 100.0 / 100.0 "
        "| 0.00 | - | 1.000 | 100 | 0 |"
    )
    assert "| fake | Fake 1.0 | none | yes | as it is | bound to one |" in text
    assert "| other (val) | the peer does not start: no / weights |" in text
    assert "| retina-face |" in text
    widths = {text.count("|") for text in text.split("###")[1].splitlines() if text.startswith("|")}
    assert len(widths) == 1
    assert to_table(rows).schema == PEERS_SCHEMA


def test_nobody_measured_is_a_table_of_who_is_missing() -> None:
    assert "| x | y |" in to_markdown([], {"x": "y"})
    assert to_table([]).num_rows == 0
