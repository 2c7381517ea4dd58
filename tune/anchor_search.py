"""`retinafocus tune anchor-search`: START READING HERE. Anchors searched for coverage and number at once.

1. The faces of labelled photos, as the training's crops show them (`tune.seen_faces`).
2. Settings are tried: each stands for a set of anchors, which covers so many of the faces (`tune.anchor_trials`,
   `tune.sweep`).
3. One of the sets that no other beats in coverage and number is chosen; all of them are beside published ones, and in a
   search space for `retinafocus tune training`, which says what they are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.train_config import TrainConfig
from pipelines.train_worker import read_folder
from retinafocus.anchors import AnchorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.training.anchor_estimation import Floats, face_sizes
from tune.anchor_plots import write_plot
from tune.anchor_sets import ESTIMATED, coverage_table, known_anchors, measured_sets
from tune.anchor_trials import (
    SPACE,
    AnchorTrials,
    anchors_of,
    check_space,
    faces_by_octave,
    starts_of,
)
from tune.anchor_words import front_text, table_text, training_space
from tune.seen_faces import SeenFaces, describe_faces, network_faces, training_file, training_settings
from tune.space import Space, parse_space, read_space
from tune.sweep import SweepJob, Trial, front_of, run_sweep, sole_use, trials_table
from tune.sweep_report import LiveTable, write_front_plot

# The first is the default: in short trainings on photographs the best of as many anchors as the preset's by coverage
# stayed 5 and 7 points of AP behind the preset's (docs/tuning.md).
MEASURES = {
    "mean-overlap": "best IoU of faces, mean over octaves of sizes",
    "coverage": "share of faces above IoU 0.35, mean over octaves of sizes",
}

FILES = (
    "anchors.toml (for `retinafocus train --config`), training-space.toml (for `retinafocus tune training --space`), "
    "front.parquet, front.png, trials.parquet, coverage.parquet, anchors.md, anchors.png"
)

CHOSEN = "chosen"
"""Name of the set that is recommended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSearchJob:
    """For which faces, what to search, and how to choose."""

    seen: SeenFaces
    output: str
    space: str | None = None
    """A file, see `tune.space`; None: `anchor_trials.SPACE`."""

    measure: str = "mean-overlap"
    """What is to be high, one of `MEASURES`; the number of anchors is to be low."""

    max_per_cell: int | None = None
    """Choose the best with at most so many anchors in a cell. None: as many as the preset has."""

    min_measure: float | None = None
    """Choose the fewest anchors with at least this, 0..1."""

    trials: int = 1000
    seconds: float | None = None
    search: str = "auto"
    seed: int = 0
    """Of the proposals; `seen.seed` is that of the crops."""
    workers: int | None = None
    batch: int = 16
    address: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise SettingsError(f"measure is {self.measure!r}; choose one of {', '.join(MEASURES)}")
        if self.max_per_cell is not None and self.min_measure is not None:
            raise SettingsError("max-per-cell and min-measure are two ways to choose; give one of them")
        if self.max_per_cell is not None and self.max_per_cell < 1:
            raise SettingsError(f"max-per-cell is {self.max_per_cell}; choose at least 1")
        if self.min_measure is not None and not 0 <= self.min_measure <= 1:
            raise SettingsError(f"min-measure is {self.min_measure:g}; choose a share 0..1")

    @property
    def result(self) -> str:
        """Name of the measure among the results of a trial."""
        return self.measure.replace("-", "_")

    @property
    def objectives(self) -> dict[str, str]:
        """For the search."""
        return {self.result: "max", "anchors_per_mpx": "min"}


def search_anchors(job: AnchorSearchJob, progress: Progress) -> str:
    """Search, choose, compare, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: a setting makes no sense, the faces are too few, or the output holds another search.
        LabelError: the labels cannot be read.
        RunError: the output cannot be written, all trials failed, or no trial is as wanted.
    """
    require_matplotlib()
    space = parse_space(SPACE, "default space") if job.space is None else read_space(Path(job.space))
    check_space(space)
    config = training_settings(job.seen)
    photos = read_folder(job.seen.folder)
    with sole_use(Path(job.output)):
        trials = AnchorTrials(network_faces(job.seen, config, photos, progress))
        faces_by_octave(trials.faces)  # too few are told before a process starts
        with LiveTable(job.trials, job.objectives) as table:
            tried = run_sweep(_sweep(job, space, trials), trials, table.tell)
        seen = describe_faces(job.seen, config, photos, trials.faces)
        return _report(job, config, trials.faces, tried, seen)


def _sweep(job: AnchorSearchJob, space: Space, trials: AnchorTrials) -> SweepJob:
    return SweepJob(
        output=Path(job.output), space=space, objectives=job.objectives, start=starts_of(space, trials.faces),
        record={"faces": trials.digest()}, trials=job.trials, seconds=job.seconds, search=job.search, seed=job.seed,
        workers=job.workers, batch=job.batch, address=job.address, resume=job.resume,
    )  # fmt: skip


def choose(front: Sequence[Trial], anchors: Mapping[int, AnchorConfig], job: AnchorSearchJob, preset: int) -> Trial:
    """The trial of a front that suits what was asked for.

    Args:
        front: see `front_of`.
        anchors: by the number of the trial.
        job: what is wanted.
        preset: anchors of the preset in a cell.

    Raises:
        RunError: none does.
    """
    if job.min_measure is not None:
        good = [trial for trial in front if trial.results[job.result] >= job.min_measure]
        if not good:
            best = max(trial.results[job.result] for trial in front)
            raise RunError(f"no trial has a {job.measure} of {job.min_measure:g} or more; the best has {best:.4f}")
        return min(good, key=lambda trial: trial.results["anchors_per_mpx"])
    most = job.max_per_cell or preset
    few = [trial for trial in front if anchors[trial.number].per_cell <= most]
    if not few:
        least = min(anchors[trial.number].per_cell for trial in front)
        raise RunError(f"no trial has {most} anchors in a cell or fewer; the fewest are {least}: give --max-per-cell")
    return max(few, key=lambda trial: trial.results[job.result])


def _report(
    job: AnchorSearchJob, config: TrainConfig, faces: Floats, tried: Sequence[Trial], seen: Sequence[str]
) -> str:
    output, preset = Path(job.output), config.model.to_preset()
    front = front_of(tried, job.objectives)
    if not front:
        raise RunError(f"{output}: no trial is done; give the search more time and --resume")
    anchors = {trial.number: anchors_of(trial.settings, faces) for trial in front}
    chosen = choose(front, anchors, job, preset.anchors.per_cell)
    known = known_anchors(config) | _estimated(anchors[chosen.number].per_cell, faces)
    found = {f"trial {trial.number}": anchors[trial.number] for trial in front if trial is not chosen}
    # The chosen set last: it is what the tables and plots of anchors make much of.
    sets = measured_sets(faces, known | found | {CHOSEN: anchors[chosen.number]})
    told = front_text(sets)
    comments = [f"Trial {chosen.number} of `retinafocus tune anchor-search`, in the settings of a training.", "", *seen]
    own = [next(each for each in sets if each.anchors == preset.anchors)]
    texts = {
        "anchors.md": f"{table_text(seen, sets)}\n## Octaves of sizes alike\n\n{told}\n",
        "anchors.toml": training_file(job.seen, config, anchors[chosen.number], comments),
        "training-space.toml": training_space(
            own + sets[len(known) :], preset.face_range, init=bool(config.model.init)
        ),
    }
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    pq.write_table(_front_table(front, anchors, chosen), output / "front.parquet")
    pq.write_table(coverage_table(sets), output / "coverage.parquet")
    write_plot(face_sizes(faces), sets, output / "anchors.png")
    _write_front(job, preset.anchors, faces, tried, front, chosen)
    return "\n".join([
        *seen,
        f"trials   {len(tried):,}, {sum(bool(trial.error) for trial in tried)} failed; {len(front)} that no other "
        f"beats in {job.measure} and number",
        "",
        told,
        "",
        f"files    {output}/{FILES}",
    ])  # fmt: skip


def _estimated(per_level: int, faces: Floats) -> dict[str, AnchorConfig]:
    """What `retinafocus tune anchors` estimates, by its name; nothing where the faces are too few or too small for it,
    which need be no hindrance to what was found."""
    try:
        return {ESTIMATED: anchors_of({"per_level": per_level}, faces)}
    except SettingsError:
        return {}


def _front_table(front: Sequence[Trial], anchors: Mapping[int, AnchorConfig], chosen: Trial) -> pa.Table:
    """The trials with the anchors that they stand for."""
    sets = [anchors[trial.number] for trial in front]
    table = trials_table(front)
    if "sizes" in table.column_names:  # searched as a whole: the same, but not yet to a tenth of a pixel
        table = table.drop_columns("sizes")
    table = table.append_column("sizes", pa.array([each.sizes for each in sets], pa.list_(pa.list_(pa.float64()))))
    table = table.append_column("h_over_w", pa.array([each.ratio for each in sets]))
    return table.append_column("chosen", pa.array([trial is chosen for trial in front]))


def _write_front(
    job: AnchorSearchJob, preset: AnchorConfig, faces: Floats, tried: Sequence[Trial], front: Sequence[Trial],
    chosen: Trial,
) -> None:  # fmt: skip
    results = faces_by_octave(faces).results(preset)
    marked = {"the preset's": Trial(number=-1, settings={}, results=results, seconds=0.0), CHOSEN: chosen}
    axes = {job.result: MEASURES[job.measure], "anchors_per_mpx": "anchors on a million pixels"}
    write_front_plot(list(tried), front, marked, axes, Path(job.output) / "front.png")
