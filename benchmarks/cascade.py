"""What the focus cascade costs and finds beside every other way of looking at a large photo.

    python -m benchmarks.cascade FACES --backgrounds FACES MORE -o OUT [--engine openvino] [--min-face 20 10]

Makes the pictures of `benchmarks.mosaics` (once; see there for FACES and MORE) and prints, for each density, one table
with a row for each of `benchmarks.ways`: core-seconds and seconds per photo from encoded bytes to faces, their ratio to
a bare full decode (the faster of simplejpeg and OpenCV), pixels through the network, average precision and recall.

Everything runs on one thread of one process, the ways in turn on each photo, so that what else the machine does hits
all of them; the time of a way on a photo is the fastest of --repeats, since an engine prepares itself once for a shape
that comes often, and other work on the machine only adds. Times are taken at the library's default score threshold,
quality at 0.02. Peak memory is that of a fresh process for each way. `measurements.parquet` in OUT keeps every single
time.

Last come the photos by the share of them that lies in chips, and what that costs beside the bare decode and the whole
pass: the goals are at most 2 decodes without chips, at most 4 with 1 to 5 %, and both at least 6 times cheaper than the
whole pass; and on no density more than 1.1 times the exhaustive run.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.mosaics import add_arguments, describe, made_sets
from benchmarks.ways import DECODERS, EVALUATION_SCORE, Answer, Settings, Way, make_way, usable_ways
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.evaluation.average_precision import (
    SIZE_BUCKETS,
    ApResult,
    HasBoxesAndScores,
    PhotoTruth,
    average_precision,
)

CHIP_GROUPS = (
    ("no chips", 0.0, 0.0),
    ("up to 1 %", 0.0, 0.01),
    ("1 to 5 %", 0.01, 0.05),
    ("5 to 50 %", 0.05, 0.5),
    ("more", 0.5, 1.0),
)
"""Name, lowest (exclusive) and highest share of the finest level that lies in chips."""

GOALS = {"no chips": 2.0, "up to 1 %": 4.0, "1 to 5 %": 4.0}
"""Most core-seconds, as a multiple of a bare decode."""

Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_settings(parser)
    parser.add_argument("--min-face", nargs="+", type=float, default=[20.0], help="default: 20")
    parser.add_argument("--ways", nargs="+", choices=usable_ways(), default=usable_ways(), help="default: all")
    parser.add_argument("--at-score", type=float, default=0.5, help="score at which recall is told (default: 0.5)")
    options = parser.parse_args()
    sets = made_sets(options)
    print(f"{machine()}\n\n{describe(sets)}", flush=True)
    everything: Rows = []
    for min_face in options.min_face:
        settings = settings_of(options, min_face)
        rows: Rows = []
        for name, photos in sets.items():
            timed = measured({way: make_way(way, settings) for way in (*DECODERS, *options.ways)}, photos, options)
            rows += [{"set": name, "min_face": min_face, **row} for row in timed]
            found = answers(options.ways, settings, photos)
            memory = {way: peak_memory(way, settings, photos) for way in (*DECODERS, *options.ways)}
            print(f"### {name}, faces from {min_face:g} px, {options.engine}, {options.precision}\n", flush=True)
            print(_table(timed, found, memory, photos, min_face, options.at_score), flush=True)
        if {"whole", "exhaustive", "focus"} <= set(options.ways):
            print(f"### by chips, faces from {min_face:g} px\n\n{_by_chips(rows)}", flush=True)
        everything += rows
    pq.write_table(pa.Table.from_pylist(everything), options.output / "measurements.parquet")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of the cascade takes."""
    parser.add_argument("--weights", help="weights file (default: the ones that ship)")
    parser.add_argument("--engine", default="auto", help="of all rows: auto, torch, openvino ... (default: auto)")
    parser.add_argument("--precision", default="float32", help="of all rows: float32 or int8 (default: float32)")
    parser.add_argument("--repeats", type=int, default=3, help="times each photo is looked at (default: 3)")


def settings_of(options: argparse.Namespace, min_face: float) -> Settings:
    """What `add_settings` was told."""
    return Settings(weights=options.weights, engine=options.engine, precision=options.precision, min_face=min_face)


def machine() -> str:
    """What the times were taken on."""
    known = Path("/proc/cpuinfo")
    fields = (
        dict(line.split("\t: ") for line in known.read_text().splitlines() if "\t: " in line) if known.exists() else {}
    )
    name = fields.get("model name", platform.processor())
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} CPUs{load}; one thread"


def measured(ways: Mapping[str, Way], photos: Sequence[LabelledPhoto], options: argparse.Namespace) -> Rows:
    """One row for each way and photo: least core-seconds and seconds, and what the way says it looked at."""
    first = photos[0].path.read_bytes()
    for way in ways.values():
        way(first)  # caches, kernels chosen for a shape, lazy imports
    rows: Rows = []
    for number, photo in enumerate(photos):
        data = photo.path.read_bytes()
        runs: dict[str, list[tuple[float, float, Answer]]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                runs[name].append(_timed(way, data))
        for name, times in runs.items():
            answer = times[0][2]
            rows.append(
                {
                    "way": name,
                    "photo": number,
                    "core_seconds": min(run[0] for run in times),
                    "seconds": min(run[1] for run in times),
                    "pixels": answer.pixels,
                    "finest_pixels": answer.finest_pixels,
                    "chips": answer.chips,
                    "chip_share": answer.chip_share,
                }
            )
    return rows


def _timed(way: Way, data: bytes) -> tuple[float, float, Answer]:
    core, wall = time.process_time(), time.perf_counter()
    answer = way(data)
    return time.process_time() - core, time.perf_counter() - wall, answer


def answers(
    names: Sequence[str], settings: Settings, photos: Sequence[LabelledPhoto]
) -> dict[str, list[HasBoxesAndScores]]:
    """What each way finds in each photo, unsure faces included."""
    settings = dataclasses.replace(settings, score_threshold=EVALUATION_SCORE)
    ways = {name: make_way(name, settings) for name in names}
    return {name: [way(photo.path.read_bytes()).faces for photo in photos] for name, way in ways.items()}


def quality(
    photos: Sequence[LabelledPhoto],
    found: Sequence[HasBoxesAndScores],
    size_range: tuple[float, float],
    at_score: float = 0.5,
    bootstrap: int = 0,
) -> ApResult:
    """Average precision at IoU 0.5 of faces of a range of sizes, by the library's scorer."""
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    return average_precision(truths, found, size_range=size_range, at_score=at_score, bootstrap=bootstrap)


def peak_memory(way: str, settings: Settings, photos: Sequence[LabelledPhoto]) -> int:
    """Most bytes that a process held in memory which did nothing but look at the two heaviest photos this way."""
    heaviest = sorted((photo.path for photo in photos), key=lambda path: -path.stat().st_size)[:2]
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_peak_of_this_process, way, settings, heaviest).result()


def _peak_of_this_process(name: str, settings: Settings, paths: Sequence[Path]) -> int:
    way = make_way(name, settings)
    for path in paths:
        way(path.read_bytes())
    return process_peak()


def process_peak() -> int:
    """Most bytes that this process ever held in memory."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process().memory_info().peak_wset)


def mean_of(rows: Rows, way: str, column: str) -> float:
    """The mean over the photos; nan without any."""
    values = [row[column] for row in rows if row["way"] == way]
    return statistics.fmean(values) if values else math.nan


def floor_of(rows: Rows) -> str:
    """The faster of the two decoders on these photos."""
    return min(DECODERS, key=lambda name: mean_of(rows, name, "core_seconds"))


def _table(
    rows: Rows,
    found: Mapping[str, Sequence[HasBoxesAndScores]],
    memory: Mapping[str, int],
    photos: Sequence[LabelledPhoto],
    min_face: float,
    at_score: float,
) -> str:
    ranges = [(low, high) for low, high in SIZE_BUCKETS if high > min_face]
    names = " | ".join(f"{low:g}-{high:g} px" if high < math.inf else f"{low:g} px and more" for low, high in ranges)
    lines = [
        "| way | core-s | s | of a decode | network Mpx | of the finest level "
        f"| AP from {min_face:g} px [95 %] / recall | {names} | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|" + "---:|" * (len(ranges) + 1),
    ]
    floor = mean_of(rows, floor_of(rows), "core_seconds")
    for way in dict.fromkeys(row["way"] for row in rows):
        core, wall, pixels, finest = (
            mean_of(rows, way, name) for name in ("core_seconds", "seconds", "pixels", "finest_pixels")
        )
        cells = [way, f"{core:.3f}", f"{wall:.3f}", f"{core / floor:.1f}"]
        if way in found:
            cells += [f"{pixels / 1e6:.2f}", f"{100 * pixels / finest:.0f} %"]
            wanted = quality(photos, found[way], (min_face, math.inf), at_score, bootstrap=1000)
            interval = "" if math.isnan(wanted.low) else f" [{100 * wanted.low:.1f}, {100 * wanted.high:.1f}]"
            told = f"{100 * wanted.ap:.1f}{interval} / {100 * wanted.recall:.0f}"
            cells.append(told if wanted.num_faces else "-")
            for size_range in ranges:
                part = quality(photos, found[way], size_range, at_score)
                cells.append(f"{100 * part.ap:.1f} / {100 * part.recall:.0f}" if part.num_faces else "-")
        else:
            cells += ["-"] * (3 + len(ranges))
        lines.append(f"| {' | '.join([*cells, f'{memory[way] / 2**20:,.0f}'])} |")
    return "\n".join(lines) + "\n"


def _chip_group(row: dict[str, Any]) -> str:
    """Which of `CHIP_GROUPS` a photo belongs to, from its row of the way focus."""
    # A photo may have chips on a level between and none on the finest.
    share = max(row["chip_share"], 1e-9) if row["chips"] else 0.0
    return next(name for name, low, high in CHIP_GROUPS if low < share <= high or low == share == high)


def _by_chips(rows: Rows) -> str:
    """Photos of all densities by how much of them lies in chips, then each density."""
    names = {(row["set"], row["photo"]): _chip_group(row) for row in rows if row["way"] == "focus"}
    groups = {name: [row for row in rows if names[row["set"], row["photo"]] == name] for name, *_ in CHIP_GROUPS}
    groups |= {name: [row for row in rows if row["set"] == name] for name in dict.fromkeys(row["set"] for row in rows)}
    lines = [
        "| photos | number | core-s | of a decode (goal) | whole pass / focus (goal) | focus / exhaustive (goal) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, part in groups.items():
        if not part:
            lines.append(f"| {name} | 0 | - | - | - | - |")
            continue
        core = {way: mean_of(part, way, "core_seconds") for way in ("focus", "whole", "exhaustive", floor_of(part))}
        goal = GOALS.get(name)
        cells = [
            name,
            str(sum(row["way"] == "focus" for row in part)),
            f"{core['focus']:.3f}",
            f"{core['focus'] / core[floor_of(part)]:.1f}" + (f" ({goal:g})" if goal else ""),
            f"{core['whole'] / core['focus']:.1f}" + (" (6)" if goal else ""),
            f"{core['focus'] / core['exhaustive']:.2f}" + (" (1.1)" if not goal else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
