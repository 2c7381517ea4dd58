"""`retinafocus tune focus-labels`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Verbs, add_verb
from pipelines.commands.search import add_search_options, run_search, search_settings

EPILOG = """\
examples:
  retinafocus tune focus-labels data/train --judge data/val4k -o labels --config configs/mobile025-focus.toml
  retinafocus tune focus-labels data/train --judge data/val4k -o labels --config configs/mobile025-focus.toml --resume
  retinafocus tune focus-labels data/train --judge data/val4k -o other --space mine.toml --trials 60 --time 120
  retinafocus train --config labels/settings.toml -o runs/mine

Which map the focus branch should read, and which faces it should mark (a, b, c): short trainings of the branch on the
frozen detector. Every second photo of --judge ranks the trials; on the others the cascade itself checks the best, each
trained again several times. OUT holds trials.parquet, check.parquet, focus-labels.png and settings.toml.
"""


def add(actions: Verbs) -> None:
    labels = add_verb(actions, "focus-labels", "search which faces the focus branch should mark", epilog=EPILOG)
    labels.add_argument("folder", metavar="FOLDER", help="labelled photos to learn from")
    labels.add_argument(
        "--judge", required=True, metavar="FOLDER", help="other labelled photos, of the size of the archive's"
    )
    labels.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    labels.add_argument("--by-people", action="store_true", help="judge on no photos that only detectors labelled")
    labels.add_argument(
        "--config", metavar="FILE", help="settings of the training in TOML: its crops, its loss, the present labels"
    )
    labels.add_argument("--weights", metavar="FILE", help="of the frozen detector (default: the ones that ship)")
    labels.add_argument("--min-face", type=float, default=20.0, metavar="PX", help="smallest face (default: 20)")
    length = labels.add_argument_group("length of the trainings")
    length.add_argument(
        "--crops", type=int, default=3200, metavar="N", help="that all trials learn from (default: 3200)"
    )
    length.add_argument("--batch", type=int, default=8, metavar="N", help="crops for each step (default: 8)")
    length.add_argument("--steps", type=int, default=800, metavar="N", help="of a whole training (default: 800)")
    length.add_argument(
        "--finalists", type=int, default=3, metavar="N", help="trials that are trained again (default: 3)"
    )
    length.add_argument("--repeats", type=int, default=3, metavar="N", help="how often (default: 3)")
    add_search_options(labels, trials=40)
    labels.set_defaults(verb=_tune_focus_labels)


def _tune_focus_labels(options: argparse.Namespace) -> int:
    from tune.focus_labels import LabelsJob, tune_focus_labels

    job = LabelsJob(
        folder=options.folder,
        judge=options.judge,
        output=options.output,
        config=options.config,
        weights=options.weights,
        by_people=options.by_people,
        min_face=options.min_face,
        crops=options.crops,
        batch=options.batch,
        steps=options.steps,
        finalists=options.finalists,
        repeats=options.repeats,
        space=options.space,
        **search_settings(options),
    )
    return run_search(lambda: tune_focus_labels(job))
