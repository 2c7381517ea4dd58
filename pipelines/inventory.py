"""List an archive: every photo that the inputs name, each once, in the order of names.

Photos are held in columns, some 110 bytes each, so that ten million of them fit into a gigabyte or two.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.folders import FOUND_SCHEMA, PHOTO_SUFFIXES, THREADS, PassedOver, Pattern, list_objects, see, walk
from pipelines.manifest import (
    MANIFEST_SCHEMA,
    Listing,
    cut_shards,
    image_id,
    manifest_batches,
    photo_uri,
    relative_paths,
    sizes,
)
from pipelines.photo_lists import canonical_uri, is_list, read_list
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import StorageConfig, open_storage, uri_scheme


@dataclass(frozen=True, kw_only=True)
class InventoryConfig:
    """How an archive is listed."""

    root: str | None = None
    """What identities are relative to, and what entries of lists may not lead out of. None takes the input folder if
    there is just one, else the deepest folder common to all photos."""

    allow_outside: bool = False
    """Admit photos outside the stated root; their identity is then their whole name."""

    limit: int | None = None
    """Only the first so many photos, in the order of their names."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    """How object stores are reached."""


@dataclass(kw_only=True)
class Inventory(Listing):
    """All photos of the inputs and what was passed over."""

    photos: pa.Table
    """`pipelines.folders.FOUND_SCHEMA`, in the order of names, each once."""

    unreadable: list[str] = field(default_factory=list)
    """Folders that could not be listed: nobody knows what is in them."""

    def uris(self) -> list[str]:
        """What to read the photos by."""
        return [photo_uri(name) for name in self.photos.column("name").to_pylist()]

    def without(self, image_ids: set[str]) -> Inventory:
        """The same but for some photos."""
        if not image_ids:
            return self
        paths = relative_paths(self.photos.column("name").to_pylist(), self)
        return replace(self, photos=self.photos.filter(pa.array([image_id(path) not in image_ids for path in paths])))


def absolute_inputs(inputs: Sequence[str]) -> list[str]:
    """Inputs as they can be found again from anywhere: absolute paths and URIs."""
    return [_path_or_uri(text) for text in inputs]


def list_photos(
    inputs: Sequence[str], config: InventoryConfig | None = None, on_listed: Callable[[int], None] | None = None
) -> Inventory:
    """Find every photo that the inputs name.

    Args:
        inputs: folders (searched to any depth, also `s3://` and `gs://` prefixes), photos, globs, or lists of photos
            (.txt: one path a line; .csv and .parquet: a column `uri`, `path`, `image` or `file`). Relative paths in a
            list start at the list's folder.
        config: how to list.
        on_listed: called now and then with the number of photos found since the last time.

    Raises:
        SettingsError: an input does not exist, a list has no column of paths, or nothing was found at all.
        RunError: an object store could not be listed.
    """
    config = config or InventoryConfig()
    inputs = absolute_inputs(inputs)
    root = None if config.root is None else _path_or_uri(config.root)
    passed, batches, found = PassedOver(), [], [0] * len(inputs)
    border = None if config.allow_outside else root
    for number, batch in _expand_all(inputs, config.storage, border, passed):
        batches.append(batch)
        found[number] += batch.num_rows
        if on_listed:
            on_listed(batch.num_rows)
    photos = _in_order(pa.Table.from_batches(batches, FOUND_SCHEMA), passed)
    if not photos.num_rows:
        raise SettingsError(f"{', '.join(inputs)}: {_words_for_none(inputs, passed)}")
    return Inventory(
        inputs=inputs,
        found=found,
        root=_single_folder(inputs) or _common_folder(photos) if root is None else root,
        stated_root=root,
        allow_outside=config.allow_outside,
        limit=config.limit,
        skipped=dict(passed.skipped.most_common()),
        listed=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        photos=photos.slice(0, config.limit),
        unreadable=passed.unreadable,
    )


def manifest_table(inventory: Inventory) -> pa.Table:
    """The first manifest of an archive that fits into memory.

    Raises:
        SettingsError: a photo lies outside the stated root.
    """
    return pa.Table.from_batches(manifest_batches(inventory, inventory.photos), MANIFEST_SCHEMA)


# What the command that drives a run needs to know of its manifest.
PLAN_COLUMNS = ("uri", "bytes", "shard", "version", "vanished")


def plan_table(inventory: Inventory) -> pa.Table:
    """The columns `PLAN_COLUMNS` of the first manifest: the names are not copied."""
    photos = inventory.photos
    columns = {
        "uri": pa.chunked_array([_uris(chunk) for chunk in photos.column("name").chunks], pa.large_string()),
        "bytes": photos.column("bytes"),
        "shard": pa.array(cut_shards(sizes(photos), photos.num_rows)),
        "version": pa.array(np.full(photos.num_rows, inventory.version, np.int32)),
        "vanished": pa.array(np.zeros(photos.num_rows, bool)),
    }
    return pa.table({name: columns[name] for name in PLAN_COLUMNS})


def _uris(names: pa.Array) -> pa.Array:
    try:
        return names.cast(pa.large_string())
    except pa.ArrowInvalid:  # some are not UTF-8
        return pa.array([photo_uri(name) for name in names.to_pylist()], pa.large_string())


def _path_or_uri(text: str) -> str:
    scheme = uri_scheme(text)
    if scheme == "file":
        return os.path.normpath(os.fsdecode(unquote_to_bytes(urlsplit(text).path)))
    if scheme is None:
        return os.path.abspath(os.path.expanduser(text))
    return canonical_uri(text).rstrip("/")


def _expand_all(
    inputs: Sequence[str], storage: StorageConfig, border: str | None, passed: PassedOver
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Photos of all inputs, each batch with the number of its input."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="list") as pool:
        for number, text in enumerate(inputs):
            for batch in _expand(text, storage, border, passed, pool):
                yield number, batch


def _expand(
    text: str, storage: StorageConfig, border: str | None, passed: PassedOver, pool: ThreadPoolExecutor
) -> Iterator[pa.RecordBatch]:
    """Photos of one input, as batches of `FOUND_SCHEMA`. Entries of lists may not lead outside the border."""
    if uri_scheme(text) is not None:
        yield from _expand_uri(text, storage, border, passed, pool)
    elif os.path.isdir(text):
        yield from see(((name, None) for name in walk(os.fsencode(text), passed, pool)), pool)
    elif os.path.exists(text):
        named = read_list(text, storage, border) if is_list(text) else [(os.fsencode(text), None)]
        yield from see(named, pool)
    elif glob.has_magic(text):
        pattern = Pattern(text)
        yield from see(((name, None) for name in walk(pattern.folder, passed, pool, pattern)), pool)
    else:
        raise SettingsError(
            f"{text}: no such file or folder; check the path, or quote a glob so that the shell leaves it alone"
        )


def _expand_uri(
    uri: str, storage: StorageConfig, border: str | None, passed: PassedOver, pool: ThreadPoolExecutor
) -> Iterator[pa.RecordBatch]:
    if is_list(uri):
        yield from see(read_list(uri, storage, border), pool)
    elif _is_photo(uri):
        yield from see([(uri.encode(), None)], pool)
    else:
        try:
            yield from list_objects(open_storage(uri, storage), passed)
        except OSError as error:
            raise RunError(f"{uri}: cannot be listed ({error.strerror or error})") from error


def _is_photo(uri: str) -> bool:
    return PurePosixPath(uri).suffix.lower() in PHOTO_SUFFIXES


def _words_for_none(inputs: Sequence[str], passed: PassedOver) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in passed.skipped.most_common())
    globs = any(uri_scheme(text) and glob.has_magic(text) for text in inputs)
    return (
        f"no photos here{f' (passed over: {counts})' if counts else ''}; names end in "
        f"{' '.join(sorted(PHOTO_SUFFIXES))}{'; globs find nothing in object stores' if globs else ''}"
    )


def _in_order(photos: pa.Table, passed: PassedOver) -> pa.Table:
    """The photos in the order of names, each once. One folder or prefix comes in order and without repeats."""
    names = photos.column("name")
    if photos.num_rows > 1 and not pc.all(pc.less(names[:-1], names[1:])).as_py():
        photos = photos.take(pc.sort_indices(names))
        repeats = pc.equal(photos.column("name")[:-1], photos.column("name")[1:])
        if count := pc.sum(repeats).as_py():
            passed.count("named twice", count)
            photos = _merged(photos)
    return photos


def _merged(photos: pa.Table) -> pa.Table:
    """One row for each name: what any of its rows knows of it, the first one's word before the others'."""
    known = [(name, "first") for name in FOUND_SCHEMA.names[1:]]
    merged = photos.group_by("name", use_threads=False).aggregate(known)
    return pa.table(
        [merged.column(name) for name in ("name", *(f"{name}_first" for name, _ in known))], schema=FOUND_SCHEMA
    )


def _single_folder(inputs: Sequence[str]) -> str | None:
    """The input, where it is one folder or prefix."""
    if len(inputs) != 1:
        return None
    (text,) = inputs
    if uri_scheme(text) is None:
        return text if os.path.isdir(text) else None
    return None if is_list(text) or _is_photo(text) else text


def _common_folder(photos: pa.Table) -> str:
    """The deepest folder common to all photos; empty where there is none."""
    # What the first and the last name have in common, all between them have as well.
    first, last = (photos.column("name")[row].as_py().split(b"/")[:-1] for row in (0, photos.num_rows - 1))
    common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    if common[:1] and common[0].endswith(b":") and len(common) < 3:
        return ""  # nothing in common but the scheme of a URI
    return os.fsdecode(b"/".join(common))
