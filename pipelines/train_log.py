"""What a training leaves to be looked at: metrics as JSON-lines, TensorBoard files, curves as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinafocus.draw import save_picture
from retinafocus.evaluation.wider_protocol import SETTINGS
from retinafocus.storage import open_storage
from retinafocus.training.curves import draw_curves

METRICS, CURVES, TENSORBOARD, UNREADABLE = "metrics.jsonl", "curves.png", "tensorboard", "unreadable.jsonl"

Row = dict[str, Any]

# Metrics that TensorBoard and the curves leave out: they are places, not measurements.
_PLACES = ("step", "epoch", "crops")

PANELS = {
    "losses": ("total", "classes", "boxes", "landmarks", "focus"),
    "on the evaluation photos": ("ap", "map", "recall", "ap easy", "ap medium", "ap hard"),
    "learning rate": ("learning_rate",),
}


class TrainLog:
    """Writes one row of metrics per epoch. One process of a training has it.

    Args:
        folder: of the training; must exist.
        steps_done: where the training goes on: rows of later steps were lost with their worker and are taken out.
        steps: of the whole training.
    """

    def __init__(self, folder: Path, steps_done: int, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.rows = [row for row in read_metrics(folder) if row["step"] <= steps_done]
        # Whole at any moment: a worker killed here must not lose the rows, nor may who follows them find none.
        open_storage(folder).put(METRICS, "".join(_line(row) for row in self.rows).encode())
        self._tensorboard = _tensorboard_writer(folder / TENSORBOARD, steps_done + 1)

    def best(self) -> float:
        """The highest AP so far; below 0 without any."""
        return max((row["ap"] for row in self.rows if row.get("ap") is not None), default=-1.0)

    def add(self, row: Row) -> None:
        """Write one epoch's metrics; what is not finite becomes null."""
        row = {name: _rounded(value) for name, value in row.items()}
        self.rows.append(row)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(_line(row))
        save_picture(self.folder / CURVES, curves_of(self.rows, self.steps))
        if self._tensorboard is not None:
            for name, value in row.items():
                if value is not None and name not in _PLACES:
                    self._tensorboard.add_scalar(_tag(name), value, row["step"])
            self._tensorboard.flush()

    def close(self) -> None:
        """Let go of the files."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(folder: Path) -> list[Row]:
    """The rows written so far; a last line that a killed worker left unfinished is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def count_unreadable(folder: Path) -> int:
    """Photos that could not be decoded, each once, whichever process met them."""
    path = folder / UNREADABLE
    return len(set(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else 0


def describe_row(row: Row, steps: int) -> str:
    """One line for a person: where the training is and how it does."""
    words = [f"step {row['step']:,} of {steps:,}", f"loss {_text(row.get('total'), '.4g')}"]
    if row.get("ap") is not None:
        words.append(f"AP {100 * row['ap']:.1f}")
        words += [f"{name} {100 * row[f'ap {name}']:.1f}" for name in SETTINGS if row.get(f"ap {name}") is not None]
    words.append(f"{_text(row.get('crops_per_s'), '.3g')} crops/s")
    if row.get("unreadable"):
        words.append(f"{row['unreadable']:g} photos cannot be read, see {UNREADABLE}")
    return ", ".join(words)


def curves_of(rows: Sequence[Row], steps: int) -> Any:
    """(H, W, 3) uint8 RGB: losses, results and learning rate over the steps."""
    panels = {
        title: {name: [(row["step"], row[name]) for row in rows if row.get(name) is not None] for name in names}
        for title, names in PANELS.items()
    }
    shown = {title: {name: points for name, points in curves.items() if points} for title, curves in panels.items()}
    return draw_curves({title: curves for title, curves in shown.items() if curves}, steps=steps)


def _tensorboard_writer(folder: Path, first_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("no TensorBoard files: tensorboardX is not installed (it comes with ray[tune]); metrics.jsonl has it all")
        return None
    return SummaryWriter(str(folder), purge_step=first_step)


def _tag(name: str) -> str:
    """TensorBoard takes letters, digits and -_./ in names."""
    return "".join(letter if letter.isalnum() or letter in "_-./" else "_" for letter in name)


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _text(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
