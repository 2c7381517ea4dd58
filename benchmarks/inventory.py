"""How fast an archive is listed, and in how much memory.

    python -m benchmarks.inventory [--files 1000000] [--keys 20000] [--made-up 10000000]

Makes empty files in folders of a thousand (in a temporary folder, deleted at the end) and keys on moto's S3 server, and
lists each with `retinafocus index` in a process of its own: the first time, again with nothing changed, and again after
one file of a hundred was added and one of a thousand removed. Then a manifest of made-up names, ten times as many, to
see the memory of an archive that nobody has at hand. Everything was written a moment ago, so the system knows it by
heart: a cold disk or a network takes longer. Prints a Markdown table; benchmarks/README.md holds recorded ones.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.moto_server import s3_server
from pipelines.folders import BATCH_PHOTOS, FOUND_SCHEMA
from pipelines.index import IndexJob, ListingProgress, index
from pipelines.inventory import Inventory
from pipelines.manifest import manifest_batches, manifest_bytes
from pipelines.relisting import Relisting
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import MANIFEST_FILE

FOLDER_FILES = 1000
BUCKET = "inventory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="files on the disk (default: 1,000,000)")
    parser.add_argument("--keys", type=int, default=20_000, help="keys in the S3 server (default: 20,000)")
    parser.add_argument("--made-up", type=int, default=10_000_000, help="names of no photos (default: 10,000,000)")
    parser.add_argument("--folder", help="where the files are made (default: the system's temporary folder)")
    options = parser.parse_args()
    print("| what | photos | wall s | core-s | photos / s | of a core | manifest MB | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        if options.files:
            _measure_disk(folder, options.files)
        if options.keys:
            _measure_s3(folder, options.keys)
        if options.made_up:
            _measure("made-up names, first manifest", options.made_up, _made_up, options.made_up, str(folder / "made"))
            _measure("made-up names, update", options.made_up, _made_up_again, options.made_up, str(folder / "made"))
    finally:
        shutil.rmtree(folder)


def _measure_disk(folder: Path, files: int) -> None:
    photos, out = str(folder / "photos"), str(folder / "out")
    for number in range(files):
        _make(photos, number)
    _measure("local disk, first time", files, _index, [photos], out)
    _measure("local disk, nothing changed", files, _index, [], out)
    for number in range(files // 100):
        _make(photos, files + number)
    for number in range(0, files, 1000):
        os.unlink(_path(photos, number))
    _measure("local disk, some new, some gone", files + files // 100, _index, [], out)


def _measure_s3(folder: Path, keys: int) -> None:
    with s3_server() as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)

        def put(number: int) -> None:
            client.put_object(Bucket=BUCKET, Key=_path("photos", number), Body=b"")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(keys)))
        _measure("S3 server, first time", keys, _index, [f"s3://{BUCKET}/photos"], str(folder / "out-s3"))
        _measure("S3 server, nothing changed", keys, _index, [], str(folder / "out-s3"))


def _path(root: str, number: int) -> str:
    folder = number // FOLDER_FILES
    return f"{root}/{folder // 100:03d}/{folder:05d}/IMG_{number % FOLDER_FILES:05d}.jpg"


def _make(root: str, number: int) -> None:
    path = _path(root, number)
    if number % FOLDER_FILES == 0:
        os.makedirs(os.path.dirname(path))
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def _index(inputs: list[str], out: str) -> str:
    """List, for the first time or (without inputs) again; the manifest's path."""
    with open(os.devnull, "w") as quiet:
        words = index(IndexJob(inputs=inputs, output=out, update=not inputs), ListingProgress(quiet))
    print(words.splitlines()[-1], file=sys.stderr)
    return f"{out}/{MANIFEST_FILE}"


def _made_up_listing(count: int) -> Inventory:
    """A listing as an object store would give it: names of 56 characters, sizes, times and entity tags."""
    batches = []
    for start in range(0, count, BATCH_PHOTOS):
        numbers = np.arange(start, min(start + BATCH_PHOTOS, count))
        columns = [
            pa.array([_path("s3://some-archive/photos", number).encode() for number in numbers], pa.large_binary()),
            pa.array(4_000_000 + numbers * 7919 % 1_000_000),
            pa.array(1_700_000_000_000_000 + numbers * 1_000_003, pa.timestamp("us", tz="UTC")),
            pa.array([f'"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"' for number in numbers.tolist()]),
            pa.nulls(len(numbers)),
            pa.array(np.zeros(len(numbers), bool)),
        ]
        arrays = [column.cast(field.type) for column, field in zip(columns, FOUND_SCHEMA, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=FOUND_SCHEMA))
    root = "s3://some-archive/photos"
    return Inventory(inputs=[root], found=[count], root=root, photos=pa.Table.from_batches(batches))


def _made_up(count: int, out: str) -> str:
    listing = _made_up_listing(count)
    LocalStorage(out).put(MANIFEST_FILE, manifest_bytes(manifest_batches(listing, listing.photos), listing))
    return f"{out}/{MANIFEST_FILE}"


def _made_up_again(count: int, out: str) -> str:
    """Hold a listing with one photo more against the manifest of the others."""
    now = _made_up_listing(count + 1)
    before = Inventory(inputs=now.inputs, found=now.found, root=now.root, photos=FOUND_SCHEMA.empty_table())
    again = Relisting(LocalStorage(out), before, now)
    LocalStorage(out).put(MANIFEST_FILE, manifest_bytes(again.batches(), now))
    print(dict(again.counts), file=sys.stderr)
    return f"{out}/{MANIFEST_FILE}"


def _measure(what: str, photos: int, *work: object) -> None:
    """A row of the table: the work in a fresh process."""
    with get_context("spawn").Pool(1) as pool:
        wall, cpu, size, peak = pool.apply(_timed, work)
    row = f"| {what} | {photos:,} | {wall:.1f} | {cpu:.1f} | {photos / wall:,.0f} | {photos / cpu:,.0f} |"
    print(f"{row} {size / 1e6:.1f} | {peak / 1024:,.0f} |", flush=True)


def _timed(work: object, *arguments: object) -> tuple[float, float, int, int]:
    """Wall and processor seconds, bytes of the manifest, and the peak of the process in KiB, Python included."""
    wall, cpu = time.perf_counter(), time.process_time()
    manifest = work(*arguments)  # type: ignore[operator]
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return *spent, os.path.getsize(manifest), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
