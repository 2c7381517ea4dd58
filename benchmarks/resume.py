"""How long it takes to find out what a run of a million photos still has to do, on a disk and over S3.

    python -m benchmarks.resume                     4,000 shards of 250 photos, on a disk and on moto's S3 server
    python -m benchmarks.resume --shards 400        a tenth of it

The run is made of nothing (`benchmarks.synthetic_run`), with a file under every name a real one has; three shards are
then undone. Prints a Markdown table; benchmarks/README.md holds recorded ones. The S3 server is a Python program on
the same machine and gives its answers one after the other: the line `reading one record` says what that costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable

from benchmarks.moto_server import make_bucket, s3_server
from benchmarks.synthetic_run import write_large_ledger
from pipelines.inventory import PLAN_COLUMNS
from pipelines.ledger import leftovers, reconcile, unrecorded_shards
from pipelines.manifest import read_listing
from pipelines.retry import shards_to_do
from retinafocus.runs import LEDGER_FOLDER, ledger_name, read_ledger, read_manifest, read_run_file
from retinafocus.storage import Storage, StorageConfig, open_storage

NAMES = {"disk": "disk", "s3": "S3 (moto)"}

UNDONE = 3
"""Shards that a killed command had not finished."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=4000, help="shards of the run (default: 4000)")
    parser.add_argument("--photos", type=int, default=250, help="photos of each (default: 250)")
    parser.add_argument("--only", choices=list(NAMES), help="one of the two stores")
    options = parser.parse_args()
    print(f"{options.shards * options.photos:,} photos in {options.shards:,} shards, {UNDONE} of them undone\n")
    kinds = [options.only] if options.only else ["disk", "s3"]
    tables = [_measure(kind, options.shards, options.photos) for kind in kinds]
    print(f"| seconds (CPU of this process) | {' | '.join(NAMES[kind] for kind in kinds)} |")
    print("|---" + "|---:" * len(kinds) + "|")
    for step in tables[0]:
        print(f"| {step} | {' | '.join(table[step] for table in tables)} |")


def _measure(kind: str, shards: int, photos: int) -> dict[str, str]:
    if kind == "disk":
        with tempfile.TemporaryDirectory() as folder:
            return _times(open_storage(folder), shards, photos)
    with s3_server() as endpoint:
        make_bucket(endpoint, "bucket")
        storage = open_storage("s3://bucket/run", StorageConfig(endpoint=endpoint, region="us-east-1"))
        return _times(storage, shards, photos)


def _times(storage: Storage, shards: int, photos: int) -> dict[str, str]:
    write_large_ledger(storage, shards, photos)
    for shard in range(UNDONE):
        storage.delete(ledger_name(shard * (shards // UNDONE)))
    table: dict[str, str] = {}

    def timed(step: str, work: Callable[[], object], *, times: int = 1) -> object:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            result = work()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        table[step] = f"{wall / times:.3g} ({cpu / times:.2g})"
        return result

    timed("reading one record", lambda: storage.read(ledger_name(1)), times=20)
    start, cpu = time.perf_counter(), time.process_time()
    timed("run.json and what was listed", lambda: (read_run_file(storage), read_listing(storage)))
    manifest = timed("manifest", lambda: read_manifest(storage, columns=PLAN_COLUMNS))
    rows = timed("names of the records", lambda: unrecorded_shards(storage.names(LEDGER_FOLDER), manifest))
    table["**until the first photo**"] = f"**{time.perf_counter() - start:.1f} ({time.process_time() - cpu:.1f})**"
    if len(rows) != UNDONE:
        raise RuntimeError(f"{len(rows)} shards to do, {UNDONE} were undone")
    records = timed("at the end, or for --retry: the records", lambda: read_ledger(storage))
    if len(shards_to_do(records, manifest, (), None)[0]) != UNDONE:
        raise RuntimeError("the records say something else than their names")
    timed("at the end: the sums", lambda: reconcile(records, manifest))
    timed("at the end: files that no record names", lambda: leftovers(storage, records))
    return table


if __name__ == "__main__":
    main()
