"""What the searches of `retinafocus tune` share on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pipelines.addresses import check_cluster_address
from pipelines.commands.command import EXIT_INTERRUPTED, EXIT_OK, fail


def add_search_options(parser: argparse.ArgumentParser, *, trials: int) -> None:
    """What all searches share."""
    search = parser.add_argument_group("search")
    search.add_argument("--space", metavar="FILE", help="what is searched, in TOML (docs/tuning.md)")
    search.add_argument("--trials", type=int, default=trials, metavar="N", help=f"settings to try (default: {trials})")
    search.add_argument("--time", type=float, metavar="MIN", help="begin no trial after so many minutes")
    search.add_argument(
        "--search", choices=("auto", "optuna", "sobol"), default="auto",
        help="optuna learns from trials, sobol spreads them evenly (default: optuna where it is installed)",
    )  # fmt: skip
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of the proposals (default: 0)")
    search.add_argument("--workers", type=int, metavar="N", help="processes (default: one per CPU)")
    search.add_argument("--address", metavar="HOST:PORT", help="join this Ray cluster (auto: the one running here)")
    search.add_argument("--resume", action="store_true", help="go on with the search in OUT")


def search_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_search_options` read, by the names of `tune.sweep.SweepJob`.

    Raises:
        SettingsError: the address is none that a process can join.
    """
    if options.address is not None:
        check_cluster_address(options.address)
    names = ("trials", "search", "seed", "workers", "address", "resume")
    seconds = None if options.time is None else 60 * options.time
    return {**{name: getattr(options, name) for name in names}, "seconds": seconds}


def run_search(search: Callable[[], str]) -> int:
    """Run a search and print what it found; Ctrl-C and SIGTERM stop it, with words on how to go on.

    Args:
        search: gives a summary for a person.

    Returns:
        The exit code.
    """
    from pipelines.supervisor import stoppable

    try:
        with stoppable():
            print(search())
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped; finished trials are kept, the same command with --resume goes on")
    return EXIT_OK
