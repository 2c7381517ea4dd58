"""a, b and c of the Focus Pixels by rule, from what a detector finds at each face size.

* b: from this size on, the detector finds faces about as well as it ever does. Smaller ones are worth a finer look.
* c: from this size on, a finer look finds no more of them. Between b and c nobody knows, so those cells teach nothing.
* a: up to this size, faces stay unfound even after the last zoom. They are not worth a chip.

All in network-input pixels, as `FocusLabelConfig` takes them: a < size < b is focus, size <= a and b <= size < c are
ignored. Found means by a detection of at least `RULE_SCORE`. Bins of too few faces are passed over, and a rule that has
no answer says why.

Source: AutoFocus, arXiv 1812.01600, for what a, b and c are; the rules are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from retinafocus.evaluation.focus_study import MIN_FACES, SizeBin, size_bins

PLATEAU = (64.0, 256.0)
"""Sizes at which a detector with anchors of 16 to 256 or 512 px is at its best; edges of bins."""

PLATEAU_SHARE = 0.95
"""b: of the plateau's recall."""

LEAST_GAIN = 0.005
"""c: recall that one zoom must add to be worth it."""

HARDLY_FOUND = 0.1
"""a: recall below which a size counts as not found."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The answer of one rule."""

    pixels: float | None
    """Network-input pixels; None where the faces do not say."""

    reason: str
    """What the answer rests on, or why there is none."""


def plateau(bins: Sequence[SizeBin]) -> float | None:
    """Recall of all faces of `PLATEAU` sizes together; None for fewer than `MIN_FACES`."""
    inside = [one for one in bins if one.faces and PLATEAU[0] <= one.low and one.high <= PLATEAU[1]]
    faces = sum(one.faces for one in inside)
    return sum(one.faces * one.recall for one in inside) / faces if faces >= MIN_FACES else None


def small_limit(bins: Sequence[SizeBin]) -> Limit:
    """b: the smallest edge from which every bin up to the plateau's end has `PLATEAU_SHARE` of the plateau's recall.

    Bins of fewer than `MIN_FACES` faces are passed over. There is no answer without a plateau, when the plateau itself
    is nothing (recall 0), or when even its last bin falls short.
    """
    top = plateau(bins)
    if not top:
        why = f"fewer than {MIN_FACES} faces are of" if top is None else "no face is found at"
        return Limit(None, f"{why} {PLATEAU[0]:g} to {PLATEAU[1]:g} px, where recall should be at its best")
    wanted = PLATEAU_SHARE * top
    told = [one for one in bins if one.faces >= MIN_FACES and one.high <= PLATEAU[1]]
    if not told:
        return Limit(None, f"no size up to {PLATEAU[1]:g} px has {MIN_FACES} faces of its own")
    edge = _first_of_last_run(told, lambda one: one.recall >= wanted)
    if edge is None:
        return Limit(None, f"recall is below {wanted:.3f} ({PLATEAU_SHARE:g} of the plateau) up to {PLATEAU[1]:g} px")
    return Limit(edge, f"from here recall is at least {wanted:.3f}, {PLATEAU_SHARE:g} of the plateau's {top:.3f}")


def large_limit(bins: Sequence[SizeBin]) -> Limit:
    """c: the smallest edge from which in every bin one zoom adds less than `LEAST_GAIN` to the recall.

    The gain is that of the same faces before and after, so that it does not depend on which faces are large. Bins of
    fewer than `MIN_FACES` pairs are passed over. There is no answer without pairs, or when even the largest gain.
    """
    told = [one for one in bins if one.pairs >= MIN_FACES]
    if not told:
        return Limit(None, f"no size has {MIN_FACES} faces that were also looked at one zoom larger")
    edge = _first_of_last_run(told, lambda one: one.gain < LEAST_GAIN)
    if edge is None:
        return Limit(None, f"even from {told[-1].low:g} px on a zoom adds {100 * told[-1].gain:.1f} points of recall")
    return Limit(edge, f"from here a zoom adds less than {100 * LEAST_GAIN:g} points of recall")


def _first_of_last_run(bins: Sequence[SizeBin], holds: Callable[[SizeBin], bool]) -> float | None:
    """The low edge of the first bin from which on the claim holds without exception; None if not in the last."""
    edge = None
    for one in reversed(bins):
        if not holds(one):
            break
        edge = one.low
    return edge


def smallest_limit(bins: Sequence[SizeBin], zoom: float) -> Limit:
    """a: the largest size that after one more zoom is still in the range where recall is under `HARDLY_FOUND`.

    That range ends with the first bin that is found; a is its end divided by the zoom. Bins of fewer than `MIN_FACES`
    faces are passed over. 0 if even the smallest bin is found; no answer when the smallest sizes have no faces, or when
    nothing is found at any size.
    """
    told = [one for one in bins if one.faces >= MIN_FACES]
    if not told:
        return Limit(None, f"no size has {MIN_FACES} faces")
    hardly = 0
    while hardly < len(told) and told[hardly].recall < HARDLY_FOUND:
        hardly += 1
    if hardly == len(told):
        return Limit(None, f"recall is below {HARDLY_FOUND:g} at every size")
    if hardly == 0:
        if told[0].low == 0:
            return Limit(0.0, "even the smallest faces are found")
        return Limit(None, f"the smallest size with {MIN_FACES} faces, {told[0].low:g} px, is found already")
    end = told[hardly - 1].high
    return Limit(end / zoom, f"recall is below {HARDLY_FOUND:g} under {end:g} px, {zoom:g} times this")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What the three rules say."""

    zoom: float
    plateau: float | None
    """Recall at `RULE_SCORE` where it is at its best; None if unknown."""

    smallest: Limit
    """a."""
    small: Limit
    """b."""
    large: Limit
    """c, as its rule has it; it may be below b."""

    @property
    def labels(self) -> tuple[float, float, float] | None:
        """(a, b, c) as focus labels take them, c being at least b; None when a rule has no answer or a reaches b."""
        a, b, c = self.smallest.pixels, self.small.pixels, self.large.pixels
        if a is None or b is None or c is None or a >= b:
            return None
        return a, b, max(b, c)


def recommend(faces: pa.Table, zoom: float) -> Recommendation:
    """Apply the rules to rows of `FACES_SCHEMA`."""
    bins = size_bins(faces, zoom)
    return Recommendation(
        zoom=zoom,
        plateau=plateau(bins),
        smallest=smallest_limit(bins, zoom),
        small=small_limit(bins),
        large=large_limit(bins),
    )
