"""`retinafocus status`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_storage_options, add_verb, storage_config


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "status", "how far a run is: photos done, failed and remaining, rate, time left")
    parser.add_argument("run", metavar="OUT", help="the -o folder of `retinafocus detect`")
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_storage_options(parser)
    parser.set_defaults(verb=_status)


def _status(options: argparse.Namespace) -> int:
    import json

    from pipelines.status import run_status

    status = run_status(options.run, storage_config(options))
    print(json.dumps(status.to_dict(), indent=2) if options.json else status.report())
    return EXIT_OK
