"""`retinafocus weights import|calibrate|show`."""

from __future__ import annotations

import argparse
import sys

from pipelines.commands.command import EXIT_OK, Verbs, add_storage_options, add_verb, storage_config

CALIBRATE_EXAMPLES = """\
examples:
  retinafocus weights calibrate mobile025 ~/photos -o mine.safetensors    the weights that ship, on photos like yours
  retinafocus detect ~/photos -o out --weights mine.safetensors --precision int8
"""

IMPORT_EXAMPLE = """\
example:
  retinafocus weights import mobilenet0.25_Final.pth --preset mobilenet025-1mb -o mine.safetensors

NAME is mobilenet025-1mb, mobilenet025-biubug6 or resnet50-biubug6, after who published the file.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "weights",
        "import published weights, make weights ready for 8-bit integers, or show what a weights file holds",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    convert = add_verb(
        actions, "import", "turn a published RetinaFace .pth file into a weights file of ours", IMPORT_EXAMPLE
    )
    convert.add_argument("file", metavar="FILE", help="the .pth file")
    convert.add_argument(
        "--preset", required=True, metavar="NAME", help="which variant it is: files of several variants look alike"
    )
    convert.add_argument("-o", "--output", required=True, metavar="OUT", help="the .safetensors file to write")
    convert.set_defaults(verb=_weights_import)
    measure = add_verb(
        actions,
        "calibrate",
        "measure on photographs what weights need for --precision int8, and write them with it",
        CALIBRATE_EXAMPLES,
    )
    measure.add_argument("weights", metavar="WEIGHTS", help="the weights file, or the name of weights that ship")
    measure.add_argument(
        "photos", nargs="+", metavar="PHOTOS",
        help="photographs like those to be looked at: folders, s3:// or gs:// prefixes, photos, globs, or lists; 64 of "
        "them, spread evenly",
    )  # fmt: skip
    measure.add_argument("-o", "--output", required=True, metavar="OUT", help="the .safetensors file to write")
    add_storage_options(measure)
    measure.set_defaults(verb=_weights_calibrate)
    show = add_verb(actions, "show", "what a weights file holds: network, anchors, source, licence, hash")
    show.add_argument("file", nargs="?", metavar="FILE", help="the weights file (default: the ones that ship)")
    show.set_defaults(verb=_weights_show)


def _weights_import(options: argparse.Namespace) -> int:
    from pipelines.report import describe_weights
    from retinafocus.weights import import_published

    info = import_published(options.file, options.preset, options.output)
    print(f"wrote {options.output}\n{describe_weights(info)}")
    return EXIT_OK


def _weights_calibrate(options: argparse.Namespace) -> int:
    from pipelines.calibrate import calibrate
    from pipelines.report import describe_weights

    def say(looked_at: int, wanted: int) -> None:
        if looked_at % 16 == 0:
            print(f"looked at {looked_at} of {wanted} photographs", file=sys.stderr)

    done = calibrate(options.weights, options.photos, options.output, say, storage_config(options))
    passed = f", {done.passed_over} more could not be looked at" if done.passed_over else ""
    print(f"wrote {options.output} after {done.looked_at} photographs{passed}\n{describe_weights(done.weights)}")
    return EXIT_OK


def _weights_show(options: argparse.Namespace) -> int:
    from pipelines.report import describe_weights
    from retinafocus.weights import find_weights, read_info

    print(describe_weights(read_info(find_weights(options.file))))
    return EXIT_OK
