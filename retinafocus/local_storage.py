"""A folder on a file system that several workers may share: whole files or none, and names taken only once."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from time import sleep
from typing import BinaryIO

from retinafocus.errors import RunError
from retinafocus.storage import LOCK_FILE, STALE_SECONDS, Entry, Hold

# Files begun and not finished carry this prefix; readers and the clean-up know it.
TEMPORARY_PREFIX = ".unfinished-"

# What lies in the folder itself after a write or `check_writable` was killed.
_LEFT_OVER = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{32}}|probe-[0-9a-f]{{32}}(-link)?)")

# Seconds between tries to take the lock: who only asks whether it is held (`is_locked`) holds it for that moment.
LOCK_PAUSES = (0.01, 0.03, 0.1)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class LocalStorage:
    """A folder; see `retinafocus.storage.Storage`.

    Every write appears whole under its name or not at all, also after a power cut: data goes to a temporary name in
    the same folder, is flushed to the disk, and is then renamed (`put`) or linked (`create_once`).

    Args:
        root: the folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(root))

    @property
    def location(self) -> str:
        return str(self.root)

    def uri(self, name: str) -> str:
        return os.path.join(self.root, name)

    def check_writable(self) -> None:
        probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
        try:
            self.put(probe, b"")
            try:
                self.create_once(f"{probe}-link", b"")  # some network file systems know no hard links
            finally:
                self.delete(probe)
            self.delete(f"{probe}-link")
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root}: cannot be written ({reason}); choose another -o folder") from error

    @contextmanager
    def locked(self) -> Iterator[_LocalHold]:
        try:
            file = self._lock()
        except BlockingIOError as error:
            raise RunError(f"{self.root}: another command is at work on this run; wait for it or stop it") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(
                f"{self.root}: cannot be locked ({reason}); is it writable, and does its file system have locks?"
            ) from error
        with file:  # the system lets go of the lock when the process ends, however it ends
            yield _LocalHold()

    def is_locked(self) -> bool:
        try:
            with open(self.root / LOCK_FILE, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def put(self, name: str, data: bytes) -> None:
        os.replace(self._write_temporary(name, data), self.root / name)
        self._flush_folder(name)

    def create_once(self, name: str, data: bytes) -> bool:
        temporary = self._write_temporary(name, data)
        try:
            os.link(temporary, self.root / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        self._flush_folder(name)
        return True

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return open(self.root / name, "rb")

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, self.read(name)

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def names(self, folder: str) -> Iterator[str]:
        path = self.root / folder
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        yield f"{folder}/{entry.name}"

    def entries(self, on_error: Callable[[str, OSError], None] | None = None) -> Iterator[Entry]:
        return self._entries("", on_error)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        path = self.root / folder
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()

    def sweep(self, hold: Hold) -> int:
        swept = 0
        with suppress(OSError):
            with os.scandir(self.root) as entries:
                found = [entry for entry in entries if _LEFT_OVER.fullmatch(entry.name)]
            if found:
                # The lock's file is touched to see what the file system's clock says, which may be a server's.
                os.utime(self.root / LOCK_FILE)
                now = (self.root / LOCK_FILE).stat().st_mtime
                for entry in found:
                    if now - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                        hold.check()
                        self.delete(entry.name)
                        swept += 1
        return swept

    def _entries(self, folder: str, on_error: Callable[[str, OSError], None] | None) -> Iterator[Entry]:
        try:
            with os.scandir(self.root / folder) as scan:
                found = [(entry, entry.is_dir(follow_symlinks=False)) for entry in scan]
        except OSError as error:
            if on_error is None:
                raise
            on_error(folder, error)
            return
        # "a.jpg" comes before "a/b.jpg" in the order of whole names, so a folder counts with its slash.
        for entry, is_folder in sorted(found, key=lambda pair: os.fsencode(pair[0].name) + b"/" * pair[1]):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if is_folder:
                yield from self._entries(name, on_error)
            elif entry.is_file(follow_symlinks=False):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted a moment ago
                    continue
                yield Entry(name, status.st_size, file_time(status), None)

    def _lock(self) -> BinaryIO:
        """The lock's file, held until it is closed."""
        with ExitStack() as stack:
            file = stack.enter_context(open(self.root / LOCK_FILE, "ab"))
            for pause in (*LOCK_PAUSES, None):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if pause is None:
                        raise
                    sleep(pause)
            stack.pop_all()
        return file

    def _write_temporary(self, name: str, data: bytes) -> Path:
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _flush_folder(self, name: str) -> None:
        # A rename or link is on the disk only when its folder is.
        descriptor = os.open((self.root / name).parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_time(status: os.stat_result) -> datetime | None:
    """When a file was last written to, in UTC, to the microsecond; None for a date that Python does not know."""
    try:
        return _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return None


class _LocalHold:
    """The system's own lock, which is lost with the process only."""

    def check(self) -> None:
        pass
