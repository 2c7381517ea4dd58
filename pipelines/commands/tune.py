"""`retinafocus tune anchors` and `retinafocus tune focus`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_verb

ANCHORS_EPILOG = """\
examples:
  retinafocus tune anchors data/train -o anchors --config configs/mobile025-focus.toml
  retinafocus tune anchors data/train -o anchors-640 --crop-size 640 --per-level 3
  retinafocus tune anchors data/train -o anchors-whole --factors 0.25 0.5 1       whole photos at these scales
  retinafocus tune anchors data/train -o anchors-p2 --levels 4 8 16 32            what one more level would cover
  retinafocus train --config anchors/anchors.toml -o runs/mine

An anchor is a box that the network corrects into a face, so its size and shape should be near those of the faces as
the network sees them: after the crops of the training, which enlarge some faces and shrink others. No picture is
opened; the crops are those the training would cut. Sizes are clustered by 1 - IoU and shared out over the levels, the
smallest on the finest. Clustering alone puts most anchors where most faces are, which in crowds is below 20 px; hence
--smallest, --every-octave-to and --octave-balance.

OUT holds coverage.parquet (how well this set and published ones cover the faces, by size), the same in anchors.md and
anchors.png, and anchors.toml, which `retinafocus train --config` takes. Weights trained with other anchors need
model.heads = "new" there (docs/tuning.md).
"""


FOCUS_EPILOG = """\
examples:
  retinafocus tune focus data/val -o focus                      the cheapest settings not worse than the default ones
  retinafocus tune focus data/val -o focus --max-cost 0.2       the best ones for 0.2 network Mpx a photo
  retinafocus tune focus data/val -o focus --min-ap 0.9         the cheapest ones with an AP of 0.9
  retinafocus tune focus data/val -o focus --space mine.toml --trials 1000 --time 60
  retinafocus tune focus data/val -o focus --resume             goes on after a kill, or chooses another point
  retinafocus detect photos -o out --config focus/settings.toml

Each photo is looked at once, every level whole; then settings are tried on what was kept. OUT holds trials.parquet (all
settings tried, with AP and costs), front.parquet and front.png (those that no other beats in both), settings.toml (the
chosen ones) and check.parquet (the chosen ones and some others with the cascade itself).
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "tune", "find better settings than the given ones for the photos at hand")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    anchors = add_verb(
        actions, "anchors", "estimate anchor sizes and shape from labelled faces, and compare with published ones",
        epilog=ANCHORS_EPILOG,
    )  # fmt: skip
    anchors.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    anchors.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    anchors.add_argument("--per-level", type=int, default=2, metavar="N", help="anchors in a cell (default: 2)")
    anchors.add_argument(
        "--levels", nargs="+", type=int, default=(8, 16, 32), metavar="STRIDE",
        help="strides of the levels; only for 8 16 32, the network's own, is anchors.toml written (default: 8 16 32)",
    )  # fmt: skip
    anchors.add_argument(
        "--ratio", type=_ratio, default=None, metavar="auto|R",
        help="height / width of the anchors; auto: the median of the faces (default: auto)",
    )  # fmt: skip
    _add_faces(anchors)
    _add_remedies(anchors)
    anchors.set_defaults(verb=_tune_anchors)
    _add_focus(actions)


def _add_focus(actions: Verbs) -> None:
    focus = add_verb(actions, "focus", "search the cascade's settings for accuracy and cost", epilog=FOCUS_EPILOG)
    focus.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    focus.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
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
    _add_search(focus, trials=300)
    focus.set_defaults(verb=_tune_focus)


def _add_search(parser: argparse.ArgumentParser, *, trials: int) -> None:
    """What all searches share."""
    search = parser.add_argument_group("search")
    search.add_argument("--space", metavar="FILE", help="what is searched, in TOML (docs/tuning.md)")
    search.add_argument("--trials", type=int, default=trials, metavar="N", help=f"settings to try (default: {trials})")
    search.add_argument("--time", type=float, metavar="MIN", help="begin no trial after so many minutes")
    search.add_argument(
        "--search", choices=("auto", "optuna", "sobol"), default="auto",
        help="optuna learns from trials, sobol spreads them evenly (default: optuna where it is installed)",
    )  # fmt: skip
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of the proposals (default: 0)")
    search.add_argument("--workers", type=int, metavar="N", help="processes (default: one per CPU)")
    search.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster (auto: the one running here)")
    search.add_argument("--resume", action="store_true", help="go on with the search in OUT")


def _tune_focus(options: argparse.Namespace) -> int:
    from pipelines.report import Progress
    from pipelines.supervisor import stoppable
    from retinafocus.detector import DetectorConfig
    from tune.focus import FocusJob, tune_focus

    job = FocusJob(
        folder=options.folder,
        output=options.output,
        space=options.space,
        weights=options.weights,
        detector=DetectorConfig(min_face=options.min_face, engine=options.engine, precision=options.precision),
        by_people=options.by_people,
        look_at_chips=options.chips == "looked-at",
        cost=options.cost,
        max_cost=options.max_cost,
        min_ap=options.min_ap,
        trials=options.trials,
        seconds=None if options.time is None else 60 * options.time,
        search=options.search,
        seed=options.seed,
        workers=options.workers,
        address=options.address,
        resume=options.resume,
    )
    with stoppable():
        print(tune_focus(job, Progress()))
    return EXIT_OK


def _add_faces(anchors: argparse.ArgumentParser) -> None:
    seen = anchors.add_argument_group("what the network sees")
    seen.add_argument("--config", metavar="FILE", help="settings of the training in TOML: how its crops are cut")
    either = seen.add_mutually_exclusive_group()
    either.add_argument(
        "--crop-size", type=int, metavar="PX", help="edge of the crops (default: that of --config, or 320)"
    )
    either.add_argument(
        "--factors", nargs="+", type=float, metavar="F", help="whole photos at these factors of their size, no crops"
    )
    seen.add_argument("--draws", type=int, metavar="N", help="crops to look at (default: 4000)")
    seen.add_argument("--seed", type=int, metavar="N", help="of the crops (default: that of --config, or 0)")


def _add_remedies(anchors: argparse.ArgumentParser) -> None:
    remedies = anchors.add_argument_group("against anchors that are all tiny")
    remedies.add_argument(
        "--smallest", type=float, metavar="PX", help="cluster faces from this size on (default: the finest stride)"
    )
    remedies.add_argument(
        "--every-octave-to", type=float, default=512.0, metavar="PX",
        help="an anchor of its own for each octave of sizes up to this one, faces or not; 0: none (default: 512)",
    )  # fmt: skip
    remedies.add_argument(
        "--octave-balance", type=float, default=0.0, metavar="0..1",
        help="0: every face counts the same, 1: every octave of sizes does (default: 0)",
    )  # fmt: skip
    remedies.add_argument(
        "--update", choices=("median", "best"), default="median",
        help="a cluster's size: the median of its faces, or that of the highest mean IoU (default: median)",
    )  # fmt: skip


def _ratio(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number") from None


def _tune_anchors(options: argparse.Namespace) -> int:
    from pipelines.report import Progress
    from pipelines.supervisor import stoppable
    from retinafocus.training.anchor_estimation import EstimateConfig
    from tune.anchors import AnchorsJob, run_estimation

    estimate = EstimateConfig(
        per_level=options.per_level,
        strides=tuple(options.levels),
        ratio=options.ratio,
        smallest=float(options.levels[0]) if options.smallest is None else options.smallest,
        octave_balance=options.octave_balance,
        every_octave_to=options.every_octave_to,
        update=options.update,
    )
    job = AnchorsJob(
        folder=options.folder,
        output=options.output,
        config=options.config,
        crop_size=options.crop_size,
        draws=options.draws,
        seed=options.seed,
        factors=options.factors,
        estimate=estimate,
    )
    with stoppable():
        print(run_estimation(job, Progress(counted="crops")))
    return EXIT_OK
