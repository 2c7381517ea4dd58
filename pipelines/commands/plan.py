"""`retinafocus plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.commands.command import (
    EXIT_OK,
    Verbs,
    add_detector_options,
    add_storage_options,
    add_verb,
    storage_config,
)

PLAN_EPILOG = """\
examples:
  retinafocus plan ~/photos                               levels, pixels, time and memory at the default smallest face
  retinafocus plan ~/photos --min-face 10 20 40           the same for several, side by side
  retinafocus plan ~/photos --gpu-seconds 0.004           cores that feed a GPU which takes 4 ms for a photo

Nothing is written. Only headers are read, but for a few photos, which are looked at to know the time.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "plan", "what looking at an archive will cost, and which faces will not be found", epilog=PLAN_EPILOG
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="folders, photos, globs, or lists (.txt .csv .parquet)"
    )
    add_detector_options(parser, min_face=False)
    parser.add_argument(
        "--min-face", nargs="+", metavar="PX", help="smallest faces to compare, in photo pixels (default: 20)"
    )
    parser.add_argument("--workers", metavar="N", help="N, cpu=N or gpu=N (default: one per CPU core, or per GPU)")
    parser.add_argument(
        "--gpu-seconds", nargs="+", metavar="S",
        help="what a GPU takes for a photo, for all or for each --min-face (default: measured where there is one)",
    )  # fmt: skip
    add_storage_options(parser)
    parser.set_defaults(verb=_plan)


def _plan(options: argparse.Namespace) -> int:
    from pipelines.plan_report import PlanJob, plan_report
    from pipelines.planning import detector_config
    from retinafocus.detector import DetectorConfig
    from retinafocus.errors import SettingsError

    # An option that takes several values also takes an input that follows it.
    faces, after_faces = _numbers(options.min_face or ())
    seconds, after_seconds = _numbers(options.gpu_seconds or ())
    inputs = [*options.inputs, *after_faces, *after_seconds]
    if not inputs:
        raise SettingsError(_no_input([*(options.min_face or ()), *(options.gpu_seconds or ())]))
    if options.min_face and not faces:
        raise SettingsError(f"min-face is {options.min_face[0]!r}; give sizes in pixels")
    values = vars(options)
    sizes = faces or [DetectorConfig().min_face]
    detectors = [detector_config(argparse.Namespace(**{**values, "min_face": size})) for size in sizes]
    job = PlanJob(
        inputs=inputs,
        detectors=detectors,
        weights=options.weights,
        workers=options.workers,
        gpu_seconds=seconds,
        storage=storage_config(options),
    )
    print(plan_report(job))
    return EXIT_OK


def _no_input(numbers: Sequence[str]) -> str:
    """What is missing; a folder named like a number was taken for one."""
    named = [word for word in numbers if Path(word).exists()]
    if not named:
        return "there is no INPUT; name a folder, photos, a glob or a list of photos"
    return f"there is no INPUT: {named[-1]} was read as a number; if it is the folder, write ./{named[-1]}"


def _numbers(words: Sequence[str]) -> tuple[list[float], list[str]]:
    """The leading words as numbers, and the words from the first that is none."""
    numbers: list[float] = []
    for index, word in enumerate(words):
        try:
            numbers.append(float(word))
        except ValueError:
            return numbers, list(words[index:])
    return numbers, []
