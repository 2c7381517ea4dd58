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
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for row in shards:
        waiting.put(row)
    done: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work(index: int) -> None:
        try:
            # Each GPU worker has a card of its own.
            device = f"cuda:{index % torch.cuda.device_count()}" if workers.device == "cuda" else workers.device
            detector = replace(config.detector, device=device)
            stage = DetectShard(replace(config, detector=detector), on_photo=on_photo, stop=stop)
            while not stop.is_set():
                done.put(stage(pa.Table.from_pylist([waiting.get_nowait()])))
        except (queue.Empty, Stopped):
            pass
        except BaseException as error:
            done.put(error)
        finally:
            done.put(None)

    threads = [
        threading.Thread(target=work, args=(index,), name=f"worker-{index}")
        for index in range(min(workers.count, len(shards)))
    ]
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < len(threads):
            item = done.get()
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
