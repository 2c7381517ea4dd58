"""Where a photo is looked at more closely: every setting of the cascade."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from retinafocus.errors import SettingsError
from retinafocus.focus.chips import ChipConfig
from retinafocus.levels import OVERLAP, ZOOM, LevelPlan, plan_levels
from retinafocus.models import Preset

# Of the levels that chips are cut from, where it is left open.
FOCUS_ZOOM = 2

# Up to so many times the lower end of its level's range a face is left to a finer look that holds it whole. What two
# levels say of busy ground adds up: at 1 there were a fifth more false boxes on 4K pictures at the same recall, at 3
# large faces were lost.
LEFT_TO_FINER = 2.0

MODES = ("auto", "focus", "exhaustive")


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """Where a photo is looked at more closely."""

    mode: str = "auto"
    """focus: finer levels only where the focus map points; exhaustive: every level whole; auto: focus where the network
    has a focus branch."""

    chips: tuple[ChipConfig, ...] = (ChipConfig(),)
    """How a focus map becomes chips: for each finer level in turn, the last one for all that follow."""

    border: float = 3.0
    """A box closer than this to an inner side of its chip or tile, in network-input pixels, counts as cut and is
    dropped."""

    overlap: float = OVERLAP
    """Faces are kept from a level down to this share of the smallest size it finds reliably. Below 1, neighbouring
    levels both answer for some sizes, so that no face falls between them."""

    left_to_finer: float = LEFT_TO_FINER
    """A face of up to so many times that size is left to a finer look, if one holds it whole; 1 or more."""

    whole_above: float = 0.65
    """When chips would cover more than this share of a level it is looked at whole: many chips cost more than what they
    leave out."""

    crowded: float = 0.4
    """When focus pixels cover more than this share of a level, the levels between are left out and the finest is looked
    at whole: on a crowd they would cost their price and spare nothing."""

    zoom: int | None = None
    """Ratio of the scales of neighbouring levels, a power of two. None: 4 where every level is looked at whole; 2 where
    chips are, since the focus maps of levels between tell faces from texture better than the coarsest one, and so leave
    fewer chips on the finest, where they cost most."""

    network_pixels: int = 2**23
    """Most pixels the network is shown at once: a 4K photo whole. Larger levels are cut into overlapping tiles, so
    that its memory (some 60 bytes a pixel on a CPU) does not grow with the photo."""

    finer_looks: float = 0.5
    """Share of photos expected to need a finer look; decides whether a JPEG is decoded reduced first, or whole at
    once. Results differ in the last digits of a score, so it is a setting, not learnt on the way."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"cascade.mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        if not self.chips:
            raise SettingsError("cascade.chips is empty; give one entry at least")
        if not 0 <= self.border < math.inf:
            raise SettingsError(f"cascade.border is {self.border}; choose 0 px or more")
        if not 0 < self.overlap <= 1:
            raise SettingsError(f"cascade.overlap is {self.overlap}; choose a share above 0, up to 1")
        if not 1 <= self.left_to_finer < math.inf:
            raise SettingsError(f"cascade.left_to_finer is {self.left_to_finer}; choose 1 or more")
        zoom = self.zoom
        if zoom is not None and (not isinstance(zoom, int) or zoom < 2 or zoom & (zoom - 1)):
            raise SettingsError(f"cascade.zoom is {zoom}; choose a power of two from 2 on, or None")
        if self.network_pixels < 1:
            raise SettingsError(f"cascade.network_pixels is {self.network_pixels}; choose at least 1")
        if not 0 <= self.whole_above <= 1:
            raise SettingsError(f"cascade.whole_above is {self.whole_above}; choose a share 0..1")
        if not 0 <= self.crowded <= 1:
            raise SettingsError(f"cascade.crowded is {self.crowded}; choose a share 0..1")
        if not 0 <= self.finer_looks <= 1:
            raise SettingsError(f"cascade.finer_looks is {self.finer_looks}; choose a share 0..1")

    def uses_focus(self, preset: Preset) -> bool:
        """Whether a network of that preset is asked where to look.

        Raises:
            SettingsError: it must be and cannot.
        """
        if self.mode == "focus" and preset.focus is None:
            raise SettingsError(
                f"cascade.mode is focus, but the weights (preset {preset.name}) have no focus branch; use mode "
                "exhaustive, or weights with one"
            )
        return self.mode != "exhaustive" and preset.focus is not None

    def plan(self, photo_size: tuple[int, int], min_face: float, preset: Preset) -> LevelPlan:
        """The levels of a photo; see `levels.plan_levels`."""
        focus = preset.focus if self.uses_focus(preset) else None
        by_default = ZOOM if focus is None else FOCUS_ZOOM
        return plan_levels(
            photo_size,
            min_face=min_face,
            face_range=preset.face_range,
            focus_from=None if focus is None else focus.smallest,
            zoom=by_default if self.zoom is None else self.zoom,
            overlap=self.overlap,
        )

    def chips_of(self, finer: int, preset: Preset) -> ChipConfig:
        """How the focus map becomes chips of one of the finer levels, its threshold settled.

        Args:
            finer: 0 for the first level that is not looked at whole.
            preset: of a network with a focus branch.
        """
        config = self.chips[min(finer, len(self.chips) - 1)]
        assert preset.focus is not None
        if config.threshold is not None:
            return config
        thresholds = preset.focus.thresholds
        return replace(config, threshold=thresholds[min(finer, len(thresholds) - 1)])

    def exhaustive_pixels(self, photo_size: tuple[int, int], min_face: float, preset: Preset) -> int:
        """Pixels through the network if every level of a photo were looked at whole, as in exhaustive mode."""
        return replace(self, mode="exhaustive").plan(photo_size, min_face, preset).pixels

    def tile_overlap(self, preset: Preset) -> int:
        """Level pixels that neighbouring tiles share: the largest face kept from a level that has finer ones, whole."""
        return math.ceil(preset.face_range[1] + 2 * self.border)
