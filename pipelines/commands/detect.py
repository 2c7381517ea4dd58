"""`retinafocus detect`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.addresses import is_job_server
from pipelines.commands.command import (
    EXIT_BUDGET,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Verbs,
    add_detector_options,
    add_root_options,
    add_storage_options,
    add_verb,
    fail,
    restated,
    say,
    storage_config,
)

if TYPE_CHECKING:
    from pipelines.limits import Limits
    from pipelines.planning import DetectJob, Plan
    from retinafocus.detector import DetectorConfig

DETECT_EPILOG = """\
examples:
  retinafocus detect ~/photos -o out                      a folder, to any depth
  retinafocus detect 'day*/*.jpg' -o out                  a glob (quoted)
  retinafocus detect list.csv -o out                      a list with a column uri, path, image or file
  retinafocus detect ~/photos -o out --dry-run            what would be done, and how long it would take
  retinafocus detect ~/photos -o out                      again: goes on where it stopped
  retinafocus detect ~/photos -o out --retry failed       again those that failed

OUT holds faces/, images/ and timing/ (Parquet) and run.json. Every photo ends as exactly one row of images/ with its
status; status ok and faces 0 means looked at, none found.

exit codes: 0 every photo accounted for (failures are rows), 1 error, 2 wrong usage or settings, 3 more photos failed
than --max-error-rate admits, 4 stopped, go on with the same command.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "detect", "find the faces in an archive of photographs", epilog=DETECT_EPILOG)
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help="folders, s3:// or gs:// prefixes, photos, globs, or lists (.txt .csv .parquet); none: those of OUT",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder of the run; a run in it is continued"
    )
    add_detector_options(parser)
    add_job_options(parser)
    add_root_options(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos, in the order of their paths")
    add_limit_options(parser)
    add_storage_options(parser)
    parser.set_defaults(verb=_detect, supervised=True, parser=parser)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Where it runs, what becomes of a run that is there, and when it stops."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it takes; write nothing"
    )
    parser.add_argument(
        "--workers", metavar="N",
        help="N, cpu=N, gpu=N, or gpu=N,cpu=N for both at once; LEAST..MOST for N on a cluster that grows (default: "
        "one per CPU core, or per GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="SHARE",
        help="of a GPU that each GPU worker holds, 0..1; several then share one (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto",
        help="local: in this process; ray: Ray Data actors; auto: ray if it will take over 5 minutes (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--address", metavar="ADDRESS",
        help="HOST:PORT: join this Ray cluster (auto: the one running here); for detect also http://HEAD:8265: send "
        "the command there as a job, and show its log",
    )  # fmt: skip
    parser.add_argument(
        "--events", metavar="FILE", help="also write what happens to this file, a JSON object in a line for each event"
    )
    parser.add_argument(
        "--existing", choices=("resume", "error", "overwrite"), default="resume",
        help="what to do with a run found in OUT (default: resume)",
    )  # fmt: skip
    parser.add_argument(
        "--retry", metavar="failed|STATUS[,STATUS]", help="look again at photos that failed, or failed in these ways"
    )
    parser.add_argument(
        "--max-error-rate", type=float, metavar="SHARE",
        help="stop (exit code 3) once more than this share of photos failed, 0..1 (default: never)",
    )  # fmt: skip


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """What a photo, and the files read ahead, may take of a worker: what `_limits` reads."""
    parser.add_argument(
        "--photo-timeout", type=float, metavar="S",
        help="a photo that takes longer than so many seconds is a timeout (default: 900)",
    )  # fmt: skip
    parser.add_argument(
        "--photo-memory", type=int, metavar="BYTES",
        help="memory for one photo where photos go one by one (default: 2 GiB and 32 bytes for each of --max-pixels)",
    )  # fmt: skip
    parser.add_argument(
        "--read-ahead-bytes", type=int, metavar="BYTES",
        help="files held in memory before their turn, in each worker (default: 268435456)",
    )  # fmt: skip
    parser.add_argument(
        "--careful", action="store_true",
        help="every photo in a process of its own that may die of it (default: where a worker died before)",
    )  # fmt: skip


def _detect(options: argparse.Namespace) -> int:
    if is_job_server(options.address):
        return _submit(options)
    from pipelines.planning import detector_config

    return carry_out(options, detector_config(options))


def _submit(options: argparse.Namespace) -> int:
    """Send the command to a cluster, with every path as it is to be found there."""
    from pipelines.inventory import absolute_inputs
    from pipelines.submit import Submission, submit
    from retinafocus.errors import SettingsError
    from retinafocus.storage import uri_scheme

    if options.runner == "local":
        raise SettingsError("address names a Ray cluster, runner is local; leave one of them out")
    changed: dict[str, Any] = {"address": "auto", "inputs": absolute_inputs(options.inputs)}
    # A bare word that is no file here is the name of weights that come with RetinaFocus.
    is_name = os.path.basename(options.weights or "") == options.weights and not os.path.exists(options.weights)
    names = ("output", "root", "config", "events", *(() if is_name else ("weights",)))
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    changed |= dict(zip(given, absolute_inputs(list(given.values())), strict=True))
    paths = [*changed["inputs"], *(changed[name] for name in given)]
    if local := [path for path in paths if uri_scheme(path) is None]:
        say(f"the cluster's machines must see the same under these paths: {', '.join(local)}")
    words = ["retinafocus", "detect", *restated(options.parser, options, changed)]
    return submit(Submission(address=options.address, words=words, output=changed["output"]))


def carry_out(
    options: argparse.Namespace, detector: DetectorConfig, begin: Callable[[Plan], None] = lambda planned: None
) -> int:
    """Plan and run a job, and say so.

    Args:
        options: as `detect` has them.
        detector: what to look for.
        begin: as in `detect.run`.

    Returns:
        The exit code.
    """
    from pipelines import detect, planning
    from pipelines.budget import ErrorBudget
    from pipelines.index import ListingProgress
    from pipelines.report import Progress, describe_plan, summary
    from pipelines.supervisor import stoppable

    job = _job(options, detector)
    planned = planning.plan(job, with_forecast=options.dry_run, progress=ListingProgress())
    print(describe_plan(planned))
    if options.dry_run:
        return EXIT_OK
    progress = Progress(supervisor=options.supervisor, events=options.events)
    try:
        with stoppable():
            finished = detect.run(planned, progress, begin)
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped; finished shards are kept, the same command goes on from there")
    print(summary(options.output, finished))
    budget = ErrorBudget(options.max_error_rate, [finished["totals"]], finished["totals"]["photos"])
    return fail(EXIT_BUDGET, budget.words()) if budget.exceeded else EXIT_OK


def _job(options: argparse.Namespace, detector: DetectorConfig) -> DetectJob:
    from pipelines.planning import DetectJob

    return DetectJob(
        inputs=options.inputs,
        output=options.output,
        weights=options.weights,
        detector=detector,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        runner=options.runner,
        address=options.address,
        existing=options.existing,
        root=options.root,
        allow_outside=options.allow_outside,
        limit=options.limit,
        retry=_statuses(options.retry),
        limits=_limits(options),
        careful=options.careful,
        max_error_rate=options.max_error_rate,
        storage=storage_config(options),
    )


def _limits(options: argparse.Namespace) -> Limits:
    from pipelines.limits import Limits

    given = {
        "photo_seconds": options.photo_timeout,
        "photo_bytes": options.photo_memory,
        "read_ahead_bytes": options.read_ahead_bytes,
    }
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _statuses(retry: str | None) -> tuple[str, ...]:
    from retinafocus.errors import FAILURES

    return FAILURES if retry == "failed" else tuple(retry.split(",")) if retry else ()
