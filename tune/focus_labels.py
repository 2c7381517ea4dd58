"""`retinafocus tune focus-labels`: START READING HERE. What the focus branch should read, which faces it should mark.

1. Crops of a training and photos to be judged on are looked at once, and what a branch may read is kept
   (`tune.kept_maps`, `tune.level_cache`).
2. Branches are trained for a short time on what was kept, each judged four times on half of the photos by the accuracy
   it gives the cascade for each budget (`tune.label_trials`, `tune.label_judge`); those that fall behind are left.
3. The best ones and the present choice are trained again from other random weights, and the cascade itself looks at the
   other half of the photos with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.settings import settings_toml
from pipelines.train_config import (
    AnchorSettings,
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
    read_train_config,
)
from pipelines.train_worker import build_samples, read_folder
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.errors import PhotoError, RunError, SettingsError
from retinafocus.evaluation.matching import box_areas
from retinafocus.models import Preset, RetinaFocus, get_preset
from retinafocus.training.focus_heads import Head
from retinafocus.weights import DEFAULT_NAME, find_weights, read_info
from tune.focus import labelled_photos, labels_digest
from tune.kept_maps import CropMaps, PhotoMaps, digest_of, maps_read_by
from tune.label_judge import LED, ROUTES, JudgeFiles, load_with_branch
from tune.label_report import points_of, summary, verdict, write_plot
from tune.label_trials import (
    AS_TRAINED,
    REPEAT,
    SPACE,
    STAGES,
    TRIAL,
    Finals,
    LabelTrials,
    check_space,
    features_of,
    settings_of_head,
)
from tune.level_cache import read_cache, route_of, write_cache
from tune.photo_parts import photos_digest
from tune.space import Space, parse_space, read_space
from tune.sweep import RECORD_FILE, SweepJob, Trial, run_sweep, sole_use
from tune.sweep_report import LiveTable

OBJECTIVES = {"mean_ap": "max", "cost": "min"}
FINAL_OBJECTIVES = {"mean_ap": "max"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsJob:
    """What to learn from, what to judge on, and how long."""

    folder: str
    """Labelled photos to learn from, in the Parquet form."""

    judge: str
    """Others: every second one ranks the trials, the rest checks the best."""

    output: str
    config: str | None = None
    """Settings of a training (TOML): its crops, its loss, the labels that trials are compared with. None: the defaults
    of `retinafocus train`."""

    weights: str | None = None
    """Of the frozen detector; None: the ones that ship."""

    space: str | None = None
    """A file, see `tune.space`; None: `label_trials.SPACE`."""

    by_people: bool = False
    """Judge on no photos whose faces were all labelled by detectors."""

    min_face: float = 20.0
    crops: int = 3200
    """That all trials learn from."""

    batch: int = 8
    steps: int = 800
    """Batches of a whole training; crops come again when all have been seen."""

    finalists: int = 3
    """Trials that are trained again, beside the present choice."""

    repeats: int = 3
    """How often."""

    trials: int = 40
    seconds: float | None = None
    search: str = "auto"
    seed: int = 0
    workers: int | None = None
    address: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("crops", "batch", "finalists", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.steps < STAGES:
            raise SettingsError(f"steps is {self.steps}; choose at least {STAGES}, a training is judged so often")
        if not 0 < self.min_face < float("inf"):
            raise SettingsError(f"min_face is {self.min_face:g} px; choose a size above 0")


def tune_focus_labels(job: LabelsJob) -> str:
    """Search, train the best again, check them, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: a setting makes no sense, or the output holds another search.
        LabelError, WeightsError: labels or weights cannot be read.
        RunError: photos cannot be read, or all trials failed.
    """
    require_matplotlib()
    known = _read(job)
    _sweep(known, {})  # its settings are checked before the long passes
    with sole_use(Path(job.output)):
        trials, record = _prepared(known)
        sweep = _sweep(known, record)
        with LiveTable(job.trials, OBJECTIVES) as table:
            tried = run_sweep(sweep, trials, table.tell)
        finals, points = _finals(known, sweep, trials, tried)
        return _report(known, tried, finals, points)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What is read and checked before anything is computed."""

    job: LabelsJob
    config: TrainConfig
    """Of the crops and the loss."""
    weights: Path
    detector: RetinaFocus
    with_branch: bool
    """Whether the weights came with a focus branch."""
    model: ModelConfig
    """The detector as the start of a training."""
    present: Head
    space: Space
    ranked: Sequence[LabelledPhoto]
    checked: Sequence[LabelledPhoto]


def _read(job: LabelsJob) -> _Known:
    if Path(job.folder).resolve() == Path(job.judge).resolve():
        raise SettingsError(f"{job.judge}: branches learn from these photos; judge them on others")
    config = TrainConfig() if job.config is None else read_train_config(Path(job.config))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, folders=(job.folder,)))
    weights = find_weights(job.weights)
    detector, with_branch = load_with_branch(weights)
    present = present_head(config, detector.preset)
    space = parse_space(SPACE, "default space") if job.space is None else read_space(Path(job.space))
    check_space(space, present)
    judged = labelled_photos(job.judge, by_people=job.by_people)
    learned = {photo.path.resolve() for photo in read_folder(job.folder)}  # folders may hold links to the same pictures
    if shared := [photo for photo in judged if photo.path.resolve() in learned]:
        told = f"{len(shared)} photos are also in {job.folder}, {shared[0].path.name} for one"
        raise SettingsError(f"{job.judge}: {told}; judge branches on photos that they do not learn from")
    ranked, checked = halves(judged, job.judge, job.min_face)
    return _Known(
        job=job, config=config, weights=weights, detector=detector, with_branch=with_branch,
        model=model_settings(job, detector.preset), present=present, space=space, ranked=ranked, checked=checked,
    )  # fmt: skip


def halves(
    photos: Sequence[LabelledPhoto], folder: str, min_face: float
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """The photos that rank trials, and those that check the best: every second one.

    Raises:
        SettingsError: a half has no face of the smallest size wanted.
    """
    parts = list(photos[::2]), list(photos[1::2])
    if not all(any((box_areas(photo.boxes.astype(float)) >= min_face**2).any() for photo in part) for part in parts):
        told = f"every second photo ranks trials and the others check them; both need faces of {min_face:g} px or more"
        raise SettingsError(f"{folder}: {told}")
    return parts


def present_head(config: TrainConfig, preset: Preset) -> Head:
    """The labels of a training's settings, on the map that they name or the weights read."""
    named = config.model.focus not in ("preset", "none")
    feature = config.model.focus if named else "P3" if preset.focus is None else preset.focus.feature
    return Head(feature, config.sample.focus)


def model_settings(job: LabelsJob, preset: Preset) -> ModelConfig:
    """The frozen detector as the start of a training.

    Raises:
        SettingsError: the weights are of a network that no preset describes.
    """
    known, anchors = get_preset(preset.name), AnchorSettings()
    if known.anchors != preset.anchors:
        anchors = AnchorSettings(sizes=preset.anchors.sizes, ratio=preset.anchors.ratio, face_range=preset.face_range)
    return ModelConfig(preset=preset.name, init=job.weights or DEFAULT_NAME, anchors=anchors)


def _prepared(known: _Known) -> tuple[LabelTrials, dict[str, Any]]:
    """What trials need, looked at once; and all that it depends on."""
    features = features_of(known.space, known.present)
    judge, judged = _judged(known, judged_maps(features, known.detector.preset if known.with_branch else None))
    crops, learned = _crops(known, maps_read_by(features))
    trials = LabelTrials(
        weights=known.weights.resolve(), crops=crops, judge=judge, present=known.present, steps=known.job.steps,
        loss=known.config.loss,
    )  # fmt: skip
    record = {"learned": learned, "judged": judged, "present": dataclasses.asdict(known.present)}
    # What `learned` and `judged` hold is told apart where it can be, for whoever goes on with other settings.
    record |= {name: getattr(known.job, name) for name in ("crops", "batch", "min_face", "by_people")}
    return trials, record | {"steps_of_training": known.job.steps, "loss": settings_toml(known.config.loss)}


def judged_maps(features: Sequence[str], own: Preset | None) -> tuple[str, ...]:
    """The maps of photos that branches are judged on: beside those of the search, the one that the weights' own reads.

    Args:
        features: that branches of the search may read.
        own: of weights that came with a branch.
    """
    return maps_read_by([*features, *([] if own is None or own.focus is None else [own.focus.feature])])


def _judged(known: _Known, maps: Sequence[str]) -> tuple[JudgeFiles, str]:
    """The photos that rank trials, and a name for all that judging on them depends on."""
    job, photos, output = known.job, known.ranked, Path(known.job.output).resolve()
    record: dict[str, Any] = {"weights_sha256": read_info(known.weights).sha256, "min_face": job.min_face}
    engine = Detector(known.detector, DetectorConfig(device="cpu", engine="torch", threads=1)).engine
    cache = output / "levels"
    _shown("photos", len(photos), lambda done: write_cache(cache, photos, engine, ROUTES, dict(record), done))
    record |= {"maps": list(maps), "photos": photos_digest(photos), "preset": known.detector.preset.to_dict()}
    kept = PhotoMaps(folder=output / "photos" / digest_of(record), maps=tuple(maps))
    pairs = list(zip(photos, read_cache(cache, photos).photos, strict=True))
    route = route_of(LED, known.detector.preset)
    _shown("photos", len(photos), lambda done: kept.write(known.detector, pairs, LED, route, job.min_face, done))
    files = JudgeFiles(cache=cache, photos=photos, maps=kept, min_face=job.min_face)
    return files, digest_of(record | {"labels": labels_digest(photos)})


def _crops(known: _Known, maps: Sequence[str]) -> tuple[CropMaps, str]:
    """The crops that all trials learn from, and a name for all that they depend on."""
    job, config, photos = known.job, known.config, read_folder(known.job.folder)
    record = {
        "weights_sha256": read_info(known.weights).sha256,
        "preset": known.detector.preset.to_dict(),
        "maps": list(maps),
        "crops": job.crops,
        "batch": job.batch,
        "sample": settings_toml(config.sample),
        "data": settings_toml(config.data),
        "seed": config.seed,
        "photos": photos_digest(photos),
        "labels": labels_digest(photos),
    }
    name = digest_of(record)
    folder = Path(job.output).resolve() / "crops" / name
    crops = CropMaps(folder=folder, crops=job.crops, batch=job.batch, maps=tuple(maps))
    samples = build_samples(config, _tell)
    _shown("crops", job.crops, lambda done: crops.write(known.detector, lambda number: samples[number].crop, done))
    return crops, name


def _shown(counted: str, total: int, work: Callable[[Callable[[int], None]], None]) -> None:
    """Do something slow with a bar."""
    progress = Progress(counted=counted, finds=False)

    def done(count: int) -> None:
        for _ in range(count):
            progress.photo(0)

    progress.start(total, done=0)
    try:
        work(done)
    finally:
        progress.stop()


def _tell(error: PhotoError) -> None:
    print(f"left out of the crops: {error.reason}", flush=True)


def _sweep(known: _Known, record: dict[str, Any]) -> SweepJob:
    job = known.job
    return SweepJob(
        output=Path(job.output), space=known.space, objectives=OBJECTIVES,
        start=(settings_of_head(known.present, known.space),), record=record, trials=job.trials, seconds=job.seconds,
        search=job.search, seed=job.seed, workers=job.workers, steps=STAGES, address=job.address, resume=job.resume,
    )  # fmt: skip


def finalists_of(tried: Sequence[Trial], count: int) -> list[Trial]:
    """The best of the trials whose training was not left early, but for the present choice, trial 0; where choices are
    few, a search proposes some more than once, and each counts once."""
    whole = [trial for trial in tried if not trial.error and trial.results["trained"] == 1 and trial.number > 0]
    known = [trial.settings for trial in tried if trial.number == 0]
    best: list[Trial] = []
    for trial in sorted(whole, key=lambda trial: (-trial.results["mean_ap"], trial.number)):
        if trial.settings not in known:
            known.append(trial.settings)
            best.append(trial)
    return best[:count]


def _finals(
    known: _Known, sweep: SweepJob, trials: LabelTrials, tried: Sequence[Trial]
) -> tuple[list[Trial], list[dict[str, Any]]]:
    """The present choice and the best trials again; a search of its own, which goes on after a kill as any does.

    Returns:
        What became of them, and a row for each point of their curves.
    """
    present, best = sweep.start[0], finalists_of(tried, known.job.finalists)
    rivals = [(0, present), *((each.number, each.settings) for each in best)]
    repeats = range(1, known.job.repeats + 1)
    start = [{**settings, TRIAL: number, REPEAT: time} for time in repeats for number, settings in rivals]
    if known.with_branch:
        start.insert(0, {**present, TRIAL: AS_TRAINED, REPEAT: 1})
    record = {**sweep.record, "checked": photos_digest(known.checked), "checked_labels": labels_digest(known.checked)}
    # More trials may bring other finalists: those that were checked before stay in a folder of their own.
    folder = sweep.output / "finals" / digest_of({"start": start, **record})
    folder.mkdir(parents=True, exist_ok=True)
    final = dataclasses.replace(
        sweep, output=folder, objectives=FINAL_OBJECTIVES, start=start, record=record, trials=len(start), steps=1,
        search="sobol", seconds=None, resume=(folder / RECORD_FILE).exists(),
    )  # fmt: skip
    prepare = Finals(trials=trials, photos=known.checked, folder=folder.resolve())
    with LiveTable(len(start), FINAL_OBJECTIVES) as table:
        finals = run_sweep(final, prepare, table.tell)
    if failed := [trial for trial in finals if trial.error]:
        told = f"a finalist failed: {failed[0].error}"
        raise RunError(f"{folder}: {told}; mend that and delete this folder, then --resume trains finalists again")
    return finals, points_of(finals, folder, known.present)


def _report(known: _Known, tried: Sequence[Trial], finals: Sequence[Trial], points: Sequence[dict[str, Any]]) -> str:
    output, config = Path(known.job.output), known.config
    found = verdict(finals, known.present)
    settings = dataclasses.replace(
        config,
        model=dataclasses.replace(known.model, focus=found.chosen.feature),
        sample=dataclasses.replace(config.sample, focus=found.chosen.labels),
        loop=dataclasses.replace(config.loop, freeze="all-but-focus"),
        # Faces are found by the frozen detector: there is nothing to see.
        evaluation=EvaluationConfig(),
    )
    comments = ["# Chosen by `retinafocus tune focus-labels`; for `retinafocus train --config`.", f"# {found.words}"]
    (output / "settings.toml").write_text("\n".join([*comments, "", settings_toml(settings)]), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(list(points)), output / "check.parquet")
    write_plot(tried, points, known.present, output / "focus-labels.png")
    counts = [
        f"{len(part):,} with {sum(len(photo.boxes) for photo in part):,} faces"
        for part in (known.ranked, known.checked)
    ]
    lines = [
        f"photos   ranked on {counts[0]}; checked on {counts[1]}",
        *summary(tried, finals, found, known.present),
        f"files    {output}/settings.toml (for `retinafocus train --config`), trials.parquet, check.parquet, "
        "focus-labels.png",
    ]
    return "\n".join(lines)
