"""The stage that does the work: a shard of photos in, its committed tables out. Needs no Ray.

Reading and decoding run ahead in threads while the network looks at the photo before; both release Python's lock.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger import CASCADE_COUNTS, commit_shard, read_record
from pipelines.store import LocalStore
from retinafocus.cascade import MAX_DECODERS, PhotoResult, PreparedPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import PhotoError, SettingsError, WeightsError
from retinafocus.faces import FACES_SCHEMA, IMAGES_SCHEMA, TIMING_SCHEMA, Faces
from retinafocus.photos import PhotoHeader, read_bytes, read_header
from retinafocus.runs import MANIFEST_FILE, ledger_name
from retinafocus.weights import read_info

# What one shard tells the driver: small, and of the same columns whether it held faces or not.
SHARD_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("photos", pa.int64(), nullable=False),
        pa.field("faces", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
    ]
)


class Stopped(Exception):
    """The run was asked to stop; the shard in work is left undone."""


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

    metadata: dict[str, str] = field(default_factory=dict)
    """Goes into the metadata of every Parquet part."""

    read_ahead: int = 2
    """Photos read and decoded ahead of the network; bounds the decoded photos held in memory to one more than this. An
    engine that takes several at once has as many more being prepared, two groups in all."""


@dataclass
class _Looked:
    """All that became of one photo."""

    row: dict[str, Any]
    status: str = "ok"
    error: str | None = None
    header: PhotoHeader | None = None
    prepared: PreparedPhoto | None = None
    faces: Faces | None = None
    pixels: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """What the cascade did, for the shard's record."""
    ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def take(self, result: PhotoResult, exhaustive_pixels: int) -> None:
        self.faces, self.pixels = result.faces, result.pixels_processed
        # Decoding for a finer look is beside what `_prepare` took.
        self.ms["decode"] += max(0.0, result.ms_decode - self.ms["decode"])
        self.ms["network"] += result.ms_network
        self.ms["other"] += result.ms_other
        self.counts.update(
            pixels_planned=exhaustive_pixels,
            photos_looked_closer=int(result.chips > 0),
            chips=result.chips,
            chip_pixels=result.chip_pixels,
            chip_pixels_asked=result.chip_pixels_asked,
        )


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
        found = read_info(config.weights).sha256
        if found != config.weights_sha256:
            raise WeightsError(
                f"{config.weights}: hash {found[:12]} here, {config.weights_sha256[:12]} where the run was started; "
                "copy that file to every machine"
            )
        self.config = config
        self.detector = Detector.from_pretrained(config.weights, config.detector)
        self.store = LocalStore(config.output)
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"
        self._on_photo = on_photo or (lambda faces: None)
        self._stop = stop or threading.Event()

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._row(shard) for shard in batch.column("shard").to_pylist()]
        return pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)

    def _row(self, shard: int) -> dict[str, Any]:
        row = {"shard": shard, "photos": 0, "faces": 0, "failed": 0, "error": None}
        try:
            record = self.detect_shard(shard)
        except Stopped:
            raise
        except Exception as error:  # not one photo's fault (those are rows): say so to the driver, which decides
            return {**row, "error": f"{type(error).__name__}: {error}"}
        failed = record["photos"] - record["statuses"].get("ok", 0)
        return {**row, "photos": record["photos"], "faces": record["faces"], "failed": failed}

    def detect_shard(self, shard: int) -> dict[str, Any]:
        """Look at every photo of a shard and commit its tables; the shard's record."""
        if self.store.exists(ledger_name(shard)):
            return read_record(self.store, shard)  # done by an attempt whose answer was lost
        attempt = uuid.uuid4().hex[:12]
        manifest = pq.read_table(self.store.root / MANIFEST_FILE, filters=[("shard", "=", shard)])
        looked = list(self._look_at(manifest.to_pylist()))
        return commit_shard(
            self.store, shard, attempt, self._tables(looked, shard, attempt), _statistics(looked, self.worker)
        )

    def _look_at(self, rows: list[dict[str, Any]]) -> Iterator[_Looked]:
        together = self.detector.engine.batch
        # One group is looked at while the next is prepared.
        read_ahead = self.config.read_ahead if together == 1 else 2 * together
        threads = min(read_ahead, max(self.config.read_ahead, MAX_DECODERS if together > 1 else 0))
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="read") as pool:
            ahead: deque[Future[_Looked]] = deque()
            remaining = iter(rows)

            def refill() -> None:
                while len(ahead) < read_ahead and (row := next(remaining, None)) is not None:
                    ahead.append(pool.submit(self._prepare, row))

            try:
                refill()
                while ahead:
                    group = [ahead.popleft().result() for _ in range(min(together, len(ahead)))]
                    refill()
                    if self._stop.is_set():
                        raise Stopped
                    self._detect(group)
                    for looked in group:
                        self._on_photo(None if looked.faces is None else len(looked.faces))
                    yield from group
            finally:
                for future in ahead:
                    future.cancel()

    def _prepare(self, row: dict[str, Any]) -> _Looked:
        looked = _Looked(row=row)
        try:
            start = perf_counter()
            data = read_bytes(row["uri"])
            looked.ms["read"] += 1e3 * (perf_counter() - start)
            if row["bytes"] is not None and len(data) != row["bytes"]:
                raise PhotoError("changed", f"{len(data)} bytes now, {row['bytes']} when it was listed")
            looked.row = {**row, "bytes": len(data)}
            start = perf_counter()
            looked.header = read_header(data)
            looked.prepared = self.detector.prepare(data)
            looked.ms["decode"] += 1e3 * (perf_counter() - start)
        except SettingsError:
            raise  # of the job, not of this photo
        except Exception as error:
            looked.status, looked.error = _failure(error, "corrupt")
        return looked

    def _detect(self, group: list[_Looked]) -> None:
        photos = [looked for looked in group if looked.prepared is not None]
        try:
            results = self.detector.look_many([looked.prepared for looked in photos if looked.prepared is not None])
        except Exception as error:
            if len(photos) > 1:  # which one it was, shows one by one
                for looked in photos:
                    self._detect([looked])
                return
            results = [PhotoError(*_failure(error, "model_error"))]
        for looked, result in zip(photos, results, strict=True):
            looked.prepared = None  # the pixels: the largest thing in memory
            if isinstance(result, PhotoError):
                looked.status, looked.error = result.status, result.reason
            else:
                looked.take(result, self.detector.exhaustive_pixels(result.plan.photo_size))

    def _tables(self, looked: list[_Looked], shard: int, attempt: str) -> dict[str, pa.Table]:
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


def _failure(error: Exception, unforeseen: str) -> tuple[str, str]:
    """Status and reason of a photo's row. What nobody foresaw is a row too: one photo must not end an archive's run."""
    if isinstance(error, PhotoError):
        return error.status, error.reason
    if isinstance(error, MemoryError):
        return "out_of_memory", "there was not enough memory for it; use fewer workers or a smaller max_pixels"
    # Its kind, not its text, which may hold addresses: two runs must record the same.
    return unforeseen, f"an unforeseen {type(error).__name__}; please report it with the photo"


def _faces_table(looked: list[_Looked], shard: int) -> pa.Table:
    parts = [
        photo.faces.to_arrow(image_id=photo.row["image_id"], uri=photo.row["uri"], shard=shard)
        for photo in looked
        if photo.faces is not None
    ]
    return pa.concat_tables([FACES_SCHEMA.empty_table(), *parts]).combine_chunks()


def _image_row(photo: _Looked, shard: int) -> dict[str, Any]:
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


def _timing_row(photo: _Looked, shard: int, attempt: str, worker: str) -> dict[str, Any]:
    stages = {f"ms_{stage}": photo.ms[stage] for stage in ("read", "decode", "network", "other")}
    return {"image_id": photo.row["image_id"], "shard": shard, "attempt": attempt, "worker": worker, **stages}


def _statistics(looked: list[_Looked], worker: str) -> dict[str, Any]:
    seconds: dict[str, float] = defaultdict(float)
    for photo in looked:
        for stage, milliseconds in photo.ms.items():
            seconds[stage] += milliseconds / 1e3
    return {
        "photos": len(looked),
        "faces": sum(len(photo.faces) for photo in looked if photo.faces is not None),
        "photos_with_faces": sum(bool(photo.faces is not None and len(photo.faces)) for photo in looked),
        "pixels_processed": sum(photo.pixels for photo in looked),
        **{name: sum(photo.counts[name] for photo in looked) for name in CASCADE_COUNTS},
        "statuses": dict(sorted(Counter(photo.status for photo in looked).items())),
        "seconds": {stage: round(value, 4) for stage, value in sorted(seconds.items())},
        "worker": worker,
    }
