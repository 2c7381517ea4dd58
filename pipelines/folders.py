"""Photos in folders, on this machine and in object stores: found in the order of their names, seen many at a time.

Nothing here keeps more than a few thousand photos: what is found goes on in batches of columns. A folder is read whole
before its photos are named, so a folder of a million files takes some 100 MB for that moment.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice, takewhile
from typing import TypeVar

import pyarrow as pa

from retinafocus.runs import LEDGER_FOLDER, RUN_FILE, TABLES
from retinafocus.storage import Entry, Storage

_T = TypeVar("_T")

# What a photo's name may end with inside a folder or glob. A photo named one by one may be called anything.
PHOTO_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".gif",
        ".jp2",
        ".jxl",
    ]
)
_PHOTO_SUFFIXES = frozenset(suffix.encode() for suffix in PHOTO_SUFFIXES)

# Folders that file servers and photo tools fill with thumbnails or deleted pictures.
SKIPPED_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found", "__MACOSX", "System Volume Information"}
)

# Inside the folder of a run, what is ours and holds no photos.
RUN_FOLDERS = frozenset({LEDGER_FOLDER, "manifest", *TABLES})

FOUND_SCHEMA = pa.schema(
    [
        # The absolute local path in the bytes that the system has, or a URI. 64-bit offsets: ten million of them are
        # one array of a gigabyte, and twice as many must not overflow it.
        pa.field("name", pa.large_binary(), nullable=False),
        pa.field("bytes", pa.int64()),
        pa.field("modified", pa.timestamp("us", tz="UTC")),
        pa.field("etag", pa.large_string()),
        pa.field("checksum", pa.large_string()),
        # Known not to be there, as against not seen for another reason.
        pa.field("missing", pa.bool_(), nullable=False),
    ]
)
"""What a listing knows of photos. Size and age are null where they could not be seen."""

BATCH_PHOTOS = 4096
"""Photos that are seen and passed on together."""

# On a network file system each question takes a round trip, so several folders and files are asked after at once. On a
# local disk it neither helps nor harms (benchmarks/README.md).
THREADS = 8

# Of what was passed over, told apart.
MOST_KINDS = 200

# What Python can tell the date of; disks hold others, by accident.
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799


@dataclass
class PassedOver:
    """What a listing left aside."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Count of entries that are no photo by their name, by kind: "hidden", "linked folder", "other (.xmp)"..."""

    unreadable: list[str] = field(default_factory=list)
    """Folders that could not be listed: nobody knows what is in them."""

    def count(self, kind: str, entries: int = 1) -> None:
        """Add entries of one kind. There may be a million suffixes; past some, the rest is counted as one kind."""
        known = kind in self.skipped or len(self.skipped) < MOST_KINDS
        self.skipped[kind if known else "other (further kinds)"] += entries


def walk(
    folder: bytes, passed: PassedOver, pool: ThreadPoolExecutor, pattern: Pattern | None = None
) -> Iterator[bytes]:
    """Paths of the photos below a folder, in the order of their bytes. Linked folders are not followed.

    Args:
        folder: absolute path.
        passed: what is left aside is added here.
        pool: reads folders ahead.
        pattern: which files to consider; None considers all.
    """
    # In reverse: the end of the list comes next. A folder stands between the files that come before and after it.
    ahead: list[list[bytes] | _Folder] = [_Folder(folder)]
    while ahead:
        for item in ahead[-THREADS:]:
            if isinstance(item, _Folder) and item.scan is None:
                item.scan = pool.submit(_scan, item.path, pattern)
        item = ahead.pop()
        if isinstance(item, list):
            yield from item
            continue
        assert item.scan is not None  # it was among the last
        found = item.scan.result()
        for kind, entries in found.skipped.items():
            passed.count(kind, entries)
        if found.error is not None:
            passed.count("unreadable folder")
            passed.unreadable.append(os.fsdecode(item.path))
        ahead.extend(reversed(found.items))


class Pattern:
    """A glob: its folder, and which paths below that it names. `**` stands for folders to any depth.

    Python's own glob is silent about folders that it cannot read, and follows links in loops.

    Args:
        text: absolute path with a glob in it.
    """

    def __init__(self, text: str) -> None:
        parts = text.split("/")
        fixed = len(list(takewhile(lambda part: not glob.has_magic(part), parts)))
        self.folder = os.fsencode("/".join(parts[:fixed]) or "/")
        self._start = len(self.folder.rstrip(b"/")) + 1
        self._parts = [
            None if part == "**" else re.compile(os.fsencode(fnmatch.translate(part))) for part in parts[fixed:]
        ]

    def matches(self, path: bytes) -> bool:
        """Whether the glob names a file."""
        return _match(path[self._start :].split(b"/"), self._parts, to_the_end=True)

    def leads_into(self, folder: bytes) -> bool:
        """Whether the glob may name files in a folder."""
        return _match(folder[self._start :].split(b"/"), self._parts, to_the_end=False)


def _match(names: Sequence[bytes], patterns: Sequence[re.Pattern[bytes] | None], *, to_the_end: bool) -> bool:
    if not names:
        return not (to_the_end and patterns) and (to_the_end or bool(patterns))
    if not patterns:
        return False
    if patterns[0] is None:
        skips = range(len(names) + 1)
        return not to_the_end or any(_match(names[skip:], patterns[1:], to_the_end=True) for skip in skips)
    return patterns[0].match(names[0]) is not None and _match(names[1:], patterns[1:], to_the_end=to_the_end)


def see(photos: Iterable[tuple[bytes, str | None]], pool: ThreadPoolExecutor) -> Iterator[pa.RecordBatch]:
    """Ask the system for sizes and ages.

    Args:
        photos: names (absolute local paths, or URIs, which are not asked after) and checksums.
        pool: asks.

    Returns:
        Batches of `FOUND_SCHEMA` in the order of `photos`.
    """
    waiting: deque[Future[pa.RecordBatch]] = deque()
    try:
        for chunk in _chunks(photos):
            waiting.append(pool.submit(_see_all, chunk))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def list_objects(storage: Storage, passed: PassedOver) -> Iterator[pa.RecordBatch]:
    """The photos of an object store below a prefix, with what its listing says of them.

    Raises:
        OSError: the store could not be listed.
    """
    for chunk in _chunks(_photo_objects(storage, passed)):
        yield _batch(
            [storage.uri(entry.name).encode() for entry in chunk],
            sizes=[entry.bytes for entry in chunk],
            modified=[_microseconds(entry.modified) for entry in chunk],
            etags=[entry.etag for entry in chunk],
        )


def _photo_objects(storage: Storage, passed: PassedOver) -> Iterator[Entry]:
    """Entries that a search of the same folders on a disk would list."""
    runs: dict[str, bool] = {}
    for entry in storage.entries():
        *folders, name = entry.name.split("/")
        reason = next(filter(None, map(_reason_to_skip, folders)), None)
        if reason is None and _is_in_a_run(storage, folders, runs):
            reason = "table of a run"
        if reason is not None:
            passed.count(f"in a {reason}")
        elif reason := _reason_for_no_photo(name.encode()):
            passed.count(reason)
        else:
            yield entry


def _is_in_a_run(storage: Storage, folders: Sequence[str], runs: dict[str, bool]) -> bool:
    for depth, folder in enumerate(folders):
        parent = "/".join([*folders[:depth], ""])
        # In the order of names, the ledger comes before all else that is ours.
        if folder == LEDGER_FOLDER and parent not in runs:
            runs[parent] = storage.exists(parent + RUN_FILE)
        if folder in RUN_FOLDERS and runs.get(parent):
            return True
    return False


@dataclass
class _Folder:
    path: bytes
    scan: Future[_Scan] | None = None


@dataclass
class _Scan:
    """What is in one folder: runs of photos and the folders between them, the first last."""

    items: list[list[bytes] | _Folder] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    error: OSError | None = None


def _scan(folder: bytes, pattern: Pattern | None) -> _Scan:
    found = _Scan()
    try:
        with os.scandir(folder) as entries:
            # "a.jpg" comes before "a/b.jpg", so a folder counts with its slash.
            named = sorted((entry.name + b"/" * entry.is_dir(follow_symlinks=False), entry) for entry in entries)
    except OSError as error:
        return _Scan(error=error)
    names = {name for name, _ in named}
    is_run = RUN_FILE.encode() in names and LEDGER_FOLDER.encode() + b"/" in names
    photos: list[bytes] = []
    for name, entry in named:
        if name[-1:] == b"/":
            if pattern is not None and not pattern.leads_into(entry.path):
                continue
            reason = _reason_to_skip(os.fsdecode(entry.name))
            if reason is None and is_run and os.fsdecode(entry.name) in RUN_FOLDERS:
                reason = "table of a run"
            if reason is None:
                found.items += [photos, _Folder(entry.path)] if photos else [_Folder(entry.path)]
                photos = []
            else:
                found.skipped[reason] += 1
        elif entry.is_symlink() and os.path.isdir(entry.path):
            found.skipped[_reason_to_skip(os.fsdecode(name)) or "linked folder"] += 1
        elif pattern is None or pattern.matches(entry.path):
            if reason := _reason_for_no_photo(name):
                found.skipped[reason] += 1
            else:
                photos.append(entry.path)
    if photos:
        found.items.append(photos)
    return found


def _reason_to_skip(folder: str) -> str | None:
    """Why a folder of this name is passed over; None where it is not."""
    if folder in SKIPPED_FOLDERS:
        return "thumbnail or system folder"
    return "hidden folder" if folder.startswith(".") else None


def _reason_for_no_photo(name: bytes) -> str | None:
    """Why a file of this name is passed over; None where it is a photo."""
    if name[:1] == b".":
        return "hidden"  # ._* (the resource forks that macOS leaves) begin with a dot as well
    dot = name.rfind(b".")
    suffix = name[dot:].lower() if dot > 0 else b""
    return None if suffix in _PHOTO_SUFFIXES else f"other ({os.fsdecode(suffix) or 'no suffix'})"


def _see_all(photos: Sequence[tuple[bytes, str | None]]) -> pa.RecordBatch:
    sizes: list[int | None] = []
    modified: list[int | None] = []
    missing = []
    for name, _ in photos:
        size = changed = None
        gone = False
        if name[:1] == b"/":
            try:
                status = os.stat(name)
            except (FileNotFoundError, NotADirectoryError):
                gone = True
            except (OSError, ValueError):  # may not be seen; its row will say why. ValueError: a name with a zero byte
                pass
            else:
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
                changed = status.st_mtime_ns // 1000 if _EARLIEST <= status.st_mtime <= _LATEST else None
        sizes.append(size)
        modified.append(changed)
        missing.append(gone)
    return _batch(
        [name for name, _ in photos],
        sizes=sizes,
        modified=modified,
        checksums=[checksum for _, checksum in photos],
        missing=missing,
    )


def _batch(
    names: list[bytes],
    *,
    sizes: list[int] | list[int | None],
    modified: list[int | None],
    etags: list[str | None] | None = None,
    checksums: list[str | None] | None = None,
    missing: list[bool] | None = None,
) -> pa.RecordBatch:
    count = len(names)
    unknown: list[str | None] = [None] * count
    columns: tuple[Sequence[object], ...] = (
        names, sizes, modified, etags or unknown, checksums or unknown, missing or [False] * count
    )  # fmt: skip
    arrays = [pa.array(column, field.type) for column, field in zip(columns, FOUND_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=FOUND_SCHEMA)


def _microseconds(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1e6)


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, BATCH_PHOTOS)):
        yield chunk
