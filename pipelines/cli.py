"""`retinafocus ...`: one verb per job. Each verb loads what it needs when it is called, so `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# What the process ends with.
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 4

DESCRIPTION = """\
Find every face in archives of large photographs, and leave tables that can be queried.

  retinafocus demo                        see it run on pictures it makes itself
  retinafocus detect PHOTOS -o OUT        look at a folder of photographs
  retinafocus draw OUT -o PICTURES        look at what was found
"""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    options = _parser().parse_args(arguments)
    from retinafocus.errors import RetinaFocusError, SettingsError, WeightsError

    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except (SettingsError, WeightsError) as error:
        return _fail(EXIT_USAGE, f"{type(error).__name__}: {error}")
    except RetinaFocusError as error:
        return _fail(EXIT_ERROR, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return _fail(EXIT_INTERRUPTED, "stopped")


def _fail(code: int, message: str) -> int:
    print(f"retinafocus: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retinafocus", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"retinafocus {metadata.version('retinafocus')}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (_add_detect, _add_draw, _add_eval, _add_demo, _add_weights, _add_doctor):
        add(verbs)
    return parser


def _add_verb(verbs: Verbs, name: str, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=epilog
    )


def _add_detect(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "detect", "find the faces in an archive of photographs", epilog=DETECT_EPILOG)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="folders, photos, globs, or lists (.txt .csv .parquet)"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder of the run; a run in it is continued"
    )
    _add_detector_options(parser)
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


def _add_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    parser.add_argument(
        "--min-face", type=float, metavar="PX", help="smallest face to look for, in photo pixels (default: 20)"
    )
    parser.add_argument(
        "--score-threshold", type=float, metavar="S", help="lowest score kept in the tables (default: 0.3)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the network runs (default: auto)")
    parser.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="a photo of more pixels, or one that must be enlarged to more, is too_large (default: 268435456)",
    )  # fmt: skip


def _add_draw(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "draw", "draw the faces of a run into pictures")
    parser.add_argument("run", metavar="OUT", help="the -o folder of `retinafocus detect`")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="lowest score drawn (default: the weights' display threshold)",
    )
    parser.add_argument(
        "--limit", type=int, default=24, metavar="N", help="photos to draw, spread over the run (default: 24)"
    )
    parser.add_argument(
        "--sheet", action="store_true", help="one contact sheet (sheet.jpg) instead of one picture per photo"
    )
    parser.set_defaults(verb=_draw)


def _add_eval(verbs: Verbs) -> None:
    parser = _add_verb(
        verbs, "eval", "score a run against labelled boxes: AP at IoU 0.5, over all faces and by their size"
    )
    parser.add_argument(
        "run", metavar="OUT", help="the -o folder of `retinafocus detect` (use --score-threshold 0.02 there)"
    )
    parser.add_argument(
        "--labels", required=True, metavar="FILE", help="labels.parquet: image, x1, y1, x2, y2, kind, source"
    )
    parser.add_argument(
        "--sources", nargs="+", metavar="NAME", help="score only photos of these sources (default: all)"
    )
    parser.add_argument("--table", metavar="FILE", help="also write the scores as Parquet")
    parser.set_defaults(verb=_eval)


def _add_demo(verbs: Verbs) -> None:
    parser = _add_verb(
        verbs, "demo", "make a small archive of 4K pictures with planted faces and run the whole job on it"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="retinafocus-demo",
        metavar="DIR",
        help="folder for it all (default: retinafocus-demo)",
    )
    _add_detector_options(parser)
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="pictures to make (default: 8)")
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto", help="as in detect (default: auto)"
    )
    parser.add_argument("--workers", metavar="N", help="as in detect")
    parser.set_defaults(verb=_demo)


def _add_weights(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "weights", "import published weights, or show what a weights file holds")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    convert = _add_verb(actions, "import", "turn a published RetinaFace .pth file into a weights file of ours")
    convert.add_argument("file", metavar="FILE", help="the .pth file")
    convert.add_argument(
        "--preset", required=True, metavar="NAME", help="which variant it is: files of several variants look alike"
    )
    convert.add_argument("-o", "--output", required=True, metavar="OUT", help="the .safetensors file to write")
    convert.set_defaults(verb=_weights_import)
    show = _add_verb(actions, "show", "what a weights file holds: network, anchors, source, licence, hash")
    show.add_argument("file", nargs="?", metavar="FILE", help="the weights file (default: the ones that ship)")
    show.set_defaults(verb=_weights_show)


def _add_doctor(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "doctor", "what is installed here, what works, and what would make it faster")
    parser.set_defaults(verb=_doctor)


def _detect(options: argparse.Namespace) -> int:
    from pipelines import detect
    from pipelines.report import Progress, describe_plan, summary

    job = detect.DetectJob(
        inputs=options.inputs,
        output=options.output,
        weights=options.weights,
        detector=detect.detector_config(options),
        workers=options.workers,
        runner=options.runner,
        address=options.address,
        existing=options.existing,
        root=options.root,
        limit=options.limit,
    )
    planned = detect.plan(job, with_forecast=options.dry_run)
    print(describe_plan(planned))
    if options.dry_run:
        return EXIT_OK
    try:
        with detect.stoppable():
            finished = detect.run(planned, Progress())
    except KeyboardInterrupt:
        return _fail(EXIT_INTERRUPTED, "stopped; finished shards are kept, the same command goes on from there")
    print(summary(options.output, finished))
    return EXIT_OK


def _draw(options: argparse.Namespace) -> int:
    from pipelines.pictures import draw_run

    for path in draw_run(options.run, options.output, options.score_threshold, options.limit, options.sheet):
        print(path)
    return EXIT_OK


def _eval(options: argparse.Namespace) -> int:
    from pipelines.evaluate import evaluate_run

    print(evaluate_run(options.run, options.labels, options.sources, options.table))
    return EXIT_OK


def _demo(options: argparse.Namespace) -> int:
    from pipelines.demo import run_demo

    return run_demo(options)


def _weights_import(options: argparse.Namespace) -> int:
    from pipelines.report import describe_weights
    from retinafocus.weights import import_published

    info = import_published(options.file, options.preset, options.output)
    print(f"wrote {options.output}\n{describe_weights(info)}")
    return EXIT_OK


def _weights_show(options: argparse.Namespace) -> int:
    from pipelines.report import describe_weights
    from retinafocus.weights import find_weights, read_info

    print(describe_weights(read_info(find_weights(options.file))))
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from pipelines.doctor import examine

    print(examine())
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
