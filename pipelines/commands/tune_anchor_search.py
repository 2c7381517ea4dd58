"""`retinafocus tune anchor-search`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Verbs, add_verb
from pipelines.commands.search import add_search_options, run_search, search_settings
from pipelines.commands.tune_anchors import add_seen_options

EPILOG = """\
examples:
  retinafocus tune anchor-search data/train -o search --config mine.toml    the best with as many as the preset has
  retinafocus tune anchor-search data/train -o search --config mine.toml --resume --max-per-cell 3
  retinafocus tune anchor-search data/train -o search --config mine.toml --resume --min-measure 0.6    the fewest
  retinafocus tune anchor-search data/train -o free --space free.toml --trials 5000 --search sobol
  retinafocus train --config search/anchors.toml -o runs/mine
  retinafocus tune training --config mine.toml --space search/training-space.toml -o compared

A trial is a set of anchors: how many in a cell, their shape, how their sizes are estimated from the faces (as
`retinafocus tune anchors` does), and how much larger or smaller than estimated they are on each level. It is judged by
the best IoU that faces have with an anchor, octaves of sizes alike, and by the number of anchors. No picture is opened
and nothing is trained: a trial takes a few hundredths of a second.

OUT holds trials.parquet (all that was tried), front.parquet and front.png (those that no other beats in both),
coverage.parquet, anchors.md and anchors.png (the front beside published anchors), anchors.toml (the chosen ones in the
settings of a training) and training-space.toml, with which `retinafocus tune training` compares the front by short
trainings: coverage is no accuracy.
"""


def add(actions: Verbs) -> None:
    search = add_verb(actions, "anchor-search", "search anchors for coverage of faces and number", epilog=EPILOG)
    search.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    search.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    add_seen_options(search)
    choice = search.add_argument_group("what is chosen", "default: the best with as many anchors as the preset has")
    choice.add_argument(
        "--measure", choices=("mean-overlap", "coverage"), default="mean-overlap",
        help="what is to be high: the mean best IoU of faces, or the share above IoU 0.35 (default: mean-overlap)",
    )  # fmt: skip
    either = choice.add_mutually_exclusive_group()
    either.add_argument("--max-per-cell", type=int, metavar="N", help="the best with at most N anchors in a cell")
    either.add_argument("--min-measure", type=float, metavar="0..1", help="the fewest with at least so much of it")
    add_search_options(search, trials=1000)
    search.set_defaults(verb=_tune_anchor_search)


def _tune_anchor_search(options: argparse.Namespace) -> int:
    from pipelines.report import Progress
    from tune.anchor_search import AnchorSearchJob, search_anchors
    from tune.seen_faces import SeenFaces

    job = AnchorSearchJob(
        seen=SeenFaces(
            folder=options.folder,
            config=options.config,
            crop_size=options.crop_size,
            draws=options.draws,
            factors=options.factors,
        ),
        output=options.output,
        space=options.space,
        measure=options.measure,
        max_per_cell=options.max_per_cell,
        min_measure=options.min_measure,
        **search_settings(options),
    )
    return run_search(lambda: search_anchors(job, Progress(counted="crops")))
