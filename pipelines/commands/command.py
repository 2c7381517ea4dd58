"""What every verb of the command line shares: exit codes, its place in `--help`, and the detector's options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from retinafocus.storage import StorageConfig

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# What the process ends with.
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 1, 2, 3, 4


def say(message: str) -> None:
    """A line on stderr."""
    print(f"retinafocus: {message}", file=sys.stderr)


def fail(code: int, message: str) -> int:
    """Say why on stderr; the exit code."""
    say(message)
    return code


def add_verb(verbs: Verbs, name: str, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of one more verb: `text` both in the list of verbs and in its own help."""
    return verbs.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=epilog
    )


def restated(parser: argparse.ArgumentParser, options: argparse.Namespace, changed: Mapping[str, Any]) -> list[str]:
    """The words of a command as they were understood, to be said elsewhere: what was left out stays out.

    Args:
        parser: of the verb.
        options: what it read.
        changed: other values for some of the options.
    """
    words, last = [], []
    for action in parser._actions:
        value = changed.get(action.dest, getattr(options, action.dest, action.default))
        if not action.option_strings:
            last += value
        elif value != action.default:
            name = action.option_strings[-1]
            words.append(name if value is True else f"{name}={value}")
    return [*words, *(["--", *last] if last else [])]


def add_detector_options(parser: argparse.ArgumentParser, *, min_face: bool = True, mode: bool = True) -> None:
    """What `planning.detector_config` reads; without --min-face, or --mode, --score-threshold and --config, for a verb
    that has its own."""
    parser.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    if min_face:
        parser.add_argument(
            "--min-face", type=float, metavar="PX", help="smallest face to look for, in photo pixels (default: 20)"
        )
    if mode:
        parser.add_argument(
            "--config", metavar="FILE",
            help="settings of the detector in TOML, such as `retinafocus tune focus` writes; the flags below go before",
        )  # fmt: skip
        parser.add_argument(
            "--score-threshold", type=float, metavar="S", help="lowest score kept in the tables (default: 0.3)"
        )
        parser.add_argument(
            "--mode", choices=("auto", "focus", "exhaustive"),
            help="focus: look closer only where the focus map points; exhaustive: everywhere (default: auto, focus "
            "where the weights can)",
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
        "--precision", choices=("float32", "int8", "float16", "bfloat16"),
        help="what it computes in: int8 is faster with openvino on a CPU, the 16-bit ones on GPUs (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="most pixels decoded at once; larger photos are read in strips where they can be (default: 134217728)",
    )  # fmt: skip


def add_root_options(parser: argparse.ArgumentParser) -> None:
    """What identities are relative to, for the verbs that list photos."""
    parser.add_argument(
        "--root", metavar="DIR",
        help="what the photos' identities are relative to; entries of lists may not lead out of it (default: INPUT, or "
        "the deepest folder common to all photos)",
    )  # fmt: skip
    parser.add_argument("--allow-outside", action="store_true", help="admit photos outside --root, under whole names")


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """How object stores are reached: what `storage_config` reads."""
    group = parser.add_argument_group("object stores", "keys come from the environment or a profile")
    group.add_argument("--region", metavar="NAME", help="region of an S3 bucket (default: AWS_REGION)")
    group.add_argument("--profile", metavar="NAME", help="profile of ~/.aws to take keys from (default: AWS_PROFILE)")
    group.add_argument(
        "--endpoint", metavar="URL", help="address of an S3-compatible store (default: AWS_ENDPOINT_URL, or Amazon's)"
    )
    group.add_argument("--requester-pays", action="store_true", help="pay for requests to buckets that charge readers")
    group.add_argument("--anonymous", action="store_true", help="send no keys, for public buckets")


def storage_config(options: argparse.Namespace) -> StorageConfig:
    """The settings of `add_storage_options`."""
    from retinafocus.storage import StorageConfig

    names = ("region", "profile", "endpoint", "requester_pays", "anonymous")
    return StorageConfig(**{name: getattr(options, name) for name in names})
