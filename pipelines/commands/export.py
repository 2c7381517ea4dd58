"""`retinafocus export`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_verb


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "export", "write the network as a file for other programs: ONNX or OpenVINO")
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
