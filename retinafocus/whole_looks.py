"""Looking at whole photos at chosen sizes, and in a mirror: what RetinaFace publishes its results with.

The cascade (`retinafocus.cascade`) chooses a photo's levels by the smallest wanted face. Evaluations of face detectors
choose the size of the photo instead, enlarge small ones, and may spend many looks on each photo. That is no way to go
through an archive, but the way to numbers that can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from retinafocus.errors import SettingsError
from retinafocus.levels import Level, LevelPlan
from retinafocus.voting import Voting


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeLooks:
    """At which sizes a photo is looked at whole, instead of the cascade."""

    sides: tuple[tuple[int, int], ...] = ()
    """(shorter, longest) of each look, in pixels: the photo is brought to that shorter side, or to that longer one
    where it would be more. Small photos are enlarged. None: one look at the photo's own size."""

    mirrored: bool = False
    """Look at each size once more as in a mirror."""

    voting: Voting | None = None
    """How what the looks found is united; None: of boxes that overlap the best one stays, as in the cascade. Boxes
    below the detector's score threshold have no vote: published results are those of a threshold of 0.02."""

    def __post_init__(self) -> None:
        for shorter, longest in self.sides:
            if not 1 <= shorter <= longest:
                raise SettingsError(
                    f"whole_looks.sides has ({shorter}, {longest}); choose a shorter side of at least 1 px and a "
                    "longest one that is not below it"
                )
        if len(set(self.sides)) < len(self.sides):
            raise SettingsError(f"whole_looks.sides is {self.sides}; name each size once")

    @property
    def most_pixels(self) -> int:
        """Of the largest look that has a size of its own; 0 for none."""
        return max((shorter * longest for shorter, longest in self.sides), default=0)

    def plan(self, photo_size: tuple[int, int]) -> LevelPlan:
        """The looks at a photo of that (height, width), as levels of which all are looked at whole.

        The published code rounds before it compares with the longest side, which moves a scale by 0.05 % at most.
        """
        height, width = photo_size
        shortest, longest = min(photo_size), max(photo_size)
        scales = sorted(min(side / shortest, limit / longest) for side, limit in self.sides) or [1.0]
        views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if self.mirrored else (False,))]
        levels = tuple(
            Level(
                index=index,
                scale=scale,
                size=(max(1, round(height * scale)), max(1, round(width * scale))),
                photo_size=photo_size,
                covered=(0.0, 0.0, float(width), float(height)),
                face_range=(0.0, math.inf),
                mirrored=mirrored,
            )
            for index, (scale, mirrored) in enumerate(views)
        )
        return LevelPlan(levels=levels, photo_size=photo_size, min_face=0.0, not_found="", whole=len(levels))

    def __str__(self) -> str:
        sizes = ", ".join(f"{shorter} px (at most {longest})" for shorter, longest in self.sides)
        words = f"whole photos, shorter side {sizes}" if sizes else "whole photos at their own size"
        return words + (", each also mirrored" if self.mirrored else "") + (", voted" if self.voting else "")


PUBLISHED_LOOKS = {
    "single": WholeLooks(sides=((1600, 2150),)),
    "original": WholeLooks(),
    "flip": WholeLooks(mirrored=True),
    "multiscale": WholeLooks(
        sides=((500, 750), (800, 1200), (1100, 1650), (1400, 2100), (1700, 2550)), mirrored=True, voting=Voting()
    ),
}
"""By name. The five sizes are multiples of 800 px with a longest side of 1200. Source: RetinaFace, arXiv 1905.00641,
section 4.4, and `test_widerface.py` of its released code, where 1600 and 2150 are the single look."""
