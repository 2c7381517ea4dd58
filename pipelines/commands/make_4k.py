"""`retinafocus make-4k`."""

from __future__ import annotations

import argparse
import re

from pipelines.commands.command import EXIT_OK, Verbs, add_verb

# (width, height) of section 4.1 of the paper.
BOTH = ((3840, 2160), (7680, 4320))

EXAMPLES = """\
examples:
  retinafocus make-4k WIDER -o wider-4k                             of the validation photos of WIDER FACE
  retinafocus make-4k data/val -o val-4k --order balanced           of labelled photos, crowds spread evenly
  retinafocus make-4k WIDER -o again --expect 1f0c...               the very set that somebody else made, or an error
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "make-4k", "join labelled photos into canvases of 4K and more, without resizing", EXAMPLES)
    parser.add_argument(
        "path", metavar="PATH",
        help="a folder with images.parquet, labels.parquet and images/, or with WIDER FACE's WIDER_val/images",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument(
        "--size", type=canvas_sizes, default=(BOTH[0],), metavar="WIDTHxHEIGHT",
        help="of the canvases, in pixels; both: 3840x2160 and 7680x4320, in a folder each (default: 3840x2160)",
    )  # fmt: skip
    parser.add_argument(
        "--order", choices=("listed", "shuffled", "balanced"), default="listed",
        help="of the photos; balanced: small faces spread evenly over the canvases (default: listed)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="of the other two orders (default: 0)")
    parser.add_argument(
        "--gutter", type=int, default=16, metavar="PX", help="empty ground between photos (default: 16)"
    )
    parser.add_argument(
        "--format", choices=("png", "jpeg"), default="png",
        help="of the pictures: png loses nothing, jpeg of quality 95 is smaller (default: png)",
    )  # fmt: skip
    parser.add_argument(
        "--ground-truth", metavar="DIR", help="folder of WIDER FACE's .mat files (default: looked for below PATH)"
    )
    parser.add_argument(
        "--expect", nargs="+", default=(), metavar="HASH", help="write only a set of this hash (one for each size)"
    )
    parser.set_defaults(verb=_make_4k)


def canvas_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """(width, height) of each set that `--size` asks for."""
    if text == "both":
        return BOTH
    if match := re.fullmatch(r"(\d{1,6})x(\d{1,6})", text):
        return ((int(match[1]), int(match[2])),)
    raise argparse.ArgumentTypeError(f"{text!r} is no size; write 3840x2160, 7680x4320 or both")


def _make_4k(options: argparse.Namespace) -> int:
    from pipelines.make_4k import CanvasJob, make_canvases
    from pipelines.report import Progress
    from pipelines.supervisor import stoppable
    from retinafocus.datasets.canvas_layout import LayoutConfig
    from retinafocus.errors import SettingsError

    if options.order == "listed" and options.seed is not None:
        raise SettingsError(
            "seed: the listed order draws nothing; choose --order shuffled or balanced, or leave it out"
        )
    layouts = [
        LayoutConfig(width=width, height=height, gutter=options.gutter, order=options.order, seed=options.seed or 0)
        for width, height in options.size
    ]
    job = CanvasJob(
        path=options.path,
        output=options.output,
        layouts=layouts,
        format=options.format,
        ground_truth=options.ground_truth,
        expect=options.expect,
    )
    with stoppable():
        print(make_canvases(job, Progress()))
    return EXIT_OK
