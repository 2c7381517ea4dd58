"""A run's manifest: every photo it is about, in shards.

It knows nothing of workers, so their number may change between a run and its resume. A later listing makes the next
version of it (`pipelines.relisting`): no row ever moves to another shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import MANIFEST_FILE
from retinafocus.storage import Storage

# A shard ends at whichever comes first. 1 GiB is about what one worker reads in a minute or two from slow storage.
SHARD_PHOTOS = 256
SHARD_BYTES = 1 << 30
# Small archives are cut finer, so that a handful of workers all get some.
MINIMUM_SHARDS = 16

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("bytes", pa.int64()),
        pa.field("modified", pa.timestamp("us", tz="UTC")),
        pa.field("etag", pa.string()),
        pa.field("checksum", pa.string()),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("vanished", pa.bool_(), nullable=False),
    ]
)

# Photos of one row group, so that a worker which wants one shard reads little else.
ROW_GROUP_PHOTOS = 4096

# Where the manifest's Parquet metadata say what was listed.
_METADATA_KEY = "retinafocus.listing"


@dataclass(kw_only=True)
class Listing:
    """What was listed and how: what the manifest's metadata keep."""

    inputs: list[str]
    """Absolute."""
    found: list[int]
    """Photos of each input."""
    root: str
    """What the photos' identities are relative to: the stated root, the input folder, or the deepest common folder."""
    stated_root: str | None = None
    allow_outside: bool = False
    limit: int | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    """Count of entries that are no photo by their name, by kind: "hidden", "linked folder", "other (.xmp)"..."""
    version: int = 0
    """How often the archive was listed again since the first time."""
    listed: str = ""
    """When."""

    def to_metadata(self) -> dict[str, str]:
        """As metadata of a Parquet file."""
        return {_METADATA_KEY: json.dumps({one.name: getattr(self, one.name) for one in fields(Listing)})}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> Listing:
        """Back from there.

        Raises:
            KeyError, ValueError, TypeError: this is no manifest of ours.
        """
        return cls(**json.loads((metadata or {})[_METADATA_KEY.encode()]))


def image_id(path: str | bytes) -> str:
    """A photo's identity: a hash of its path relative to the archive's root, so that moving the root keeps it.

    Args:
        path: relative, with forward slashes.

    Returns:
        24 hexadecimal digits (96 bits: two photos of a billion share one with a chance of about 1e-11).
    """
    return digest(path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")).hex()


def digest(path: bytes) -> bytes:
    """The 12 bytes that `image_id` spells out."""
    return hashlib.blake2b(path, digest_size=12).digest()


def manifest_batches(listing: Listing, photos: pa.Table) -> Iterator[pa.RecordBatch]:
    """The first manifest of an archive: batches of `MANIFEST_SCHEMA`, in the order of names, cut into shards.

    Args:
        listing: says the root and the version.
        photos: what was found, of `pipelines.folders.FOUND_SCHEMA`.

    Raises:
        SettingsError: a photo lies outside the stated root.
    """
    shards = cut_shards(sizes(photos), photos.num_rows)
    for start in range(0, photos.num_rows, ROW_GROUP_PHOTOS):
        stop = start + ROW_GROUP_PHOTOS
        yield manifest_rows(listing, photos.slice(start, ROW_GROUP_PHOTOS), shards[start:stop])


def manifest_rows(listing: Listing, photos: pa.Table, shards: NDArray[np.int32]) -> pa.RecordBatch:
    """Rows of the manifest for photos that a listing found.

    Args:
        listing: says the root and the version.
        photos: some, of `pipelines.folders.FOUND_SCHEMA`.
        shards: of each photo.
    """
    names = photos.column("name").to_pylist()
    paths = relative_paths(names, listing)
    columns = [
        [image_id(path) for path in paths],
        [photo_uri(name) for name in names],
        [path.decode() if _is_utf8(path) else quote(path) for path in paths],
        *(photos.column(name).combine_chunks() for name in ("bytes", "modified", "etag", "checksum")),
        shards,
        np.full(len(names), listing.version, np.int32),
        np.zeros(len(names), bool),
    ]
    arrays = [_array(column).cast(one.type) for column, one in zip(columns, MANIFEST_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=MANIFEST_SCHEMA)


def manifest_bytes(batches: Iterable[pa.RecordBatch], listing: Listing) -> bytes:
    """The manifest as a Parquet file: a row group for each batch."""
    sink = io.BytesIO()  # gives up its bytes without a copy
    schema = MANIFEST_SCHEMA.with_metadata(listing.to_metadata())
    # Statistics lead to the row groups of a shard; those of names would make the end of the file several times longer.
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=["shard", "version"], write_statistics=["shard", "version"]
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def relative_paths(names: Sequence[bytes], listing: Listing) -> list[bytes]:
    """Paths of photos relative to the root, not percent-encoded; the whole name where a photo lies outside and may.

    An archive that is copied between a disk and an object store keeps its paths, and so its identities.

    Raises:
        SettingsError: a photo lies outside the stated root.
    """
    root = os.fsencode(listing.root)
    prefix = root if root.endswith(b"/") else root + b"/"
    is_local, skip, paths = prefix.startswith(b"/"), len(prefix), []
    for name in names:
        if name.startswith(prefix):
            paths.append(name[skip:] if is_local else unquote_to_bytes(name[skip:]))
        # Photos of several stores, or of a store and this machine, have no folder in common: their names stand whole.
        elif listing.allow_outside or listing.stated_root is None:
            paths.append(name)
        else:
            raise SettingsError(
                f"{os.fsdecode(name)}: lies outside the root {listing.root}; give another --root, leave it out, or "
                "admit such photos with --allow-outside"
            )
    return paths


def sizes(photos: pa.Table) -> Iterator[int | None]:
    """Bytes of each photo, without a list of ten million."""
    for chunk in photos.column("bytes").chunks:
        yield from chunk.to_pylist()


def cut_shards(sizes: Iterable[int | None], photos: int, first: int = 0) -> NDArray[np.int32]:
    """Number each photo's shard: neighbours share one until it is full.

    Args:
        sizes: bytes of each photo, None where unknown.
        photos: how many there are.
        first: the first number.

    Returns:
        (photos,) int32.
    """
    photos_per_shard = max(1, min(SHARD_PHOTOS, -(-photos // MINIMUM_SHARDS)))

    def numbers() -> Iterator[int]:
        shard, members, total = first, 0, 0
        for size in sizes:
            if members and (members >= photos_per_shard or total + (size or 0) > SHARD_BYTES):
                shard, members, total = shard + 1, 0, 0
            yield shard
            members, total = members + 1, total + (size or 0)

    return np.fromiter(numbers(), np.int32, photos)


def shard_rows(manifest: pa.Table) -> list[dict[str, int]]:
    """One row per shard, the largest first so that no large one is left for the end.

    Args:
        manifest: at least its columns shard, bytes and version.

    Returns:
        shard, photos, bytes, and version (the highest of its photos).
    """
    wanted = [("shard", "count"), ("bytes", "sum"), ("version", "max")]
    grouped = manifest.select(["shard", "bytes", "version"]).group_by("shard").aggregate(wanted).to_pylist()
    rows = [
        {
            "shard": row["shard"],
            "photos": row["shard_count"],
            "bytes": row["bytes_sum"] or 0,
            "version": row["version_max"],
        }
        for row in grouped
    ]
    return sorted(rows, key=lambda row: (-row["bytes"], -row["photos"], row["shard"]))


def read_listing(storage: Storage) -> Listing | None:
    """What the manifest of a run lists; None where there is none.

    Raises:
        RunError: it cannot be read, or another version of RetinaFocus wrote it.
    """
    try:
        with storage.open(MANIFEST_FILE) as file:
            return Listing.from_metadata(pq.read_schema(file).metadata)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"{storage.uri(MANIFEST_FILE)}: cannot be read, or another version of RetinaFocus wrote it "
            f"({type(error).__name__}: {error}); list the photos again into another folder"
        ) from error


def photo_uri(name: bytes) -> str:
    """As it stands in tables and is read: the path or URI, or where that is not UTF-8 the file URI that leads to it."""
    return name.decode() if _is_utf8(name) else Path(os.fsdecode(name)).as_uri()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _array(column: Any) -> pa.Array:
    return column if isinstance(column, pa.Array) else pa.array(column)
