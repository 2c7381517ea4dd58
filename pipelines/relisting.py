"""The next version of a manifest: what is new, changed, vanished or back since the archive was listed before.

Rows keep their shard for ever, and new photos come into new shards at the end. A row's version is that of the listing
that last changed it: where it is higher than the one a shard was looked at with, there is something to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.inventory import Inventory, InventoryConfig
from pipelines.manifest import (
    MANIFEST_SCHEMA,
    ROW_GROUP_PHOTOS,
    Listing,
    cut_shards,
    digest,
    manifest_rows,
    relative_paths,
    sizes,
)
from retinafocus.errors import RunError
from retinafocus.runs import MANIFEST_FILE, read_forgotten
from retinafocus.storage import Storage

_SEEN = ("bytes", "modified", "etag", "checksum")

KINDS = ("new", "changed", "vanished", "back", "unchanged", "unknown")
"""What may have become of a photo. Unknown: it lies in a folder that could not be read this time."""


def config_of(listing: Listing, config: InventoryConfig) -> InventoryConfig:
    """How to list the same again.

    Raises:
        RunError: what was listed was cut off at a limit.
    """
    if listing.limit is not None:
        raise RunError(
            f"the manifest holds only the first {listing.limit} photos (--limit), so nothing can be said of the "
            "others; list them all into another folder"
        )
    return replace(config, root=listing.stated_root, allow_outside=listing.allow_outside)


@dataclass
class Relisting:
    """An archive's manifest held against a new listing of the same inputs.

    Args:
        storage: the run's folder.
        before: what its manifest says of itself.
        now: the new listing, in the order of `before.inputs`.

    Raises:
        RunError: an input that held photos lists none; its storage may be away.
    """

    storage: Storage
    before: Listing
    now: Inventory
    counts: Counter[str] = field(default_factory=Counter)
    """Photos by `KINDS`; complete once all batches are drawn."""
    forgotten: int = 0
    """Photos that the manifest still named though they were taken out of the run: `forget` was cut short."""

    def __post_init__(self) -> None:
        for text, before, now in zip(self.before.inputs, self.before.found, self.now.found, strict=True):
            if before and not now:
                raise RunError(
                    f"{text}: lists no photo now, and {before} before, so nothing was changed; is its storage there? "
                    "If they are gone for good, list the other inputs into another folder"
                )
        self.now.root = self.before.root
        self.now.version = self.before.version + 1

    @property
    def differs(self) -> bool:
        """Whether there is a next version at all."""
        return bool(self.forgotten) or any(self.counts[kind] for kind in KINDS[:4])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The next manifest: the old rows, some of them changed, without forgotten ones; and then the new photos."""
        self.counts.clear()
        self.forgotten = 0
        listed, forgotten = _Listed(self.now), sorted(read_forgotten(self.storage))
        gone = pa.array(forgotten, pa.string())
        last = -1
        with self.storage.open(MANIFEST_FILE) as file:
            for rows in pq.ParquetFile(file).iter_batches(ROW_GROUP_PHOTOS):
                last = max(last, pc.max(rows.column("shard")).as_py())
                kept = rows.filter(pc.invert(pc.is_in(rows.column("image_id"), gone)))
                self.forgotten += rows.num_rows - kept.num_rows
                yield self._next(kept, listed.find(kept.column("image_id").to_pylist()), listed)
        listed.find(forgotten)
        fresh = self.now.photos.filter(pa.array(~listed.found))
        self.counts["new"] += fresh.num_rows
        shards = cut_shards(sizes(fresh), fresh.num_rows, last + 1)
        for start in range(0, fresh.num_rows, ROW_GROUP_PHOTOS):
            stop = start + ROW_GROUP_PHOTOS
            yield manifest_rows(self.now, fresh.slice(start, ROW_GROUP_PHOTOS), shards[start:stop])

    def _next(self, rows: pa.RecordBatch, places: NDArray[np.int64], listed: _Listed) -> pa.RecordBatch:
        """Some of the old rows as they are now."""
        there = places >= 0
        # Where a photo is not listed, the columns of some other one stand for it, unused.
        seen = listed.known.take(pa.array(np.maximum(places, 0)))
        missing = there & _bools(seen.column("missing"))
        listed_now = there & ~missing
        # A photo listed by its URI alone, or that may not be seen, tells nothing new of its size and age.
        visible = _bools(pc.is_valid(seen.column("bytes")))
        differs = {name: _differ(rows.column(name), seen.column(name)) for name in _SEEN}
        other = differs["checksum"] | (visible & (differs["bytes"] | differs["modified"] | differs["etag"]))
        was_vanished = _bools(rows.column("vanished"))
        unknown = ~there & self._may_be_there(rows, there)
        # One that a list named and that never was there has not vanished.
        gone = (missing & _bools(pc.is_valid(rows.column("bytes")))) | (~there & ~unknown)
        changed = listed_now & ~was_vanished & other
        back = listed_now & was_vanished
        vanished = gone & ~was_vanished
        touched = changed | back | vanished
        self.counts.update(
            changed=int(changed.sum()),
            vanished=int(vanished.sum()),
            back=int(back.sum()),
            unknown=int(unknown.sum()),
            unchanged=int((~touched & ~unknown).sum()),
        )
        columns = {name: rows.column(name) for name in MANIFEST_SCHEMA.names}
        anew = pa.array(changed | back)
        for name in _SEEN:
            columns[name] = pc.if_else(anew, seen.column(name).cast(columns[name].type), columns[name])
        columns["vanished"] = pa.array(vanished | (was_vanished & ~back))
        columns["version"] = pc.if_else(pa.array(touched), pa.scalar(self.now.version, pa.int32()), columns["version"])
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=MANIFEST_SCHEMA)

    def _may_be_there(self, rows: pa.RecordBatch, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the rows that are not listed lie in a folder that could not be read."""
        below = np.zeros(rows.num_rows, bool)
        if self.now.unreadable:
            # As they stand in tables: a path, or where it is not UTF-8 a file URI.
            folders = tuple(
                text for folder in self.now.unreadable for text in (f"{folder}/", f"{Path(folder).as_uri()}/")
            )
            for number in np.flatnonzero(~there).tolist():
                below[number] = rows.column("uri")[number].as_py().startswith(folders)
        return below


class _Listed:
    """The new listing, to be found by identity."""

    def __init__(self, now: Inventory) -> None:
        # Taken from by place, over and over: one chunk of each column but the names. The listing shares them.
        known = now.photos.select([*_SEEN, "missing"]).combine_chunks()
        (self.known,) = known.to_batches()
        now.photos = pa.table([now.photos.column("name"), *known.columns], schema=now.photos.schema)
        digests = bytearray()
        for chunk in now.photos.column("name").chunks:
            for start in range(0, len(chunk), ROW_GROUP_PHOTOS):
                names = chunk[start : start + ROW_GROUP_PHOTOS].to_pylist()
                digests += b"".join(map(digest, relative_paths(names, now)))
        identities = np.frombuffer(digests, "S12")
        self._order = np.argsort(identities)
        self._sorted = identities[self._order]
        self.found = np.zeros(len(identities), bool)
        """Which of the photos were asked for."""

    def find(self, image_ids: list[str]) -> NDArray[np.int64]:
        """Places in the listing, -1 for photos that are not in it."""
        wanted = np.frombuffer(bytes.fromhex("".join(image_ids)), "S12")
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        there = self._sorted[places] == wanted
        found: NDArray[np.int64] = np.where(there, self._order[places], -1)
        self.found[found[there]] = True
        return found


def _differ(before: pa.Array, now: pa.Array) -> NDArray[np.bool_]:
    """Whether two values differ; nulls differ from all but nulls."""
    other = pc.not_equal(before, now.cast(before.type))
    return _bools(pc.coalesce(other, pc.xor(pc.is_null(before), pc.is_null(now))))


def _bools(column: pa.Array) -> NDArray[np.bool_]:
    values: NDArray[np.bool_] = column.to_numpy(zero_copy_only=False)
    return values
