"""`retinafocus explain`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import (
    EXIT_OK,
    Verbs,
    add_detector_options,
    add_storage_options,
    add_verb,
    storage_config,
)

EXPLAIN_EPILOG = """\
examples:
  retinafocus explain photo.jpg -o why                    a page of pictures, why/explain.html
  retinafocus explain photo.jpg -o why --at 1204,460      and in words what happened at that pixel
  retinafocus explain photo.jpg -o why --mode exhaustive  would the network find it if it looked everywhere?

Give the options that the run had.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "explain", "show why faces of a photo were found or missed, level by level", epilog=EXPLAIN_EPILOG
    )
    parser.add_argument("photo", metavar="PHOTO", help="the photo: a path or URI")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for explain.html and its pictures")
    parser.add_argument(
        "--at", type=_point, metavar="X,Y", help="also say what happened at this pixel of the upright photo"
    )
    add_detector_options(parser)
    add_storage_options(parser)
    parser.set_defaults(verb=_explain)


def _point(text: str) -> tuple[float, float]:
    x, _, y = text.partition(",")
    try:
        return float(x), float(y)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no point; write X,Y, such as 1204,460") from error


def _explain(options: argparse.Namespace) -> int:
    from pipelines.explain import ExplainJob, explain
    from pipelines.planning import detector_config

    job = ExplainJob(
        photo=options.photo,
        output=options.output,
        weights=options.weights,
        detector=detector_config(options),
        at=options.at,
        storage=storage_config(options),
    )
    print(explain(job))
    return EXIT_OK
