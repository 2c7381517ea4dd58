"""`retinafocus index`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_OK, Verbs, add_root_options, add_storage_options, add_verb, storage_config

INDEX_EPILOG = """\
examples:
  retinafocus index ~/photos -o out              list a folder, to any depth, into out/manifest/photos.parquet
  retinafocus index s3://bucket/2024 -o out      a prefix of an object store
  retinafocus index SHA256SUMS.txt -o out        a list; its checksums are compared when the photos are read
  retinafocus index --update -o out              later: what is new, what changed, what vanished?
  retinafocus index --update -o out --dry-run    the same, and nothing is written
  retinafocus detect -o out                      look at what is listed and was not looked at

Lists are .txt (one path a line, or the output of sha256sum or md5sum), .csv or .parquet with a column uri, path, image
or file, and if you like sha256, md5, or checksum (such as sha256:9f86...).
"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs, "index", "list the photos of an archive, or find out what changed since", epilog=INDEX_EPILOG
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help="folders, s3:// or gs:// prefixes, photos, globs, or lists (.txt .csv .parquet)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the run")
    parser.add_argument(
        "--update", action="store_true", help="list the inputs of OUT again; find what is new, changed and vanished"
    )
    add_root_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be found; write nothing")
    add_storage_options(parser)
    parser.set_defaults(verb=_index)


def _index(options: argparse.Namespace) -> int:
    from pipelines.index import IndexJob, ListingProgress, index

    job = IndexJob(
        inputs=options.inputs,
        output=options.output,
        root=options.root,
        allow_outside=options.allow_outside,
        update=options.update,
        dry_run=options.dry_run,
        storage=storage_config(options),
    )
    print(index(job, ListingProgress()))
    return EXIT_OK
