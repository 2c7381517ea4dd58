"""`retinafocus ...`: one verb per job. Each verb loads what it needs when it is called, so `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from pipelines.commands import data, demo, detect, doctor, draw, evaluate, explain, export, plan, train, weights
from pipelines.commands.command import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, fail

# In the order of `--help`.
VERBS = (detect, plan, draw, explain, evaluate, train, demo, data, weights, export, doctor)

DESCRIPTION = """\
Find every face in archives of large photographs, and leave tables that can be queried.

  retinafocus demo                        see it run on pictures it makes itself
  retinafocus detect PHOTOS -o OUT        look at a folder of photographs
  retinafocus draw OUT -o PICTURES        look at what was found
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    options = _parser().parse_args(arguments)
    from retinafocus.errors import RetinaFocusError, SettingsError, WeightsError

    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except (SettingsError, WeightsError) as error:
        return fail(EXIT_USAGE, f"{type(error).__name__}: {error}")
    except RetinaFocusError as error:
        return fail(EXIT_ERROR, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retinafocus", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"retinafocus {metadata.version('retinafocus')}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
