"""`retinafocus tune focus`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Verbs, add_verb
from pipelines.commands.search import add_search_options, run_search, search_settings

EPILOG = """\
examples:
  retinafocus tune focus data/val -o focus                      the cheapest settings not worse than the default ones
  retinafocus tune focus data/val -o focus --max-cost 0.2       the best ones for 0.2 network Mpx a photo
  retinafocus tune focus data/val -o focus --min-ap 0.9         the cheapest ones with an AP of 0.9
  retinafocus tune focus data/val -o focus --space mine.toml --trials 1000 --time 60
  retinafocus tune focus data/val -o focus --resume             goes on after a kill, or chooses another point
  retinafocus tune focus data/val -o focus --resume --report-folder data/test    compared on photos kept apart
  retinafocus detect photos -o out --config focus/settings.toml

Each photo is looked at once, every level whole; then settings are tried on what was kept. OUT holds trials.parquet (all
settings tried, with AP and costs), front.parquet and front.png (those that no other beats in both), settings.toml (the
chosen ones) and check.parquet (the chosen ones and some others with the cascade itself).
"""


def add(actions: Verbs) -> None:
    focus = add_verb(actions, "focus", "search the cascade's settings for accuracy and cost", epilog=EPILOG)
    focus.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    focus.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    focus.add_argument(
        "--report-folder", nargs="+", default=[], metavar="FOLDER",
        help="labelled photos that do not choose: what is chosen is compared with the default settings there",
    )  # fmt: skip
    focus.add_argument("--by-people", action="store_true", help="leave out photos that only detectors labelled")
    focus.add_argument(
        "--chips", choices=("looked-at", "from-levels"), default="looked-at",
        help="looked-at: the network sees each chip once, exact; from-levels: judged by whole levels, quick and too "
        "kind to small chips (default: looked-at)",
    )  # fmt: skip
    focus.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    focus.add_argument("--min-face", type=float, default=20.0, metavar="PX", help="smallest face (default: 20)")
    focus.add_argument("--engine", choices=("auto", "torch", "openvino", "onnx"), default="auto", help="of the network")
    focus.add_argument("--precision", choices=("float32", "int8"), default="float32", help="of the network")
    choice = focus.add_argument_group("what is chosen", "default: the cheapest with at least the AP of the defaults")
    choice.add_argument(
        "--cost", choices=("mpx", "core-seconds"), default="mpx", help="what is to be low (default: mpx)"
    )
    either = choice.add_mutually_exclusive_group()
    either.add_argument("--max-cost", type=float, metavar="X", help="the highest AP for at most X a photo")
    either.add_argument("--min-ap", type=float, metavar="0..1", help="the lowest cost with at least this AP")
    add_search_options(focus, trials=300)
    focus.set_defaults(verb=_tune_focus)


def _tune_focus(options: argparse.Namespace) -> int:
    from pipelines.report import Progress
    from retinafocus.detector import DetectorConfig
    from tune.focus import FocusJob, tune_focus

    job = FocusJob(
        folder=options.folder,
        output=options.output,
        space=options.space,
        weights=options.weights,
        detector=DetectorConfig(min_face=options.min_face, engine=options.engine, precision=options.precision),
        by_people=options.by_people,
        report_folders=options.report_folder,
        look_at_chips=options.chips == "looked-at",
        cost=options.cost,
        max_cost=options.max_cost,
        min_ap=options.min_ap,
        **search_settings(options),
    )
    return run_search(lambda: tune_focus(job, Progress(finds=False)))
