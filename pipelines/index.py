"""`retinafocus index`: list an archive into the manifest of a run, and list it again later."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import TextIO

import pyarrow.compute as pc
from rich.console import Console
from rich.status import Status

from pipelines.inventory import Inventory, InventoryConfig, absolute_inputs, list_photos
from pipelines.manifest import Listing, manifest_batches, manifest_bytes, read_listing
from pipelines.relisting import KINDS, Relisting, config_of
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import LEDGER_FOLDER, MANIFEST_FILE, RUN_FILE, TABLES, new_mark, read_forgotten, read_run_file
from retinafocus.storage import Storage, StorageConfig, open_storage, uri_scheme

# A log file gets a line this often.
LOG_SECONDS = 10.0

# Unreadable folders that are named one by one.
NAMED_FOLDERS = 5


@dataclass(frozen=True, kw_only=True)
class IndexJob:
    """Everything `retinafocus index` was asked for."""

    inputs: Sequence[str]
    """Folders, prefixes, photos, globs or lists of photos; none for an update."""

    output: str
    """Folder of the run."""

    root: str | None = None
    """What the photos' identities are relative to."""

    allow_outside: bool = False
    """Admit photos outside the stated root."""

    update: bool = False
    """List the inputs of the manifest that is there once more."""

    dry_run: bool = False
    """Write nothing."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    """How object stores are reached."""

    def __post_init__(self) -> None:
        check_output(self.output, self.inputs)
        if not (self.inputs or self.update):
            raise SettingsError("there is no INPUT; name folders, photos, globs or lists, or give --update")
        if self.update and (self.root is not None or self.allow_outside):
            raise SettingsError("--update lists as it was done before; leave --root and --allow-outside out")


class ListingProgress:
    """Photos found: a line that turns on a terminal, one now and then in a log file."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self._status = Status("listing", console=self.console)
        self._photos = 0
        self._started = self._logged = monotonic()

    def __enter__(self) -> ListingProgress:
        self._started = self._logged = monotonic()
        if self.console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def add(self, photos: int) -> None:
        """So many more were found."""
        self._photos += photos
        rate = self._photos / max(monotonic() - self._started, 1e-9)
        line = f"listed {self._photos:,} photos, {rate:,.0f} photos/s"
        if self.console.is_terminal:
            self._status.update(line)
        elif monotonic() - self._logged >= LOG_SECONDS:
            self._logged = monotonic()
            self.console.print(line, soft_wrap=True)


def index(job: IndexJob, progress: ListingProgress) -> str:
    """List an archive, for the first time or again.

    Returns:
        What was found, in words.

    Raises:
        SettingsError: an input does not exist, or nothing was found.
        RunError: there is a manifest already, or for an update none; an input is gone; the output cannot be written.
    """
    storage = open_storage(job.output, job.storage)
    if job.dry_run:
        return _index(job, storage, progress)[0]
    if not job.update:
        refuse_foreign_folder(storage)
    storage.check_writable()
    with storage.locked() as hold:
        words, manifest = _index(job, storage, progress)
        hold.check()
        if manifest is not None:
            if (run := read_run_file(storage)) is not None:
                # First: a run that calls itself complete has a row for every photo of its manifest.
                storage.put(RUN_FILE, json.dumps({**run, "status": "relisted", **new_mark()}, indent=2).encode())
            storage.put(MANIFEST_FILE, manifest)
        storage.sweep(hold)
    return words


def check_output(output: str, inputs: Sequence[str]) -> None:
    """Refuse an output that is no folder of its own.

    Raises:
        SettingsError: it is empty, or the folder of the photos.
    """
    if not output:
        raise SettingsError(f"output is {output!r}; give a folder")
    for text in absolute_inputs(inputs):
        if uri_scheme(output) is None:
            same = os.path.isdir(text) and os.path.realpath(text) == os.path.realpath(output)
        else:
            same = text == absolute_inputs([output])[0]
        if same:
            raise SettingsError(f"output is {output!r}, the folder of the photos; give a folder of its own")


def refuse_foreign_folder(storage: Storage) -> None:
    """Make sure that a folder without a run is free for one.

    Raises:
        RunError: it is a file, or holds what is somebody else's.
    """
    if read_listing(storage) is not None or read_run_file(storage) is not None:
        return
    for name in (*TABLES, LEDGER_FOLDER, "manifest"):
        path = os.path.join(storage.location, name)
        if os.path.exists(path) if uri_scheme(path) is None else any(storage.names(name)):
            raise RunError(
                f"{storage.location}: has {name}/ but no {RUN_FILE}, so it is no run of ours; choose another -o folder"
            )
    if os.path.exists(storage.location) and not os.path.isdir(storage.location):
        raise RunError(f"{storage.location}: is a file; choose a folder for -o")


def _index(job: IndexJob, storage: Storage, progress: ListingProgress) -> tuple[str, bytes | None]:
    """Words, and the manifest to write; None where the one there stays."""
    before = read_listing(storage)
    if job.update:
        if before is None:
            raise RunError(
                f"{storage.location}: holds no manifest to update; list the photos with `index INPUT -o OUT`"
            )
        return _list_again(job, storage, before, progress)
    if before is not None:
        raise RunError(
            f"{storage.location}: holds a manifest already; list its inputs again with --update, or choose another -o"
        )
    with progress:
        found = list_photos(job.inputs, _config(job), progress.add)
    found = found.without(read_forgotten(storage))
    return describe(found), manifest_bytes(manifest_batches(found, found.photos), found)


def _list_again(
    job: IndexJob, storage: Storage, before: Listing, progress: ListingProgress
) -> tuple[str, bytes | None]:
    if job.inputs and absolute_inputs(job.inputs) != before.inputs:
        raise SettingsError(
            f"--update lists {', '.join(before.inputs)} again, as before; leave INPUT out, or list into another folder"
        )
    with progress:
        now = list_photos(before.inputs, config_of(before, _config(job)), progress.add)
    again = Relisting(storage, before, now)
    manifest = manifest_bytes(again.batches(), now)
    return f"{describe(now)}\n{_changes(again.counts, before)}", manifest if again.differs else None


def _config(job: IndexJob) -> InventoryConfig:
    return InventoryConfig(root=job.root, allow_outside=job.allow_outside, storage=job.storage)


def describe(found: Inventory) -> str:
    """What a listing found, in a few lines."""
    size = pc.sum(found.photos.column("bytes")).as_py() or 0
    unseen = found.photos.column("bytes").null_count
    lines = [
        f"photos   {found.photos.num_rows:,}, {size_words(size)}"
        + (f" and {unseen:,} of unknown size" if unseen else ""),
        f"root     {found.root or '(none in common: whole names)'}",
        *skipped_words(found),
    ]
    return "\n".join(lines)


def size_words(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def skipped_words(found: Inventory) -> list[str]:
    """What was passed over and what could not be read, in at most two lines."""
    lines = []
    if found.skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in list(found.skipped.items())[:6])
        lines.append(f"skipped  {sum(found.skipped.values()):,}: {kinds}")
    if found.unreadable:
        named = ", ".join(repr(folder) for folder in found.unreadable[:NAMED_FOLDERS])
        lines.append(f"warning  {len(found.unreadable):,} folders could not be read; nobody knows what is in {named}")
    return lines


def _changes(counts: Counter[str], before: Listing) -> str:
    told = ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind]) or "none"
    return f"changes  {told} (since the listing of {before.listed}, version {before.version})"
