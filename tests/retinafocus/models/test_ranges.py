"""Ranges as text: what comes back, and that anything else is refused by name."""

from __future__ import annotations

import re

import pytest

from retinafocus.models.ranges import ranges_hash, ranges_text, read_ranges

RANGES = {"b": (-1.5, 2.0), "a": (0.0, 7.0)}


def test_text_brings_them_back_whatever_their_order() -> None:
    text = ranges_text(RANGES)
    assert text == '{"a": [0.0, 7.0], "b": [-1.5, 2.0]}'
    assert read_ranges(text, ["a", "b"]) == RANGES
    assert ranges_hash(RANGES) == ranges_hash(dict(sorted(RANGES.items())))


def test_another_number_has_another_hash() -> None:
    assert ranges_hash(RANGES) != ranges_hash({**RANGES, "a": (0.0, 7.001)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "Expecting property name", id="no JSON"),
        pytest.param('{"a": [0, 1, 2], "b": [0, 1]}', "too many values", id="three numbers"),
        pytest.param('{"a": [0, 1]}', "ranges: b has none", id="missing"),
        pytest.param('{"a": [0, 1], "b": [0, 1], "c": [0, 1]}', "ranges: c is no convolution of it", id="too many"),
        pytest.param('{"a": [1, 2], "b": [0, 1]}', "a has 1 to 2, which is no range around zero", id="without zero"),
        pytest.param('{"a": [0, Infinity], "b": [0, 1]}', "a has 0 to inf", id="endless"),
        pytest.param('{"a": [NaN, 1], "b": [0, 1]}', "a has nan to 1", id="not a number"),
    ],
)
def test_what_are_no_ranges_of_the_network_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_ranges(text, ["a", "b"])
