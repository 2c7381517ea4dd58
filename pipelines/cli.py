"""`retinafocus ...`: one verb per job. Each verb loads what it needs when it is called, so `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata

from pipelines.addresses import is_job_server
from pipelines.commands import (
    data,
    demo,
    detect,
    doctor,
    draw,
    evaluate,
    explain,
    export,
    forget,
    index,
    make_4k,
    plan,
    status,
    train,
    tune,
    validate,
    weights,
)
from pipelines.commands.command import EXIT_BUDGET, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, fail
from pipelines.supervisor import Supervisor, stoppable, supervise

# In the order of `--help`.
VERBS = (
    detect, index, plan, status, validate, forget, draw, explain, evaluate, make_4k, train, tune, demo, data, weights,
    export, doctor,
)  # fmt: skip

DESCRIPTION = """\
Find every face in archives of large photographs, and leave tables that can be queried.

  retinafocus demo                        see it run on pictures it makes itself
  retinafocus detect PHOTOS -o OUT        look at a folder of photographs
  retinafocus draw OUT -o PICTURES        look at what was found
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    Args:
        arguments: None takes those of the process, and gives a verb that may be killed by a photo a process of its own.
    """
    options = _parser().parse_args(arguments)
    if arguments is None and options.supervised and not is_job_server(getattr(options, "address", None)):
        return supervise("pipelines.cli:work", sys.argv)
    return _run(options)


def work() -> int:
    """`main` in the process that `supervise` started."""
    descriptor, restarts, *sys.argv = sys.argv
    supervisor = Supervisor(int(descriptor))
    try:
        with stoppable():
            options = _parser().parse_args(sys.argv[1:])
            options.supervisor = supervisor
            if "begun" in restarts:
                options.existing = "resume"
            if "careful" in restarts:
                options.careful = True
            code = _run(options)
        sys.stdout.flush()
    except BaseException:  # a mistake of ours, which would only happen again
        traceback.print_exc()
        code = EXIT_ERROR
    supervisor.ended(code)
    return code


def _run(options: argparse.Namespace) -> int:
    from retinafocus.errors import BudgetError, RetinaFocusError, SettingsError, WeightsError

    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except (SettingsError, WeightsError) as error:
        return fail(EXIT_USAGE, f"{type(error).__name__}: {error}")
    except BudgetError as error:
        return fail(EXIT_BUDGET, f"{type(error).__name__}: {error}")
    except RetinaFocusError as error:
        return fail(EXIT_ERROR, f"{type(error).__name__}: {error}")
    except OSError as error:  # a disk or store that failed where nobody had a better word for it
        return fail(EXIT_ERROR, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retinafocus", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Replaced by the verbs that run under a supervisor, and by `work`.
    parser.set_defaults(supervised=False, supervisor=Supervisor())
    parser.add_argument("--version", action="version", version=f"retinafocus {metadata.version('retinafocus')}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
