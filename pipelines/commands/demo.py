"""`retinafocus demo`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Verbs, add_detector_options, add_verb


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "demo", "make a small archive of 4K pictures with planted faces and run the whole job on it"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="retinafocus-demo",
        metavar="DIR",
        help="folder for it all (default: retinafocus-demo)",
    )
    add_detector_options(parser)
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="pictures to make (default: 8)")
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto", help="as in detect (default: auto)"
    )
    parser.add_argument("--workers", metavar="N", help="as in detect")
    parser.set_defaults(verb=_demo)


def _demo(options: argparse.Namespace) -> int:
    from pipelines.demo import run_demo

    return run_demo(options)
