"""The networks: presets that name them, and the modules they are made of."""

from __future__ import annotations

from retinafocus.models.presets import PRESETS, FocusConfig, Preset, get_preset
from retinafocus.models.retinafocus import Outputs, RetinaFocus

__all__ = ["PRESETS", "FocusConfig", "Outputs", "Preset", "RetinaFocus", "get_preset"]
