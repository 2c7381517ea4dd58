"""Where photos lie on canvases: whole, at their own size, with a gutter around each. Start reading at `lay_out`.

A photo goes as high up as it can, then as far to the left: on the skyline of what lies there already. That serves
photos of one width, which form columns, as well as photos of one height, which form rows. Everything is whole numbers
and hashes, no library's random numbers: the same photos have the same places on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from retinafocus.errors import SettingsError

ORDERS = ("listed", "shuffled", "balanced")

# Photos in the listed or shuffled order may still go to one of the last canvases begun, where a gap has their size.
# Neighbours in the list stay near each other, and 344 photos of many shapes need 19 canvases of 4K instead of 21; with
# 1,000 open they need 18.
OPEN_CANVASES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutConfig:
    """The canvases, and the order in which photos come to them."""

    height: int = 2160
    """Of a canvas, in pixels."""

    width: int = 3840
    """Of a canvas, in pixels."""

    gutter: int = 16
    """Pixels of empty ground between photos, and between photos and the border of the canvas. 0 leaves none: then a
    photo is the context of its neighbour."""

    order: str = "listed"
    """listed: as given. shuffled: drawn by `seed`. balanced: so that every canvas has about as much load."""

    seed: int = 0
    """Of the draw; in the balanced order it decides between photos of equal load."""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise SettingsError(f"order: {self.order} is not known; choose {', '.join(ORDERS)}")
        if self.height < 1 or self.width < 1:
            raise SettingsError(f"size: {self.width}x{self.height} is no canvas; choose 1 px or more a side")
        if not 0 <= 2 * self.gutter < min(self.height, self.width):
            most = (min(self.height, self.width) - 1) // 2
            raise SettingsError(f"gutter is {self.gutter} px; choose 0..{most} for {self.width}x{self.height}")

    def holds(self, size: tuple[int, int]) -> bool:
        """Whether a photo of that (height, width) fits on an empty canvas, with its gutters."""
        return size[0] + 2 * self.gutter <= self.height and size[1] + 2 * self.gutter <= self.width


@dataclass(frozen=True, slots=True)
class Item:
    """A photo to be placed."""

    name: str
    """Decides its place in a draw."""

    size: tuple[int, int]
    """(height, width) in pixels."""

    load: float = 0.0
    """What the balanced order spreads evenly over the canvases, in any unit."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a photo lies."""

    item: int
    """Its index among the items."""

    left: int
    """In pixels of the canvas."""

    top: int
    """In pixels of the canvas."""


def lay_out(items: Sequence[Item], config: LayoutConfig) -> list[list[Place]]:
    """Place every photo on a canvas.

    Args:
        items: what to place; none are needed.
        config: the canvases and the order.

    Returns:
        The places of each canvas, in the order they were taken. Each item has one place, no canvas is empty.

    Raises:
        SettingsError: a photo is larger than a canvas.
    """
    for item in items:
        if not config.holds(item.size):
            size = f"{item.size[1]} x {item.size[0]} px"
            raise SettingsError(f"{item.name}: {size} do not fit on a canvas of {config.width} x {config.height} px")
    order = list(range(len(items)))
    if config.order != "listed":
        order.sort(key=lambda index: hashlib.sha256(f"{config.seed} {items[index].name}".encode()).digest())
    canvases = _in_turn(items, order, config)
    if config.order == "balanced":
        order.sort(key=lambda index: -items[index].load)
        count = 0
        # Fewer canvases than the photos need would leave the last ones, which have the least load, to themselves.
        while count < len(canvases):
            count = len(canvases)
            canvases = _balanced(items, order, config, count)
    return [canvas.places for canvas in canvases if canvas.places]


def _in_turn(items: Sequence[Item], order: Sequence[int], config: LayoutConfig) -> list[_Canvas]:
    """Each photo to the first of the last canvases that has room for it."""
    canvases: list[_Canvas] = []
    for index in order:
        if not any(canvas.add(index, items[index]) for canvas in canvases[-OPEN_CANVASES:]):
            canvases.append(_Canvas(config))
            canvases[-1].add(index, items[index])
    return canvases


def _balanced(items: Sequence[Item], order: Sequence[int], config: LayoutConfig, count: int) -> list[_Canvas]:
    """Each photo to the canvas of the least load, then the emptiest, that has room; to a new one where none has.

    Source: the greedy rule "longest processing time first" of R. L. Graham, Bounds on multiprocessing timing anomalies.
    """
    canvases = [_Canvas(config) for _ in range(count)]
    for index in order:
        by_load = sorted(canvases, key=lambda canvas: (canvas.load, -canvas.free))
        if not any(canvas.add(index, items[index]) for canvas in by_load):
            canvases.append(_Canvas(config))
            canvases[-1].add(index, items[index])
    return canvases


class _Canvas:
    """One canvas and its skyline. Every photo is taken with a gutter to its right and below it."""

    def __init__(self, config: LayoutConfig) -> None:
        self._gutter = config.gutter
        self._width, self._height = config.width - config.gutter, config.height - config.gutter
        # Left end of each step and how far down it is taken, from left to right; the last one ends at the border.
        self._steps = [(0, 0)]
        self.free = self._width * self._height
        self.load = 0.0
        self.places: list[Place] = []

    def add(self, index: int, item: Item) -> bool:
        """Place a photo; False if there is no room for it."""
        height, width = item.size[0] + self._gutter, item.size[1] + self._gutter
        if height * width > self.free or (found := self._highest(width, height)) is None:
            return False
        left, top = found
        self._cover(left, left + width, top + height)
        self.free -= height * width
        self.load += item.load
        self.places.append(Place(index, left + self._gutter, top + self._gutter))
        return True

    def _highest(self, width: int, height: int) -> tuple[int, int] | None:
        """(left, top) of the highest room of that size, the leftmost of equals."""
        best: tuple[int, int] | None = None
        for number, (left, top) in enumerate(self._steps):
            if left + width > self._width:
                break
            for other, lower in self._steps[number + 1 :]:
                if other >= left + width:
                    break
                top = max(top, lower)
            if top + height <= self._height and (best is None or top < best[1]):
                best = left, top
        return best

    def _cover(self, left: int, right: int, bottom: int) -> None:
        """Take all of the columns from `left` to `right` down to `bottom`."""
        before = [step for step in self._steps if step[0] < left]
        behind = [step for step in self._steps if step[0] > right]
        if right < self._width:
            behind.insert(0, (right, [lower for start, lower in self._steps if start <= right][-1]))
        self._steps = [*before, (left, bottom), *behind]
