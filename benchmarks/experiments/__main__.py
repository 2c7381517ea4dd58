"""The paper's ablations and trade-offs, from labelled photographs to Parquet, Markdown tables and plots.

    python -m benchmarks.experiments FACES_VAL --train FACES_TRAIN -o OUT --canvases --densities medium
        [--parts level sizes chips oracle]

Parts:

* level: focus branches on C2, C3, C4, P2, P3 and P4;
* sizes: focus branches with several (a, b, c);
* chips: threshold, dilation, smallest chip and levels: AP, pixels, core-seconds, peak memory;
* oracle: the labels in place of the focus map; and recall of faces by focus cells and by chips against area.

Looked at are 4K pictures made of photos of FACES_VAL: mosaics of shrunk photos (`benchmarks.mosaics`), and with
--canvases the photos themselves side by side (`retinafocus make-4k`). The branches of level and sizes learn from
FACES_TRAIN, all at once and on the same crops, beside the frozen detector; nothing learns from FACES_VAL.

Each part leaves PART.md, PART.png and its tables as Parquet in OUT. Killed, the same command goes on: a part whose
tables are there is read and told again, a training goes on from its last checkpoint. Other weights and settings, and
other numbers of pictures or faces, are noticed; changed code, photos changed one for one, and another FACES_TRAIN are
not: choose another OUT for these. One thread; times are
core-seconds of variants that take turns on the first --timed pictures of each set, the least of --repeats.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from benchmarks.cascade import add_settings, machine, settings_of
from benchmarks.experiments.branches import LEVEL, SIZES
from benchmarks.experiments.canvases import made_canvases
from benchmarks.experiments.chipping import CHIPS
from benchmarks.experiments.perfect import PERFECT
from benchmarks.experiments.study import Study
from benchmarks.experiments.tables import made_once
from benchmarks.mosaics import add_arguments, describe, made_sets
from pipelines.label_plots import require_matplotlib

PARTS = {"level": LEVEL, "sizes": SIZES, "chips": CHIPS, "oracle": PERFECT}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    require_matplotlib()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = made_sets(options)
    if options.canvases:
        if options.faces is None:
            parser.error("--canvases needs FACES_VAL")
        sets = {"canvases": made_canvases(options.faces, options.output), **sets}
    study = Study(
        sets=sets,
        settings=dataclasses.replace(settings_of(options, options.min_face), device=options.device),
        output=options.output,
        repeats=options.repeats,
        timed=options.timed,
        train=options.train,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        tell=lambda line: print(line, flush=True),
    )
    print(f"{machine()}\n\n{describe(sets)}", flush=True)
    for name in options.parts:
        run(name, study)


def run(name: str, study: Study) -> str:
    """Make or read the tables of a part; writes and returns its Markdown."""
    part = PARTS[name]
    start = time.process_time()
    tables = made_once(study.output, part.tables, part.record(study), lambda: part.rows(study))
    told = part.text(tables)
    (study.output / f"{name}.md").write_text(told)
    part.plot(tables, study.output / f"{name}.png")
    study.tell(f"## {name} ({time.process_time() - start:.0f} core-s)\n\n{told}")
    return told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    add_settings(parser)
    parser.set_defaults(repeats=2)
    parser.add_argument("--canvases", action="store_true", help="also look at canvases as of `retinafocus make-4k`")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--train", type=Path, help="labelled photos to train focus branches on, in the Parquet form")
    parser.add_argument("--steps", type=int, default=400, help="of the branches' training (default: 400)")
    parser.add_argument("--batch", type=int, default=8, help="crops for each step (default: 8)")
    parser.add_argument("--timed", type=int, default=4, help="pictures of each set that are timed (default: 4)")
    parser.add_argument("--device", default="cpu", help="of the cascade; the oracle stays on the CPU (default: cpu)")
    parser.add_argument("--min-face", type=float, default=20.0, help="default: 20")
    return parser


if __name__ == "__main__":
    main()
