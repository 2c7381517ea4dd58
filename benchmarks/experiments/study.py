"""What all parts of the experiments share: pictures, weights, settings."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.tables import Rows
from benchmarks.ways import Settings
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.engines import resolve_engine
from retinafocus.errors import SettingsError
from retinafocus.models import FocusConfig, RetinaFocus
from retinafocus.weights import find_weights, load_model, read_info

Tables = Mapping[str, Rows]
"""Rows by the name of their table."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One run of the experiments."""

    sets: Mapping[str, Sequence[LabelledPhoto]]
    """Labelled pictures by the name of their set; nothing is trained on them."""

    settings: Settings
    output: Path
    repeats: int = 2
    """Times that each look is timed."""

    timed: int = 4
    """Pictures of each set that are timed."""

    train: Path | None = None
    """Labelled photos to train branches on, in the Parquet form."""

    steps: int = 400
    batch: int = 8
    seed: int = 0
    tell: Callable[[str], None] = print
    """Called with a line on what was done."""

    @functools.cached_property
    def detector(self) -> RetinaFocus:
        """The network under test, on the CPU."""
        return load_model(find_weights(self.settings.weights))

    @functools.cached_property
    def focus(self) -> FocusConfig:
        """Of its focus branch.

        Raises:
            SettingsError: it has none.
        """
        if self.detector.preset.focus is None:
            raise SettingsError("these weights have no focus branch to compare with; give weights with one")
        return self.detector.preset.focus

    @functools.cached_property
    def weights_key(self) -> str:
        """Of the weights file, preset included: part of the names of all that is made of it and kept."""
        return hashlib.sha256(find_weights(self.settings.weights).read_bytes()).hexdigest()[:8]

    @property
    def thresholds(self) -> tuple[float, float]:
        """Of the first focus map and of the next finer, as the weights have them."""
        return self.focus.thresholds[0], self.focus.thresholds[min(1, len(self.focus.thresholds) - 1)]

    def record(self) -> dict[str, Any]:
        """All that the numbers of every part depend on, but for the machine."""
        return {
            "weights": read_info(find_weights(self.settings.weights)).sha256,
            "sets": {name: [len(photos), sum(len(one.boxes) for one in photos)] for name, photos in self.sets.items()},
            "min_face": self.settings.min_face,
            "engine": resolve_engine(self.settings.engine, self.settings.device),
            "precision": self.settings.precision,
        }

    def training_record(self) -> dict[str, Any]:
        """`record`, and what trained branches depend on."""
        return self.record() | {"steps": self.steps, "batch": self.batch, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the experiments."""

    tables: tuple[str, ...]
    record: Callable[[Study], dict[str, Any]]
    rows: Callable[[Study], Tables]
    text: Callable[[Tables], str]
    """Markdown for people."""
    plot: Callable[[Tables, Path], None]
    """Writes a PNG."""
