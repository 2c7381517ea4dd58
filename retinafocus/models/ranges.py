"""Ranges: which numbers enter each convolution of a network, without which it cannot compute in 8-bit integers.

They are measured on photographs (`calibration`) and kept in the weights file beside the tensors (`weights`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from typing import TypeAlias

Ranges: TypeAlias = "dict[str, tuple[float, float]]"
"""Name of a convolution to the lowest and highest number that enters it; zero, which pads, is never outside."""


def ranges_text(ranges: Ranges) -> str:
    """The ranges as JSON; equal ranges give equal text."""
    return json.dumps({name: list(limits) for name, limits in sorted(ranges.items())})


def ranges_hash(ranges: Ranges) -> str:
    """SHA-256 of the ranges, as 64 hexadecimal digits."""
    return hashlib.sha256(ranges_text(ranges).encode()).hexdigest()


def read_ranges(text: str, convolutions: Collection[str]) -> Ranges:
    """Ranges from their text, checked.

    Args:
        text: from `ranges_text`.
        convolutions: the names of all convolutions of the network.

    Raises:
        ValueError: it is no such text, a convolution is missing or too many, or a range is none.
    """
    ranges = {str(name): (float(low), float(high)) for name, (low, high) in dict(json.loads(text)).items()}
    different = sorted(ranges.keys() ^ set(convolutions))
    if different:
        fault = "is no convolution of it" if different[0] in ranges else "has none"
        raise ValueError(f"ranges: {different[0]} {fault}")
    for name, (low, high) in ranges.items():
        if not -math.inf < low <= 0 <= high < math.inf:
            raise ValueError(f"ranges: {name} has {low:g} to {high:g}, which is no range around zero")
    return ranges
