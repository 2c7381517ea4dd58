"""Presets: everything about a network that its tensors do not say.

The published RetinaFace files share their tensor names and differ in activation, anchors and channel counts. The
wrong combination loads and gives plausible boxes of the wrong size, so a preset is always named, never guessed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from retinafocus.anchors import AnchorConfig
from retinafocus.errors import SettingsError

BACKBONES = ("mobilenet025", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

LEVEL_STRIDES = (8, 16, 32)
"""Network-input pixels per cell of the three pyramid levels P3, P4, P5."""

FOCUS_STRIDES = {"C2": 4, "C3": 8, "C4": 16, "P2": 4, "P3": 8, "P4": 16}
"""Maps the focus branch can read, with their strides: C from the backbone, P merged by the pyramid."""

# What two presets may differ in while the same detection weights mean the same with both.
_FREE_FIELDS = ("name", "face_range", "display_threshold", "focus")


@dataclass(frozen=True, kw_only=True, slots=True)
class FocusConfig:
    """The focus branch: where faces are that are too small for this scale.

    Source: AutoFocus, arXiv 1812.01600; the feature map and the loss as in the RetinaFocus paper, section 3.1.
    """

    feature: str = "P3"
    """The map it reads, before any context module: C2, C3, C4, P2, P3 or P4."""

    channels: int = 64
    """Of its two hidden convolutions. AutoFocus has 256 on a ResNet-101; the small backbone needs less."""

    smallest: float = 3.0
    """Faces from this size on are marked, sqrt(width * height) in network-input pixels. The cascade looks at a photo
    whole at the coarsest scale at which the smallest wanted face is that large."""

    thresholds: tuple[float, ...] = (0.07, 0.2)
    """Cells from this probability on are looked at again: on the map of the coarsest level that has one, then on that
    of the next finer, the last one for all that follow. The smaller the wanted faces there, the lower it must be."""

    prior: float = 0.01
    """Probability it says everywhere before training, as the last bias. Few cells are focus (0.4 to 6 % on WIDER FACE),
    and a start at 0.5 lets the empty ones drown them (RetinaNet, arXiv 1708.02002, section 4.1). 0.5 is no prior."""

    def __post_init__(self) -> None:
        if self.feature not in FOCUS_STRIDES:
            raise SettingsError(f"focus.feature is {self.feature!r}; choose one of {', '.join(FOCUS_STRIDES)}")
        if self.channels < 1:
            raise SettingsError(f"focus.channels is {self.channels}; choose at least 1")
        if not 0 < self.smallest < math.inf:
            raise SettingsError(f"focus.smallest is {self.smallest}; choose a size above 0 px")
        if not self.thresholds or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise SettingsError(f"focus.thresholds is {self.thresholds}; give at least one, each above 0, up to 1")
        if not 0 < self.prior < 1:
            raise SettingsError(f"focus.prior is {self.prior}; choose a probability above 0 and below 1")

    @property
    def stride(self) -> int:
        """Network-input pixels per cell of the focus map."""
        return FOCUS_STRIDES[self.feature]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A network, how its input is prepared and how its output is read."""

    name: str
    """As given on the command line."""

    backbone: str
    """One of `BACKBONES`."""

    channels: int
    """Of the pyramid and the context modules; a multiple of 4."""

    slope: float
    """Negative slope of the activations; 0 is plain ReLU. ResNet bodies and the end of a context module are always
    plain."""

    anchors: AnchorConfig
    """In network-input pixels, on the strides 8, 16 and 32."""

    variances: tuple[float, float] = (0.1, 0.2)
    """Scales of the centre and side offsets. They come with the weights: a change silently shifts every box."""

    mean_rgb: tuple[float, float, float] = (123.0, 117.0, 104.0)
    """Subtracted from the 0..255 pixels, red first. Nothing is divided."""

    bgr: bool = True
    """The first convolution expects blue first. The network's callers give RGB either way."""

    face_range: tuple[float, float]
    """Smallest and largest face found reliably, sqrt(width * height) in network-input pixels. The level plan rests on
    it: every wanted face size must fall inside on at least one level."""

    display_threshold: float = 0.6
    """Score from which a detection is shown to a person; tables keep more."""

    focus: FocusConfig | None = None
    """None: detection only."""

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise SettingsError(f"model.backbone is {self.backbone!r}; choose one of {', '.join(BACKBONES)}")
        if self.channels < 4 or self.channels % 4:
            raise SettingsError(f"model.channels is {self.channels}; choose a positive multiple of 4")
        if not 0 <= self.slope < 1:
            raise SettingsError(f"model.slope is {self.slope}; choose 0 (plain ReLU) up to, not including, 1")
        if self.anchors.strides != LEVEL_STRIDES:
            raise SettingsError(f"anchors.strides is {self.anchors.strides}; the network's levels have {LEVEL_STRIDES}")
        if not all(math.isfinite(value) and value > 0 for value in self.variances):
            raise SettingsError(f"model.variances is {self.variances}; both must be positive")
        if not all(0 <= value <= 255 for value in self.mean_rgb):
            raise SettingsError(f"model.mean_rgb is {self.mean_rgb}; each must lie in 0..255")
        if not 0 < self.face_range[0] < self.face_range[1] < math.inf:
            raise SettingsError(f"model.face_range is {self.face_range}; give smallest < largest, both positive pixels")
        if not 0 <= self.display_threshold <= 1:
            raise SettingsError(f"model.display_threshold is {self.display_threshold}; choose 0..1")

    def detector_difference(self, other: Preset) -> str:
        """The first thing in which the detectors of two presets contradict each other, in words; "" if in none.

        Names, thresholds and the focus branch may differ: detection weights of the one are right for the other.
        """
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in _FREE_FIELDS and ours != theirs:
                return f"preset {self.name} has {field.name} {ours}, preset {other.name} {theirs}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """The preset in plain JSON types (lists for tuples), for metadata and run records."""
        listed: dict[str, Any] = _with_lists(dataclasses.asdict(self))
        return listed

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """The preset `to_dict` wrote.

        Raises:
            SettingsError: a field is unknown (the file comes from a newer version), missing, or out of range.
        """
        try:
            fields = dict(values)
            anchors = AnchorConfig(**_with_tuples(fields.pop("anchors")))
            focus = fields.pop("focus", None)
            return cls(
                **_with_tuples(fields),
                anchors=anchors,
                focus=None if focus is None else FocusConfig(**_with_tuples(focus)),
            )
        except SettingsError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"the preset does not fit this version of RetinaFocus: {error}; update it") from error


def _with_lists(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, tuple) else value


def _with_tuples(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


# Both anchor sets of the published weights, with the faces they find reliably. The range of the small anchors was
# measured with the published 1MB weights on photographs with hand-drawn boxes, pooled over scales: recall at score 0.3
# reaches 0.8 at 20 network pixels and falls again beyond 200; of upper ends between 96 and 400, 160 gave the best AP
# (docs/weights.md). The wide anchors are twice the small ones, and so is their range: by analogy, not measured.
SMALL_ANCHORS = AnchorConfig(sizes=((10.0, 20.0), (32.0, 64.0), (128.0, 256.0)))
SMALL_RANGE = (20.0, 160.0)
WIDE_ANCHORS = AnchorConfig(sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)))
WIDE_RANGE = (32.0, 320.0)

_ALL = (
    # Published by biubug6/Pytorch_Retinaface.
    Preset(
        name="mobilenet025-biubug6",
        backbone="mobilenet025",
        channels=64,
        slope=0.1,
        anchors=WIDE_ANCHORS,
        face_range=WIDE_RANGE,
    ),
    Preset(
        name="resnet50-biubug6",
        backbone="resnet50",
        channels=256,
        slope=0.0,
        anchors=WIDE_ANCHORS,
        face_range=WIDE_RANGE,
    ),
    # Published by biubug6/Face-Detector-1MB-with-landmark: the tensor names and shapes of the first one above.
    Preset(
        name="mobilenet025-1mb",
        backbone="mobilenet025",
        channels=64,
        slope=0.0,
        anchors=SMALL_ANCHORS,
        face_range=SMALL_RANGE,
    ),
    # Ours: small anchors, plain ReLU, a focus branch.
    Preset(
        name="mobile025",
        backbone="mobilenet025",
        channels=64,
        slope=0.0,
        anchors=SMALL_ANCHORS,
        face_range=SMALL_RANGE,
        display_threshold=0.8,  # of the bundled weights: the best F1, see data/MODEL_CARD.md
        focus=FocusConfig(),
    ),
    *(
        Preset(
            name=backbone,
            backbone=backbone,
            channels=256,
            slope=0.0,
            anchors=SMALL_ANCHORS,
            face_range=SMALL_RANGE,
            focus=FocusConfig(),
        )
        for backbone in BACKBONES
        if backbone.startswith("resnet")
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

PUBLISHED_PRESETS = ("mobilenet025-biubug6", "resnet50-biubug6", "mobilenet025-1mb")
"""Presets that published files exist for."""


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        SettingsError: there is none; the message lists the names.
    """
    if name not in PRESETS:
        raise SettingsError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
