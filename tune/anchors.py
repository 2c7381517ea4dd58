"""`retinafocus tune anchors`: START READING HERE. Anchors estimated from labelled photos, beside published ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.label_plots import require_matplotlib
from pipelines.report import Progress
from pipelines.train_config import TrainConfig
from pipelines.train_worker import read_folder
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.models.presets import LEVEL_STRIDES
from retinafocus.training.anchor_estimation import EstimateConfig, Floats, anchor_fits, estimate_anchors, face_sizes
from tune.anchor_plots import write_plot
from tune.anchor_sets import AnchorSet, compared_sets, coverage_table, rounded
from tune.anchor_words import describe_anchors, table_text
from tune.seen_faces import SeenFaces, describe_faces, network_faces, training_file, training_settings

ESTIMATED_BY = "Anchors estimated by `retinafocus tune anchors`, in the settings of a training."


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorsJob(SeenFaces):
    """What to estimate from, and how."""

    output: str
    """Folder for the result; without an earlier one in it."""

    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    """How many anchors, on which levels, and the remedies."""


def run_estimation(job: AnchorsJob, progress: Progress) -> str:
    """Estimate anchors, compare them with published ones, and write what was found.

    Returns:
        A summary for a person.

    Raises:
        SettingsError: the output holds a result, the settings contradict each other or the faces, or matplotlib is not
            installed.
        LabelError: the labels cannot be read.
        RunError: the output cannot be written.
    """
    require_matplotlib()
    output = Path(job.output)
    if (output / "anchors.json").exists():
        raise SettingsError(f"{output}: there is a result in it already; choose another -o folder")
    config = training_settings(job)
    photos = read_folder(job.folder)
    faces = network_faces(job, config, photos, progress)
    estimated = rounded(estimate_anchors(faces, job.estimate))
    sets = compared_sets(faces, estimated, config, job.estimate)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return _report(job, config, photos, faces, sets)
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error}); choose another -o folder") from error


def _report(
    job: AnchorsJob, config: TrainConfig, photos: Sequence[LabelledPhoto], faces: Floats, sets: Sequence[AnchorSet]
) -> str:
    output = Path(job.output)
    estimated = sets[-1].anchors
    seen = describe_faces(job, config, photos, faces)
    pq.write_table(coverage_table(sets), output / "coverage.parquet")
    (output / "anchors.md").write_text(f"{table_text(seen, sets)}", encoding="utf-8")
    write_plot(face_sizes(faces), sets, output / "anchors.png")
    files = ["coverage.parquet", "anchors.md", "anchors.png"]
    if estimated.strides == LEVEL_STRIDES:
        (output / "anchors.toml").write_text(
            training_file(job, config, estimated, [ESTIMATED_BY, "", *seen]), encoding="utf-8"
        )
        files.append("anchors.toml")
    record = {
        "job": dataclasses.asdict(job),
        "photos": len(photos),
        "faces": len(faces),
        "sets": [
            {
                "name": each.name,
                **dataclasses.asdict(each.anchors),
                "fits": [fit._asdict() for fit in anchor_fits(each.anchors)],
            }
            for each in sets
        ],
    }
    # Written last: its presence says that the result is whole.
    (output / "anchors.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return "\n".join([*seen, *describe_anchors(sets), f"files    {output}/{', '.join(files)}; anchors.json"])
