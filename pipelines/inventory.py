"""List an archive once, into a frozen manifest cut into shards.

The manifest is the promise of a run: every photo in it ends as exactly one row of `images/`. It knows nothing of
workers, so their number may change between a run and its resume.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.errors import SettingsError
from retinafocus.runs import LEDGER_FOLDER, RUN_FILE, TABLES

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

# Folders that file servers and photo tools fill with thumbnails or deleted pictures.
SKIPPED_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found", "__MACOSX", "System Volume Information"}
)

# Inside the folder of a run, what is ours and holds no photos.
RUN_FOLDERS = frozenset({LEDGER_FOLDER, "manifest", *TABLES})

LIST_SUFFIXES = frozenset({".txt", ".csv", ".parquet"})
LIST_COLUMNS = ("uri", "path", "image", "file")

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
        pa.field("shard", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ListedPhoto:
    """One photo as found: where it is, how large, how old. Size and age are None where it cannot be seen."""

    name: str
    """Absolute local path as the system has it (bytes that are not UTF-8 as surrogates), or a URI."""
    bytes: int | None = None
    modified: datetime | None = None

    @property
    def uri(self) -> str:
        """As it stands in tables and is read: the path, or where that is not UTF-8 the file URI that leads to it."""
        return self.name if _is_utf8(self.name) else Path(self.name).as_uri()


@dataclass
class Inventory:
    """All photos of the inputs and what was passed over."""

    root: str = ""
    """What the photos' identities are relative to: the input folder, or the deepest folder common to all."""

    photos: list[ListedPhoto] = field(default_factory=list)

    skipped: Counter[str] = field(default_factory=Counter)
    """Count of entries that are no photo by their name, by kind: "hidden", "thumbnail folder", "other (.xmp)"..."""


def image_id(path: str) -> str:
    """A photo's identity: a hash of its path relative to the archive's root, so that moving the root keeps it.

    Args:
        path: relative, with forward slashes.

    Returns:
        24 hexadecimal digits (96 bits: two photos of a billion share one with a chance of about 1e-11).
    """
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def list_photos(inputs: Sequence[str], *, root: str | None = None, limit: int | None = None) -> Inventory:
    """Find every photo that the inputs name.

    Args:
        inputs: folders (searched to any depth), photos, globs, or lists of photos (.txt: one path a line; .csv and
            .parquet: a column `uri`, `path`, `image` or `file`). Relative paths in a list start at the list's folder.
        root: what identities are relative to; the default is the input folder if there is just one, else the deepest
            folder common to all photos.
        limit: keep only the first so many, in the order of their paths.

    Raises:
        SettingsError: an input does not exist, a list has no column of paths, or nothing was found at all.
    """
    inventory = Inventory()
    for text in inputs:
        inventory.photos.extend(_expand(text, inventory.skipped))
    unique = {photo.name: photo for photo in inventory.photos}
    if repeated := len(inventory.photos) - len(unique):
        inventory.skipped["named twice"] += repeated
    inventory.photos = [unique[name] for name in sorted(unique)][:limit]
    if not inventory.photos:
        passed = f" (passed over: {_counts(inventory.skipped)})" if inventory.skipped else ""
        raise SettingsError(
            f"{', '.join(inputs)}: no photos here{passed}; names end in {' '.join(sorted(PHOTO_SUFFIXES))}"
        )
    single_folder = inputs[0] if len(inputs) == 1 and os.path.isdir(inputs[0]) else None
    inventory.root = _root(root or single_folder, inventory.photos)
    return inventory


def manifest_table(inventory: Inventory) -> pa.Table:
    """The manifest of an inventory: `MANIFEST_SCHEMA`, in the order of paths, cut into shards.

    Raises:
        SettingsError: a photo lies outside the stated root.
    """
    paths = [_relative(photo.name, inventory.root) for photo in inventory.photos]
    columns = [
        [image_id(path) for path in paths],
        [photo.uri for photo in inventory.photos],
        [path if _is_utf8(path) else quote(os.fsencode(path)) for path in paths],
        [photo.bytes for photo in inventory.photos],
        [photo.modified for photo in inventory.photos],
        cut_shards([photo.bytes for photo in inventory.photos]),
    ]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, MANIFEST_SCHEMA, strict=True)], schema=MANIFEST_SCHEMA
    )


def cut_shards(sizes: Sequence[int | None]) -> list[int]:
    """Number each photo's shard: neighbours share one until it is full.

    Args:
        sizes: bytes of each photo, None where unknown.
    """
    photos_per_shard = max(1, min(SHARD_PHOTOS, -(-len(sizes) // MINIMUM_SHARDS)))
    shards: list[int] = []
    shard, photos, total = 0, 0, 0
    for size in sizes:
        if photos and (photos >= photos_per_shard or total + (size or 0) > SHARD_BYTES):
            shard, photos, total = shard + 1, 0, 0
        shards.append(shard)
        photos, total = photos + 1, total + (size or 0)
    return shards


def shard_rows(manifest: pa.Table) -> list[dict[str, int]]:
    """One row per shard (shard, photos, bytes), the largest first so that no large one is left for the end."""
    grouped = manifest.group_by("shard").aggregate([("image_id", "count"), ("bytes", "sum")]).to_pylist()
    rows = [{"shard": row["shard"], "photos": row["image_id_count"], "bytes": row["bytes_sum"] or 0} for row in grouped]
    return sorted(rows, key=lambda row: (-row["bytes"], -row["photos"], row["shard"]))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _expand(text: str, skipped: Counter[str]) -> Iterator[ListedPhoto]:
    if _is_uri(text):
        if PurePosixPath(text).suffix.lower() not in PHOTO_SUFFIXES:
            raise SettingsError(f"{text}: folders on object stores cannot be listed yet; give a list of photo URIs")
        yield ListedPhoto(text)
    elif os.path.isdir(text):
        yield from _walk(os.path.abspath(text), skipped)
    elif os.path.exists(text):
        yield from _read_list(text) if Path(text).suffix.lower() in LIST_SUFFIXES else [_see(os.path.abspath(text))]
    elif glob.has_magic(text):
        yield from _glob(text, skipped)
    else:
        raise SettingsError(
            f"{text}: no such file or folder; check the path, or quote a glob so that the shell leaves it alone"
        )


def _walk(folder: str, skipped: Counter[str]) -> Iterator[ListedPhoto]:
    def fail(error: OSError) -> None:
        skipped[f"unreadable folder ({error.filename})"] += 1

    for parent, folders, names in os.walk(folder, onerror=fail):
        is_run = RUN_FILE in names and LEDGER_FOLDER in folders
        for name in list(folders):
            reason = _reason_to_skip(name)
            if reason is None and is_run and name in RUN_FOLDERS:
                reason = "table of a run"
            if reason is None and os.path.islink(os.path.join(parent, name)):
                reason = "linked folder"
            if reason is not None:
                folders.remove(name)
                skipped[reason] += 1
        folders.sort()
        for name in sorted(names):
            if _is_photo_name(name, skipped):
                yield _see(os.path.join(parent, name))


def _reason_to_skip(folder: str) -> str | None:
    """Why a folder of this name is passed over; None where it is not."""
    if folder in SKIPPED_FOLDERS:
        return "thumbnail or system folder"
    return "hidden folder" if folder.startswith(".") else None


def _glob(pattern: str, skipped: Counter[str]) -> Iterator[ListedPhoto]:
    """Files that a glob names, but for those that a search of its folder would pass over."""
    fixed = len(list(takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)))
    for path in sorted(glob.glob(pattern, recursive=True)):
        reasons = [reason for folder in Path(path).parts[fixed:-1] if (reason := _reason_to_skip(folder)) is not None]
        if reasons:
            skipped[f"in a {reasons[0]}"] += 1
        elif os.path.isfile(path) and _is_photo_name(os.path.basename(path), skipped):
            yield _see(os.path.abspath(path))


def _is_photo_name(name: str, skipped: Counter[str]) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        skipped["hidden"] += 1  # ._* (the resource forks that macOS leaves) begin with a dot as well
        return False
    if suffix not in PHOTO_SUFFIXES:
        skipped[f"other ({suffix or 'no suffix'})"] += 1
        return False
    return True


def _see(path: str) -> ListedPhoto:
    """A local photo with its size and age; without them if it cannot be seen (its row will say why)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return ListedPhoto(path)
    modified = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, tz=timezone.utc)
    return ListedPhoto(path, status.st_size, modified)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_list(path: str) -> Iterator[ListedPhoto]:
    folder = os.path.dirname(os.path.abspath(path))
    for entry in _list_entries(path):
        if entry.startswith("file:"):
            yield _see(os.path.normpath(os.fsdecode(unquote_to_bytes(urlsplit(entry).path))))
        elif _is_uri(entry):
            yield ListedPhoto(entry)
        else:
            yield _see(os.path.normpath(os.path.join(folder, os.path.expanduser(entry))))


def _list_entries(path: str) -> list[str]:
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".parquet":
            column = _column(path, pq.read_schema(path).names)
            values = pq.read_table(path, columns=[column]).column(0).cast(pa.string())
            return [entry for entry in values.to_pylist() if entry]
        with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as file:
            if suffix == ".txt":
                return [line.rstrip("\n") for line in file if line.strip()]
            reader = csv.DictReader(file)
            column = _column(path, list(reader.fieldnames or []))
            return [row[column] for row in reader if row[column]]
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start}); save the list as UTF-8") from error
    except (pa.ArrowException, csv.Error, ValueError, TypeError) as error:
        if isinstance(error, SettingsError):
            raise
        kind = "Parquet file with a text column" if suffix == ".parquet" else "list of photos"
        raise SettingsError(f"{path}: is not a {kind} ({error}); write it anew") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error


def _column(path: str, names: list[str]) -> str:
    for name in LIST_COLUMNS:
        if name in names:
            return name
    wanted = " or ".join(LIST_COLUMNS)
    raise SettingsError(f"{path}: has the columns {', '.join(names) or 'none'}; name the one of the photos {wanted}")


def _is_uri(text: str) -> bool:
    return "://" in text


def _root(stated: str | None, photos: Sequence[ListedPhoto]) -> str:
    if stated is not None:
        return stated.rstrip("/") if _is_uri(stated) else os.path.abspath(os.path.expanduser(stated))
    common = photos[0].name.split("/")[:-1]
    for photo in photos:
        folders = photo.name.split("/")[:-1]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(common, folders, strict=False)))
        common = common[:shared]
    if common[:1] and common[0].endswith(":") and len(common) < 3:
        return ""  # nothing in common but the scheme of a URI
    return "/".join(common)


def _relative(name: str, root: str) -> str:
    # Photos of several stores, or of a store and this machine, have no folder in common: their names stand whole.
    prefix = root if root.endswith("/") or (not root and _is_uri(name)) else root + "/"
    if name.startswith(prefix):
        return name[len(prefix) :]
    raise SettingsError(f"{name}: lies outside the root {root}; give another --root or leave it out")
