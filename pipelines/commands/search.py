"""What the searches of `retinafocus tune` share on the command line."""

from __future__ import annotations

import argparse
from typing import Any


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
    """What `add_search_options` read, by the names of `tune.sweep.SweepJob`."""
    names = ("trials", "search", "seed", "workers", "address", "resume")
    seconds = None if options.time is None else 60 * options.time
    return {**{name: getattr(options, name) for name in names}, "seconds": seconds}
