"""`retinafocus export`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_verb

EXAMPLES = """\
examples:
  retinafocus export --format onnx -o faces.onnx                       the weights that ship
  retinafocus export --format openvino --precision int8 -o faces.xml   in 8-bit integers, with faces.bin beside it

The file takes uint8 RGB pixels and gives what the network says; its metadata hold the anchors and the licence.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "export", "write the network as a file for other programs: ONNX or OpenVINO", EXAMPLES)
    parser.add_argument("--format", choices=("onnx", "openvino"), required=True, help="kind of file")
    parser.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    parser.add_argument(
        "--precision", choices=("float32", "int8"), default="float32",
        help="of the convolutions; int8 for weights that have ranges, see weights calibrate (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the .onnx file, or the .xml file (its .bin goes beside it)",
    )
    parser.set_defaults(verb=_export)


def _export(options: argparse.Namespace) -> int:
    from pipelines.report import describe_weights
    from retinafocus.export import export_network
    from retinafocus.weights import find_weights

    weights = find_weights(options.weights)
    info = export_network(weights, options.output, form=options.format, precision=options.precision)
    print(f"wrote {options.output}\n{describe_weights(info)}")
    return EXIT_OK
