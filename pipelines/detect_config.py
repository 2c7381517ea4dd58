"""The settings file of a detection, `--config`: all that decides which faces are found, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from pipelines.settings import read_settings
from retinafocus.cascade import CascadeConfig
from retinafocus.detector import DetectorConfig
from retinafocus.postprocessing import PostConfig

_DEFAULT = DetectorConfig()


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """What a file may set: of the detector all but what a job decides itself, and but the looks of an evaluation."""

    min_face: float = _DEFAULT.min_face
    """The smallest face to find, sqrt(width * height) in pixels of the upright original photo."""

    score_threshold: float = _DEFAULT.score_threshold
    """Faces from this probability on are kept."""

    max_pixels: int = _DEFAULT.max_pixels
    """Most pixels decoded at once. A larger photo is read in strips."""

    device: str = _DEFAULT.device
    """auto, cpu or cuda."""

    engine: str = _DEFAULT.engine
    """auto, torch, openvino or onnx."""

    precision: str = _DEFAULT.precision
    """float32, int8, float16 or bfloat16."""

    post: PostConfig = field(default_factory=PostConfig)
    """How candidates become faces."""

    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    """Where to look more closely."""

    def __post_init__(self) -> None:
        self.to_detector()  # whose checks are ours

    def to_detector(self) -> DetectorConfig:
        """The detector's settings.

        Raises:
            SettingsError: a value is out of range.
        """
        return DetectorConfig(**{each.name: getattr(self, each.name) for each in fields(self)})


def read_detect_settings(path: Path) -> DetectSettings:
    """Read a settings file.

    Raises:
        SettingsError: the file is missing or no TOML, or a key is unknown, of another type or out of range.
    """
    return read_settings(DetectSettings, path)
