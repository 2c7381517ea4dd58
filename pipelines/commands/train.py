"""`retinafocus train`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_INTERRUPTED, EXIT_OK, Verbs, add_verb, fail

TRAIN_EPILOG = """\
examples:
  retinafocus train --config configs/mobile025-focus.toml -o runs/first
  retinafocus train --config configs/mobile025-focus.toml -o runs/first --resume      go on where it was killed
  retinafocus train --config configs/mobile025-focus.toml --show-samples 12 -o sheet.png
  retinafocus train --config FILE --show-settings                   every setting with its meaning, as TOML
  retinafocus train --config FILE --set workers=2 --set loop.learning_rate=0.005
  retinafocus train --config FILE --init WEIGHTS --set loop.freeze=all-but-focus      teach the focus branch alone

OUT holds metrics.jsonl, curves.png and tensorboard/ (one entry per epoch), checkpoints, best.safetensors (highest AP on
the evaluation photos) and last.safetensors (at the end), both with the whole recipe inside. Samples depend on the seed
and their numbers alone, so a training that was killed and goes on learns the same as one that was not. Look at some
samples before a long training.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "train", "train a network on labelled photos, or go on training one", epilog=TRAIN_EPILOG)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in TOML; ready ones are in configs/")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="a.b=c",
        help="another value for one setting, dots for tables; as often as needed",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="folder of the training (with --show-samples: the picture to write)"
    )
    parser.add_argument("--init", metavar="WEIGHTS", help="weights to go on from: short for --set model.init=WEIGHTS")
    parser.add_argument("--resume", action="store_true", help="go on with the training in OUT, if there is one")
    parser.add_argument(
        "--runner", choices=("auto", "local", "ray"), default="auto",
        help="local: one worker, in this process; ray: Ray Train; auto: ray for several workers (default: auto)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster (auto: the one running here)")
    parser.add_argument(
        "--show-samples", type=int, metavar="N",
        help="draw the first N samples with their anchors and focus cells into OUT (.png or .jpg), and stop",
    )  # fmt: skip
    parser.add_argument(
        "--show-settings", action="store_true", help="print every setting with its meaning as TOML, and stop"
    )
    parser.set_defaults(verb=_train)


def _train(options: argparse.Namespace) -> int:
    from pathlib import Path

    from pipelines import train
    from pipelines.settings import assignment, settings_toml
    from pipelines.supervisor import stoppable
    from pipelines.train_config import read_train_config
    from retinafocus.errors import SettingsError

    overrides = [*options.overrides, *([assignment("model.init", options.init)] if options.init else [])]
    if options.show_samples is None and options.output:
        overrides.append(assignment("output", options.output))
    config = read_train_config(Path(options.config), overrides)
    if options.show_settings:
        print(settings_toml(config, meanings=True), end="")
        return EXIT_OK
    if options.show_samples is not None:
        if not options.output:
            raise SettingsError("--show-samples writes a picture: name it with -o sheet.png")
        train.show_samples(config, options.show_samples, options.output)
        print(options.output)
        return EXIT_OK
    try:
        with stoppable():
            print(train.train(config, resume=options.resume, runner=options.runner, address=options.address))
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped; the same command with --resume goes on from the last epoch")
    return EXIT_OK
