"""`retinafocus eval`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_storage_options, add_verb, storage_config


def add(verbs: Verbs) -> None:
    parser = add_verb(
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
    add_storage_options(parser)
    parser.set_defaults(verb=_eval)


def _eval(options: argparse.Namespace) -> int:
    from pipelines.evaluate import evaluate_run

    print(evaluate_run(options.run, options.labels, options.sources, options.table, storage_config(options)))
    return EXIT_OK
