"""`retinafocus tune focus`: START READING HERE. Settings of the cascade, searched for accuracy and cost at once.

1. Every photo is looked at once, every level whole, and what the network says is kept (`tune.level_cache`).
2. Settings are tried on what was kept (`tune.focus_trials`, `tune.sweep`).
3. One of those that no other beats in both is chosen, and what it finds and costs is checked with the cascade itself;
   where there are photos for that, also on those that had no part in the choice (`tune.focus_report`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.settings import settings_toml
from pipelines.train_worker import read_folder
from pipelines.workers import CPU_THREADS
from retinafocus.cascade import CascadeConfig
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.engines import Engine, resolve_engine
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.matching import box_areas
from retinafocus.postprocessing import PostConfig
from retinafocus.storage import open_storage
from retinafocus.weights import find_weights, read_info
from tune.focus_report import compared, compared_words
from tune.focus_trials import SPACE, FocusTrials, LookCosts, check_space, defaults_of, detect_settings, measure_costs
from tune.focus_trials import routes_of as routes_of_space
from tune.level_cache import SCORE_FLOOR, write_cache
from tune.space import Settings, Space, parse_space, read_space
from tune.sweep import SweepJob, Trial, front_of, run_sweep, sole_use, trials_table
from tune.sweep_report import LiveTable, write_front_plot

COSTS = {"mpx": "network Mpx a photo", "core-seconds": "core-seconds of the network a photo"}

CHECKED = 5
"""Trials, drawn at random, that are checked beside the chosen one."""

MOST_OFF = 0.003
"""AP (0..1) by which a trial may differ from the cascade itself before the summary warns of it."""

EXHAUSTIVE: Settings = {"cascade.mode": "exhaustive"}

BOOTSTRAP = 1000

REPORT_FILE = "report.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class FocusJob:
    """What to search, on which photos, and how to choose."""

    folder: str
    """Labelled photos in the Parquet form."""

    output: str
    space: str | None = None
    """A file, see `tune.space`; None: `focus_trials.SPACE`."""

    weights: str | None = None
    detector: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    """Smallest face, engine, precision and device; all else is searched or at its default."""

    by_people: bool = False
    """Leave out photos whose faces were all labelled by detectors."""

    look_at_chips: bool = True
    """False: chips are answered from whole levels, which takes less time and is less exact."""

    report_folders: Sequence[str] = ()
    """Further labelled photos, on which the chosen settings and the default ones are compared."""

    cost: str = "mpx"
    """One of `COSTS`."""

    max_cost: float | None = None
    """Choose the highest AP at a cost of at most this."""

    min_ap: float | None = None
    """Choose the lowest cost at an AP (0..1) of at least this. Neither: that of the default settings."""

    trials: int = 300
    seconds: float | None = None
    search: str = "auto"
    seed: int = 0
    workers: int | None = None
    batch: int = 4
    address: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise SettingsError(f"cost is {self.cost!r}; choose one of {', '.join(COSTS)}")
        if self.max_cost is not None and self.min_ap is not None:
            raise SettingsError("max-cost and min-ap are two ways to choose; give one of them")
        if any(Path(folder).resolve() == Path(self.folder).resolve() for folder in self.report_folders):
            raise SettingsError(f"report-folder {self.folder} is the one that settings are chosen on; name another")
        if self.max_cost is not None and self.max_cost <= 0:
            raise SettingsError(f"max-cost is {self.max_cost:g}; choose more than 0")
        if self.min_ap is not None and not 0 <= self.min_ap <= 1:
            raise SettingsError(f"min-ap is {self.min_ap:g}; choose a share 0..1")

    @property
    def objectives(self) -> dict[str, str]:
        """For the search."""
        return {"ap": "max", self.cost.replace("-", "_"): "min"}


def tune_focus(job: FocusJob, progress: Progress) -> str:
    """Search, choose, check, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: a setting makes no sense, or the output holds another search.
        LabelError: the labels cannot be read.
        RunError: photos cannot be read, all trials failed, or no trial is as wanted.
    """
    require_matplotlib()
    space = parse_space(SPACE, "default space") if job.space is None else read_space(Path(job.space))
    check_space(space)
    photos, *others = (
        labelled_photos(folder, by_people=job.by_people, min_face=job.detector.min_face)
        for folder in (job.folder, *job.report_folders)
    )
    output, weights = Path(job.output), find_weights(job.weights)
    info = read_info(weights)
    if info.preset.focus is None:
        raise SettingsError(f"{weights}: these weights have no focus branch, so there is nothing to search")
    detector = settled(job.detector)
    engine = Detector.from_pretrained(weights, detector).engine
    routes = [*routes_of_space(space), detect_settings(EXHAUSTIVE).cascade]
    record = _answers_depend_on(detector, engine, info.sha256)
    start = (defaults_of(space, info.preset), EXHAUSTIVE)
    judged = {"labels": labels_digest(photos), "look_at_chips": job.look_at_chips}
    sweep = _sweep(job, space, start, record | judged)  # its settings are checked before the long pass
    with sole_use(output):
        _cache(output / "levels", photos, engine, routes, record, progress)
        costs = _costs(output / "costs.json", engine)
        trials = FocusTrials(
            cache=(output / "levels").resolve(), photos=photos, weights=weights.resolve(), detector=detector,
            costs=costs, look_at_chips=job.look_at_chips,
        )  # fmt: skip
        with LiveTable(job.trials, job.objectives) as table:
            tried = run_sweep(sweep, trials, table.tell)
        return _report(job, trials, engine, tried, dict(zip(job.report_folders, others, strict=True)), progress)


def _answers_depend_on(detector: DetectorConfig, engine: Engine, weights_sha256: str) -> dict[str, Any]:
    """All of a search that decides what the network says, and how much of it is kept."""
    record: dict[str, Any] = {"weights_sha256": weights_sha256, "engine": engine.name}
    return record | {"precision": detector.precision, "min_face": detector.min_face, "score_floor": SCORE_FLOOR}


def _cache(
    folder: Path,
    photos: Sequence[LabelledPhoto],
    engine: Engine,
    routes: Sequence[CascadeConfig],
    record: dict[str, Any],
    progress: Progress,
) -> None:
    progress.start(len(photos), done=0)
    try:
        write_cache(folder, photos, engine, routes, record, lambda count: _count(progress, count))
    finally:
        progress.stop()


def labelled_photos(folder: str, *, by_people: bool, min_face: float = 0.0) -> list[LabelledPhoto]:
    """What settings are measured on.

    Args:
        folder: in the Parquet form.
        by_people: leave out photos whose faces were all labelled by detectors.
        min_face: the smallest wanted face, in photo pixels.

    Raises:
        SettingsError: there is no such folder, or no wanted face in it.
        LabelError: the labels cannot be read.
    """
    photos = read_folder(folder)
    # The processes that try settings are at work in folders of their own.
    photos = [dataclasses.replace(photo, path=photo.path.absolute()) for photo in photos]
    if by_people:
        photos = [photo for photo in photos if not photo.kinds or "human" in photo.kinds]
    if not any((box_areas(photo.boxes.astype(float)) >= min_face**2).any() for photo in photos):
        least = f" of {min_face:g} px or more" if min_face else ""
        raise SettingsError(f"{folder}: no photo has a labelled face{least}; there is nothing to measure")
    return photos


def settled(asked: DetectorConfig) -> DetectorConfig:
    """With one engine, one device and one number of threads, which results depend on; down to the lowest score."""
    device = "cpu" if asked.device == "auto" else asked.device
    engine = resolve_engine(asked.engine, device)
    return dataclasses.replace(asked, device=device, engine=engine, threads=CPU_THREADS, score_threshold=SCORE_FLOOR)


def _count(progress: Progress, photos: int) -> None:
    for _ in range(photos):
        progress.photo(0)


def _costs(path: Path, engine: Engine) -> LookCosts:
    """Measured once for an output: costs of trials of two runs are to be compared."""
    if path.exists():
        return LookCosts(**json.loads(path.read_text(encoding="utf-8")))
    costs = measure_costs(engine, PostConfig())
    open_storage(path.parent).put(path.name, f"{json.dumps(dataclasses.asdict(costs), indent=2)}\n".encode())
    return costs


def labels_digest(photos: Sequence[LabelledPhoto]) -> str:
    """Of all that average precision is measured against: trials before and after other labels do not compare."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(json.dumps([photo.boxes.tolist(), photo.ignore.tolist()]).encode())
    return digest.hexdigest()


def _sweep(job: FocusJob, space: Space, start: Sequence[Settings], record: Mapping[str, Any]) -> SweepJob:
    return SweepJob(
        output=Path(job.output), space=space, objectives=job.objectives, start=start, record=record,
        trials=job.trials, seconds=job.seconds, search=job.search, seed=job.seed, workers=job.workers,
        batch=job.batch, address=job.address, resume=job.resume,
    )  # fmt: skip


def choose(front: Sequence[Trial], job: FocusJob, default: Trial) -> Trial:
    """The trial of a front that suits what was asked for.

    Raises:
        RunError: none does.
    """
    cost = job.cost.replace("-", "_")
    if job.max_cost is not None:
        cheap = [trial for trial in front if trial.results[cost] <= job.max_cost]
        if not cheap:
            least = min(trial.results[cost] for trial in front)
            raise RunError(f"no trial costs {job.max_cost:g} {job.cost} or less; the cheapest costs {least:.4g}")
        return max(cheap, key=lambda trial: trial.results["ap"])
    least_ap = default.results["ap"] if job.min_ap is None else job.min_ap
    good = [trial for trial in front if trial.results["ap"] >= least_ap]
    if not good:
        best = max(trial.results["ap"] for trial in front)
        raise RunError(f"no trial has an AP of {least_ap:g} or more; the best has {best:.4f}")
    return min(good, key=lambda trial: trial.results[cost])


def _report(
    job: FocusJob,
    trials: FocusTrials,
    engine: Engine,
    tried: Sequence[Trial],
    photos: Mapping[str, Sequence[LabelledPhoto]],
    progress: Progress,
) -> str:
    output = Path(job.output)
    sound = {trial.number: trial for trial in tried if not trial.error}
    if 0 not in sound:
        raise RunError(f"{output}: {_no_default(tried)}")
    searched = [trial for trial in sound.values() if trial.settings != EXHAUSTIVE]
    front = front_of(searched, job.objectives)
    chosen, default = choose(front, job, sound[0]), sound[0]
    pq.write_table(_front_table(front, chosen), output / "front.parquet")
    marked = {"default settings": default, "chosen": chosen}
    if 1 in sound and sound[1].settings == EXHAUSTIVE:
        marked["every level whole"] = sound[1]
    axes = {"ap": "AP at IoU 0.5", job.cost.replace("-", "_"): COSTS[job.cost]}
    write_front_plot(list(sound.values()), front, marked, axes, output / "front.png")
    (output / "settings.toml").write_text(settings_file(job, chosen, default), encoding="utf-8")
    others = random.Random(job.seed).sample(sorted(set(sound) - {chosen.number}), min(CHECKED, len(sound) - 1))
    rows = _checked(output / "check.parquet", trials, engine, [chosen, *(sound[number] for number in others)], progress)
    lines = [
        f"photos   {len(trials.photos):,} with {sum(len(photo.boxes) for photo in trials.photos):,} faces",
        f"trials   {len(sound):,}, {len(tried) - len(sound)} failed; {len(front)} that no other beats",
        *(f"{words}: {_words(trial)}" for words, trial in marked.items()),
        *_check_words(rows),
        f"files    {output}/settings.toml (for `retinafocus detect --config`), front.parquet, front.png, "
        "trials.parquet, check.parquet",
        *_on_others(output, trials, engine, photos, marked),
    ]
    return "\n".join(lines)


def _on_others(
    output: Path,
    trials: FocusTrials,
    engine: Engine,
    others: Mapping[str, Sequence[LabelledPhoto]],
    marked: Mapping[str, Trial],
) -> list[str]:
    """Write the comparison on photos that had no part in the choice; in words."""
    chosen = {words: trial.settings for words, trial in marked.items()}
    by_folder = [compared(trials, engine, folder, photos, chosen) for folder, photos in others.items()]
    if not by_folder:
        return []
    pq.write_table(pa.Table.from_pylist(list(itertools.chain(*by_folder))), output / REPORT_FILE)
    return [*itertools.chain(*map(compared_words, by_folder)), f"files    {output / REPORT_FILE}"]


def _no_default(tried: Sequence[Trial]) -> str:
    if failed := [trial for trial in tried if trial.number == 0]:
        return f"the trial of the default settings failed ({failed[0].error}); mend that and take a new folder"
    return "the trial of the default settings is missing; give it more time and --resume"


def _front_table(front: Sequence[Trial], chosen: Trial) -> pa.Table:
    table = trials_table(front)
    return table.append_column("chosen", pa.array([trial.number == chosen.number for trial in front]))


def settings_file(job: FocusJob, chosen: Trial, default: Trial) -> str:
    """What `retinafocus detect --config` takes."""
    settings = dataclasses.replace(
        detect_settings(chosen.settings),
        min_face=job.detector.min_face, engine=job.detector.engine, precision=job.detector.precision,
        device=job.detector.device,
    )  # fmt: skip
    comments = [
        "# Chosen by `retinafocus tune focus`; for `retinafocus detect --config`.",
        f"# Trial {chosen.number}: {_words(chosen)}.",
        f"# Default settings: {_words(default)}.",
        *([] if job.weights is None else [f"# For --weights {job.weights}, with which it was searched."]),
    ]
    return "\n".join(comments) + "\n\n" + settings_toml(settings)


def _checked(
    path: Path, trials: FocusTrials, engine: Engine, asked: Sequence[Trial], progress: Progress
) -> list[dict[str, Any]]:
    """Rows of `_check`, written; a trial that was checked for an earlier choice is not checked again."""
    before = {row["trial"]: row for row in pq.read_table(path).to_pylist()} if path.exists() else {}
    new = sum(trial.number not in before for trial in asked)
    if new:
        progress.note(f"checking {new} trials, the chosen one and others drawn at random, with the cascade itself")
    rows = [before.get(trial.number) or _check(trials, engine, trial) for trial in asked]
    # Its name appears when it is whole: a later command reads it, also after a kill.
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    return rows


def _check(trials: FocusTrials, engine: Engine, trial: Trial) -> dict[str, Any]:
    """A trial beside the cascade itself."""
    found = trials.really_found(trial.settings, engine)
    real, precision = trials.results(found), trials.precision(found, BOOTSTRAP)
    return {
        "trial": trial.number,
        "ap": trial.results["ap"],
        "ap_cascade": real["ap"],
        "ap_low": precision.low,
        "ap_high": precision.high,
        "mpx": trial.results["mpx"],
        "mpx_cascade": real["mpx"],
    }


def _check_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["check    the chosen trial and others, drawn at random, with the cascade itself:"]
    lines += ["         trial   AP tried   AP of the cascade [95 %]   difference   Mpx tried   Mpx of the cascade"]
    for row in rows:
        interval = f"{100 * row['ap_cascade']:.2f} [{100 * row['ap_low']:.1f}, {100 * row['ap_high']:.1f}]"
        lines.append(
            f"         {row['trial']:>5}   {100 * row['ap']:>8.2f}   {interval:>24}   "
            f"{100 * (row['ap'] - row['ap_cascade']):>+10.2f}   {row['mpx']:>9.5f}   {row['mpx_cascade']:>18.5f}"
        )
    far = [row for row in rows if abs(row["ap"] - row["ap_cascade"]) > MOST_OFF or row["mpx"] != row["mpx_cascade"]]
    if far:
        lines.append(
            f"warning  {len(far)} of these {len(rows)} are more than {100 * MOST_OFF:g} points of AP from the cascade "
            "or not its pixels: so may others be, and the choice rests on them; --chips looked-at is exact (another -o)"
        )
    return lines


def _words(trial: Trial) -> str:
    results = trial.results
    return (
        f"AP {100 * results['ap']:.2f} %, {results['mpx']:.4f} Mpx in {results['looks']:.1f} looks and "
        f"{results['core_seconds']:.4f} predicted core-seconds a photo"
    )
