"""`retinafocus tune anchors`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_verb

EPILOG = """\
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


def add(actions: Verbs) -> None:
    anchors = add_verb(
        actions, "anchors", "estimate anchor sizes and shape from labelled faces, and compare with published ones",
        epilog=EPILOG,
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
    seen = add_seen_options(anchors)
    seen.add_argument("--seed", type=int, metavar="N", help="of the crops (default: that of --config, or 0)")
    _add_remedies(anchors)
    anchors.set_defaults(verb=_tune_anchors)


def add_seen_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which faces, as the network sees them: what `tune.seen_faces` takes, but for the seed."""
    seen = parser.add_argument_group("what the network sees")
    seen.add_argument("--config", metavar="FILE", help="settings of the training in TOML: how its crops are cut")
    either = seen.add_mutually_exclusive_group()
    either.add_argument(
        "--crop-size", type=int, metavar="PX", help="edge of the crops (default: that of --config, or 320)"
    )
    either.add_argument(
        "--factors", nargs="+", type=float, metavar="F", help="whole photos at these factors of their size, no crops"
    )
    seen.add_argument("--draws", type=int, metavar="N", help="crops to look at (default: 4000)")
    return seen


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
