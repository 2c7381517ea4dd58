"""What every verb of the command line shares: exit codes, its place in `--help`, and the detector's options."""

from __future__ import annotations

import argparse
import sys
from typing import TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# What the process ends with.
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 4


def fail(code: int, message: str) -> int:
    """Say why on stderr; the exit code."""
    print(f"retinafocus: {message}", file=sys.stderr)
    return code


def add_verb(verbs: Verbs, name: str, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of one more verb: `text` both in the list of verbs and in its own help."""
    return verbs.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=epilog
    )


def add_detector_options(parser: argparse.ArgumentParser, *, min_face: bool = True) -> None:
    """What `planning.detector_config` reads; without --min-face for a verb that has its own."""
    parser.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    if min_face:
        parser.add_argument(
            "--min-face", type=float, metavar="PX", help="smallest face to look for, in photo pixels (default: 20)"
        )
    parser.add_argument(
        "--score-threshold", type=float, metavar="S", help="lowest score kept in the tables (default: 0.3)"
    )
    parser.add_argument(
        "--mode", choices=("auto", "focus", "exhaustive"),
        help="focus: look closer only where the focus map points; exhaustive: everywhere (default: auto, focus where "
        "the weights can)",
    )  # fmt: skip
    parser.add_argument(
        "--focus-threshold", type=float, metavar="T",
        help="look closer from this probability on: lower finds more and costs more; on every level (default: the "
        "weights', a lower one for the coarsest level)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the network runs (default: auto)")
    parser.add_argument(
        "--engine", choices=("auto", "torch", "openvino", "onnx"),
        help="the library that runs it (default: auto, openvino on a CPU where it is installed, else torch)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="most pixels decoded at once; larger photos are read in strips where they can be (default: 134217728)",
    )  # fmt: skip
