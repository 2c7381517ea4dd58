"""Run the shards on Ray Data: one row is one shard, one actor is one worker."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

# Ray reads these when it is imported. setdefault: what the user has set stays.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray Data hands its actors a reference at birth, which makes Ray's core print an error line for each restartable pool
# (ray issue 53727). It cannot be avoided or filtered by itself; set the variable to "info" to look into Ray itself.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, ExecutionResources
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.addresses import check_cluster_address
from pipelines.mixed_on_ray import Kind, look_together
from pipelines.preflight_on_ray import prepare_nodes
from pipelines.room import FREE_CPUS, Crew, Demand, find_crews
from pipelines.stages import DetectShard, StageConfig
from pipelines.workers import Workers
from retinafocus.detector import DetectorConfig
from retinafocus.errors import RetinaFocusError, RunError, SettingsError

# A busy cluster is waited for: with a word after so long, and then another now and then.
WAIT_SECONDS = 5.0
FURTHER_WAIT_SECONDS = 60.0

# A word where no shard came for so long: one may take hours with a large network, but nodes may also have gone.
SILENCE_SECONDS = 600.0

# Rows that name shards, and their counts, are all that is kept in the object store of a private cluster; what Ray would
# set aside for it is memory that workers can use.
OBJECT_STORE_BYTES = 1 << 28

_TOKEN_WORDS = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds it"

# Shards whose answer Ray lost, before the job itself gives up.
MAX_LOST_SHARDS = 16


@dataclass(frozen=True, kw_only=True)
class RayPlan:
    """Where the actors come from."""

    workers: Workers
    address: str | None
    """A running cluster to join; None starts a private one on this machine for the length of the job."""
    beside: DetectorConfig | None = None
    """For the workers beside; None where there are none."""
    memory: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes that a worker on a device is expected to take; Ray then puts no more on a node than its memory holds."""

    @property
    def cpus(self) -> int:
        """Of all actors together."""
        return sum(kind.count for kind in self.workers.kinds)

    def demand(self, shards: int) -> Demand:
        """What is wanted of the cluster for so many shards."""
        fills = not self.workers.chosen and self.address is not None
        return Demand(
            workers=self.workers, fills=fills, waits=self.address is not None, shards=shards, memory=self.memory
        )


def run_on_ray(
    config: StageConfig, shards: list[dict[str, Any]], plan: RayPlan, on_wait: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Look at every shard; yields each committed shard's row of counts as it comes.

    Args:
        config: for the workers.
        shards: rows that name them.
        plan: where the workers come from.
        on_wait: told what the job waits for, where others have taken all of a cluster, and what it does without.

    Raises:
        SettingsError: the cluster is too small for the workers asked for, or cannot be reached.
    """
    started = connect(plan.address, cpus=plan.cpus, store_bytes=OBJECT_STORE_BYTES)
    try:
        if plan.address is not None:
            config = prepare_nodes(config, shards, on_wait)
        nodes, silence = [node["Resources"] for node in ray.nodes() if node["Alive"]], Silence(on_wait)
        crews = find_crews(plan.demand(len(shards)), nodes, on_wait)
        if len(crews) == 1:
            if plan.address is not None or not started:  # a private cluster has room
                _wait_for_room(crews[0], on_wait)
            with silence.watching(plan.workers):
                yield from _heard(_look(config, shards, crews[0]), silence)
        else:
            results = look_together(
                _kinds(config, plan, crews), shards, grows=plan.address is not None,
                on_round=lambda ready: silence.check(plan.workers, ready=ready),
            )  # fmt: skip
            yield from _heard(results, silence)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__ or error
        if isinstance(cause, RetinaFocusError):
            raise cause from error
        last = str(error).strip().splitlines()[-1]
        raise RunError(f"Ray gave up: {last}; finished shards are kept, run the same command again") from error
    finally:
        if started:
            ray.shutdown()


def _kinds(config: StageConfig, plan: RayPlan, crews: list[Crew]) -> list[Kind]:
    """Two kinds of actors, which differ in their detectors. One that cannot get ready ends the run at once: it would
    fail shards faster than the others do them.

    A GPU worker's processor was counted (`room`), and is not asked of Ray: CPU workers that wait for room would take it
    when a GPU worker dies, or when a node comes, and the GPU would stand idle to the end.
    """
    config = replace(config, always_answers=False)
    detectors = (config.detector, plan.beside or config.detector)
    return [
        Kind(
            name="GPU" if crew.workers.gpus_each else "CPU", least=crew.least, most=crew.most,
            needs=crew.needs | ({"CPU": 0.0} if crew.workers.gpus_each else {}),
            make=partial(DetectShard, replace(config, detector=detector)),
        )
        for crew, detector in zip(crews, detectors, strict=True)
    ]  # fmt: skip


def _heard(results: Iterator[pa.Table], silence: Silence) -> Iterator[pa.Table]:
    # A run that is given up must have ended its actors before Ray is left: `ray.kill` would start Ray anew.
    with closing(results):  # type: ignore[type-var]  # both ways are generators
        for counts in results:
            silence.heard()
            yield counts


def _look(config: StageConfig, shards: list[dict[str, Any]], crew: Crew) -> Iterator[pa.Table]:
    """The shards through Ray Data, with workers that are all alike."""
    with warnings.catch_warnings():
        # max_restarts and max_task_retries have no other way in before Ray 2.64 (hence the upper bound on ray), nor
        # has the processor that a growing pool must leave free.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        _set_context(growing=crew.least < crew.most)
        dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
            DetectShard,
            fn_constructor_kwargs={"config": config},
            batch_format="pyarrow",
            batch_size=1,
            compute=ActorPoolStrategy(min_size=crew.least, max_size=crew.most),
            num_cpus=crew.needs["CPU"],
            num_gpus=crew.needs.get("GPU", 0.0),
            memory=crew.needs.get("memory"),
            # A dead actor must always be replaced: with a bound, the job hangs once it is spent. Retries are not
            # bounded here either, as those of a shard that only waited behind a deadly one would count: a worker
            # refuses a shard that was begun too often (`attempts.MAX_ATTEMPTS`).
            max_restarts=-1,
            max_task_retries=-1,
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def connect(address: str | None, *, cpus: int, store_bytes: int | None = None) -> bool:
    """Join the cluster, or start one; True if the caller has to leave it again, with `ray.shutdown`.

    Args:
        address: of a running cluster; None starts a private one on this machine.
        cpus: what the actors will hold of a private one.
        store_bytes: of the object store of a private one; None for Ray's choice, a third of the memory.

    Raises:
        SettingsError: no cluster answers at that address, or it is none that a process can join.
        RunError: a private one did not start.
    """
    if address is not None:
        check_cluster_address(address)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _kept_handler():
        if address is None:
            # More processors than the machine has are only a number to Ray: they let its own small tasks run beside us.
            count = max(os.cpu_count() or 1, cpus + FREE_CPUS)
            try:
                ray.init(
                    address="local", num_cpus=count, include_dashboard=False, object_store_memory=store_bytes, **quiet
                )
            except Exception as error:  # Ray 2.60 raises nothing more exact where its servers do not come up in time
                raise RunError(
                    f"Ray did not start here ({error}); where the machine is busy, run the same command again later, "
                    "or use --runner local"
                ) from error
            return True
        try:
            ray.init(address=address, **quiet)
        except ray.exceptions.AuthenticationError as error:
            reason = error.message.partition(". ")[0]
            raise SettingsError(f"address {address}: cannot be joined ({reason}); {_TOKEN_WORDS}") from error
        except (ConnectionError, RuntimeError) as error:  # also where the token is missing, or is another cluster's
            raise SettingsError(
                f"address {address}: no Ray cluster answers there ({error}); start one with `ray start --head`, or if "
                f"it wants a token, {_TOKEN_WORDS}"
            ) from error
    return True


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Keep our answer to SIGTERM: Ray puts its own in place, which ends the process without a word to the user."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _wait_for_room(crew: Crew, on_wait: Callable[[str], None]) -> None:
    """Wait until one worker fits beside what others do on the cluster, which Ray Data would do without a word.

    A placement group asks for the room: as any demand it also makes a cluster grow that can.
    """
    group = placement_group([crew.needs])
    try:
        seconds, ready = WAIT_SECONDS, group.ready()
        while not ray.wait([ready], timeout=seconds)[0]:  # not `group.wait`, which heeds no Ctrl-C until it is over
            on_wait(_waiting_words(crew.needs))
            seconds = FURTHER_WAIT_SECONDS
    finally:
        remove_placement_group(group)


def _waiting_words(needs: Mapping[str, float]) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    there, full = [], False
    for kind in ("CPU", "GPU")[: 1 + ("GPU" in needs)]:
        count, left = int(has.get(kind, 0)), int(free.get(kind, 0))
        there.append(f"{count} {kind}s, {f'{count - left} of them' if left else 'all'} in use")
        full = full or not left
    needed = "a CPU and a GPU are free on one node" if "GPU" in needs else "one is free"
    if "memory" in needs and not full:
        needed += f" where Ray has {needs['memory'] / 1e9:.1f} GB of memory to give"
    return f"waiting for a worker: the cluster has {'; '.join(there)}; the job goes on as soon as {needed}"


class Silence:
    """Says now and then that no shard comes, and what the cluster has: nodes may be gone, or yet to come."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._heard = self._said = monotonic()
        self._ended = threading.Event()

    def heard(self) -> None:
        """A shard came."""
        self._heard = self._said = monotonic()

    def check(self, workers: Workers, *, ready: bool) -> None:
        """Say so, if it is time to.

        Args:
            workers: of the job.
            ready: whether any of them is.
        """
        now = monotonic()
        if now - self._said < (SILENCE_SECONDS if ready else FURTHER_WAIT_SECONDS):
            return
        self._said, minutes, has = now, (now - self._heard) / 60, ray.cluster_resources()
        names = ["CPU", *(["GPU"] if any(kind.gpus_each for kind in workers.kinds) else [])]
        what = f"no shard was finished for {minutes:.0f} minutes" if ready else "no worker is ready"
        self._say(f"{what}; the cluster has {' and '.join(f'{int(has.get(name, 0))} {name}s' for name in names)}")

    @contextmanager
    def watching(self, workers: Workers) -> Iterator[None]:
        """Check every few seconds while the block runs."""

        def check() -> None:
            while not self._ended.wait(WAIT_SECONDS):
                self.check(workers, ready=True)

        thread = threading.Thread(target=check, name="silence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def _set_context(*, growing: bool) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A shard without an answer must not end the others: what is missing is read off the ledger at the end.
    context.max_errored_blocks = MAX_LOST_SHARDS
    # Half an hour without a shard ends a job otherwise: one of large photos may take longer, and so may a lost node's
    # successor. A photo that stands still ends by itself.
    context.execution_no_progress_timeout_s = -1
    context.execution_options.exclude_resources = ExecutionResources(cpu=FREE_CPUS if growing else 0)
