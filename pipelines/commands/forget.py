"""`retinafocus forget`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_storage_options, add_verb, storage_config

FORGET_EPILOG = """\
examples:
  retinafocus forget out day2/IMG_0412.jpg                by the path below the archive's root
  retinafocus forget out s3://bucket/day2/IMG_0412.jpg    by the uri in the tables
  retinafocus forget out 4be1b9ee4cd1b84fee8dbc48         by the image_id

The photo itself is not touched. If the command is cut short, the same one finishes
it, and so does the next `retinafocus detect`.
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "forget", "remove every row of some photos from a run, for good", epilog=FORGET_EPILOG)
    parser.add_argument("run", metavar="OUT", help="the -o folder of `retinafocus detect`")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="path, uri or image_id")
    add_storage_options(parser)
    parser.set_defaults(verb=_forget)


def _forget(options: argparse.Namespace) -> int:
    from pipelines.forget import forget

    done = forget(options.run, options.photos, storage_config(options))
    print(f"{done.photos:,} photos taken out, {done.shards:,} shards written anew, {done.files:,} old files deleted")
    return EXIT_OK
