"""What a person reads while a run goes on, and at its end."""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import Any, TextIO

import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipelines.events import EventLog
from pipelines.index import size_words, skipped_words
from pipelines.planning import Plan
from pipelines.supervisor import Supervisor
from retinafocus.engines.protocol import CALIBRATE_COMMAND
from retinafocus.weights import WeightsInfo

# A log file gets a line this often, and one at the end.
LOG_SECONDS = 10.0

# What the status in `run.json` says of a run that nobody is at work on.
_EARLIER = {
    "complete": "complete",
    "running": "not finished",
    "relisted": "listed again since",
    "forgetting": "some photos being taken out",
}


class Progress:
    """Photos looked at: a bar on a terminal, a line now and then in a log file.

    The local runner reports each photo; Ray reports whole shards.

    Args:
        stream: where to; None for stderr.
        supervisor: also told how far it is.
        counted: what is looked at, if not photos.
        finds: whether faces are found, and failures are told, on the way.
        events: a file of what happens, for programs.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        supervisor: Supervisor | None = None,
        counted: str = "photos",
        finds: bool = True,
        events: str | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._counted, self._finds = counted, finds
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self.events = EventLog(events, self.note)
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        self._by_photo = False
        self._photos = self._faces = self._failed = self._total = self._before = 0
        self._started = self._logged = 0.0

    def begun(self) -> None:
        """The run in the output folder is this command's own: if this process dies, it is to be continued."""
        self._supervisor.begun()

    def start(self, total: int, *, done: int) -> None:
        """Begin; `done` photos have their rows from an earlier attempt."""
        self._total, self._photos, self._before = total, done, done
        self._faces = self._failed = 0
        self._started = self._logged = monotonic()
        if done:
            self.console.print(f"{done:,} of {total:,} {self._counted} are done already, going on with the rest")
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn(self._counted), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console,
            )  # fmt: skip
            self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def nothing_to_do(self) -> None:
        """The run was complete before the command came."""
        self.console.print("every photo is done already, nothing was looked at; this is what was found then:")

    def note(self, words: str) -> None:
        """Something the user should know meanwhile."""
        self.console.print(words, soft_wrap=True)

    def photo(self, faces: int | None) -> None:
        """One photo is done; `faces` is None if it could not be looked at."""
        with self._lock:
            self._by_photo = True
            self._add(1, faces or 0, int(faces is None))

    def shard(self, row: dict[str, Any]) -> None:
        """A shard is committed, or could not be."""
        self.events.shard(row)
        if row["error"] is None:
            self._supervisor.finished_shard()
        with self._lock:
            if not self._by_photo:
                self._add(row["looked_at"], row["faces"], row["failed"])

    def stop(self) -> None:
        """End, however it ended."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            elif self._photos > self._before:
                self._log()

    def _add(self, photos: int, faces: int, failed: int) -> None:
        self._photos, self._faces, self._failed = self._photos + photos, self._faces + faces, self._failed + failed
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._photos, description=self._line())
        elif monotonic() - self._logged >= LOG_SECONDS:
            self._log()

    def _line(self) -> str:
        rate = (self._photos - self._before) / max(monotonic() - self._started, 1e-9)
        found = f", {self._faces:,} faces, {self._failed:,} failed" if self._finds else ""
        return f"{rate:.1f} {self._counted}/s{found}"

    def _log(self) -> None:
        self._logged = monotonic()
        self.console.print(f"{self._counted} {self._photos:,} of {self._total:,}: {self._line()}", soft_wrap=True)


def summary(folder: str, run: dict[str, Any]) -> str:
    """The closing words of a run, for a terminal or a log.

    Args:
        folder: the run's folder as the user named it.
        run: what `run.json` holds.
    """
    totals = run["totals"]
    statuses = dict(totals["statuses"])
    looked, vanished = statuses.pop("ok", 0), statuses.pop("vanished", 0)
    photos, faces, seconds = totals["photos"], totals["faces"], totals["wall_seconds"]
    failed = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items(), key=lambda item: -item[1]))
    lines = [
        f"photos   {photos:,}: {looked:,} looked at, {sum(statuses.values()):,} failed"
        + (f" ({failed})" if failed else "")
        + (f", {vanished:,} vanished" if vanished else ""),
        f"faces    {faces:,} in {totals['photos_with_faces']:,} photos",
    ]
    if rate := totals["photos_this_time"] / seconds if seconds else 0.0:
        lines.append(f"time     {seconds:,.1f} s, {rate:.1f} photos/s; {_shares(totals['seconds'])}")
    if looked:
        lines.append(f"network  {_network(totals, looked)}")
    lines.append(f"tables   {folder}/faces, {folder}/images, {folder}/timing")
    if statuses:
        lines.append(f"failures SELECT uri, status, error FROM '{folder}/images/*.parquet' WHERE status <> 'ok'")
        lines.append("again    the same command with --retry failed, once the cause is mended")
    return "\n".join(lines)


def describe_plan(plan: Plan) -> str:
    """What a run is about to do, in a few lines."""
    workers, archive = plan.workers, plan.inventory
    size = pc.sum(plan.manifest.column("bytes")).as_py() or 0
    lines = [
        f"weights  {plan.weights_path.name} ({plan.weights.preset.name}, {plan.weights.sha256[:12]})",
        f"photos   {plan.manifest.num_rows:,}, {size_words(size)}, in {_shards(plan.manifest):,} shards",
    ]
    if archive is not None:
        lines += skipped_words(archive)
    if plan.earlier is not None:
        status = plan.earlier["status"]
        lines.append(
            f"resumes  the run of {plan.earlier['started']}, {_EARLIER.get(status, status)}; its photos are those "
            f"listed at {plan.listing.listed} (`retinafocus index --update` finds what came later)"
        )
    detector = plan.detector
    engines = detector.engine if plan.beside is None else f"{detector.engine} and {plan.beside.engine}"
    lines.append(
        f"runs     {plan.runner}, {workers.words}, {engines}, {detector.precision}; "
        f"{detector.whole_looks or f'faces from {detector.min_face:g} px'}, scores from {detector.score_threshold:g}"
    )
    # The words depend on the smallest face alone; a large photo has every level there can be.
    levels = detector.cascade.plan((1 << 15, 1 << 15), detector.min_face, plan.weights.preset)
    if levels.not_found and detector.whole_looks is None:
        lines.append(f"note     {levels.not_found}")
    if plan.forecast is not None and not plan.forecast.photos:
        lines.append("expected nothing: every photo is done already")
    elif plan.forecast is not None and plan.forecast.sampled:
        expected = plan.forecast
        left = f" for the {expected.photos:,} photos that are left" if plan.earlier is not None else ""
        lines.append(
            f"expected {duration(expected.seconds)}{left}: {expected.network_megapixels:.1f} of "
            f"{expected.exhaustive_megapixels:.1f} Mpx through the network and {expected.seconds_per_photo:.2f} s for "
            f"each photo (from {expected.looked_at} looked at, {expected.sampled} headers)"
        )
    return "\n".join(lines)


def describe_weights(info: WeightsInfo) -> str:
    """What a weights file holds, in a few lines."""
    preset, anchors = info.preset, info.preset.anchors
    sizes = "; ".join(
        f"stride {stride}: {', '.join(f'{size:g}' for size in row)}"
        for stride, row in zip(anchors.strides, anchors.sizes, strict=True)
    )
    focus = "none"
    if preset.focus:
        thresholds = ", then ".join(f"{threshold:g}" for threshold in preset.focus.thresholds)
        focus = f"on {preset.focus.feature}, marks faces from {preset.focus.smallest:g} px; threshold {thresholds}"
    lines = [
        f"preset   {preset.name}: {preset.backbone}, {preset.channels} channels, {info.parameters:,} parameters",
        f"anchors  {sizes} (network pixels)",
        f"focus    {focus}",
        f"source   {info.source}",
        f"licence  {info.licence}",
        f"sha256   {info.sha256}",
        f"int8     {f'ranges {info.ranges_sha256[:12]}' if info.ranges_sha256 else f'no ranges; {CALIBRATE_COMMAND}'}",
    ]
    return "\n".join(lines)


def _shards(manifest: Any) -> int:
    return len(manifest.column("shard").unique())


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _network(totals: dict[str, Any], looked: int) -> str:
    """What went through the network, in words."""
    shown, planned = totals["pixels_processed"] / 1e6 / looked, totals["pixels_planned"] / 1e6 / looked
    words = f"{shown:.2f} Mpx a photo, {100 * shown / planned:.0f} % of looking at everything"
    if not totals["chips"]:
        return words
    fill = 100 * totals["chip_pixels_asked"] / max(totals["chip_pixels"], 1)
    closer = 100 * totals["photos_looked_closer"] / looked
    return f"{words}; {closer:.0f} % of photos looked at closer, {totals['chips']:,} chips ({fill:.0f} % filled)"


def _shares(seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    if not total:
        return "no photo was looked at"
    shares = sorted(seconds.items(), key=lambda item: -item[1])
    return "workers spent " + ", ".join(f"{100 * value / total:.0f} % {stage}" for stage, value in shares)
