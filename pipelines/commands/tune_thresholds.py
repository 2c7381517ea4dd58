"""`retinafocus tune thresholds`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands.command import Verbs, add_verb
from pipelines.commands.search import add_search_options, run_search, search_settings

if TYPE_CHECKING:
    from pipelines.detect_config import DetectSettings

EPILOG = """\
examples:
  retinafocus tune thresholds data/val -o thresholds                       the best F1
  retinafocus tune thresholds data/val -o sure --min-precision 0.95        the most faces with 95 % right ones
  retinafocus tune thresholds data/val -o all --min-recall 0.9             the fewest false ones with 90 % of the faces
  retinafocus tune thresholds data/train -o thresholds --report-folder data/val
  retinafocus tune thresholds data/val -o sure --min-precision 0.95 --raw thresholds/raw      looks at no photo again
  retinafocus tune thresholds data/val -o both --config focus/settings.toml                   after `tune focus`
  retinafocus detect photos -o out --config thresholds/settings.toml

Each photo is looked at once. Then, for each overlap of duplicates that is tried (post.nms_iou), the best of all scores
that occur is taken. It is chosen on one half of the photos, and reported on the other beside the default settings. OUT
holds settings.toml (the chosen ones), report.md and report.parquet (precision, recall and F1 by face size),
thresholds.png and trials.parquet.
"""


def add(actions: Verbs) -> None:
    thresholds = add_verb(
        actions, "thresholds", "choose the score to show faces from, and the overlap of duplicates", epilog=EPILOG
    )
    thresholds.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    thresholds.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    thresholds.add_argument(
        "--report-folder",
        metavar="FOLDER",
        help="labelled photos to report on (default: half of FOLDER, not chosen on)",
    )
    thresholds.add_argument(
        "--raw", metavar="DIR", help="what was found before duplicates go, shared by searches (default: OUT/raw)"
    )
    thresholds.add_argument("--by-people", action="store_true", help="leave out photos that only detectors labelled")
    thresholds.add_argument(
        "--config", metavar="FILE", help="settings of the detection in TOML (default: its defaults)"
    )
    thresholds.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    thresholds.add_argument("--min-face", type=float, metavar="PX", help="smallest face (default: 20)")
    thresholds.add_argument("--engine", choices=("auto", "torch", "openvino", "onnx"), help="of the network")
    thresholds.add_argument("--precision", choices=("float32", "int8"), help="of the network")
    choice = thresholds.add_argument_group("what is chosen", "default: the best F1")
    either = choice.add_mutually_exclusive_group()
    either.add_argument("--min-precision", type=float, metavar="0..1", help="the highest recall with this precision")
    either.add_argument("--min-recall", type=float, metavar="0..1", help="the highest precision with this recall")
    add_search_options(thresholds, trials=60)
    thresholds.set_defaults(verb=_tune_thresholds)


def _tune_thresholds(options: argparse.Namespace) -> int:
    from pipelines.report import Progress
    from retinafocus.evaluation.operating_points import Goal
    from tune.thresholds import ThresholdsJob, tune_thresholds

    job = ThresholdsJob(
        folder=options.folder,
        output=options.output,
        report_folder=options.report_folder,
        raw=options.raw,
        settings=_settings(options),
        goal=Goal(precision=options.min_precision, recall=options.min_recall),
        space=options.space,
        weights=options.weights,
        by_people=options.by_people,
        **search_settings(options),
    )
    return run_search(lambda: tune_thresholds(job, Progress(finds=False)))


def _settings(options: argparse.Namespace) -> DetectSettings:
    """The defaults, over them those of the file, over them the flags."""
    from pipelines.detect_config import DetectSettings, read_detect_settings

    settings = DetectSettings() if options.config is None else read_detect_settings(Path(options.config))
    names = ("min_face", "engine", "precision")
    return replace(settings, **{name: getattr(options, name) for name in names if getattr(options, name) is not None})
