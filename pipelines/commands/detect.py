"""`retinafocus detect`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_INTERRUPTED, EXIT_OK, Verbs, add_detector_options, add_verb, fail

DETECT_EPILOG = """\
examples:
  retinafocus detect ~/photos -o out                      a folder, to any depth
  retinafocus detect 'day*/*.jpg' -o out                  a glob (quoted)
  retinafocus detect list.csv -o out                      a list with a column uri, path, image or file
  retinafocus detect ~/photos -o out --dry-run            what would be done, and how long it would take
  retinafocus detect ~/photos -o out                      again: goes on where it stopped

OUT holds faces/, images/ and timing/ (Parquet) and run.json. Every photo ends as exactly one row of images/ with its
status; status ok and faces 0 means looked at, none found.

exit codes: 0 every photo accounted for (failures are rows), 1 error, 2 wrong usage or settings, 4 stopped, go on with
the same command.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "detect", "find the faces in an archive of photographs", epilog=DETECT_EPILOG)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="folders, photos, globs, or lists (.txt .csv .parquet)"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder of the run; a run in it is continued"
    )
    add_detector_options(parser)
    parser.add_argument("--workers", metavar="N", help="N, cpu=N or gpu=N (default: one per CPU core, or per GPU)")
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto",
        help="local: in this process; ray: Ray Data actors; auto: ray if it will take over 5 minutes (default: auto)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster (auto: the one running here)")
    parser.add_argument(
        "--existing", choices=("resume", "error", "overwrite"), default="resume",
        help="what to do with a run found in OUT (default: resume)",
    )  # fmt: skip
    parser.add_argument("--root", metavar="DIR", help="what the photos' identities are relative to (default: INPUT)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos, in the order of their paths")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it takes; write nothing"
    )
    parser.set_defaults(verb=_detect)


def _detect(options: argparse.Namespace) -> int:
    from pipelines import detect, planning
    from pipelines.report import Progress, describe_plan, summary

    job = planning.DetectJob(
        inputs=options.inputs,
        output=options.output,
        weights=options.weights,
        detector=planning.detector_config(options),
        workers=options.workers,
        runner=options.runner,
        address=options.address,
        existing=options.existing,
        root=options.root,
        limit=options.limit,
    )
    planned = planning.plan(job, with_forecast=options.dry_run)
    print(describe_plan(planned))
    if options.dry_run:
        return EXIT_OK
    try:
        with detect.stoppable():
            finished = detect.run(planned, Progress())
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped; finished shards are kept, the same command goes on from there")
    print(summary(options.output, finished))
    return EXIT_OK
