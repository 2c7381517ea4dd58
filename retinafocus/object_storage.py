"""A prefix in an object store (S3 and what speaks its protocol, Google Cloud Storage), through obstore.

A plain put appears whole or not at all in every such store. A name is taken once by a conditional put (`If-None-Match`
in S3, a generation of zero in Google's), which the store itself decides. An answer may be lost on its way back though,
so that the second try finds the name taken by the first: each such object carries a mark of its writer, which tells.
"""

from __future__ import annotations

import io
import os
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, InvalidPathError

from retinafocus import odd_keys
from retinafocus.buckets import is_transient, open_bucket, translated
from retinafocus.errors import RunError, SettingsError
from retinafocus.leases import CLOCK_PREFIX, Lease
from retinafocus.storage import LOCK_FILE, STALE_SECONDS, Entry, Hold, Patience, StorageConfig, split_uri

# Requests under way at once in `read_many`: a ledger's records are small, and each answer takes some 20 ms to come.
READERS = 32

# Pieces of a large upload; what is smaller goes in one request.
UPLOAD_CHUNK_BYTES = 16 << 20

# Metadata of an object that was created once: which writer's it is.
WRITER = "retinafocus-writer"

# Objects by which `check_writable` tries the store out; each lives for a moment.
PROBE_PREFIX = ".probe-"

_LEFT_OVER = re.compile(rf"({re.escape(CLOCK_PREFIX)}|{re.escape(PROBE_PREFIX)})[0-9a-f]{{32}}")

_Answer = TypeVar("_Answer")


class ObjectStorage:
    """A prefix in a bucket; see `retinafocus.storage.Storage`.

    Args:
        location: `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`, percent-encoded.
        config: how the store is reached.

    Raises:
        SettingsError: the URI or the settings make no sense, or a profile is named that is not there.
    """

    def __init__(self, location: str, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()
        scheme, self._bucket, key = split_uri(location)
        self._prefix = key.strip("/")
        self._root = f"{scheme}://{self._bucket}"
        self.location = f"{self._root}/{quote(self._prefix)}".rstrip("/")
        if odd_keys.is_odd(key.removesuffix("/")) and self._prefix:
            raise SettingsError(f"{location}: has empty or dot parts or control characters; choose another prefix")
        self._scheme = scheme
        self._store = open_bucket(scheme, self._bucket, self.config)

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str, StorageConfig]]:
        return type(self), (self.location, self.config)

    def uri(self, name: str) -> str:
        return f"{self._root}/{quote(self._key(name))}"

    def check_writable(self) -> None:
        probe = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
        try:
            kept = self.create_once(probe, b"first") and not self.create_once(probe, b"second")
            self.delete(probe)
        except OSError as error:
            raise RunError(
                f"{self.location}: cannot be written ({error.strerror or error}); choose another -o"
            ) from error
        if not kept:
            raise RunError(
                f"{self.location}: this store ignores conditional writes (If-None-Match), so that two workers could "
                "both believe to have written a shard; choose another store for -o"
            )

    def locked(self) -> AbstractContextManager[Hold]:
        return self._lease().hold()

    def is_locked(self) -> bool:
        try:
            return self._lease().is_held()
        except BaseError as error:
            raise translated(error, self.uri(LOCK_FILE)) from error

    def put(self, name: str, data: bytes) -> None:
        # Pieces of a large upload become an object when the last of them is there, or never.
        key = self._key(name)
        self._retry(name, lambda: obstore.put(self._store, key, data, chunk_size=UPLOAD_CHUNK_BYTES))

    def create_once(self, name: str, data: bytes) -> bool:
        key, writer = self._key(name), uuid.uuid4().hex

        def attempt() -> bool:
            try:
                obstore.put(self._store, key, data, mode="create", attributes={WRITER: writer})
            except AlreadyExistsError:
                # Perhaps by ourselves: an earlier try arrived, only its answer did not.
                return obstore.get(self._store, key, options={"head": True}).attributes.get(WRITER) == writer
            return True

        return self._retry(name, attempt)

    def read(self, name: str) -> bytes:
        return self.read_with_etag(name)[0]

    def read_with_etag(self, name: str) -> tuple[bytes, str | None]:
        """As `read`, with what the store calls this content."""
        key = self._key(name)
        if odd_keys.is_odd(key):
            return odd_keys.read(self._scheme, self._bucket, key, self.config)

        def attempt() -> tuple[bytes, str | None]:
            result = obstore.get(self._store, key)
            data = bytes(result.bytes())
            if len(data) != result.meta["size"]:
                raise GenericError("the answer ended too early")
            return data, result.meta["e_tag"]

        return self._retry(name, attempt)

    def open(self, name: str) -> BinaryIO:
        key = self._key(name)
        size = self._retry(name, lambda: obstore.head(self._store, key))["size"]

        def read_range(start: int, end: int) -> bytes:
            return self._retry(name, lambda: bytes(obstore.get_range(self._store, key, start=start, end=end)))

        return cast(BinaryIO, _ObjectFile(size, read_range))

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        ahead: deque[tuple[str, Future[bytes]]] = deque()
        with ThreadPoolExecutor(READERS) as pool:
            try:
                for name in names:
                    ahead.append((name, pool.submit(self.read, name)))
                    if len(ahead) >= 2 * READERS:
                        first, content = ahead.popleft()
                        yield first, content.result()
                while ahead:
                    first, content = ahead.popleft()
                    yield first, content.result()
            finally:
                for _, content in ahead:
                    content.cancel()

    def exists(self, name: str) -> bool:
        try:
            self._retry(name, lambda: obstore.head(self._store, self._key(name)))
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> Iterator[str]:
        # Flat: what lies deeper (a handful of marks at most in a run's folders) is passed over.
        for entry in self._list(self._key(folder)):
            if "/" not in entry.name[len(folder) + 1 :]:
                yield entry.name

    def entries(self, on_error: Callable[[str, OSError], None] | None = None) -> Iterator[Entry]:
        try:
            yield from self._list(self._prefix)
        except OSError as error:
            if on_error is None:
                raise
            on_error("", error)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):  # Google's store says so, Amazon's does not
            self._retry(name, lambda: obstore.delete(self._store, self._key(name)))

    def remove_folder(self, folder: str) -> None:
        """Nothing: an object store has no folders."""

    def sweep(self, hold: Hold) -> int:
        swept = 0
        with suppress(OSError):
            beside = self._retry("", lambda: obstore.list_with_delimiter(self._store, self._prefix or None))["objects"]
            modified = {found["path"].rsplit("/", 1)[-1]: found["last_modified"] for found in beside}
            # The lock is written anew every few seconds: its time is what the store's clock said then.
            now = modified.get(LOCK_FILE)
            for name, then in modified.items():
                if now and _LEFT_OVER.fullmatch(name) and (now - then).total_seconds() > STALE_SECONDS:
                    hold.check()
                    self.delete(name)
                    swept += 1
        return swept

    def _lease(self) -> Lease:
        return Lease(self._store, self._key(LOCK_FILE), self.location, self.config)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _list(self, prefix: str) -> Iterator[Entry]:
        skip = len(self._prefix) + 1 if self._prefix else 0
        last, patience = "", Patience(self.config)
        while True:
            try:
                for objects in obstore.list(self._store, prefix, offset=last or None):
                    for found in objects:
                        last = found["path"]
                        yield Entry(last[skip:], found["size"], found["last_modified"], found["e_tag"])
                    patience = Patience(self.config)
                return
            except InvalidPathError as error:
                # One key that obstore cannot name ends its whole listing.
                yield from odd_keys.list_after(self._scheme, self._bucket, prefix, last, skip, self.config, str(error))
                return
            except (BaseError, FileNotFoundError, ValueError) as error:
                if not (is_transient(error) and patience.wait()):
                    raise translated(error, self.location) from error

    def _retry(self, name: str, attempt: Callable[[], _Answer]) -> _Answer:
        """Try again what obstore does not try again by itself: bodies cut short, answers to conditional puts lost."""
        patience = Patience(self.config)
        while True:
            try:
                return attempt()
            except (BaseError, FileNotFoundError, ValueError) as error:
                if not (is_transient(error) and patience.wait()):
                    raise translated(error, self.uri(name)) from error


class _ObjectFile(io.RawIOBase):
    """An object as a file; each read is one request. Its readers (Parquet's) ask for large pieces.

    Args:
        size: of the object, in bytes.
        read_range: gives the bytes from one offset up to another.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        self._size, self._read_range = size, read_range
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._offset = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        return self._offset

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._offset + size, self._size)
        data = self._read_range(self._offset, end) if self._offset < end else b""
        self._offset += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
