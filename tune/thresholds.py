"""`retinafocus tune thresholds`: START READING HERE. From which score on to show faces, and which are duplicates.

1. Every photo is looked at once, and what is found before duplicates are removed is kept (`tune.raw_detections`).
2. For each IoU of duplicates that is tried the best score threshold is found exactly (`tune.threshold_trials`).
3. The best of them is measured beside the default settings on other photos (`tune.threshold_report`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.detect_config import DetectSettings
from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.settings import settings_toml
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.operating_points import Goal
from retinafocus.weights import find_weights, read_info
from tune.focus import labelled_photos, labels_digest, settled
from tune.level_cache import SCORE_FLOOR
from tune.raw_detections import with_duplicates, write_raw
from tune.space import Settings, Space, parse_space, read_space
from tune.sweep import SweepJob, Trial, run_sweep, sole_use
from tune.sweep_report import LiveTable
from tune.threshold_report import Comparison, compare, write_report
from tune.threshold_trials import NMS_IOU, SPACE, RawSet, ThresholdTrials, check_space

OBJECTIVES = {"goal": "max"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdsJob:
    """What to choose, on which photos, and on which to report."""

    folder: str
    """Labelled photos in the Parquet form."""

    output: str

    report_folder: str | None = None
    """Other photos to report on; None: the photos of `folder` are halved."""

    raw: str | None = None
    """Folder of the raw detections, which several searches may share; None: `raw` in the output."""

    settings: DetectSettings = field(default_factory=DetectSettings)
    """Of the detection; thresholds are right for the settings they were chosen with."""

    goal: Goal = field(default_factory=Goal)

    space: str | None = None
    """A file, see `tune.space`; None: `threshold_trials.SPACE`."""

    weights: str | None = None

    by_people: bool = False
    """Leave out photos whose faces were all labelled by detectors."""

    trials: int = 60
    seconds: float | None = None
    search: str = "auto"
    seed: int = 0
    """Of the proposals, and of the halves."""
    workers: int | None = None
    batch: int = 8
    address: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.report_folder is not None and Path(self.report_folder).resolve() == Path(self.folder).resolve():
            raise SettingsError(
                f"{self.folder} is to be chosen and reported on; give another report-folder, or none to halve it"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Photos:
    """Which photos there are, and what becomes of each."""

    folder: Path
    """Of their raw detections."""
    all: Sequence[LabelledPhoto]
    used: Sequence[int]


def tune_thresholds(job: ThresholdsJob, progress: Progress) -> str:
    """Search, choose, measure, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: a setting makes no sense, or the output holds another search.
        LabelError: the labels cannot be read.
        RunError: photos cannot be read, nothing was found in them, or no threshold is as wanted.
    """
    require_matplotlib()
    space = parse_space(SPACE, "default space") if job.space is None else read_space(Path(job.space))
    check_space(space)
    if sigma := job.settings.post.soft_sigma:
        raise SettingsError(f"post.soft_sigma is {sigma:g}; thresholds are searched for hard NMS; set it to 0")
    choosing, reporting = _splits(job)
    weights = find_weights(job.weights)
    info = read_info(weights)
    detector = Detector.from_pretrained(weights, with_duplicates(settled(job.settings.to_detector())))
    default: Settings = {NMS_IOU: job.settings.post.nms_iou, "score_threshold": info.preset.display_threshold}
    record = {"weights_sha256": info.sha256, **_deciding(detector)}
    labels = labels_digest([choosing.all[number] for number in choosing.used])
    judged = {"labels": labels, "keep_top_k": job.settings.post.keep_top_k, "goal": str(job.goal)}
    sweep = _sweep(job, space, record | judged)  # its settings are checked before the long pass
    with sole_use(Path(job.output)):
        for part in {part.folder: part for part in (choosing, reporting)}.values():
            _look(part, detector, record, progress)
        trials = _trials(job, choosing)
        chosen_on = trials.part(choosing.used)
        check_found(job, chosen_on)  # before Ray is started for nothing
        with LiveTable(job.trials, OBJECTIVES) as table:
            tried = run_sweep(sweep, trials, table.tell)
        chosen = choose(tried, job.goal, default[NMS_IOU])
        reported_on = _trials(job, reporting).part(reporting.used)
        comparison = compare(chosen_on, reported_on, default, _settings_of(chosen), job.goal, seed=job.seed)
        (Path(job.output) / "settings.toml").write_text(settings_file(job, comparison), encoding="utf-8")
        return write_report(Path(job.output), tried, comparison)


def halves(photos: Sequence[LabelledPhoto], folder: Path, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the photos of two halves, the first not larger than the other: by a hash of each photo's name below
    the folder, so that neither order nor place of the folder matter."""

    def key(number: int) -> str:
        name = Path(os.path.relpath(photos[number].path, folder)).as_posix()
        return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()

    order = sorted(range(len(photos)), key=key)
    middle = len(photos) // 2
    return sorted(order[:middle]), sorted(order[middle:])


def choose(tried: Sequence[Trial], goal: Goal, default_iou: float) -> Trial:
    """The best trial; of equally good ones the one nearest to the default.

    Raises:
        RunError: none is as wanted, or none was tried.
    """
    sound = [trial for trial in tried if not trial.error]
    if not sound:
        raise RunError("no overlap was tried in the time given; give more, and --resume")
    best = max(sound, key=lambda trial: (trial.results["goal"], -abs(trial.settings[NMS_IOU] - default_iou)))
    if best.results["goal"] >= 0:
        return best
    results = best.results
    name = "recall" if goal.precision is None else "precision"
    other = "precision" if goal.precision is None else "recall"
    raise RunError(
        f"no threshold has a {name} of {getattr(goal, name):g} or more on these photos; the best has "
        f"{results[name]:.4f} with a {other} of {results[other]:.4f} (scores from {results['score_threshold']:.9g} on, "
        f"{NMS_IOU} {best.settings[NMS_IOU]:g}); ask for at most that, with another -o folder"
    )


def settings_file(job: ThresholdsJob, comparison: Comparison) -> str:
    """What `retinafocus detect --config` takes."""
    chosen, post = comparison.settings["chosen"], job.settings.post
    threshold = chosen["score_threshold"]
    # A floor above the threshold would be the threshold.
    post = dataclasses.replace(post, nms_iou=chosen[NMS_IOU], score_floor=min(post.score_floor, threshold))
    settings = dataclasses.replace(job.settings, score_threshold=threshold, post=post)
    comments = [
        "# Chosen by `retinafocus tune thresholds`; for `retinafocus detect --config`.",
        f"# For the best {comparison.goal}. On photos it was not chosen on:",
        *(f"#   {name}: {comparison.point('reported on', name)}" for name in comparison.settings),
        "# Tables then have no faces below score_threshold. To keep more and show as many, set it lower here, and give",
        "# the number to `retinafocus draw --score-threshold` and to queries.",
        *([] if job.weights is None else [f"# For --weights {job.weights}, with which they were searched."]),
    ]
    return "\n".join(comments) + "\n\n" + settings_toml(settings)


def _splits(job: ThresholdsJob) -> tuple[_Photos, _Photos]:
    """The photos to choose and to report on."""
    raw = Path(job.raw or Path(job.output) / "raw")
    photos = labelled_photos(job.folder, by_people=job.by_people)
    folder = raw / "photos"
    if job.report_folder is None:
        one, other = halves(photos, Path(job.folder), job.seed)
        choosing, reporting = (_Photos(folder=folder, all=photos, used=used) for used in (one, other))
    else:
        others = labelled_photos(job.report_folder, by_people=job.by_people)
        choosing = _Photos(folder=folder, all=photos, used=range(len(photos)))
        reporting = _Photos(folder=raw / "report", all=others, used=range(len(others)))
    return choosing, reporting


def _deciding(detector: Detector) -> dict[str, Any]:
    """All but the weights that decides what is found before duplicates are removed."""
    config = dataclasses.asdict(detector.config)
    names = ("device", "precision", "min_face", "cascade", "max_pixels")
    limits = {"top_k": config["post"]["top_k"], "score_floor": SCORE_FLOOR}
    return {"engine": detector.engine.name, **{name: config[name] for name in names}, **limits}


def _look(part: _Photos, detector: Detector, record: dict[str, Any], progress: Progress) -> None:
    def done(photos: int) -> None:
        for _ in range(photos):
            progress.photo(0)

    progress.start(len(part.all), done=0)
    try:
        with sole_use(part.folder):  # several searches may share it
            write_raw(part.folder, part.all, detector, record, done)
    finally:
        progress.stop()


def _trials(job: ThresholdsJob, part: _Photos) -> ThresholdTrials:
    settings = job.settings
    return ThresholdTrials(
        folder=part.folder.resolve(), photos=part.all, chosen=part.used, min_face=settings.min_face,
        keep_top_k=settings.post.keep_top_k, goal=job.goal,
    )  # fmt: skip


def _sweep(job: ThresholdsJob, space: Space, record: Mapping[str, Any]) -> SweepJob:
    return SweepJob(
        output=Path(job.output), space=space, objectives=OBJECTIVES, start=({NMS_IOU: job.settings.post.nms_iou},),
        record=record, trials=job.trials, seconds=job.seconds, search=job.search, seed=job.seed, workers=job.workers,
        batch=job.batch, address=job.address, resume=job.resume,
    )  # fmt: skip


def check_found(job: ThresholdsJob, chosen_on: RawSet) -> None:
    """Refuse photos that nothing can be chosen on.

    Raises:
        SettingsError: they have no face that counts.
        RunError: nothing was found in them.
    """
    curve = chosen_on.curve(job.settings.post.nms_iou)
    if not curve.num_faces:
        raise SettingsError(
            f"{job.folder}: no face of {job.settings.min_face:g} px or more is in the {len(chosen_on.photos):,} photos "
            "to choose on; give more photos, or a smaller min-face"
        )
    if not len(curve.scores):
        raise RunError(f"{job.folder}: nothing was found in the photos to choose on; check weights and photos")


def _settings_of(trial: Trial) -> Settings:
    return {NMS_IOU: trial.settings[NMS_IOU], "score_threshold": trial.results["score_threshold"]}
