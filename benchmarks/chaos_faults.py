"""Faults inside the commands of a chaos run: a decoder that crashes, a disk that refuses writes, wrong writers.

Nothing of it is in the product. A command gets `environment(...)`, by which Python runs `install` at its start, in each
of the command's processes; what the environment asks for is then changed in modules as they are imported.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT, WRITER, FAILING, LOG = "CHAOS_ROOT", "CHAOS_WRITER", "CHAOS_FAILING_WRITES", "CHAOS_LOG"

DEADLY = b"CHAOS-segfault"
"""A photo whose bytes hold this kills the process that decodes it."""

_START = f"""\
import os, sys
sys.path.append(os.environ["{ROOT}"])
from benchmarks.chaos_faults import install
install()
"""


def environment(folder: Path, writer: str = "ours", failing: float = 0.0) -> dict[str, str]:
    """What to add to a command's environment.

    Args:
        folder: a scratch folder of the chaos run.
        writer: of `WRITERS`.
        failing: share of the writes to a disk that fail.
    """
    start = folder / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(_START)
    path = os.pathsep.join([str(start), *filter(None, [os.environ.get("PYTHONPATH")])])
    asked = {WRITER: writer, FAILING: str(failing), LOG: str(folder / "failed-writes")}
    return {"PYTHONPATH": path, ROOT: str(Path(__file__).parents[1]), **asked}


def failed_writes(folder: Path) -> int:
    """How many writes were refused."""
    log = folder / "failed-writes"
    return log.stat().st_size if log.exists() else 0


def install() -> None:
    """Change this process as its environment asks for."""
    changes: dict[str, Callable[[Any], None]] = {"simplejpeg": _crash_on_deadly_photos}
    if share := float(os.environ[FAILING]):
        changes["retinafocus.local_storage"] = lambda module: _fail_writes(module, share)
    if (writer := os.environ[WRITER]) != "ours":
        changes["pipelines.ledger"] = lambda module: _change_writer(module, writer)
    sys.meta_path.insert(0, _Changed(changes))


class RecordFirst:
    """A storage that makes a commit no commit: first the record, then parts that grow under their final names."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._parts: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def put(self, name: str, data: bytes) -> None:
        self._parts.append((name, data))

    def create_once(self, name: str, data: bytes) -> bool:
        if not self._storage.create_once(name, data):
            return False
        for part, whole in self._parts:
            self._storage.put(part, whole[: len(whole) // 2])
            time.sleep(0.01)
            self._storage.put(part, whole)
        return True


class Replacing:
    """A storage without create-once: whoever comes last has the record."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def create_once(self, name: str, data: bytes) -> bool:
        self._storage.put(name, data)
        return True


WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "ours": lambda storage: storage,
    "record-first": RecordFirst,
    "replacing": Replacing,
}


def _change_writer(ledger: Any, writer: str) -> None:
    commit = ledger.commit_shard
    ledger.commit_shard = lambda storage, *values, **named: commit(WRITERS[writer](storage), *values, **named)


def _crash_on_deadly_photos(simplejpeg: Any) -> None:
    import ctypes

    decode = simplejpeg.decode_jpeg

    def crash_or_decode(data: bytes, *values: Any, **named: Any) -> Any:
        if DEADLY in data:
            ctypes.string_at(0)
        return decode(data, *values, **named)

    simplejpeg.decode_jpeg = crash_or_decode


def _fail_writes(module: Any, share: float) -> None:
    """Some writes are refused, and of some that were done the answer is an error."""
    draws = random.Random()
    for name in ("put", "create_once"):
        write = getattr(module.LocalStorage, name)

        def fail_or_write(self: Any, file: str, data: bytes, write: Callable[..., Any] = write) -> Any:
            draw = draws.random()
            if draw < share / 2:
                raise _refused()
            result = write(self, file, data)
            if draw < share:
                raise _refused()
            return result

        setattr(module.LocalStorage, name, fail_or_write)


def _refused() -> OSError:
    with open(os.environ[LOG], "ab") as log:
        log.write(b".")
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Changed(importlib.abc.MetaPathFinder):
    """Finds modules as ever, and changes some of them when they have been imported."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.pop(fullname, None)  # so that the next line asks the other finders
        spec = None if change is None else importlib.util.find_spec(fullname)
        if change is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec
