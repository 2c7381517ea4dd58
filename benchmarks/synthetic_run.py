"""A run made of nothing, for tests and benchmarks of what reads runs: a manifest, a ledger and parts, without a photo.

Every photo in it is 64 x 48 and has one face; every so many has failed instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipelines.ledger import commit_shard, reconcile
from pipelines.manifest import MANIFEST_SCHEMA, ROW_GROUP_PHOTOS, Listing, image_id, manifest_bytes
from retinafocus.faces import IMAGES_SCHEMA, TIMING_SCHEMA, Faces
from retinafocus.runs import MANIFEST_FILE, RUN_FILE, TABLES, ledger_name, read_ledger, read_manifest
from retinafocus.storage import Storage

ROOT = "/archive"


def write_manifest(storage: Storage, shards: int, photos: int) -> None:
    """A manifest of `shards` times `photos` photos."""
    listing = Listing(inputs=[ROOT], found=[shards * photos], root=ROOT)
    storage.put(MANIFEST_FILE, manifest_bytes(_manifest_batches(shards, photos), listing))


def photo_path(shard: int, number: int) -> str:
    """The path below the root of one photo."""
    return f"{shard:05d}/{number:05d}.jpg"


def _manifest_batches(shards: int, photos: int) -> Iterator[pa.RecordBatch]:
    together = max(1, ROW_GROUP_PHOTOS // photos)
    for first in range(0, shards, together):
        numbers = [shard for shard in range(first, min(first + together, shards)) for _ in range(photos)]
        paths = [photo_path(shard, position % photos) for position, shard in enumerate(numbers)]
        columns = {
            "image_id": [image_id(path) for path in paths],
            "uri": [f"{ROOT}/{path}" for path in paths],
            "path": paths,
            "bytes": [4_000_000] * len(paths),
            "shard": numbers,
            "version": [0] * len(paths),
            "vanished": [False] * len(paths),
        }
        arrays = [pa.array(columns.get(field.name, [None] * len(paths)), field.type) for field in MANIFEST_SCHEMA]
        yield pa.RecordBatch.from_arrays(arrays, schema=MANIFEST_SCHEMA)


def shard_tables(shard: int, photos: int, *, attempt: str = "first", failed_every: int = 0) -> dict[str, pa.Table]:
    """The tables of one shard, in the order in which a run writes them."""
    face = Faces(
        np.array([[1, 2, 30, 40]]), np.array([0.5]), np.full((1, 5, 2), 6), np.zeros(1, np.int16)
    )  # fmt: skip
    images, timing, faces = [], [], [Faces.empty().to_arrow()]
    named = sorted((image_id(photo_path(shard, number)), number) for number in range(photos))
    for name, number in named:
        ok = not (failed_every and number % failed_every == 0)
        uri = f"{ROOT}/{photo_path(shard, number)}"
        row = {"image_id": name, "uri": uri, "status": "ok" if ok else "corrupt", "bytes": 4_000_000, "shard": shard}
        seen = {"width": 64, "height": 48, "orientation": 1, "faces": 1} if ok else {"error": "damaged"}
        images.append({**row, **seen, "pixels_processed": 3072 * ok})
        who = {"image_id": name, "shard": shard, "attempt": attempt, "worker": "none"}
        timing.append({**dict.fromkeys(TIMING_SCHEMA.names, 0), **who, "ms_read": 2.0, "pixels_planned": 3072 * ok})
        if ok:
            faces.append(face.to_arrow(image_id=name, uri=uri, shard=shard))
    return {
        "faces": pa.concat_tables(faces).combine_chunks(),
        "images": pa.Table.from_pylist(images, schema=IMAGES_SCHEMA),
        "timing": pa.Table.from_pylist(timing, schema=TIMING_SCHEMA),
    }


def write_run(storage: Storage, shards: int, photos: int, *, failed_every: int = 0) -> None:
    """A complete run that `retinafocus validate` finds nothing wrong with."""
    storage.put(RUN_FILE, json.dumps(_run_file("running")).encode())
    write_manifest(storage, shards, photos)
    for shard in range(shards):
        tables = shard_tables(shard, photos, failed_every=failed_every)
        commit_shard(storage, shard, "first", tables, {"worker": "none"}, generation=0, manifest_version=0)
    finish(storage)


def finish(storage: Storage) -> None:
    """Write the `run.json` of a complete run."""
    totals = reconcile(read_ledger(storage), read_manifest(storage))
    totals.pop("missing_shards")
    storage.put(RUN_FILE, json.dumps({**_run_file("complete"), "totals": totals}).encode())


def write_large_ledger(storage: Storage, shards: int, photos: int) -> None:
    """A ledger of many shards, and an empty file for every part it names."""
    write_manifest(storage, shards, photos)
    tables = shard_tables(0, photos)
    record = commit_shard(storage, 0, "first", tables, {"worker": "none"}, generation=0, manifest_version=0)

    def write(shard: int) -> None:
        files = {
            table: {**record["files"][table], "name": f"{table}/part-{shard:08d}-first.parquet"} for table in TABLES
        }
        for file in files.values():
            storage.put(file["name"], b"")
        storage.create_once(
            ledger_name(shard), json.dumps({**record, "shard": shard, "files": files}, indent=1).encode()
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(1, shards)))
    finish(storage)


def _run_file(status: str) -> dict[str, object]:
    """As much of a `run.json` as readers of runs want."""
    started = "2026-01-01T00:00:00+00:00"
    return {"status": status, "settings": {}, "archive": {"root": ROOT}, "started": started}
