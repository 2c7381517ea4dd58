"""`retinafocus draw`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_storage_options, add_verb, storage_config

EXAMPLES = """\
examples:
  retinafocus draw out -o pictures --sheet                24 photos of the run on one sheet, pictures/sheet.jpg
  retinafocus draw out -o pictures --limit 100            100 pictures
  retinafocus draw out -o pictures --score-threshold 0.3  with all that the tables hold
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "draw", "draw the faces of a run into pictures", EXAMPLES)
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
    add_storage_options(parser)
    parser.set_defaults(verb=_draw)


def _draw(options: argparse.Namespace) -> int:
    from pipelines.pictures import draw_run

    pictures = draw_run(
        options.run, options.output, options.score_threshold, options.limit, options.sheet, storage_config(options)
    )
    for path in pictures:
        print(path)
    return EXIT_OK
