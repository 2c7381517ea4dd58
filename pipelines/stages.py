"""The stage that does the work: a shard of photos in, its committed tables out. Needs no Ray.

Reading and decoding run ahead in threads while the network looks at the photo before; both release Python's lock.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Protocol

import pyarrow as pa

from pipelines.attempts import marked
from pipelines.budget import count_failures
from pipelines.careful import DEADLY, CarefulLook, LookConfig, Stopped
from pipelines.ledger import commit_shard, find_record, kept_rows, manifest_version, read_record
from pipelines.limits import Limits
from pipelines.looking import Looked, Looker, Row
from pipelines.node_weights import NodeWeights
from pipelines.preflight import NodeCheck
from pipelines.shard_tables import together
from pipelines.watchdog import Watchdog
from retinafocus.cascade import MAX_DECODERS
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import WeightsError
from retinafocus.faces import FACES_SCHEMA, IMAGES_SCHEMA, TIMING_SCHEMA
from retinafocus.runs import read_manifest
from retinafocus.storage import StorageConfig, open_storage
from retinafocus.weights import read_info

# What one shard tells the driver: small, and of the same columns whether it held faces or not.
SHARD_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("faces", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("looked_at", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("worker_since", pa.string(), nullable=False),
        # Workers that died at it before this one.
        pa.field("lost", pa.list_(pa.string()), nullable=False),
        # Where the command asks for them.
        pa.field(
            "failures",
            pa.list_(pa.struct([("uri", pa.string()), ("status", pa.string()), ("reason", pa.string())])),
            nullable=False,
        ),
    ]
)

# What a file is taken for that was listed without its size: a photo of 24 Mpx.
UNKNOWN_BYTES = 8 << 20


class Told(Protocol):
    """Who counts what a worker does, for others to watch."""

    def photo(self, looked: Looked) -> None:
        """A photo is done."""

    def shard(self) -> None:
        """A shard is committed."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What a worker needs to know; travels to every worker of a run."""

    output: str
    """The run's folder."""

    weights: str
    """Path of the weights file."""

    weights_sha256: str
    """Hash the weights must have: every worker of a run uses the same."""

    detector: DetectorConfig
    """What to look for and on which device."""

    ranges_sha256: str | None = None
    """Hash the ranges of the weights must have, where the answers depend on them; see `weights`."""

    metadata: dict[str, str] = field(default_factory=dict)
    """Goes into the metadata of every Parquet part."""

    read_ahead: int = 2
    """Photos read and decoded ahead of the network; bounds the decoded photos held in memory to one more than this. An
    engine that takes several at once has as many more being prepared, two groups in all."""

    limits: Limits = field(default_factory=Limits)
    """What a photo, and the files read ahead, may take."""

    storage: StorageConfig | None = None
    """How object stores are reached."""

    careful: bool = False
    """Every photo in a process of its own that may die of it, not only those of shards whose worker died before."""

    mark: str | None = None
    """Of the command, in `run.json`: where another one stands there by the time a shard is done, nothing is committed.
    None: nobody looks."""

    check: NodeCheck | None = None
    """What the worker's machine must see, or no shard is done there. None: the command is on the same machine."""

    node_weights: NodeWeights | None = None
    """Brings the weights to machines that need not see their file. None: the worker reads that file."""

    tell: Callable[[], Told] | None = None
    """Makes in each worker what counts its work, for others to watch. None: nobody does."""

    always_answers: bool = False
    """A worker that cannot get ready raises nothing, and says why in its answer to each shard: Ray Data would wait for
    ever for an actor that died and fails as it is started again."""

    name_failures: bool = False
    """Tell the command which photos failed, and not only how many."""


class DetectShard:
    """One worker's stage: rows that name shards in, one row of counts per committed shard out.

    Args:
        config: what the run looks for.
        on_photo: called after each photo with its number of faces, or None if it was not looked at.
        stop: when set, the stage raises `Stopped` at the next photo.
    """

    def __init__(
        self,
        config: StageConfig,
        *,
        on_photo: Callable[[int | None], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.config = config
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"
        self._on_photo = on_photo or (lambda faces: None)
        self._since = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._lost: list[str] = []
        self._failures: list[dict[str, str | None]] = []
        self._stop = stop or threading.Event()
        self._watchdog = Watchdog(config.limits.photo_seconds)
        self._unable: Exception | None = None
        try:
            self._get_ready(config)
        except Exception as error:
            if not config.always_answers:
                raise
            self._unable = error

    def _get_ready(self, config: StageConfig) -> None:
        if config.check is not None:
            config.check.require(socket.gethostname())
        if config.node_weights is not None:
            config = replace(config, weights=str(config.node_weights.path()))
        info = read_info(config.weights)
        if config.ranges_sha256 not in (None, info.ranges_sha256):
            raise WeightsError(
                f"{config.weights}: other ranges for int8 here than where the run was started; copy that file to every "
                "machine"
            )
        found = info.sha256
        if found != config.weights_sha256:
            raise WeightsError(
                f"{config.weights}: hash {found[:12]} here, {config.weights_sha256[:12]} where the run was started; "
                "copy that file to every machine"
            )
        self.config = config  # with the weights that are here
        self.detector = Detector.from_pretrained(config.weights, config.detector)
        self.run = open_storage(config.output, config.storage)
        engine = self.detector.engine
        self._made_by = {"engine": engine.name, "device": engine.device, "precision": engine.precision}
        self._told = None if config.tell is None else config.tell()
        self._since = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._looker = Looker(self.detector, config.storage, self._allow_for)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._counts(row) for row in batch.to_pylist()], schema=SHARD_SCHEMA)

    def _counts(self, row: dict[str, Any]) -> dict[str, Any]:
        self._lost, self._failures = [], []
        counts = {"shard": row["shard"], "photos": 0, "faces": 0, "failed": 0, "looked_at": 0, "error": None}
        counts |= {"worker": self.worker, "worker_since": self._since}
        try:
            if self._unable is not None:
                raise self._unable
            record = self.detect_shard(row)
        except Stopped:
            raise
        except Exception as error:  # not one photo's fault (those are rows): say so to the driver, which decides
            return {**counts, "error": f"{type(error).__name__}: {error}", "lost": self._lost, "failures": []}
        failed = count_failures(record["statuses"])
        counts |= {name: record[name] for name in ("photos", "faces", "looked_at")}
        return {**counts, "failed": failed, "lost": self._lost, "failures": self._failures}

    def detect_shard(self, row: dict[str, Any]) -> dict[str, Any]:
        """Look at the photos of a shard that have no row yet, or none that counts, and commit its tables.

        Args:
            row: shard; generation to commit; retry, statuses to look at again, joined by commas.

        Returns:
            The shard's record.
        """
        shard, generation = row["shard"], row["generation"]
        if (record := find_record(self.run, shard, generation)) is not None:
            return record  # done by an attempt whose answer was lost
        attempt = uuid.uuid4().hex[:12]
        photos = read_manifest(self.run, shard=shard).to_pylist()
        wanted, kept = kept_rows(self.run, shard, photos, row["retry"], generation=generation)
        with marked(self.run, shard, attempt, self.worker) as self._lost:
            careful = self._lost or self.config.careful or self._looks_again_at_deadly(row)
            looked = list(self._carefully(wanted) if careful else self._swiftly(wanted, shard))
            tables, worker = (
                together(self._tables(looked, shard, attempt), kept),
                {"worker": self.worker, **self._made_by},
            )
            record = commit_shard(
                self.run, shard, attempt, tables, worker,
                generation=generation, manifest_version=manifest_version(photos), mark=self.config.mark,
            )  # fmt: skip
        if self._told is not None and record["attempt"] == attempt:
            self._told.shard()
        return record

    def _looks_again_at_deadly(self, row: dict[str, Any]) -> bool:
        again = DEADLY.intersection(row["retry"].split(","))
        if not again or row["generation"] == 0:
            return False
        return not again.isdisjoint(read_record(self.run, row["shard"], row["generation"] - 1)["statuses"])

    def _swiftly(self, rows: list[Row], shard: int) -> Iterator[Looked]:
        """Look at photos side by side; those that memory was too short for, once more, each alone."""
        again = []
        with self._watchdog.watching(f"shard {shard}"):
            for looked in self._side_by_side(rows):
                if looked.status == "out_of_memory":
                    again.append(looked.row)
                else:
                    yield self._done(looked)
            for row in again:
                looked = self._looker.prepare(row)
                self._look([looked])
                yield self._done(looked)

    def _side_by_side(self, rows: list[Row]) -> Iterator[Looked]:
        batch = self.detector.engine.batch
        # One group is looked at while the next is prepared.
        read_ahead = self.config.read_ahead if batch == 1 else 2 * batch
        threads = min(read_ahead, max(self.config.read_ahead, MAX_DECODERS if batch > 1 else 0))
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="read") as pool:
            ahead: deque[Future[Looked]] = deque()
            sizes = deque(_file_bytes(row) for row in rows)  # of the files ahead and of those to come
            remaining = iter(rows)

            def refill() -> None:
                while len(ahead) < min(read_ahead, len(sizes)) and (not ahead or self._room(sizes, len(ahead))):
                    ahead.append(pool.submit(self._looker.prepare, next(remaining)))

            try:
                refill()
                while ahead:
                    group = [ahead.popleft().result() for _ in range(min(batch, len(ahead)))]
                    for _ in group:
                        sizes.popleft()
                    refill()
                    self._look(group)
                    yield from group
            finally:
                for future in ahead:
                    future.cancel()

    def _room(self, sizes: deque[int], ahead: int) -> bool:
        """Whether one more file may be held beside those ahead."""
        return sum(sizes[number] for number in range(ahead + 1)) <= self.config.limits.read_ahead_bytes

    def _look(self, group: list[Looked]) -> None:
        if self._stop.is_set():
            raise Stopped
        self._looker.look(group)

    def _carefully(self, rows: list[Row]) -> Iterator[Looked]:
        config = LookConfig(
            weights=self.config.weights, detector=self.config.detector,
            storage=self.config.storage, limits=self.config.limits,
        )  # fmt: skip
        with CarefulLook(config, self._stop) as child:
            for row in rows:
                yield self._done(child.look(row))

    def _done(self, looked: Looked) -> Looked:
        self._watchdog.report()
        self._on_photo(None if looked.faces is None else len(looked.faces))
        if self._told is not None:
            self._told.photo(looked)
        if self.config.name_failures and looked.faces is None:
            failure = {"uri": looked.row["uri"], "status": looked.status, "reason": looked.error}
            self._failures.append(failure)
        return looked

    def _allow_for(self, pixels: int) -> None:
        self._watchdog.allow(self.config.limits.seconds_for(pixels, self.config.detector.max_pixels))

    def _tables(self, looked: list[Looked], shard: int, attempt: str) -> dict[str, pa.Table]:
        looked = sorted(looked, key=lambda photo: photo.row["image_id"])
        timing = [_timing_row(photo, shard, attempt, self.worker) for photo in looked]
        tables = {
            "faces": _faces_table(looked, shard),
            "images": pa.Table.from_pylist([_image_row(photo, shard) for photo in looked], schema=IMAGES_SCHEMA),
            "timing": pa.Table.from_pylist(timing, schema=TIMING_SCHEMA),
        }
        return {
            name: table.replace_schema_metadata({**(table.schema.metadata or {}), **self.config.metadata})
            for name, table in tables.items()
        }


def _file_bytes(row: Row) -> int:
    return UNKNOWN_BYTES if row["bytes"] is None else int(row["bytes"])


def _faces_table(looked: list[Looked], shard: int) -> pa.Table:
    parts = [
        photo.faces.to_arrow(image_id=photo.row["image_id"], uri=photo.row["uri"], shard=shard)
        for photo in looked
        if photo.faces is not None
    ]
    return pa.concat_tables([FACES_SCHEMA.empty_table(), *parts]).combine_chunks()


def _image_row(photo: Looked, shard: int) -> dict[str, Any]:
    header = photo.header
    return {
        "image_id": photo.row["image_id"],
        "uri": photo.row["uri"],
        "status": photo.status,
        "error": photo.error,
        "width": header.width if header else None,
        "height": header.height if header else None,
        "orientation": header.orientation if header else None,
        "taken_at": header.taken_at if header else None,
        "bytes": photo.row["bytes"],
        "modified": photo.row["modified"],
        "faces": None if photo.faces is None else len(photo.faces),
        "pixels_processed": photo.pixels,
        "shard": shard,
    }


def _timing_row(photo: Looked, shard: int, attempt: str, worker: str) -> dict[str, Any]:
    stages = {f"ms_{stage}": photo.ms[stage] for stage in ("read", "decode", "network", "other")}
    cascade = {name: photo.counts[name] for name in ("pixels_planned", "chips", "chip_pixels", "chip_pixels_asked")}
    names = {"image_id": photo.row["image_id"], "shard": shard, "attempt": attempt, "worker": worker}
    return {**names, **stages, **cascade}
