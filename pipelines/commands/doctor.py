"""`retinafocus doctor`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_verb


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "doctor", "what is installed here, what works, and what would make it faster")
    parser.set_defaults(verb=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from pipelines.doctor import examine

    print(examine())
    return EXIT_OK
