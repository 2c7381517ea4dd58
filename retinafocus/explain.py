"""Why a face was found or missed: what each look at a photo saw, and what became of every candidate.

    detector = Detector.from_pretrained(None, DetectorConfig(score_threshold=FLOOR))
    result = detector.look(detector.prepare("holiday.jpg"))
    explanation = Explanation(result, detector.preset, detector.config.cascade, score_threshold=0.3)
    print("\\n".join(explanation.words_at(1204, 460)))

The photo is looked at with a floor far below the score threshold, so that what the threshold drops shows too. That
changes nothing above the threshold: a box is only ever removed by a better one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from retinafocus.cascade import STEPS, CascadeConfig, PhotoResult, share_looked_at
from retinafocus.errors import SettingsError
from retinafocus.faces import Faces
from retinafocus.focus.stacking import Look, Verdict
from retinafocus.levels import Level
from retinafocus.models import Preset

# Candidates below are noise in their thousands.
FLOOR = 0.02

# A candidate is at a point if its box holds it, or would if this part of its sides were added at each: boxes of faces
# that were not found lie a little beside them.
NEAR = 0.25

# Candidates named for one level at a point, best first: enough to see what happened.
NAMED = 5


class Outcome(IntEnum):
    """What became of a candidate at a score threshold: its `Verdict`, or two reasons more."""

    KEPT = Verdict.KEPT
    CUT = Verdict.CUT
    SIZE = Verdict.SIZE
    OUTSIDE = Verdict.OUTSIDE
    DUPLICATE = Verdict.DUPLICATE
    LIMIT = Verdict.LIMIT
    ALONE = Verdict.ALONE
    SCORE = 10
    """Its score alone: everything else would have kept it."""
    WEAK = 11
    """Its score, and another verdict too."""


MEANINGS = {
    Outcome.KEPT: "kept",
    Outcome.SCORE: "below the score threshold",
    Outcome.CUT: "cut by the border of its chip or tile",
    Outcome.SIZE: "of a size another level sees better",
    Outcome.DUPLICATE: "overlapped by a better one",
    Outcome.LIMIT: "beyond the most faces kept",
    Outcome.OUTSIDE: "outside the photo",
    Outcome.ALONE: "no other box overlaps it, and boxes are voted on",
    Outcome.WEAK: "below the score threshold, and dropped for another reason as well",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelRow:
    """What one level cost."""

    level: Level
    how: str
    """In words: whole, in how many chips or tiles, or not at all."""
    network_pixels: int
    share: float
    """Of the level that was looked at, 0..1."""
    milliseconds: dict[str, float]
    """By step, see `cascade.STEPS`; zeros for a level that nobody looked at."""


@dataclass(frozen=True)
class Explanation:
    """One photo's result, and what is needed to say how it came about."""

    result: PhotoResult
    """From a detector with the score threshold `FLOOR`."""
    preset: Preset
    cascade: CascadeConfig
    score_threshold: float
    """Of the run that is to be explained."""

    @cached_property
    def outcomes(self) -> NDArray[np.int8]:
        """(N,) `Outcome` of each candidate of the stack."""
        stack = self.result.trace.stack
        low = stack.scores < np.float32(self.score_threshold)
        outcomes: NDArray[np.int8] = stack.verdicts.copy()
        outcomes[low] = np.where(stack.verdicts[low] == Verdict.KEPT, Outcome.SCORE, Outcome.WEAK)
        return outcomes

    @property
    def levels(self) -> tuple[Level, ...]:
        """Of the photo, coarsest first."""
        return self.result.plan.levels

    @property
    def faces(self) -> Faces:
        """What the run finds."""
        return self.result.faces.above(self.score_threshold)

    def looks(self, level: Level) -> list[Look]:
        """The rectangles of a level that were looked at."""
        return [look for look in self.result.trace.looks if look.level.index == level.index]

    def counts(self, level: Level) -> Counter[Outcome]:
        """How many candidates of a level ended how."""
        mine = self.outcomes[self.result.trace.stack.levels == level.index]
        return Counter(map(Outcome, mine.tolist()))

    def focus_map(self, level: Level) -> NDArray[np.float32] | None:
        """(H, W) probabilities by which the next finer level's chips are chosen; None where it is not."""
        return self.result.trace.focus_maps.get(level.index)

    def focus_threshold(self, level: Level) -> float:
        """The probability from which the focus map of a level asks for a chip."""
        threshold = self.cascade.chips_of(level.index + 1 - self.result.plan.whole, self.preset).threshold
        assert threshold is not None
        return threshold

    def rows(self) -> list[LevelRow]:
        """What each level cost, coarsest first."""
        times = self.result.trace.times
        return [
            LevelRow(
                level=level,
                how=self.how(level),
                network_pixels=sum(_area(look.box) for look in self.looks(level)),
                share=share_looked_at(level, self.looks(level)),
                milliseconds=times[level.index] if level.index < len(times) else dict.fromkeys(STEPS, 0.0),
            )
            for level in self.levels
        ]

    def how(self, level: Level) -> str:
        """How a level was looked at, in words."""
        looks = self.looks(level)
        if not looks:
            return "not looked at"
        chosen = level.index >= self.result.plan.whole
        if not chosen or share_looked_at(level, looks) == 1:
            tiles = f", in {len(looks)} tiles" if len(looks) > 1 else ""
            return f"whole{tiles}{', as chips would nearly fill it' if chosen else ''}"
        return f"in {len(looks)} chip{'s' if len(looks) > 1 else ''}"

    def near(self, x: float, y: float, level: Level | None = None, *, grown: float = NEAR) -> NDArray[np.int64]:
        """Candidates of a level, or of all, whose box grown by that part of its sides holds a point in photo pixels.

        Returns:
            Their numbers in the stack: best first, after all others those dropped for two reasons; without those
            outside the photo.
        """
        stack = self.result.trace.stack
        corners, sizes = stack.boxes.reshape(-1, 2, 2), stack.boxes[:, 2:] - stack.boxes[:, :2]
        low, high = corners[:, 0] - grown * sizes, corners[:, 1] + grown * sizes
        here = ((low <= (x, y)) & (high > (x, y)) & (sizes > 0)).all(axis=1)
        if level is not None:
            here &= stack.levels == level.index
        numbers: NDArray[np.int64] = np.nonzero(here)[0]
        return numbers[np.lexsort((-stack.scores[numbers], self.outcomes[numbers] == Outcome.WEAK))]

    def words_at(self, x: float, y: float) -> list[str]:
        """What happened at a point, in words: a line of conclusion, then some for each level.

        Args:
            x, y: in pixels of the upright original photo.

        Raises:
            SettingsError: the point lies outside the photo.
        """
        height, width = self.result.plan.photo_size
        if not (0 <= x < width and 0 <= y < height):
            raise SettingsError(
                f"the point {x:g},{y:g} lies outside the photo of {width} x {height} px; give X,Y in it"
            )
        lines = [f"at {x:g},{y:g}: {' '.join(self._conclusion(x, y))}"]
        for level in self.levels:
            lines.append(f"level {level.index} ({_scale(level)}): {self._level_words(x, y, level)}")
            lines.extend(f"  {words}" for words in self._candidates_words(x, y, level))
        return lines

    def _level_words(self, x: float, y: float, level: Level) -> str:
        if not self._saw(x, y, level):
            return "not looked at there"
        chip = level.index >= self.result.plan.whole and share_looked_at(level, self.looks(level)) < 1
        words = f"looked at {'in a chip' if chip else 'whole'}; {self._smallest_here(level)}"
        focus = self.focus_at(x, y, level)
        if focus is None:
            return words
        asked = "asks for a closer look" if focus[1] >= self.focus_threshold(level) else "asks for none"
        return (
            f"{words}; focus probability {focus[0]:.2f} ({focus[1]:.2f} with the cells around), which {asked} "
            f"(from {self.focus_threshold(level):g} on)"
        )

    def _smallest_here(self, level: Level) -> str:
        size = self.result.plan.min_face
        return f"a face of {size:g} px is {size * level.scale:.3g} px here"

    def focus_at(self, x: float, y: float, level: Level) -> tuple[float, float] | None:
        """A level's focus probability at a point in photo pixels, and the highest among the cells that widen to it;
        None for a level without a map."""
        focus_map = self.focus_map(level)
        if focus_map is None or self.preset.focus is None:
            return None
        position = level.from_photo(np.array([x, y], np.float32)) / self.preset.focus.stride
        column, row = (int(value) for value in np.clip(position, 0, np.array(focus_map.shape[::-1]) - 1))
        reach = self.cascade.chips_of(level.index + 1 - self.result.plan.whole, self.preset).dilation // 2
        around = focus_map[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        return float(focus_map[row, column]), float(around.max())

    def _saw(self, x: float, y: float, level: Level) -> bool:
        column, row = level.from_photo(np.array([x, y], np.float32))
        boxes = [look.box for look in self.looks(level)]
        return any(left <= column < right and top <= row < bottom for left, top, right, bottom in boxes)

    def _candidates_words(self, x: float, y: float, level: Level) -> Iterator[str]:
        """The best candidates of a level at a point, and how many more there are."""
        near = self.near(x, y, level)
        weak = self.outcomes[near] == Outcome.WEAK
        named = near[~weak][:NAMED]
        yield from map(self._candidate_words, named.tolist())
        if (~weak).sum() > NAMED:
            yield f"and {(~weak).sum() - NAMED} of lower scores"
        if weak.any():
            best = self.result.trace.stack.scores[near[weak][0]]
            more = " more" if len(named) else ""
            yield f"{weak.sum()}{more} {MEANINGS[Outcome.WEAK]}, the best of score {best:.2f}"
        if not len(near) and self._saw(x, y, level):
            yield f"no candidate of score {FLOOR:g} or more"

    def _candidate_words(self, number: int) -> str:
        stack = self.result.trace.stack
        left, top, right, bottom = stack.boxes[number].round().astype(int).tolist()
        level = self.levels[int(stack.levels[number])]
        size = self._size(number)
        here = "" if level.scale == 1 else f" ({size * level.scale:.3g} px here)"
        words = MEANINGS[Outcome(int(self.outcomes[number]))]
        return f"score {stack.scores[number]:.2f}, {size:.0f} px{here}, {left},{top} to {right},{bottom}: {words}"

    def _size(self, number: int) -> float:
        """sqrt(w*h) of a candidate in photo pixels, as far as it lies inside the photo."""
        left, top, right, bottom = self.result.trace.stack.boxes[number].tolist()
        return math.sqrt((right - left) * (bottom - top))

    def _conclusion(self, x: float, y: float) -> Iterator[str]:
        inside, near = self.near(x, y, grown=0), self.near(x, y)
        kept = inside[self.outcomes[inside] == Outcome.KEPT].tolist()
        if kept:
            yield f"found: {self._face_words(min(kept, key=self._size))}"
            return
        beside = near[self.outcomes[near] == Outcome.KEPT].tolist()
        unsaid = {Outcome.KEPT, Outcome.WEAK}
        if beside:
            yield f"not found, but beside it {self._face_words(min(beside, key=self._size))}"
            unsaid.add(Outcome.DUPLICATE)  # of that one
        else:
            yield "not found."
        reached = near[~np.isin(self.outcomes[near], list(unsaid))]
        firsts = np.sort(np.unique(self.outcomes[reached], return_index=True)[1])
        for number in reached[firsts].tolist():
            score, level = self.result.trace.stack.scores[number], self.result.trace.stack.levels[number]
            meaning = MEANINGS[Outcome(int(self.outcomes[number]))]
            yield f"Level {level} saw a candidate of {self._size(number):.0f} px, score {score:.2f}, but {meaning}."
        unseen = [level for level in self.levels if not self._saw(x, y, level)]
        if unseen:
            yield self._unseen_words(x, y, unseen[0])
        elif not len(reached):
            yield f"Every level looked there: the network sees no {'other ' if beside else ''}face."

    def _face_words(self, number: int) -> str:
        score, level = self.result.trace.stack.scores[number], int(self.result.trace.stack.levels[number])
        words = f"a face of score {score:.2f} and {self._size(number):.0f} px, on level {level}."
        if score >= self.preset.display_threshold:
            return words
        return f"{words} Pictures show faces from {self.preset.display_threshold:g} on, so only the tables have it."

    def _unseen_words(self, x: float, y: float, level: Level) -> str:
        focus = self.focus_at(x, y, self.levels[level.index - 1])
        words = f"Level {level.index} did not look there"
        if focus is None:
            return f"{words}."
        threshold = self.focus_threshold(self.levels[level.index - 1])
        return (
            f"{words}: the focus map says {focus[1]:.2f}, and chips begin at {threshold:g} (--focus-threshold). With "
            "--mode exhaustive every level looks everywhere, which shows whether the network would find it."
        )


def _scale(level: Level) -> str:
    """As people write it, with the size."""
    return f"scale {Fraction(level.scale)}, {level.size[1]} x {level.size[0]} px"


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
