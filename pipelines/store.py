"""Where a run is written: whole files or none, and names that can be taken only once."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinafocus.errors import RunError

# Files begun and not finished carry this prefix; readers and the clean-up know it.
TEMPORARY_PREFIX = ".unfinished-"

# Held by the command at work on a run. Two at once would delete each other's unfinished parts at the end.
LOCK_FILE = ".lock"


class LocalStore:
    """A run's folder on a file system that several workers may share.

    Every write appears whole under its name or not at all, also after a power cut: data goes to a temporary name in
    the same folder, is flushed to the disk, and is then renamed (`put`) or linked (`create_once`).

    Args:
        root: the run's folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Make the folder and write and remove a file in it.

        Raises:
            RunError: that failed; names the folder and the system's reason.
        """
        probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
        try:
            self.put(probe, b"")
            self.create_once(f"{probe}-link", b"")  # some network file systems know no hard links
            self.delete(probe)
            self.delete(f"{probe}-link")
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root}: cannot be written ({reason}); choose another -o folder") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one command; the system lets go of it when the process ends, however it ends.

        Raises:
            RunError: another command holds it.
        """
        with open(self.root / LOCK_FILE, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"{self.root}: another command is at work on this run; wait for it or stop it"
                ) from error
            yield

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, replacing one of that name."""
        os.replace(self._write_temporary(name, data), self.root / name)
        self._flush_folder(name)

    def create_once(self, name: str, data: bytes) -> bool:
        """Write a file whole if the name is free; False (and nothing written) if somebody has it already."""
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
        """The content of a file."""
        return (self.root / name).read_bytes()

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.root / name).is_file()

    def names(self, folder: str) -> Iterator[str]:
        """Names (relative to the root) of the files in one folder, unfinished ones included."""
        path = self.root / folder
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        yield f"{folder}/{entry.name}"

    def remove_folder(self, folder: str) -> None:
        """Remove a folder if it is empty; somebody else's files keep it."""
        path = self.root / folder
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()

    def delete(self, name: str) -> None:
        """Remove a file; it is no error if it is gone already."""
        (self.root / name).unlink(missing_ok=True)

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
