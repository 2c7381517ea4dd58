"""Where runs and photos lie: one small interface to folders on this machine and in object stores.

    storage = open_storage("s3://bucket/runs/2024")      # or a path
    storage.put("run.json", data)                        # whole or not at all
    storage.create_once("_ledger/00000000.json", data)   # only if nobody has that name yet

Everything a run promises rests on `put` and `create_once`. On a file system they are a rename and a link
(`retinafocus.local_storage`), in an object store a plain and a conditional request (`retinafocus.object_storage`).
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, sleep
from typing import BinaryIO, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from retinafocus.errors import SettingsError

OBJECT_SCHEMES = ("s3", "gs")
"""Object stores that can be read and written: Amazon S3 with all that speaks its protocol, and Google Cloud Storage."""

# Held by the command at work on a run. Two at once would delete each other's unfinished parts at the end.
LOCK_FILE = ".lock"

# A lock in an object store that was not renewed for so long is nobody's any more: a few renewals may fail on a bad line
# before anybody may believe that its holder is gone. What a writer left unfinished that long ago is nobody's either.
STALE_SECONDS = 60.0

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """How object stores are reached. Holds no secrets, and no part of it changes what the tables hold.

    Keys and tokens come from the environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`...), from a
    profile, or from the role of the machine.
    """

    region: str | None = None
    """Region of an S3 bucket; None takes AWS_REGION, AWS_DEFAULT_REGION, or the profile's."""

    profile: str | None = None
    """A profile of ~/.aws to take keys from; needs the extra `s3`. None takes AWS_PROFILE."""

    endpoint: str | None = None
    """Address of an S3-compatible store (`https://minio.example.org`); None is Amazon's, or AWS_ENDPOINT_URL."""

    requester_pays: bool = False
    """Agree to pay for requests to S3 buckets that charge their readers."""

    anonymous: bool = False
    """Send no keys at all: for public buckets."""

    attempts: int = 6
    """How often a request is tried, with growing pauses between, before it counts as failed."""

    timeout_seconds: float = 30.0
    """A request that stands still for so long counts as failed."""

    retry_seconds: float = 120.0
    """No further try is begun after this long."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise SettingsError(f"storage.attempts is {self.attempts}; choose 1 or more")
        for name, value in (("timeout_seconds", self.timeout_seconds), ("retry_seconds", self.retry_seconds)):
            if not value > 0:
                raise SettingsError(f"storage.{name} is {value:g}; choose more than 0")
        if self.endpoint is not None:
            if not self.endpoint.startswith(("http://", "https://")):
                raise SettingsError(f"endpoint is {redacted(self.endpoint)}; give http://HOST:PORT or https://HOST")
            refuse_secrets(self.endpoint)
        if self.anonymous and self.profile is not None:
            raise SettingsError("anonymous sends no keys, profile names some; leave one of them out")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a storage."""

    name: str
    """Relative to the storage, with forward slashes. Local bytes that are not UTF-8 stand as surrogates."""

    bytes: int

    modified: datetime | None
    """UTC."""

    etag: str | None
    """What an object store calls this content; None on a file system."""


class StorageError(OSError):
    """A storage failed to do what it was asked, after all tries.

    Args:
        message: names the place, in one line and without secrets.
        kind: what failed, in words that are the same each time: no names, numbers or times of the request.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        return type(self), (str(self), self.kind)


class Patience:
    """The pauses between the tries of one request: growing, and of random length, as many workers may wait at once.

    Args:
        config: how often and how long to try.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._tries = config.attempts - 1
        self._until = monotonic() + config.retry_seconds
        self._pause = 0.1

    def wait(self) -> bool:
        """Pause before the next try; False at once if there is to be none."""
        pause = self._pause * random.uniform(0.5, 1.5)
        if self._tries < 1 or monotonic() + pause > self._until:
            return False
        sleep(pause)
        self._tries, self._pause = self._tries - 1, min(2 * self._pause, 5.0)
        return True


class Hold(Protocol):
    """A storage held by one command."""

    def check(self) -> None:
        """Make sure that it is still held: a command that slept too long may have lost an object store's lock.

        Raises:
            RunError: somebody else may be at work by now.
        """


class Storage(Protocol):
    """A folder. Names are relative to it, with forward slashes. Every method but `exists` may raise `OSError`.

    A storage travels to other processes by pickling. Several processes and threads may use it at once.
    """

    @property
    def location(self) -> str:
        """The folder's absolute path or its URI, percent-encoded."""

    def uri(self, name: str) -> str:
        """What to read a file by from elsewhere: its absolute path or its URI, percent-encoded."""

    def check_writable(self) -> None:
        """Make the folder; write and remove files in it; make sure that `create_once` keeps its word.

        Raises:
            RunError: that failed; names the folder and the reason.
        """

    def locked(self) -> AbstractContextManager[Hold]:
        """Hold the folder for one command.

        Raises:
            RunError: another command holds it.
        """

    def is_locked(self) -> bool:
        """Whether a command holds the folder now. Writes nothing, so that anybody who may read can ask."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, replacing one of that name."""

    def create_once(self, name: str, data: bytes) -> bool:
        """Write a file whole if the name is free; False (and nothing written) if somebody has it already."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError, PermissionError, StorageError or another OSError.
        """

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of: Parquet needs its end first, and then some of its columns.

        Raises:
            FileNotFoundError, PermissionError, StorageError or another OSError.
        """

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and contents of many files, in the order of `names`; several at once where that is faster."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def names(self, folder: str) -> Iterator[str]:
        """Names (relative to the storage) of the files in one folder, in any order; none where there is no folder."""

    def entries(self, on_error: Callable[[str, OSError], None] | None = None) -> Iterator[Entry]:
        """Every file at any depth in the order of their whole names (as bytes), as a stream. Links are not followed.

        Args:
            on_error: called with the name of each folder that cannot be listed; None raises the error instead.
        """

    def delete(self, name: str) -> None:
        """Remove a file; it is no error if it is gone already."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder if it is empty; somebody else's files keep it."""

    def sweep(self, hold: Hold) -> int:
        """Delete what killed commands left in the folder itself: files begun, and those to try out or time the storage.

        Only names that we give count, and only what is older than `STALE_SECONDS`, by the storage's own clock: another
        command may be about to ask for the lock. Never an error: what stays goes with the next command.

        Args:
            hold: of the calling command.

        Returns:
            How many there were.

        Raises:
            RunError: the storage is not held any more.
        """


def open_storage(location: str | os.PathLike[str], config: StorageConfig | None = None) -> Storage:
    """A folder on this machine or in an object store; nothing is read or written yet.

    Args:
        location: a path, or a percent-encoded URI: `file://`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`.
        config: how object stores are reached.

    Raises:
        SettingsError: the URI has no bucket, an unknown scheme, or carries secrets.
    """
    text = os.fspath(location)
    scheme = uri_scheme(text)
    if scheme in OBJECT_SCHEMES:
        from retinafocus.object_storage import ObjectStorage

        return ObjectStorage(text, config)
    if scheme not in (None, "file"):
        raise SettingsError(f"{redacted(text)}: no storage for {scheme}://; give a path, s3:// or gs://")
    from retinafocus.local_storage import LocalStorage

    return LocalStorage(os.fsdecode(unquote_to_bytes(urlsplit(text).path)) if scheme else text)


def uri_scheme(text: str) -> str | None:
    """`s3` of `s3://bucket/key`, in lower case; None for a path."""
    match = _SCHEME.match(text)
    return match.group(1).lower() if match else None


def split_uri(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and decoded key of an object's URI.

    Raises:
        SettingsError: it names no bucket, or carries secrets, a query or a fragment.
    """
    refuse_secrets(uri)
    parts = urlsplit(uri)
    if not parts.netloc:
        raise SettingsError(f"{uri}: names no bucket; write {parts.scheme}://BUCKET/KEY")
    try:
        key = unquote_to_bytes(parts.path[1:]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{uri}: its %-codes are not UTF-8; object stores have no such keys") from error
    return parts.scheme.lower(), parts.netloc, key


def redacted(text: str) -> str:
    """The text with user names, passwords and queries of all URIs in it replaced: fit for logs and messages."""
    text = re.sub(r"(\w[\w+.-]*://)[^/?#\s@]*@", r"\1...@", text)
    return re.sub(r"(\w[\w+.-]*://[^?#\s]*)[?#][^\s'\")\],;]*", r"\1?...", text)


def refuse_secrets(uri: str) -> None:
    """Make sure that a URI may stand in tables and logs.

    Raises:
        SettingsError: it has a user name or key in it, a query (signed addresses have their signature there) or a
            fragment.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise SettingsError(
            f"{redacted(uri)}: has a user name or a key in it, which would end up in tables and logs; take it out and "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use --profile"
        )
    if parts.query or parts.fragment:
        raise SettingsError(
            f"{redacted(uri)}: has a query or fragment; a ? or # that belongs to the name is written %3F or %23, "
            "settings belong to --region, --endpoint and so on, keys to the environment"
        )
