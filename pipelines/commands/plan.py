"""`retinafocus plan`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands.command import (
    EXIT_OK,
    Verbs,
    add_detector_options,
    add_storage_options,
    add_verb,
    storage_config,
)

if TYPE_CHECKING:
    from pipelines.cluster_plan import ClusterJob

PLAN_EPILOG = """\
examples:
  retinafocus plan ~/photos                               levels, pixels, time and memory at the default smallest face
  retinafocus plan ~/photos --min-face 10 20 40           the same for several, side by side
  retinafocus plan ~/photos --gpu-seconds 0.004           cores that feed a GPU which takes 4 ms for a photo
  retinafocus plan ~/photos --sample 0.1%                 time for all, from a thousandth looked at by all workers
  retinafocus plan s3://photos --sample 0.1% --cluster 1 4 16 --node-workers 32 --price-per-node-hour 1.20

Only headers are read, but for a few photos, or the sample, which are looked at to know the time. Nothing stays written.
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
    parser.add_argument(
        "--sample", metavar="SHARE", help="measure on this share of the photos (0.1%%) or so many, with all workers"
    )
    _add_cluster(parser)
    add_storage_options(parser)
    parser.set_defaults(verb=_plan)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "clusters", "worked out from the times above, for nodes whose workers are as fast as those here"
    )
    group.add_argument("--cluster", nargs="+", metavar="NODES", help="numbers of nodes to compare")
    group.add_argument("--node-workers", type=int, metavar="N", help="workers of a node (default: as many as here)")
    group.add_argument("--node-bandwidth", type=float, metavar="MB/S", help="of a node's network (default: no limit)")
    group.add_argument(
        "--store-bandwidth", type=float, metavar="MB/S", help="of what holds the photos, to all nodes together"
    )
    group.add_argument(
        "--price-per-node-hour", type=float, metavar="X", help="what a node costs in an hour, in your currency"
    )


def _plan(options: argparse.Namespace) -> int:
    from pipelines.plan_report import PlanJob, plan_report
    from pipelines.planning import detector_config
    from retinafocus.detector import DetectorConfig
    from retinafocus.errors import SettingsError

    # An option that takes several values also takes an input that follows it.
    lists = {name: _numbers(getattr(options, name) or ()) for name in ("min_face", "gpu_seconds", "cluster")}
    faces, seconds, nodes = (numbers for numbers, _ in lists.values())
    inputs = [*options.inputs, *(word for _, after in lists.values() for word in after)]
    if not inputs:
        raise SettingsError(_no_input([word for name in lists for word in getattr(options, name) or ()]))
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
        sample=options.sample,
        cluster=_cluster(options, nodes),
        price_per_hour=options.price_per_node_hour,
    )
    print(plan_report(job))
    return EXIT_OK


def _cluster(options: argparse.Namespace, nodes: Sequence[float]) -> ClusterJob | None:
    from pipelines.cluster_model import Node
    from pipelines.cluster_plan import ClusterJob
    from pipelines.workers import resolve_workers
    from retinafocus.errors import SettingsError

    if options.cluster is None:
        given = [f"--{name}" for name in ("node-workers", "node-bandwidth", "store-bandwidth") if _value(options, name)]
        if given:
            raise SettingsError(f"{given[0]} is of a cluster; name numbers of nodes with --cluster")
        if options.price_per_node_hour is not None and options.sample is None:
            raise SettingsError("--price-per-node-hour prices a --sample or a --cluster; give one of them")
        return None
    if not nodes or any(number != int(number) for number in nodes):
        raise SettingsError(f"cluster is {' '.join(options.cluster)!r}; give numbers of nodes")
    workers = options.node_workers
    node = Node(
        workers=resolve_workers(options.workers, options.device or "auto").count if workers is None else workers,
        bytes_per_second=_bytes(options.node_bandwidth),
        price_per_hour=options.price_per_node_hour,
    )
    return ClusterJob(
        nodes=[int(number) for number in nodes], node=node, store_bytes_per_second=_bytes(options.store_bandwidth)
    )


def _value(options: argparse.Namespace, name: str) -> float | None:
    value: float | None = getattr(options, name.replace("-", "_"))
    return value


def _bytes(megabytes: float | None) -> float:
    return math.inf if megabytes is None else 1e6 * megabytes


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
