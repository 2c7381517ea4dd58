"""Run the shards in this process, without Ray: one thread per worker."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from pipelines.careful import Stopped
from pipelines.stages import DetectShard, StageConfig
from pipelines.workers import Workers


def run_on_threads(
    config: StageConfig,
    shards: list[dict[str, Any]],
    *,
    workers: Workers,
    on_photo: Callable[[int | None], None],
) -> Iterator[pa.Table]:
    """Look at every shard; yields each committed shard's row of counts as it comes.

    An error in one worker (not in one photo: those are rows) stops the others at their next photo and is raised here.
    Closing the iterator early (Ctrl-C) stops them the same way; finished shards stay committed.
    """
    work = _Work(config, shards, workers.device, on_photo)
    threads = [
        threading.Thread(target=work.do, args=(index,), name=f"worker-{index}")
        for index in range(min(workers.count, len(shards)))
    ]
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < len(threads):
            item = work.done.get()
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        work.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Work:
    """The shards that wait for a thread, and what became of the others."""

    def __init__(
        self,
        config: StageConfig,
        shards: list[dict[str, Any]],
        device: str,
        on_photo: Callable[[int | None], None],
    ) -> None:
        self._config, self._device, self._on_photo = config, device, on_photo
        self._waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for row in shards:
            self._waiting.put(row)
        self.done: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()
        """Rows of counts; the error of a thread; None from each thread that ended."""
        self.stop = threading.Event()

    def do(self, index: int) -> None:
        """One thread: shard after shard until none waits."""
        try:
            # Each GPU worker has a card of its own.
            device = f"cuda:{index % torch.cuda.device_count()}" if self._device == "cuda" else self._device
            config = replace(self._config, detector=replace(self._config.detector, device=device))
            stage = DetectShard(config, on_photo=self._on_photo, stop=self.stop)
            while not self.stop.is_set():
                self.done.put(stage(pa.Table.from_pylist([self._waiting.get_nowait()])))
        except (queue.Empty, Stopped):
            pass
        except BaseException as error:
            self.done.put(error)
        finally:
            self.done.put(None)
