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

TRAIN_EPILOG = """\
examples:
  retinafocus train --config configs/mobile025-focus.toml -o runs/first
  retinafocus train --config configs/mobile025-focus.toml -o runs/first --resume      go on where it was killed
  retinafocus train --config configs/mobile025-focus.toml --show-samples 12 -o sheet.png
  retinafocus train --config FILE --show-settings                   every setting with its meaning, as TOML
  retinafocus train --config FILE --set workers=2 --set loop.learning_rate=0.005
  retinafocus train --config FILE --init WEIGHTS --set loop.freeze=all-but-focus      teach the focus branch alone

OUT holds metrics.jsonl, curves.png and tensorboard/ (one entry per epoch), checkpoints, best.safetensors (highest AP on
the evaluation photos) and last.safetensors (at the end), both with the whole recipe inside. Samples depend on the seed
and their numbers alone, so a training that was killed and goes on learns the same as one that was not. Look at some
samples before a long training.
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
    for add in (_add_detect, _add_draw, _add_eval, _add_train, _add_demo, _add_data, _add_weights, _add_doctor):
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
        help="a photo of more pixels, or one that must be enlarged to more, is too_large (default: 134217728)",
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
        "--labels", required=True, metavar="DIR", help="labelled photos: images.parquet, labels.parquet, images/"
    )
    parser.add_argument(
        "--sources", nargs="+", metavar="NAME", help="score only photos of these sources (default: all)"
    )
    parser.add_argument("--table", metavar="FILE", help="also write the scores as Parquet")
    parser.set_defaults(verb=_eval)


def _add_train(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "train", "train a network on labelled photos, or go on training one", epilog=TRAIN_EPILOG)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in TOML; ready ones are in configs/")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="a.b=c",
        help="another value for one setting, dots for tables; as often as needed",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="folder of the training (with --show-samples: the picture to write)"
    )
    parser.add_argument("--init", metavar="WEIGHTS", help="weights to go on from: short for --set model.init=WEIGHTS")
    parser.add_argument("--resume", action="store_true", help="go on with the training in OUT, if there is one")
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto",
        help="local: one worker, in this process; ray: Ray Train; auto: ray for several workers (default: auto)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster (auto: the one running here)")
    parser.add_argument(
        "--show-samples", type=int, metavar="N",
        help="draw the first N samples with their anchors and focus cells into OUT (.png or .jpg), and stop",
    )  # fmt: skip
    parser.add_argument(
        "--show-settings", action="store_true", help="print every setting with its meaning as TOML, and stop"
    )
    parser.set_defaults(verb=_train)


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


def _add_data(verbs: Verbs) -> None:
    parser = _add_verb(verbs, "data", "bring labelled photos into the form training reads, or check them")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    convert = _add_verb(actions, "import", "read labels, look at every picture, write what can be used")
    convert.add_argument("labels", metavar="PATH", help="the file of labels; for yolo and voc the folder")
    convert.add_argument(
        "--from", dest="format", required=True, choices=("coco", "yolo", "voc", "widerface"), help="their form"
    )
    convert.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; must be new or empty")
    convert.add_argument("--images", metavar="DIR", help="folder of the pictures (default: the usual places)")
    convert.add_argument("--classes", nargs="+", metavar="NAME", help="classes that are faces (default: the only one)")
    convert.add_argument("--source", metavar="NAME", help="name of the collection (default: that of the labels)")
    convert.add_argument(
        "--pictures", choices=("link", "copy"), default="link", help="how pictures get into OUT (default: link)"
    )
    convert.add_argument(
        "--first-pixel", type=int, choices=(0, 1), default=1, help="voc: what pixels are counted from (default: 1)"
    )
    convert.set_defaults(verb=_data_import)
    check = _add_verb(actions, "check", "bad rows, unreadable pictures, repeats, leaks between splits, spread of faces")
    check.add_argument("folder", metavar="OUT", help="a folder with images.parquet, labels.parquet and images/")
    check.add_argument("--against", metavar="OTHER", help="another split, which must share no photo with OUT")
    check.add_argument("--plots", metavar="DIR", help="write sizes.png, ratios.png and density.png there")
    check.add_argument("--table", metavar="FILE", help="also write every finding as Parquet")
    check.set_defaults(verb=_data_check)


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


def _train(options: argparse.Namespace) -> int:
    from pathlib import Path

    from pipelines import train
    from pipelines.detect import stoppable
    from pipelines.settings import assignment, settings_toml
    from pipelines.train_config import read_train_config
    from retinafocus.errors import SettingsError

    overrides = [*options.overrides, *([assignment("model.init", options.init)] if options.init else [])]
    if options.show_samples is None and options.output:
        overrides.append(assignment("output", options.output))
    config = read_train_config(Path(options.config), overrides)
    if options.show_settings:
        print(settings_toml(config, meanings=True), end="")
        return EXIT_OK
    if options.show_samples is not None:
        if not options.output:
            raise SettingsError("--show-samples writes a picture: name it with -o sheet.png")
        train.show_samples(config, options.show_samples, options.output)
        print(options.output)
        return EXIT_OK
    try:
        with stoppable():
            print(train.train(config, resume=options.resume, runner=options.runner, address=options.address))
    except KeyboardInterrupt:
        return _fail(EXIT_INTERRUPTED, "stopped; the same command with --resume goes on from the last epoch")
    return EXIT_OK


def _demo(options: argparse.Namespace) -> int:
    from pipelines.demo import run_demo

    return run_demo(options)


def _data_import(options: argparse.Namespace) -> int:
    from pipelines.data import ImportJob, import_labels
    from pipelines.report import Progress

    job = ImportJob(
        format=options.format,
        labels=options.labels,
        output=options.output,
        images=options.images,
        classes=options.classes,
        source=options.source,
        pictures=options.pictures,
        first_pixel=options.first_pixel,
    )
    print(import_labels(job, Progress()))
    return EXIT_OK


def _data_check(options: argparse.Namespace) -> int:
    from pipelines.data_check import check_folder

    report = check_folder(options.folder, options.against, options.plots, options.table)
    print(report.text)
    return EXIT_ERROR if report.has_problems else EXIT_OK


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
