"""`retinafocus tune training`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import Verbs, add_verb
from pipelines.commands.search import add_search_options, run_search, search_settings

EPILOG = """\
examples:
  retinafocus tune training --config mine.toml -o search
  retinafocus tune training --config mine.toml -o search --space space.toml --trials 64 --time 240
  retinafocus tune training --config mine.toml -o search --report-folder data/test     measured on photos kept apart
  retinafocus tune training --config mine.toml -o search --set loop.steps=2000 --set epoch_steps=250
  retinafocus tune training --config mine.toml -o search --resume        goes on after a kill, or with more --trials
  retinafocus train --config search/settings.toml -o runs/chosen

Each trial is a training of loop.steps steps with the settings of --config and its own, judged on evaluation.folder
after each epoch; trials that fall behind are left early (ASHA). A trial that was running when the search was killed
goes on from its checkpoint. Without --space the learning rate, weights of the losses, crops, and for networks that go
on from weights the frozen part and the backbone's learning rate are searched (docs/tuning.md).

OUT holds settings.toml (base settings with those of the best trial), best.safetensors (its weights), trials.parquet,
curves.png (AP against steps), report.parquet, and trials/N with the metrics of each trial; the checkpoints of trials
that are done, and the weights of all but trial 0 (the base settings) and the best, are deleted.
"""


def add(actions: Verbs) -> None:
    training = add_verb(
        actions, "training", "search learning rate, losses, crops and all else of a training", epilog=EPILOG
    )
    training.add_argument("--config", required=True, metavar="FILE", help="settings of the training, as for `train`")
    training.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="a.b=c",
        help="another value for one setting, dots for tables; as often as needed",
    )  # fmt: skip
    training.add_argument("--init", metavar="WEIGHTS", help="weights to go on from: short for --set model.init=WEIGHTS")
    training.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the result")
    training.add_argument(
        "--report-folder", metavar="FOLDER", help="labelled photos that do not choose: what is chosen is measured there"
    )
    add_search_options(training, trials=32)
    training.set_defaults(verb=_tune_training)


def _tune_training(options: argparse.Namespace) -> int:
    from pathlib import Path

    from pipelines.settings import assignment
    from pipelines.train_config import read_train_config
    from tune.training import TrainingJob, tune_training

    overrides = [*options.overrides, *([assignment("model.init", options.init)] if options.init else [])]
    job = TrainingJob(
        base=read_train_config(Path(options.config), overrides),
        output=options.output,
        space=options.space,
        report_folder=options.report_folder,
        **search_settings(options),
    )
    return run_search(lambda: tune_training(job))
