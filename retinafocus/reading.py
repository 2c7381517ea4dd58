"""The bytes of one photo, from a path or an object store, or an error that says why not.

What may pass by itself (a file server that was away for a moment, a throttled request, an answer cut short) is tried
again with growing pauses, a few times and for a bounded time. A file that is not there or may not be read is not.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_to_bytes, urlsplit

from retinafocus.errors import PhotoError, SettingsError
from retinafocus.local_storage import file_time
from retinafocus.storage import (
    OBJECT_SCHEMES,
    Patience,
    StorageConfig,
    StorageError,
    open_storage,
    split_uri,
    uri_scheme,
)

# What file servers answer while they, or the network, are away; a local disk's own errors (EIO) may pass as well.
TRANSIENT_ERRORS = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo's file as it was read."""

    data: bytes

    modified: datetime | None
    """UTC, to the microsecond; None where an entity tag says more."""

    etag: str | None
    """What an object store calls this content, as in its listings."""


def read_bytes(source: str | os.PathLike[str] | bytes, config: StorageConfig | None = None) -> bytes:
    """Read a photo's file whole.

    Args:
        source: a local path; a percent-encoded URI (file://, s3://, gs://); or the bytes themselves, passed through.
        config: how object stores are reached, and how often anything is tried.

    Raises:
        PhotoError: `not_found`, `permission`, `read_error` or `out_of_memory`.
        SettingsError: a profile of `config` is not there.
    """
    return source if isinstance(source, bytes) else read_photo(source, config).data


def read_photo(source: str | os.PathLike[str], config: StorageConfig | None = None) -> PhotoFile:
    """Read a photo's file whole, with what tells whether it is the one that was listed.

    Args:
        source: a local path, or a percent-encoded URI (file://, s3://, gs://).
        config: how object stores are reached, and how often anything is tried.

    Raises:
        PhotoError: `not_found`, `permission`, `read_error` or `out_of_memory`.
        SettingsError: a profile of `config` is not there.
    """
    path = os.fspath(source)
    try:
        return _read(path, config or StorageConfig())
    except SettingsError:
        raise
    except MemoryError as error:
        raise PhotoError("out_of_memory", "the file did not fit into memory") from error
    except FileNotFoundError as error:
        raise PhotoError(
            "not_found", "there is no file of that name; check the path, or that its storage is mounted"
        ) from error
    except PermissionError as error:
        if uri_scheme(path) in OBJECT_SCHEMES:
            raise PhotoError("permission", "the store denies access; grant these credentials read access") from error
        raise PhotoError("permission", "the file may not be read; grant this user read access") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise _row(error) from error


def local_path(path: str) -> str:
    """The path of a file on this machine, which its path or its file URI names."""
    return os.fsdecode(unquote_to_bytes(urlsplit(path).path)) if uri_scheme(path) == "file" else path


def read_start(source: str | os.PathLike[str], most: int, config: StorageConfig | None = None) -> tuple[bytes, int]:
    """The first bytes of a photo's file and the size of all of it.

    Args:
        source: as in `read_photo`.
        most: how many bytes at most.
        config: how object stores are reached.

    Raises:
        OSError, SettingsError: it cannot be read so; `read_photo` says what is wrong with it.
    """
    path = os.fspath(source)
    if uri_scheme(path) in OBJECT_SCHEMES:
        scheme, bucket, key = split_uri(path)
        with open_storage(f"{scheme}://{bucket}", config).open(key) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return file.read(most), size
    with open(local_path(path), "rb") as file:
        return file.read(most), os.fstat(file.fileno()).st_size


def _read(path: str, config: StorageConfig) -> PhotoFile:
    scheme = uri_scheme(path)
    if scheme in (None, "file"):
        return _read_file(local_path(path), config)
    if scheme not in OBJECT_SCHEMES:
        raise PhotoError("read_error", f"no reader for {scheme}://; give a path, file://, s3:// or gs://")
    try:
        _, bucket, key = split_uri(path)
    except SettingsError as error:
        raise PhotoError(
            "read_error", "its address has no bucket, or has keys, a query or a fragment; write ? as %3F and # as %23"
        ) from error
    if not key or key.endswith("/"):
        raise PhotoError("read_error", "it is a folder, not a file")
    from retinafocus.object_storage import ObjectStorage  # takes a moment to load; photos on a disk do without

    data, etag = ObjectStorage(f"{scheme}://{bucket}", config).read_with_etag(key)
    return PhotoFile(data, None, etag)


def _read_file(path: str, config: StorageConfig) -> PhotoFile:
    patience = Patience(config)
    while True:
        try:
            return _read_once(path)
        except OSError as error:
            passes = error.errno in TRANSIENT_ERRORS or isinstance(error, StorageError)
            if not (passes and patience.wait()):
                raise


def _read_once(path: str) -> PhotoFile:
    # A pipe or device would block or never end; stat says what it is without opening it.
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise PhotoError("read_error", "it is no regular file (a pipe, socket or device)")
    with open(path, "rb") as file:
        data = file.read()
        # Asked after reading: a file that was cut meanwhile is what it is now.
        status = os.fstat(file.fileno())
    if len(data) < status.st_size:
        raise StorageError(f"{path}: fewer bytes came than the file has", "fewer bytes came than the file has")
    return PhotoFile(data, file_time(status), None)


def _row(error: Exception) -> PhotoError:
    """A row's text for a storage error: its kind, without the names, numbers and times that vary between runs."""
    if isinstance(error, IsADirectoryError):
        return PhotoError("read_error", "it is a folder, not a file")
    if isinstance(error, StorageError):
        return PhotoError("read_error", f"the storage failed ({error.kind})")
    name = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return PhotoError("read_error", f"the storage failed ({name})")
