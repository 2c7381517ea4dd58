"""Which numbers enter each convolution when the network looks at photographs: what it needs for 8-bit integers.

The ranges go into the weights file; see `weights.add_ranges`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from retinafocus import cascade
from retinafocus.cascade import CascadeConfig
from retinafocus.detector import DetectorConfig
from retinafocus.engines import TorchEngine
from retinafocus.errors import SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.models.ranges import Ranges
from retinafocus.postprocessing import PostConfig

# Share of the numbers of a level that may lie above its range, and below it: cut off, they cost less than 255 steps
# wide enough for them. Measured on 64 photographs that were not looked at, with the weights that ship: scores differ
# from those in float32 by 0.019 on average, by 0.026 with the lowest and highest number of all.
CUT_OFF = 0.001

# Numbers that are sorted to find it; of more than that, evenly spread ones.
SORTED = 2**18

# Of a range that is kept. The same photographs then give the same text whatever the last bits of a sum were.
DIGITS = 4


class RangeRecorder:
    """Looks at photographs as a detector with default settings does, and notes what enters each convolution.

    Every level is shown whole: chips are parts of them. A range holds nearly all numbers of each level that was shown.
    """

    def __init__(self, model: RetinaFocus) -> None:
        """Get ready to look, on the CPU with one thread.

        Args:
            model: left as it is.
        """
        self._seen: Ranges = {}
        self._kept: Ranges = {}
        self._engine = _RecordingEngine(model, self._note)
        self._config = CascadeConfig(mode="exhaustive")

    def look(self, data: bytes) -> None:
        """Look at one more photograph.

        Args:
            data: the encoded photograph.

        Raises:
            PhotoError: it cannot be decoded or looked at; then it does not count.
        """
        self._seen = dict(self._kept)
        face, preset = DetectorConfig().min_face, self._engine.preset
        prepared = cascade.prepare(data, min_face=face, preset=preset, config=self._config)
        cascade.look(prepared, self._engine, self._config, PostConfig())
        self._kept = self._seen

    def ranges(self) -> Ranges:
        """What was noted, rounded outwards to four digits.

        Raises:
            SettingsError: no photograph was looked at.
        """
        if not self._kept:
            raise SettingsError("no photograph was looked at, so no range is known; give photographs that can be read")
        return {name: (_outwards(low), _outwards(high)) for name, (low, high) in self._kept.items()}

    def _note(self, name: str, values: Tensor) -> None:
        low, high = self._seen.get(name, (0.0, 0.0))
        lowest, highest = _nearly_all(values)
        self._seen[name] = min(low, lowest), max(high, highest)


class _RecordingEngine(TorchEngine):
    """PyTorch's engine in float32 that tells what enters each convolution, batch norms folded."""

    def __init__(self, model: RetinaFocus, note: Callable[[str, Tensor], None]) -> None:
        super().__init__(model, threads=1)
        for name, module in self._network.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))


def _nearly_all(values: Tensor) -> tuple[float, float]:
    """What all but `CUT_OFF` of the numbers are not below, and not above."""
    # An odd step, which does not go round in the columns of a picture.
    some = values.flatten()[:: values.numel() // SORTED | 1]
    place = int(CUT_OFF * len(some))
    low, high = some.kthvalue(place + 1).values, some.kthvalue(len(some) - place).values
    return float(low), float(high)


def _outwards(value: float) -> float:
    """The nearest number of so many digits that is no nearer to zero."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    return float(f"{math.copysign(math.ceil(abs(value) / unit) * unit, value):.{DIGITS}g}")
