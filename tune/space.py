"""What a search may try: a TOML file that says for each setting which values there are.

    "cascade.border" = { from = 2.0, to = 6.0 }
    "cascade.chips.0.threshold" = { from = 0.01, to = 0.5, log = true }
    "cascade.chips.0.dilation" = [1, 3, 5]
    "post.nms_iou" = 0.4

A table is a range (whole numbers if both ends are), a list has choices, anything else stays as it is. The names are
those of the settings file that the winner is written to; numbers are places in a list.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinafocus.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = dict[str, Any]
"""A value for each dotted name."""


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers between two ends, both included."""

    low: float
    high: float
    log: bool = False
    """Each doubling is as likely as the next."""
    whole: bool = False
    """Whole numbers only."""

    def at(self, place: float) -> float | int:
        """The value at a place, 0..1."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(max(low, 0.5 * self.low)) * (1 - place) + math.log(high) * place)
        else:
            value = low + (high - low) * place
        return self.rounded(value)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and not (self.whole and value != int(value))

    def rounded(self, value: float) -> float | int:
        """As people write it: four digits, or a whole number; within the range."""
        near = round(value) if self.whole else float(f"{value:.4g}")
        return int(min(max(near, self.low), self.high)) if self.whole else min(max(near, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """The value at a place, 0..1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return value in self.values


@dataclass(frozen=True, slots=True)
class Space:
    """All settings of a search."""

    searched: Mapping[str, Range | Choice]
    fixed: Settings

    def at(self, places: Sequence[float]) -> Settings:
        """The settings at a point of the unit cube; a place for each of `searched`, in order."""
        found = {name: kind.at(place) for (name, kind), place in zip(self.searched.items(), places, strict=True)}
        return {**self.fixed, **found}

    def to_toml(self) -> str:
        """The file that gives this space."""
        lines = [f"{_quoted(name)} = {_described(kind)}" for name, kind in self.searched.items()]
        lines += [f"{_quoted(name)} = {_value(value)}" for name, value in self.fixed.items()]
        return "\n".join(lines) + "\n"


def read_space(path: Path) -> Space:
    """Read a space from a file.

    Raises:
        SettingsError: the file is missing or no TOML, or an entry makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as a search space ({error})") from error
    return parse_space(text, str(path))


def parse_space(text: str, origin: str) -> Space:
    """Read a space; `origin` is named in errors.

    Raises:
        SettingsError: as `read_space`.
    """
    try:
        entries = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{origin}: this is no TOML: {error}") from error
    searched: dict[str, Range | Choice] = {}
    fixed: Settings = {}
    for name, entry in entries.items():
        try:
            kind = _kind(entry)
        except SettingsError as error:
            raise SettingsError(f"{origin}: {name}: {error}") from error
        if kind is None:
            fixed[name] = entry
        else:
            searched[name] = kind
    if not searched:
        raise SettingsError(f"{origin}: no setting has a range or choices; give one at least")
    return Space(searched, fixed)


def nested(settings: Settings) -> dict[str, Any]:
    """Dotted names as the tables and lists they stand for: {"a.b.0.c": 1} is {"a": {"b": [{"c": 1}]}}.

    Raises:
        SettingsError: the places in a list are not 0, 1, 2, ..., or a name is of a value as well as of a table.
    """
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *above, last = name.split(".")
        table = tree
        for depth, part in enumerate(above, 1):
            if (outer := ".".join(above[:depth])) in settings:
                raise SettingsError(f"{name}: {outer} is a value and has no keys of its own")
            table = table.setdefault(part, {})
        table[last] = value
    return {name: _with_lists(value, name) for name, value in tree.items()}


def _with_lists(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(each, f"{name}.{key}") for key, each in value.items()}
    if not any(key.isdigit() for key in inner):
        return inner
    places = [str(place) for place in range(len(inner))]
    if sorted(inner) != sorted(places):
        raise SettingsError(f"{name}: has the places {', '.join(inner)}; give {', '.join(places)}, without a gap")
    return [inner[place] for place in places]


def _kind(entry: Any) -> Range | Choice | None:
    if isinstance(entry, list):
        if not entry:
            raise SettingsError("is an empty list; give choices")
        return Choice(tuple(entry))
    if not isinstance(entry, dict):
        return None
    if unknown := entry.keys() - {"from", "to", "log"}:
        dotted = "put a dotted name in quotes, or " if any(isinstance(entry[key], dict) for key in unknown) else ""
        raise SettingsError(f"has {', '.join(sorted(unknown))}; {dotted}give a range {{from = A, to = B, log = true}}")
    low, high, log = entry.get("from"), entry.get("to"), entry.get("log", False)
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or not isinstance(log, bool):
        raise SettingsError("give a range {from = A, to = B, log = true} of two numbers")
    if isinstance(low, bool) or isinstance(high, bool):
        raise SettingsError("true and false are no ends of a range; give the choices [false, true]")
    if not low < high or not math.isfinite(high - low):
        raise SettingsError(f"goes from {low} to {high}; the first must be below the second")
    if log and low <= 0:
        raise SettingsError(f"goes from {low}; a logarithmic range must begin above 0")
    return Range(low, high, log, whole=type(low) is int and type(high) is int)


def _described(kind: Range | Choice) -> str:
    if isinstance(kind, Choice):
        return f"[{', '.join(map(_value, kind.values))}]"
    return f"{{from = {kind.low}, to = {kind.high}{', log = true' if kind.log else ''}}}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)} = {_value(each)}' for key, each in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    # What JSON escapes, TOML escapes alike; it only wants one control character more escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
