"""`retinafocus validate`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_ERROR, EXIT_OK, Verbs, add_storage_options, add_verb, storage_config

VALIDATE_EPILOG = """\
exit codes: 0 every check passed, 1 one failed or there is no run.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "validate", "check a run, or a copy of one: accounting, schema, ranges, references, hashes",
        epilog=VALIDATE_EPILOG,
    )  # fmt: skip
    parser.add_argument("run", metavar="OUT", help="the -o folder of `retinafocus detect`, or a copy of it")
    parser.add_argument("--quick", action="store_true", help="check the ledger and the names of files; open no table")
    add_storage_options(parser)
    parser.set_defaults(verb=_validate)


def _validate(options: argparse.Namespace) -> int:
    from pipelines.validate import validate

    findings = validate(options.run, storage_config(options), quick=options.quick)
    print(findings.report())
    return EXIT_ERROR if findings.problems else EXIT_OK
