"""Lists of photos: text, CSV and Parquet, with checksums if they have them, read as a stream.

Lists come from elsewhere. Below a stated root, no entry may lead out of it, neither by its name nor through links.
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.errors import SettingsError
from retinafocus.storage import (
    OBJECT_SCHEMES,
    StorageConfig,
    open_storage,
    redacted,
    refuse_secrets,
    split_uri,
    uri_scheme,
)

LIST_SUFFIXES = frozenset({".txt", ".csv", ".parquet"})
LIST_COLUMNS = ("uri", "path", "image", "file")

CHECKSUM_DIGITS = {"sha256": 64, "md5": 32}
"""Kinds of checksum and how many hexadecimal digits they have. A column named after a kind holds its digits; a column
`checksum` says the kind before a colon."""

# A line as sha256sum and md5sum write it. One that begins with a backslash has its newlines and backslashes escaped.
_SUMMED = re.compile(r"(\\?)([0-9a-fA-F]{64}|[0-9a-fA-F]{32}) [ *](.+)", re.S)

Entry = tuple[str, str | None]
"""What a list says of a photo: its path or URI as it stands there, and its checksum as KIND:DIGITS."""


def is_list(text: str) -> bool:
    """Whether a file of this name is a list of photos."""
    return PurePosixPath(text).suffix.lower() in LIST_SUFFIXES


def read_list(path: str, storage: StorageConfig, root: str | None = None) -> Iterator[tuple[bytes, str | None]]:
    """The photos of a list.

    Args:
        path: the list, here or in an object store.
        storage: how object stores are reached.
        root: where no photo may lie outside of; None admits them anywhere.

    Returns:
        Names (absolute local paths as the system has them, or URIs) and checksums (`sha256:...`, `md5:...` or None).

    Raises:
        SettingsError: the list cannot be read, has no column of photos, or an entry leads outside the root or is none.
    """
    try:
        for number, (entry, checksum) in enumerate(_entries(path, storage), start=1):
            try:
                name = _name(entry, path, storage)
                checked = _checksum(checksum)
            except SettingsError as error:
                raise SettingsError(f"{path}: photo {number}: {error}") from error
            if root is not None and leads_outside(name, root):
                raise SettingsError(
                    f"{path}: photo {number}: {redacted(entry)} leads outside the root {root}; take it out of the "
                    "list, or let it with --allow-outside"
                )
            yield name, checked
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start}); save the list as UTF-8") from error
    except (pa.ArrowException, csv.Error, ValueError, TypeError) as error:
        if isinstance(error, SettingsError):
            raise
        kind = "Parquet file with a text column" if path.lower().endswith(".parquet") else "list of photos"
        raise SettingsError(f"{path}: is not a {kind} ({error}); write it anew") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error})") from error


def canonical_uri(uri: str) -> str:
    """The one way to write an object's URI, so that a photo is the same whoever names it. Other URIs stay as they are.

    Raises:
        SettingsError: it names no bucket, or carries keys, which must not get into tables.
    """
    if uri_scheme(uri) not in OBJECT_SCHEMES:
        refuse_secrets(uri)
        return uri
    scheme, bucket, key = split_uri(uri)
    return f"{scheme}://{bucket}/{quote(key)}"


def leads_outside(name: bytes, root: str) -> bool:
    """Whether a photo lies outside a folder, by its name or by the links on its way.

    Args:
        name: absolute local path, or a URI.
        root: absolute local path, or a URI.
    """
    folder = os.fsencode(root)
    prefix = folder if folder.endswith(b"/") else folder + b"/"
    if not name.startswith(prefix):
        return True
    if not name.startswith(b"/"):  # stores take dots for letters, but not all that stands before a store does
        return b".." in unquote_to_bytes(name).split(b"/")
    real = os.path.join(_real_folder(os.path.dirname(name)), os.path.basename(name))
    if os.path.islink(real):
        real = os.path.realpath(real)
    return not real.startswith(_real_folder(folder).rstrip(b"/") + b"/")


@lru_cache(maxsize=4096)
def _real_folder(folder: bytes) -> bytes:
    return os.path.realpath(folder)


def _name(entry: str, path: str, storage: StorageConfig) -> bytes:
    scheme = uri_scheme(entry)
    if scheme == "file":
        return os.path.normpath(unquote_to_bytes(urlsplit(entry).path))
    if scheme is not None:
        return canonical_uri(entry).encode()
    if uri_scheme(path) in OBJECT_SCHEMES and not os.path.isabs(entry):
        scheme, bucket, key = split_uri(path)
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(key), entry))
        return open_storage(f"{scheme}://{bucket}", storage).uri(beside).encode()
    folder = os.path.dirname(os.path.abspath(path))
    return os.fsencode(os.path.normpath(os.path.join(folder, os.path.expanduser(entry))))


def _checksum(text: str | None) -> str | None:
    if not text:
        return None
    kind, _, digits = text.strip().lower().partition(":")
    if len(digits) != CHECKSUM_DIGITS.get(kind) or not re.fullmatch("[0-9a-f]+", digits):
        kinds = " or ".join(f"{kind}:DIGITS ({count} of 0-9 a-f)" for kind, count in CHECKSUM_DIGITS.items())
        raise SettingsError(f"the checksum is {text!r}; write {kinds}")
    return f"{kind}:{digits}"


def _entries(path: str, storage: StorageConfig) -> Iterator[Entry]:
    suffix = PurePosixPath(path).suffix.lower()
    with _open(path, storage) as file:
        if suffix == ".parquet":
            yield from _parquet_entries(path, file)
        else:
            # Lines of CSV may go on after a newline inside quotes.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="" if suffix == ".csv" else None)
            yield from _csv_entries(path, text) if suffix == ".csv" else _text_entries(text)


def _open(path: str, storage: StorageConfig) -> BinaryIO:
    if uri_scheme(path) is None:
        return open(path, "rb")
    folder, _, name = path.rpartition("/")
    return io.BytesIO(open_storage(folder, storage).read(unquote_to_bytes(name).decode()))


def _text_entries(lines: Iterator[str]) -> Iterator[Entry]:
    for line in lines:
        line = line.rstrip("\n")
        if summed := _SUMMED.fullmatch(line):
            escaped, digits, name = summed.groups()
            kind = next(kind for kind, count in CHECKSUM_DIGITS.items() if count == len(digits))
            if escaped:
                name = re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], name)
            yield name, f"{kind}:{digits}"
        elif line.strip():
            yield line, None


def _csv_entries(path: str, lines: Iterator[str]) -> Iterator[Entry]:
    reader = csv.DictReader(lines)
    columns = list(reader.fieldnames or [])
    photo, checksum = _photo_column(path, columns), _checksum_column(columns)
    for row in reader:
        if row[photo]:
            yield row[photo], _said(checksum, row[checksum]) if checksum else None


def _parquet_entries(path: str, file: BinaryIO) -> Iterator[Entry]:
    table = pq.ParquetFile(file)
    columns = table.schema_arrow.names
    photo, checksum = _photo_column(path, columns), _checksum_column(columns)
    for batch in table.iter_batches(columns=[photo, *([checksum] if checksum else [])]):
        photos = batch.column(photo).cast(pa.string()).to_pylist()
        sums = batch.column(checksum).cast(pa.string()).to_pylist() if checksum else [None] * len(photos)
        yield from ((name, _said(checksum or "", said)) for name, said in zip(photos, sums, strict=True) if name)


def _said(column: str, value: str | None) -> str | None:
    """A checksum with its kind, which may be that of its column."""
    return value if not value or column == "checksum" else f"{column}:{value.strip()}"


def _photo_column(path: str, names: list[str]) -> str:
    for name in LIST_COLUMNS:
        if name in names:
            return name
    wanted = " or ".join(LIST_COLUMNS)
    raise SettingsError(f"{path}: has the columns {', '.join(names) or 'none'}; name the one of the photos {wanted}")


def _checksum_column(names: list[str]) -> str | None:
    return next((name for name in ("checksum", *CHECKSUM_DIGITS) if name in names), None)
