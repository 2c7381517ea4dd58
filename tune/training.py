"""`retinafocus tune training`: START READING HERE. Settings of the training, searched by short trainings.

1. A trial is a training with the base settings and its own; those that fall behind the others are left early
   (`tune.training_trials`, `tune.sweep`).
2. The trial of the highest AP on the evaluation photos gives the settings and the weights.
3. What it is worth is looked at on photos that had no part in the choice, if there are some.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.settings import settings_toml
from pipelines.train import check_training, with_device
from pipelines.train_config import MAY_CHANGE, TrainConfig, flat_settings
from pipelines.train_log import read_metrics
from pipelines.train_worker import BEST_FILE, evaluation_photos, read_folder
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.engines import resolve_device
from retinafocus.errors import RunError, SettingsError
from retinafocus.models import RetinaFocus
from retinafocus.training.start import starting_model
from retinafocus.training.validation import detect_labelled, detection_metrics
from retinafocus.weights import load_model, tensor_hash
from tune.focus import labels_digest
from tune.space import Settings, Space, parse_space, read_space
from tune.sweep import SweepJob, Trial, run_sweep, sole_use
from tune.sweep_report import LiveTable
from tune.training_curves import write_curves
from tune.training_trials import (
    TrainingTrials,
    base_settings,
    best_of,
    check_space,
    config_of,
    corners_of,
    default_space,
    drop_weights,
    evaluations_of,
    resources_of,
    runner_of,
    trial_folder,
)

OBJECTIVES = {"ap": "max"}

REPORTED = ("ap", "ap_low", "ap_high", "map", "recall", "false_per_photo")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What to search, from which settings on."""

    base: TrainConfig
    """Settings of the training but for those that are searched; the output is not used."""

    output: str
    space: str | None = None
    """A file, see `tune.space`; None: `training_trials.default_space`."""

    report_folder: str | None = None
    """Labelled photos that have no part in the choice, on which what was chosen is measured."""

    trials: int = 32
    seconds: float | None = None
    search: str = "auto"
    seed: int = 0
    workers: int | None = None
    """Trials at a time; None: as many as there is room for."""

    address: str | None = None
    resume: bool = False


def tune_training(job: TrainingJob) -> str:
    """Search, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: a setting makes no sense, or the output holds another search.
        WeightsError, LabelError: weights to start from or labels do not fit.
        RunError: all trials failed.
    """
    require_matplotlib()
    output = Path(job.output).resolve()
    base = with_device(dataclasses.replace(job.base, output=str(output)))
    space = parse_space(default_space(base), "default space") if job.space is None else read_space(Path(job.space))
    if not base.evaluation.folder:
        raise SettingsError("evaluation.folder is not set, so nothing tells which settings are better; set it")
    # A cluster may have the GPU that is wanted, whatever this machine has.
    check_training(base, runner_of(base) if job.address is None else "ray")
    check_space(base, space)
    reported = _reported_photos(job, base, space)
    with sole_use(output):
        trials = TrainingTrials(base=base, output=output)
        tried: list[Trial] = []
        with LiveTable(job.trials, OBJECTIVES) as table:

            def tell(trial: Trial) -> None:
                tried.append(trial)
                drop_weights(output, tried, searching=True)
                table.tell(trial)

            tried = run_sweep(_sweep(job, base, space), trials, tell)
        drop_weights(output, tried, searching=False)
        return _report(job, base, output, tried, reported)


def _reported_photos(job: TrainingJob, base: TrainConfig, space: Space) -> list[LabelledPhoto]:
    if job.report_folder is None:
        return []
    learned = {folder for config in (base, *corners_of(base, space)) for folder in config.data.folders}
    used = {Path(folder).resolve() for folder in (*learned, base.evaluation.folder)}
    if Path(job.report_folder).resolve() in used:
        raise SettingsError(f"report-folder {job.report_folder} has a part in the training or the choice; name another")
    return evaluation_photos(dataclasses.replace(base, evaluation=type(base.evaluation)(folder=job.report_folder)))


def _sweep(job: TrainingJob, base: TrainConfig, space: Space) -> SweepJob:
    return SweepJob(
        output=Path(job.output), space=space, objectives=OBJECTIVES, start=(base_settings(base, space),),
        record=_record(base), trials=job.trials, seconds=job.seconds, search=job.search, seed=job.seed,
        workers=job.workers, steps=evaluations_of(base), address=job.address, resume=job.resume, **resources_of(base),
    )  # fmt: skip


def _record(base: TrainConfig) -> dict[str, Any]:
    """All that the results of a trial depend on, beside its own settings."""
    settings = {name: value for name, value in flat_settings(base).items() if name not in (*MAY_CHANGE, "output")}
    learned = [photo for folder in base.data.folders for photo in read_folder(folder)]
    return settings | {
        "labels": labels_digest(learned),
        "evaluation.labels": labels_digest(evaluation_photos(base)),
        "model.start": tensor_hash(_start_of(base).state_dict()),
    }


def _start_of(base: TrainConfig) -> RetinaFocus:
    """The network before the first step."""
    start = base.model
    return starting_model(
        start.to_preset(), init=start.init, backbone=start.backbone, seed=base.seed, heads=start.heads
    )


def _report(
    job: TrainingJob, base: TrainConfig, output: Path, tried: Sequence[Trial], reported: Sequence[LabelledPhoto]
) -> str:
    best = best_of(tried)
    if best is None:
        raise RunError(f"{output}: no trial is done; give the search more time and --resume")
    (output / "settings.toml").write_text(settings_file(job.base, best, tried), encoding="utf-8")
    curves = {trial.number: read_metrics(trial_folder(output, trial.number)) for trial in tried}
    write_curves(tried, best, curves, base.loop.steps, output / "curves.png")
    weights = trial_folder(output, best.number) / BEST_FILE
    if weights.is_file():
        shutil.copyfile(weights, output / BEST_FILE)
    rows = _measure(base, output, best, reported)
    pq.write_table(pa.Table.from_pylist(rows), output / "report.parquet")
    lines = [
        f"trials   {len(tried):,} of {base.loop.steps:,} steps: {sum(trial.left_early for trial in tried)} left early, "
        f"{sum(bool(trial.error) for trial in tried)} failed",
        *_report_words(rows),
        f"best     trial {best.number}{' (the base settings)' * (best.number == 0)}: {_words(best.settings)}",
        f"files    {job.output}/settings.toml (for `retinafocus train --config`), {BEST_FILE}, trials.parquet, "
        "report.parquet, curves.png; trials/N has the metrics of each",
    ]
    before = [row["ap"] for row in rows if row["network"] == "start" and row["photos"] == "evaluation"]
    if before and before[0] >= best.results["ap"]:
        lines.append("note     no trial is better than the weights it started from; so short a training is no use here")
    if not reported:
        lines.append("note     the evaluation photos chose, so the AP of the best is too kind; measure it on others")
    return "\n".join(lines)


def settings_file(base: TrainConfig, best: Trial, tried: Sequence[Trial]) -> str:
    """What `retinafocus train --config` takes."""
    comments = [
        "# Chosen by `retinafocus tune training`; for `retinafocus train --config`.",
        f"# Trial {best.number} of {len(tried)}: AP {100 * best.results['ap']:.2f} % after "
        f"{best.results['ap_step']:.0f} steps on the evaluation photos, which chose it.",
    ]
    config = dataclasses.replace(config_of(base, best.settings), output="")
    return "\n".join(comments) + "\n\n" + settings_toml(config)


def _measure(base: TrainConfig, output: Path, best: Trial, reported: Sequence[LabelledPhoto]) -> list[dict[str, Any]]:
    """A row for each network and each set of photos."""
    networks = {"start": _start_of(base)} if base.model.init else {}
    numbers = {"best": 0} if best.number == 0 else {"base settings": 0, "best": best.number}
    for name, number in numbers.items():
        weights = trial_folder(output, number) / BEST_FILE
        if weights.is_file():
            networks[name] = load_model(weights)
    device = "cpu" if base.device == "cpu" else resolve_device("auto")  # the trials' may be on other machines
    rows = []
    for photos, on in ((evaluation_photos(base), "evaluation"), (reported, "report")):
        for name, network in networks.items() if photos else ():
            found = detect_labelled(network, photos, min_face=base.evaluation.min_face, device=device)
            metrics = detection_metrics(photos, found, bootstrap=1000)
            rows.append({"network": name, "photos": on} | {key: metrics.get(key) for key in REPORTED})
    return rows


def _report_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["AP       network         photos       AP [95 %]"]
    for row in rows:
        ends = [100 * row[name] for name in ("ap_low", "ap_high") if row[name] is not None]
        interval = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""  # one photo has none
        lines.append(f"         {row['network']:<15} {row['photos']:<12} {100 * row['ap']:.2f}{interval}")
    return lines


def _words(settings: Settings) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())
